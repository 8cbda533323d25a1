"""Object lists: what is in an image, and what of an answer about it is true."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

from veridical.data.image_checks import IMAGE_SUFFIXES
from veridical.data.vocabulary import Vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.progress import counted


def read_objects(path: Path) -> dict[str, list[str]]:
    """Read `{image_id: [object names]}`.

    Raises:
        UserError: the file is not of that form.
    """
    content = read_json(path)
    form = f'{path} must be a JSON object {{"image_id": ["object", ...]}}'
    if not isinstance(content, dict) or not content:
        raise UserError(f"{form}.")
    for image, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{form}, but image {image!r} has {str(names)[:60]!r}.")
    return content


def match_image_id(stem: str, known: Iterable[str] | Mapping[str, object]) -> str | None:
    """The id among `known` that an image's file name stands for, or None.

    The name itself, else its last number without leading zeros: COCO's annotations call
    `COCO_val2014_000000310196.jpg` image 310196. The file's suffix may be there or not.
    """
    names = known if isinstance(known, (set, frozenset, Mapping)) else set(known)
    if stem in names:
        return stem
    bare, dot, suffix = stem.rpartition(".")
    if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES:
        return match_image_id(bare, names)
    number = re.search(r"(\d+)$", stem)
    short = str(int(number.group(1))) if number else ""
    return short if short in names else None


def match_image_ids(
    stems: Iterable[str], known: Iterable[str] | Mapping[str, Any]
) -> dict[str, str | None]:
    """The id that each file name stands for, as `match_image_id`.

    Raises:
        UserError: two file names stand for one id; both are named.
    """
    names = known if isinstance(known, (set, frozenset, Mapping)) else set(known)
    found = {stem: match_image_id(stem, names) for stem in stems}
    stem_of: dict[str, str] = {}
    for stem, image_id in found.items():
        refuse_shared_id(stem_of, image_id, stem)
    return found


def refuse_shared_id(stem_of: dict[str, str], image_id: str | None, stem: str) -> None:
    """Remember which file name stands for an id, and refuse a second one.

    Args:
        stem_of: id to file name, as seen up to now; it gets this one.
        image_id: what `match_image_id` found.
        stem: the file's name without suffix.

    Raises:
        UserError: another file name stands for the id; both are named.
    """
    if image_id is not None and stem_of.setdefault(image_id, stem) != stem:
        raise UserError(
            f"The images {stem_of[image_id]} and {stem} would both have the entry "
            f'"{image_id}", by the last number of their names. Give each an entry under its '
            "whole name, or take one of them out."
        )


def name_objects(
    objects: Mapping[str, Sequence[str]], vocabulary: Vocabulary, warn: bool = True
) -> dict[str, list[str]]:
    """Object lists in the vocabulary's names, sorted, each once.

    Names that the vocabulary does not know are left out and, with `warn`, printed.

    Raises:
        UserError: the vocabulary knows none of the names.
    """
    listed = {name for names in objects.values() for name in names}
    found = {name: vocabulary.name_of(name) for name in listed}
    unknown = unknown_names(listed, vocabulary)
    if unknown and warn:
        print(
            f"{describe_unknown(unknown, vocabulary)} They are left out of the lists, so an answer "
            "that names one by a known word counts as wrong: correct the names."
        )
    return {
        image: sorted({own for name in names if (own := found[name]) is not None})
        for image, names in objects.items()
    }


def unknown_names(listed: Collection[str], vocabulary: Vocabulary) -> list[str]:
    """The names, of the listed ones, that the vocabulary does not know, sorted.

    Raises:
        UserError: it knows none of them.
    """
    unknown = sorted(name for name in listed if vocabulary.name_of(name) is None)
    if unknown and len(unknown) == len(listed):
        raise UserError(
            f"{describe_unknown(unknown, vocabulary)} It knows no other: name one that does with "
            "--vocabulary."
        )
    return unknown


def describe_unknown(unknown: Sequence[str], vocabulary: Vocabulary) -> str:
    """Say which names the vocabulary does not know, and the nearest that it does."""
    forms = {" ".join(form): name for form, name in vocabulary.forms.items() if name}

    def with_nearest(name: str) -> str:
        within = [mention.name for mention in vocabulary.mentions(name)]
        alike = get_close_matches(name.lower(), forms, 1)
        nearest = within or [forms[form] for form in alike]
        return f"{name} (nearest: {nearest[-1]})" if nearest else name

    more = ", ..." if len(unknown) > 8 else ""
    return (
        f"The vocabulary does not know {counted(len(unknown), 'listed objects')}: "
        f"{', '.join(map(with_nearest, unknown[:8]))}{more}."
    )


class JudgedMention(TypedDict):
    """An object that an answer names."""

    start: int
    end: int
    text: str
    name: str
    hallucinated: bool


class JudgedAnswer(TypedDict):
    """A row of `details.jsonl`."""

    image_id: str
    answer: str
    objects: list[str]
    mentions: list[JudgedMention]


def judge_answer(
    image_id: str, answer: str, objects: Sequence[str], vocabulary: Vocabulary
) -> JudgedAnswer:
    """A row of `details.jsonl`: every mention with its place and whether it is hallucinated.

    Args:
        image_id: of the image.
        answer: the description.
        objects: the vocabulary's names of what is in the image.
        vocabulary: what to look for.
    """
    mentions: list[JudgedMention] = [
        {
            "start": mention.start,
            "end": mention.end,
            "text": mention.text,
            "name": mention.name,
            "hallucinated": mention.name not in objects,
        }
        for mention in vocabulary.mentions(answer)
    ]
    return {
        "image_id": image_id,
        "answer": answer,
        "objects": list(objects),
        "mentions": mentions,
    }


@dataclass(frozen=True)
class ObjectCounts:
    """What an answer says of the listed objects.

    Attributes:
        mentions: of any object, repeats included.
        hallucinated: mentions of objects that are not listed, repeats included.
        invented: distinct objects that are mentioned and not listed.
        recalled: distinct listed objects that are mentioned.
        listed: objects that are in the image.
        words: of the answer, split at white space.
    """

    mentions: int
    hallucinated: int
    invented: int
    recalled: int
    listed: int
    words: int


def count_objects(judged: Mapping[str, Any]) -> ObjectCounts:
    """Count a row of `judge_answer`."""
    named = [mention["name"] for mention in judged["mentions"]]
    listed = set(judged["objects"])
    return ObjectCounts(
        mentions=len(named),
        hallucinated=sum(name not in listed for name in named),
        invented=len(set(named) - listed),
        recalled=len(set(named) & listed),
        listed=len(listed),
        words=len(str(judged["answer"]).split()),
    )
