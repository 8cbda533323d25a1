"""Object HalBench's published files, and COCO's annotations, which say what its images show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ijson

from veridical.data.object_lists import match_image_ids
from veridical.eval.answers import read_json_rows
from veridical.runtime.errors import UserError
from veridical.runtime.files import reading, require_file
from veridical.runtime.json_types import JsonObject
from veridical.runtime.unchanged import unchanged

PARTS = ("train2014", "val2014")


@dataclass(frozen=True)
class HalbenchRow:
    """A row of the file of questions.

    Attributes:
        image_id: COCO's, without leading zeros.
        question: what is asked about it.
        image: base64, or "" where the file has no images.
    """

    image_id: str
    question: str
    image: str


@dataclass
class CocoImage:
    """What COCO 2014 says of an image.

    Attributes:
        classes: names of the objects that are outlined in it.
        captions: people's.
    """

    classes: set[str] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)


def read_rows(path: Path) -> list[HalbenchRow]:
    """The rows of `obj_halbench_300_with_image.jsonl`, in order.

    Raises:
        UserError: a row is of another form, or an image is there twice.
    """
    found: dict[str, HalbenchRow] = {}
    for number, row in enumerate(read_json_rows(path), start=1):
        own, place = row if isinstance(row, dict) else {}, f"{path}, row {number}"
        id, question, image = own.get("image_id"), own.get("question"), own.get("image") or ""
        numbered = isinstance(id, int) or (isinstance(id, str) and id.strip().isdecimal())
        if not numbered or isinstance(id, bool) or not isinstance(question, str):
            raise UserError(f"{place}: needs image_id (a number) and question.")
        if not isinstance(image, str):
            raise UserError(f"{place}: image must be base64 text, not {image!r:.40}.")
        name = str(int(str(id)))
        if name in found:
            raise UserError(f"{place}: the image {name} is there twice.")
        found[name] = HalbenchRow(name, question, image)
    if not found:
        raise UserError(f"{path} has no questions.")
    return list(found.values())


def read_coco(folder: Path, wanted: Collection[str]) -> dict[str, CocoImage]:
    """What COCO 2014 says of some images.

    Args:
        folder: COCO's `annotations`: instances and captions of train2014 and val2014.
        wanted: ids of images.

    Raises:
        UserError: a file is missing or is not COCO's, or has nothing about an image.
    """
    found: dict[str, CocoImage] = {}
    for part in PARTS:
        path = folder / f"instances_{part}.json"
        names = {row.get("id"): row.get("name") for row in _items(path, "categories")}
        for id, row in _about(path, wanted):
            name = _text(names.get(row.get("category_id")), path)
            found.setdefault(id, CocoImage()).classes.add(name)
        path = folder / f"captions_{part}.json"
        for id, row in _about(path, wanted):
            found.setdefault(id, CocoImage()).captions.append(_text(row.get("caption"), path))
    missing = sorted(set(wanted) - found.keys())
    if missing:
        raise UserError(
            f"{folder} has nothing about {len(missing)} images, such as {missing[0]}. It must be "
            "the folder of COCO 2014's annotations, of the same images."
        )
    return found


def objects_of(listed: Mapping[str, list[str]], ids: Collection[str]) -> dict[str, list[str]]:
    """The objects of images by id, of lists whose keys are ids or names of files.

    Raises:
        UserError: an image has no list.
    """
    own = {id: key for key, id in match_image_ids(listed, set(ids)).items() if id is not None}
    missing = [id for id in ids if id not in own]
    if missing:
        raise UserError(
            f"--objects has no list for image {missing[0]} and {len(missing) - 1} more. Give each "
            "image one."
        )
    return {id: listed[own[id]] for id in ids}


def _text(value: object, path: Path) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path} is not one of COCO's files: {value!r:.40} should be a text.")
    return value


def _about(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, JsonObject]]:
    """The annotations of some images, by the images' ids."""
    for row in _items(path, "annotations"):
        if (id := str(row.get("image_id"))) in wanted:
            yield id, row


def _items(path: Path, name: str) -> Iterator[JsonObject]:
    """The objects of a list in a JSON file of hundreds of megabytes, one at a time."""
    require_file(path, "--annotations")
    with unchanged(path), reading(path), path.open("rb") as file:
        try:
            for row in ijson.items(file, f"{name}.item", use_float=True):
                if isinstance(row, dict):
                    yield row
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not JSON. Is it a whole copy?") from error
