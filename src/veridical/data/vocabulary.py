"""Which words name which object, and where an answer uses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json

COCO_VOCABULARY = Path(__file__).with_name("coco_vocabulary.json")
"""Our own short list of words for COCO's 80 classes. It is not CHAIR's: published figures are
reproduced only with the published synonym list (`--vocabulary`)."""

# A word with its inner hyphens and a clitic's "s" kept together, so that "man's" is not "man s".
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "mice": "mouse",
    "oxen": "ox",
    "teeth": "tooth",
}


@dataclass(frozen=True)
class Mention:
    """A piece of an answer that names an object: `answer[start:end] == text`."""

    start: int
    end: int
    text: str
    name: str


@dataclass(frozen=True)
class Vocabulary:
    """Surface forms and the objects they name.

    Attributes:
        forms: words of a form, lower case, to the object's name; "" for a phrase that looks like
            an object and is none ("train track").
        silenced: word to another word of the same answer in whose presence it names nothing.
    """

    forms: Mapping[tuple[str, ...], str]
    silenced: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every object that can be named."""
        return frozenset(name for name in self.forms.values() if name)

    @cached_property
    def words(self) -> frozenset[str]:
        """Every word of every form."""
        return frozenset(word for form in self.forms for word in form)

    @cached_property
    def _firsts(self) -> frozenset[str]:
        """Words that a form begins with."""
        return frozenset(form[0] for form in self.forms if form)

    @cached_property
    def longest(self) -> int:
        """Words in the longest form."""
        return max((len(form) for form in self.forms), default=0)

    @cached_property
    def _bases(self) -> dict[str, tuple[str, ...]]:
        """Words that were looked up before: answers use the same few over and over."""
        return {}

    def mentions(self, answer: str) -> list[Mention]:
        """Every mention, left to right; the longest form wins, and none overlap.

        The procedure of CHAIR (Rohrbach et al. 2018): lower-case words, singular, phrases before
        words. A negated object ("no dog") is a mention, as it is there.
        """
        found = list(_WORD.finditer(answer))
        words = [self.bases(match.group()) for match in found]
        said = frozenset(base for bases in words for base in bases)
        mentions, place = [], 0
        while place < len(words):
            if self._firsts.isdisjoint(words[place]):
                place += 1
                continue
            room = _words_in_a_row(found, place, self.longest)
            form = self._form_at(words, place, room)
            name = self.forms.get(form, "")
            if name and self.silenced.get(form[0], "") not in said:
                start, end = found[place].start(), _end(found[place + len(form) - 1])
                mentions.append(Mention(start, end, answer[start:end], name))
            place += len(form)
        return mentions

    def bases(self, word: str) -> tuple[str, ...]:
        """The vocabulary's forms of a word: itself, then its singulars; else the word itself.

        Several where a phrase has the plural and another form the singular ("bears the" a sign,
        and "bear").
        """
        known = self._bases.get(word)
        if known is None:
            lower = _POSSESSIVE.sub("", word.lower())
            forms = dict.fromkeys((lower, *_singulars(lower)))
            known = tuple(form for form in forms if form in self.words) or (lower,)
            self._bases[word] = known
        return known

    def name_of(self, text: str) -> str | None:
        """The object that `text` as a whole names, or None."""
        if text in self.names:
            return text
        words = [self.bases(match.group()) for match in _WORD.finditer(text)]
        if len(words) > self.longest:
            return None
        form = next((form for form in product(*words) if form in self.forms), ())
        return self.forms.get(form) or None

    def _form_at(self, words: Sequence[tuple[str, ...]], place: int, room: int) -> tuple[str, ...]:
        """The longest form at a place; the word alone where there is none."""
        for length in range(room, 0, -1):
            for form in product(*words[place : place + length]):
                if form in self.forms:
                    return form
        return words[place][:1]


