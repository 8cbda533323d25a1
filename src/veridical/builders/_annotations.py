"""What is in images, from the annotation files of others: COCO, YOLO, and what detectors write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.data.object_lists import match_image_id
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, read_text
from veridical.runtime.yaml_text import read_yaml

IMAGE_FIELDS = ("image_id", "image", "file_name", "filename", "file", "path", "image_path")
NAME_FIELDS = ("label", "name", "class_name", "category", "category_name", "class", "text_label")
SCORE_FIELDS = ("score", "confidence", "conf", "prob")
NUMBER_FIELDS = ("category_id", "class", "class_id", "label")
NAME_LISTS = ("labels", "objects", "classes", "names")
LIST_FIELDS = ("detections", "predictions", "objects", "results", "annotations", "boxes")


@dataclass
class Found:
    """Objects by image, and what was left out.

    Attributes:
        objects: image id to names, each once.
        unsure: detections below the least score.
        scored: objects that have a score.
        used: annotations that were taken.
        skipped: {"id", "field", "reason"} of what could not be used.
        incomplete: images of which an annotation could not be used: their lists would be too short.
    """

    objects: dict[str, set[str]] = field(default_factory=dict)
    unsure: int = 0
    scored: int = 0
    used: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)

    def add(self, image: str, name: str, score: float | None, least: float) -> None:
        """Take an object unless its score is too low; the image is known from here on."""
        names = self.objects.setdefault(image, set())
        self.scored += score is not None
        if score is not None and score < least:
            self.unsure += 1
        else:
            self.used += 1
            names.add(name)

    def skip(self, place: str, what: str, reason: str, image: str | None = None) -> None:
        """Note what could not be used, and the image that it would have been about."""
        self.skipped.append({"id": place, "field": what, "reason": reason})
        if image is not None:
            self.incomplete.add(image)

    def leave_out_incomplete(self) -> None:
        """Drop images whose lists lack something: a mention of it would count as invented."""
        for image in sorted(self.incomplete):
            self.objects.pop(image, None)
            reason = "left out: an annotation of it can't be used, so its list would be too short"
            self.skipped.append({"id": image, "field": "image", "reason": reason})


def read_coco(content: Mapping[str, Any], path: Path) -> Found:
    """COCO's instances: `images`, `annotations` and `categories`.

    An image's id is its number in the set where the file's name ends in it, else the file's name
    without suffix. An image without annotations has an empty list.

    Raises:
        UserError: a part is missing or of another shape.
    """
    names = {row["id"]: row["name"] for row in _rows(content, "categories", path, ("id", "name"))}
    ids: dict[Any, str] = {}
    found = Found()
    for row in _rows(content, "images", path, ("id", "file_name")):
        stem, number = Path(str(row["file_name"])).stem, str(row["id"])
        ids[row["id"]] = number if match_image_id(stem, {number}) else stem
        if ids[row["id"]] in found.objects:
            raise UserError(f"{path}: two images are called {ids[row['id']]}.")
        found.objects[ids[row["id"]]] = set()
    for row in _rows(content, "annotations", path, ("image_id", "category_id")):
        place = str(row.get("id", row["image_id"]))
        if row["image_id"] not in ids:
            found.skip(place, "image_id", f"no image has the id {row['image_id']}")
        elif row["category_id"] not in names:
            found.skip(
                place,
                "category_id",
                f"no category has the id {row['category_id']}",
                ids[row["image_id"]],
            )
        else:
            found.add(ids[row["image_id"]], names[row["category_id"]], None, 0.0)
    return found


def read_yolo(folder: Path, names: Mapping[int, str], least: float) -> Found:
    """YOLO's labels: a text file for each image, a line `class x y width height` for each object.

    Polygons (`class x1 y1 x2 y2 ...`) and a score behind a box are read too.

    Raises:
        UserError: the folder has no label files.
    """
    files = sorted(file for file in folder.rglob("*.txt") if file.name != "classes.txt")
    if not files:
        raise UserError(f"{folder} has no label files (.txt). Name the folder of the labels.")
    found = Found()
    for file in files:
        if file.stem in found.objects:
            raise UserError(f"{folder} has two label files called {file.name}.")
        found.objects[file.stem] = set()
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                _add_yolo(found, file, number, line.split(), names, least)
    return found


def read_detections(rows: Iterable[Any], names: Mapping[int, str], least: float) -> Found:
    """What detectors write: a row a detection, or a row an image with a list of detections.

    A detection has a name (`label`, `name`, `class_name`, ...) or a number (`category_id`), and a
    `score` or `confidence`. Parallel lists (`labels`, `scores`) and lists of names are read too.

    Raises:
        UserError: two images of different folders have one name.
    """
    found = Found()
    files: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        image = _first(row, IMAGE_FIELDS) if isinstance(row, Mapping) else None
        if image is None:
            found.skip(f"row {number}", "image", f"names no image ({', '.join(IMAGE_FIELDS[:3])})")
            continue
        key = str(image) if isinstance(image, int) else Path(str(image)).stem
        if files.setdefault(key, str(image)) != str(image):
            raise UserError(
                f"{files[key]} and {image} (row {number}) are both called {key}. Give the images "
                "names that differ without folder and suffix."
            )
        found.objects.setdefault(key, set())
        detections = _detections(row)
        if isinstance(detections, str):
            found.skip(f"row {number}", "detections", detections, key)
            continue
        for detection in detections:
            name, score = _named(detection, names), _first(detection, SCORE_FIELDS)
            if name is None:
                reason = f"has no name that is known: {_short(detection)}"
                found.skip(f"row {number}", "label", reason, key)
            elif score is not None and not _is_number(score):
                found.skip(f"row {number}", "score", f"{score!r} is not a number", key)
            else:
                found.add(key, name, None if score is None else float(score), least)
    return found


def read_names(path: Path) -> dict[int, str]:
    """Names of classes by number.

    Read are a YOLO `data.yaml` (`names` as a list or a mapping), a text with a name a line, and
    JSON: a list of names, a mapping from numbers, or COCO's `categories`.

    Raises:
        UserError: the file is none of these.
    """
    if path.suffix.lower() == ".txt":
        lines = read_text(path).rstrip().split("\n")
        if empty := next((n for n, line in enumerate(lines, start=1) if not line.strip()), None):
            raise UserError(
                f"{path}: line {empty} is empty, so the numbers of the names behind it are not "
                "certain. Write the class's name there, or take the line out."
            )
        return {number: line.strip() for number, line in enumerate(lines)}
    content = (
        read_yaml(read_text(path), str(path))
        if path.suffix.lower() in (".yaml", ".yml")
        else read_json(path)
    )
    if isinstance(content, Mapping) and "categories" in content:
        return {r["id"]: r["name"] for r in _rows(content, "categories", path, ("id", "name"))}
    names = content.get("names", content) if isinstance(content, Mapping) else content
    named = dict(enumerate(names)) if isinstance(names, list) else names
    try:
        found = {int(number): name for number, name in named.items()}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} has no names of classes: it must be a data.yaml with `names`, a text with a "
            "name a line, or JSON with a list of names or COCO's `categories`."
        ) from error
    for number, name in found.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(
                f"{path}: the name of class {number} has to be a text, not {_short(name)}. Put "
                "quotes around it if it is meant."
            )
    return found


def read_rows_of(path: Path) -> object:
    """A JSON value, or the rows of JSON Lines, by the suffix."""
    return read_jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson") else read_json(path)


def _add_yolo(
    found: Found,
    file: Path,
    line: int,
    words: Sequence[str],
    names: Mapping[int, str],
    least: float,
) -> None:
    place = f"{file.name}, line {line}"
    if not all(_is_number(word) for word in words) or not float(words[0]).is_integer():
        found.skip(place, "row", "is not a class and numbers", file.stem)
    elif len(words) < 5 or (len(words) > 6 and len(words) % 2 == 0):
        found.skip(place, "row", f"has {len(words) - 1} numbers behind its class", file.stem)
    elif int(float(words[0])) not in names:
        found.skip(place, "class", f"{words[0]} has no name", file.stem)
    else:
        score = float(words[5]) if len(words) == 6 else None
        found.add(file.stem, names[int(float(words[0]))], score, least)


def _rows(
    content: Mapping[str, Any], part: str, path: Path, fields: Sequence[str]
) -> list[Mapping[str, Any]]:
    rows = content.get(part)
    if not isinstance(rows, list):
        raise UserError(f"{path} has no list `{part}`, which COCO's files have.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping) or any(row.get(name) is None for name in fields):
            raise UserError(f"{path}, {part} {number}: needs {' and '.join(fields)}.")
    return rows


def _detections(row: Mapping[str, Any]) -> list[Any] | str:
    """The detections of a row, or why it holds none that can be read."""
    lists = {name: row[name] for name in (*LIST_FIELDS, *NAME_LISTS)
             if isinstance(row.get(name), list)}  # fmt: skip
    for name in LIST_FIELDS:
        if lists.get(name) and _are_objects(lists[name]):
            return list(lists[name])
    named = next((own for own in lists.values() if own and all(map(_is_class, own))), None)
    if named is not None:
        return _parallel(named, _first(row, ("scores", "confidences")))
    if any(row.get(name) is not None for name in (*NAME_FIELDS, *NUMBER_FIELDS)):
        return [row]
    if lists and not any(lists.values()):
        return []
    inner = [row[name] for name in LIST_FIELDS if isinstance(row.get(name), Mapping)]
    if inner:  # parallel lists, or one detection
        return _detections(inner[0])
    return f"is neither a detection nor a list of them: {_short(row)}"


def _parallel(labels: list[object], scores: object) -> list[object] | str:
    scores = [None] * len(labels) if scores is None else scores
    if not isinstance(scores, list) or len(scores) != len(labels):
        return f"has {len(labels)} labels, which need as many scores, not {_short(scores)}"
    return [{"label": label, "score": own} for label, own in zip(labels, scores, strict=True)]


def _is_class(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _named(detection: object, names: Mapping[int, str]) -> str | None:
    if not isinstance(detection, Mapping):
        return None
    said = [detection[name] for name in NAME_FIELDS if isinstance(detection.get(name), str)]
    if said:
        return str(said[0]).strip() or None
    numbers = [detection.get(name) for name in NUMBER_FIELDS]
    number = next((n for n in numbers if isinstance(n, int)), None)
    return None if number is None else names.get(number)


def _first(row: Any, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _short(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
