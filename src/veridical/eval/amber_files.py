"""AMBER's published files: queries, annotations, associated and safe words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeGuard

from veridical.eval.published import PublishedQuestion, json_objects
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_text
from veridical.runtime.json_types import JsonObject
from veridical.scoring.amber_rules import WordLists

Halves: TypeAlias = Literal["both", "generative", "yes_no"]

GENERATIVE = "generative"
KINDS: Mapping[str, tuple[str, ...]] = {
    GENERATIVE: (GENERATIVE,),
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
"""The groups in which a question of each `type` counts; the last two are one to the scorer."""

QUERIES = {
    "generative": ("query_generative.json",),
    "yes_no": (
        "query_discriminative-existence.json",
        "query_discriminative-attribute.json",
        "query_discriminative-relation.json",
    ),
}


def read_lists(folder: Path) -> WordLists:
    """Associated and safe words.

    Raises:
        UserError: a file is missing or is not what it must be.
    """
    path = folder / "relation.json"
    associated = read_json(path)
    if not isinstance(associated, dict) or not all(map(_is_names, associated.values())):
        raise UserError(f'{path} must be JSON {{"word": ["associated word", ...]}}.')
    safe = read_text(folder / "safe_words.txt").splitlines()
    return WordLists(associated, frozenset(safe))


def read_amber(folder: Path, halves: Halves, lists: WordLists) -> list[PublishedQuestion]:
    """The questions of AMBER's files, in their order.

    Args:
        folder: has the files of AMBER's `data/`.
        halves: which questions.
        lists: the words that annotations may name.

    Raises:
        UserError: a file is missing or is not what it must be.
    """
    annotations = _read_annotations(folder / "annotations.json", lists)
    names = [name for half, own in QUERIES.items() if halves in ("both", half) for name in own]
    questions = []
    for name in names:
        for number, row in enumerate(json_objects(folder / name), start=1):
            place = f"{folder / name}, row {number}"
            image, query = row.get("image"), row.get("query")
            if not isinstance(image, str) or not isinstance(query, str):
                raise UserError(f"{place}: a query has id, image and query.")
            found = annotations.get(str(row.get("id")))
            if found is None:
                raise UserError(f"{place}: annotations.json has no id {row.get('id')!r}.")
            type, expected = found
            questions.append(
                PublishedQuestion(
                    str(row["id"]), image, Path(image).stem, query, expected, about={"type": type}
                )
            )
    return questions


def _read_annotations(
    path: Path, lists: WordLists
) -> dict[str, tuple[str, str | Mapping[str, Sequence[str]]]]:
    found: dict[str, tuple[str, str | Mapping[str, Sequence[str]]]] = {}
    for number, row in enumerate(json_objects(path), start=1):
        place, id, type = f"{path}, row {number}", str(row.get("id")), row.get("type")
        if not isinstance(type, str) or type not in KINDS:
            raise UserError(f"{place}: type is {type!r:.40}, but has to be {', '.join(KINDS)}.")
        found[id] = type, _expected(row, type, lists, place)
    return found


def _expected(
    row: JsonObject, type: str, lists: WordLists, place: str
) -> str | Mapping[str, Sequence[str]]:
    """What is right: yes, no, or the objects of a description."""
    truth = row.get("truth")
    if type != GENERATIVE:
        if truth not in ("yes", "no"):
            raise UserError(f"{place}: truth must be yes or no, not {truth!r:.40}.")
        return str(truth)
    objects: dict[str, Sequence[str]] = {}
    for field in ("truth", "hallu"):
        names = row.get(field)
        if not _is_names(names):
            raise UserError(f"{place}: {field} must be a list of names.")
        unknown = next((name for name in names if name not in lists.associated), None)
        if unknown is not None:
            raise UserError(f"{place}: {field} names {unknown!r}, which relation.json lacks.")
        objects[field] = names
    return objects


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