def read_vocabulary(path: Path | None) -> Vocabulary:
    """Read a vocabulary; None and the word `coco` are our list for COCO's classes.

    Two forms are read. Ours: `{"cup": ["cup", "mug"], "": ["cup holder"]}`, where the name itself
    always counts and the entry "" lists phrases that are no object. CHAIR's synonym tables: an
    object with `inverse_synonym_dict` (word to class) and, optionally, `double_word_dict`
    (two words to what they are read as).

    Raises:
        UserError: the file is neither.
    """
    if path is None or _is_ours(path):
        path = COCO_VOCABULARY
    content = read_json(path)
    if isinstance(content, dict) and "inverse_synonym_dict" in content:
        return _from_chair(content, path)
    if not isinstance(content, dict) or not all(_is_text_list(item) for item in content.values()):
        raise UserError(
            f'{path} is not a vocabulary: it must be a JSON object {{"name": ["word", ...]}} '
            "or hold CHAIR's inverse_synonym_dict."
        )
    return vocabulary_of(content)


def describe_vocabulary(path: Path | None) -> str:
    """Which vocabulary a path names, with the hash of its content, for people and `scores.json`."""
    if path is None or _is_ours(path):
        name, path = "Veridical's own words for COCO's 80 classes", COCO_VOCABULARY
    else:
        name = str(path)
    return f"{name} (sha256 {hash_file(path)[:12]})"


def _is_ours(path: Path) -> bool:
    return str(path) == "coco"


def vocabulary_of(words: Mapping[str, Iterable[str]]) -> Vocabulary:
    """A vocabulary from `{name: [surface forms]}`; the name is always one of its forms.

    Raises:
        UserError: one form is given to two names.
    """
    forms: dict[tuple[str, ...], str] = {}
    for name, surfaces in words.items():
        for surface in (name, *surfaces):
            form = _split(surface)
            if form and forms.setdefault(form, name) != name:
                raise UserError(
                    f'The vocabulary gives "{surface}" to both "{forms[form]}" and "{name}". '
                    "Keep it under one of them."
                )
    return Vocabulary(forms)


def _from_chair(content: Mapping[str, Any], path: Path) -> Vocabulary:
    single, double = content["inverse_synonym_dict"], content.get("double_word_dict", {})
    if not _is_text_map(single) or not _is_text_map(double):
        raise UserError(f"{path}: CHAIR's dictionaries must map text to text.")
    return vocabulary_of_tables(single, double)


def vocabulary_of_tables(single: Mapping[str, str], double: Mapping[str, str]) -> Vocabulary:
    """A vocabulary from CHAIR's tables.

    Args:
        single: word or phrase to the object that it names.
        double: phrase to what it is read as, a word of `single` or none.
    """
    names = {" ".join(_split(surface)): name for surface, name in single.items()}
    forms = {_split(surface): name for surface, name in names.items()}
    # A phrase that is read as something outside the vocabulary ("train track") hides its words.
    forms |= {_split(phrase): names.get(reading, "") for phrase, reading in double.items()}
    # The published procedure drops "seat" (a chair) from captions that mention a toilet.
    silenced = {"seat": "toilet"} if ("seat",) in forms and ("toilet",) in forms else {}
    return Vocabulary({form: name for form, name in forms.items() if form}, silenced)


def _split(surface: str) -> tuple[str, ...]:
    return tuple(match.group().lower() for match in _WORD.finditer(surface))


def _words_in_a_row(found: Sequence[re.Match[str]], place: int, limit: int) -> int:
    """How many words from `place` on, at most `limit`, have only spaces between them."""
    last = place
    while (
        last + 1 < min(len(found), place + limit)
        and not found[last].string[_end(found[last]) : found[last + 1].start()].strip()
    ):
        last += 1
    return last - place + 1


def _end(match: re.Match[str]) -> int:
    """Where a word ends without its possessive "'s"."""
    return match.start() + len(_POSSESSIVE.sub("", match.group()))


def _singulars(word: str) -> Iterator[str]:
    """What an English plural may be the plural of, the likelier first (our own rules)."""
    for plural, singular in _IRREGULAR.items():
        if word == plural or (len(plural) > 2 and word.endswith(plural) and plural != "oxen"):
            yield word.removesuffix(plural) + singular
    if word.endswith("ies"):
        yield word[:-3] + "y"
        yield word[:-1]
        return
    if word.endswith("ves"):
        yield word[:-3] + "f"
        yield word[:-3] + "fe"
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        yield word[:-2]
    if word.endswith("zzes"):
        yield word[:-3]
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1]


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
