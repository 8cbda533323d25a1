"""Object lists: what is in an image, and what of an answer about it is true."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.errors import UserError
from veridical.files import read_json
from veridical.image_checks import IMAGE_SUFFIXES
from veridical.vocabulary import Vocabulary


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


def match_image_id(stem: str, known: Iterable[str] | Mapping[str, Any]) -> str | None:
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
    objects: Mapping[str, Sequence[str]], vocabulary: Vocabulary
) -> dict[str, list[str]]:
    """Object lists in the vocabulary's names, sorted, each once.

    Raises:
        UserError: objects that the vocabulary does not know; they are named.
    """
    listed = {name for names in objects.values() for name in names}
    found = {name: vocabulary.name_of(name) for name in listed}
    unknown = sorted(name for name in listed if found[name] is None)
    if unknown:
        raise UserError(
            f"The vocabulary does not know {len(unknown)} of the listed objects "
            f"({', '.join(unknown[:8])}). Name one that does with --vocabulary."
        )
    return {
        image: sorted({found[name] or "" for name in names}) for image, names in objects.items()
    }


def judge_answer(
    image_id: str, answer: str, objects: Sequence[str], vocabulary: Vocabulary
) -> dict[str, Any]:
    """A row of `details.jsonl`: every mention with its place and whether it is hallucinated.

    Args:
        image_id: of the image.
        answer: the description.
        objects: the vocabulary's names of what is in the image.
        vocabulary: what to look for.
    """
    mentions = [
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
