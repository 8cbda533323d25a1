"""Object HalBench's rules (Yu et al. 2024): which objects a description names.

`official` does what the published scorer does to words that NLTK or spaCy has brought to their
dictionary form. `corrected` finds the same names by a `Vocabulary`; docs/benchmarks.md names each
difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from veridical.data.vocabulary import Vocabulary, vocabulary_of_tables

Rule: TypeAlias = Literal["corrected", "official"]
Named: TypeAlias = tuple[str, str]
"""A word of a description, and the object that it names."""
Tagged: TypeAlias = tuple[str, str]
"""A word in its dictionary form, and its tag of the Penn Treebank."""

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
           "animal", "cub")  # fmt: skip
VEHICLES = ("jet", "train")
NO_OBJECTS = ("home plate", "train track")
NOUNS = frozenset({"NN", "NNS", "NNP", "NNPS"})
SHORTEST = 4
"""Words of the shortest answer about which the published scorer asks its judge."""


@dataclass(frozen=True)
class SynonymTables:
    """The words for each object.

    Attributes:
        objects: word or phrase to the object that it names.
    """

    objects: Mapping[str, str]

    @cached_property
    def phrases(self) -> dict[str, str]:
        """What two words are read as; "train track" stands for itself, and is not an object."""
        own = {word: word for word in self.objects if len(word.split(" ")) > 1}
        own |= {phrase: phrase for phrase in NO_OBJECTS}
        own |= {f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS}
        own |= {f"passenger {vehicle}": vehicle for vehicle in VEHICLES}
        return own | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The same words as a vocabulary, which finds plurals and phrases of any length."""
        return vocabulary_of_tables(self.objects, self.phrases)

    def joined(self, words: Sequence[str]) -> list[str]:
        """Words, with two that are a phrase replaced by what it is read as."""
        return [word for word, _ in self._read(words)]

    def phrases_in(self, words: Sequence[str]) -> list[str]:
        """What the phrases of two words are read as, without the other words."""
        return [word for word, is_phrase in self._read(words) if is_phrase]

    def _read(self, words: Sequence[str]) -> Iterator[tuple[str, bool]]:
        place = 0
        while place < len(words):
            phrase = " ".join(words[place : place + 2])
            known = phrase in self.phrases
            yield (self.phrases[phrase] if known else words[place]), known
            place += 2 if known else 1

    def named(self, words: Sequence[str]) -> list[Named]:
        """The objects that words name; a "seat" is none beside a "toilet"."""
        toilet = "toilet" in words
        return [
            (word, self.objects[word])
            for word in words
            if word in self.objects and not (toilet and word == "seat")
        ]


def tables_of(lines: Sequence[str]) -> SynonymTables:
    """The tables of `synonyms_refine.txt`: a line has the words for an object, its name first.

    A word of two lines names the object of the later one, as it does in the published scorer.
    """
    rows = [[word.strip() for word in line.strip().split(", ")] for line in lines]
    return SynonymTables({word: row[0] for row in rows for word in row if word})


def words_named(text: str, tables: SynonymTables, lemmas: Sequence[str] | None) -> list[Named]:
    """The objects that a text names, repeats included.

    Args:
        text: a description or a caption.
        tables: the words for each object.
        lemmas: the text's words, lower case and in dictionary form, for the official rule; None
            for the corrected one.
    """
    if lemmas is not None:
        return tables.named(tables.joined(lemmas))
    found = tables.vocabulary.mentions(text)
    return [(mention.text.lower(), mention.name) for mention in found]


def listed_named(
    listed: Sequence[str],
    tables: SynonymTables,
    tag: Callable[[str], Sequence[Tagged]] | None,
) -> list[Named]:
    """The objects that a judge's list names.

    Args:
        listed: what the judge found in an answer.
        tables: the words for each object.
        tag: brings words to their dictionary form, for the official rule; None for the corrected
            one, by which each object counts once. By the official rule each word does.
    """
    if tag is None:
        mentions = [named for text in listed for named in words_named(text, tables, lemmas=None)]
        return list({name: (word, name) for word, name in reversed(mentions)}.values())[::-1]
    words: dict[str, None] = {}
    for text in listed:
        tagged = tag(f"a {text}")
        phrases = tables.phrases_in([word for word, _ in tagged])
        words |= dict.fromkeys(phrases or noun_groups(tagged))
    return tables.named(list(words))


def noun_groups(tagged: Sequence[Tagged]) -> list[str]:
    """Nouns in a row as one text each: "kitchen table" is one, and in no table."""
    groups: list[list[str]] = [[]]
    for word, tag in tagged:
        if tag in NOUNS:
            groups[-1].append(word)
        elif groups[-1]:
            groups.append([])
    return [" ".join(group) for group in groups if group]


def is_short(answer: str) -> bool:
    """Whether the published scorer takes an answer for one without objects, unasked."""
    return len(answer.split()) < SHORTEST


def read_listed(reply: str, rule: Rule) -> list[str] | None:
    """The list in a judge's reply; None where there is none, or it is not a list of texts.

    Official: what a block "```json" holds, else the last line, if the reply has '["' in it: so an
    empty list without a block is none. Corrected: the only JSON list of texts in the reply, or
    "()".
    """
    found = _official_lists(reply) if rule == "official" else _lists_in(reply)
    return found[0] if len(found) == 1 and _is_texts(found[0]) else None


def _official_lists(reply: str) -> list[list[str]]:
    block = re.search(r"```json\n(.*?)\n```", reply, re.DOTALL)
    texts = [block[1]] if block else []
    if '["' in reply:
        texts.append(reply.strip().split("\n")[-1])
    for text in texts:
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        return [found]
    return []


def _lists_in(reply: str) -> list[list[str]]:
    if reply.strip().strip("`.").strip() == "()":
        return [[]]
    decoder, found, place = json.JSONDecoder(), [], 0
    while (place := reply.find("[", place)) >= 0:
        try:
            value, place = decoder.raw_decode(reply, place)
        except (json.JSONDecodeError, RecursionError):
            place += 1
            continue
        if _is_texts(value) and value not in found:
            found.append(value)
    return found


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
