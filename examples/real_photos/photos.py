"""Photographs with what is in them: split, cut into views, described and asked about.

A photograph's line is `{"file", "objects"}`; it is known by its file's name. With `boxes` too,
lines `[name, center x, center y, width, height]` in shares of the picture, it can be learned from:
crops and flips are views of their own, whose labels are cut out of the boxes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from veridical.data.image_checks import IMAGE_SUFFIXES
from veridical.data.images import open_image
from veridical.data.vocabulary import Vocabulary, read_vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, read_jsonl
from veridical.runtime.randomness import generator

DESCRIBE = "Describe the image."
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IRREGULAR = {
    "person": "people", "mouse": "mice", "knife": "knives", "sheep": "sheep", "skis": "skis",
    "scissors": "scissors", "broccoli": "broccoli",
}  # fmt: skip

VISIBLE = 0.6
"""A cropped object still counts if this much of its box is left; our choice."""
HIDDEN = 0.15
"""With less of its box left it is gone; between the two nothing is said or asked about it."""
SMALLEST = 0.004
"""Boxes of a smaller share of the view can't be seen in 16 features: not said, not asked."""


@contextmanager
def taught_errors() -> Iterator[None]:
    """End a program with an error's own words, and no traceback, where the user can mend it."""
    try:
        yield
    except UserError as error:
        raise SystemExit(f"real_photos: {error}") from None


@dataclass(frozen=True)
class Box:
    """One object; edges as shares of the picture's width and height, from the top left."""

    name: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """As a share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True)
class Photo:
    """A photograph and all that is known to be in it.

    Attributes:
        id: the file's name without suffix, by which `veridical eval` knows it.
        file: where it is.
        objects: names of everything that is there, without counts.
        boxes: where things are; empty if that is not known.
    """

    id: str
    file: Path
    objects: tuple[str, ...]
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class View:
    """A photograph, or a part of it, as the model is shown it.

    Attributes:
        id: the photograph's with the view's number.
        photo: the photograph.
        frame: left, top, right, bottom of the part, as shares of the photograph.
        flipped: whether left and right are exchanged.
        counts: how many of what can be seen, the largest first.
        unclear: names of what is there, but may not be seen: not asked about.
    """

    id: str
    photo: Photo
    frame: tuple[float, float, float, float]
    flipped: bool
    counts: tuple[tuple[str, int], ...]
    unclear: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """What can be seen."""
        return tuple(name for name, _ in self.counts)


@dataclass(frozen=True)
class Split:
    """Which photographs are for what; no photograph is in two of them."""

    taught: tuple[Photo, ...]
    """The base model is trained on views of these."""
    paired: tuple[Photo, ...]
    """Kept out of that; preference pairs are made of these."""
    held_out: tuple[Photo, ...]
    """Only evaluated on."""


def read_photos(path: Path) -> list[Photo]:
    """Read a JSON Lines file of photographs; files are relative to its folder.

    `chair_objects`, the objects of boxes and reference captions together, counts before `objects`.
    Names may be synonyms of COCO's.

    Raises:
        UserError: a line lacks something, a photograph is missing, can't be read or is listed
            twice, a name is not known, a box is not in shares of the picture, or what it shows is
            not among the objects.
    """
    photos: dict[str, Photo] = {}
    files: dict[str, Path] = {}
    words = read_vocabulary(None)
    for number, row in enumerate(read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        if not isinstance(row, dict) or not {"file", "objects"} <= row.keys():
            raise UserError(f'{where}: needs {{"file", "objects"}}.')
        file = path.parent / str(row["file"])
        if not file.is_file():
            raise UserError(f"{where}: there is no {file}.")
        if file.stem in photos:
            raise UserError(
                f"{where}: {file} has the name of {photos[file.stem].file}. Photographs are known "
                "by their files' names; give each its own, and list it once."
            )
        twin = files.setdefault(hash_file(file), file)
        if twin != file:
            raise UserError(
                f"{where}: {file} is the same picture as {twin}. List it once: else it could be "
                "both learned from and evaluated on."
            )
        _refuse_unreadable(file, where)
        listed = _list(row, "chair_objects" if "chair_objects" in row else "objects", where)
        objects = tuple(dict.fromkeys(_known(name, words, where) for name in listed))
        boxes = tuple(_box(box, words, where) for box in _list(row, "boxes", where))
        alone = sorted({box.name for box in boxes} - {*objects})
        if alone:
            raise UserError(
                f"{where}: there is a box of {alone[0]!r}, which is not among the objects. "
                "List everything that is there."
            )
        photos[file.stem] = Photo(file.stem, file, objects, boxes)
    if not photos:
        raise UserError(f"{path} lists no photographs.")
    return list(photos.values())


def refuse_known(seen: Sequence[Photo], known: Sequence[Photo]) -> None:
    """Refuse to evaluate on what was learned from.

    Raises:
        UserError: a photograph is among both, by its bytes.
    """
    learned = {hash_file(photo.file): photo for photo in known}
    both = [(photo, learned[h]) for photo in seen if (h := hash_file(photo.file)) in learned]
    if both:
        raise UserError(
            f"{len(both)} of the {len(seen)} photographs to evaluate on are learned from (the "
            f"first: {both[0][0].file} is {both[0][1].file}). Leave them out of one list."
        )


def refuse_taught(seen: Sequence[Photo], base: str) -> None:
    """Refuse to evaluate on what a model made by `teach.py` was taught.

    Raises:
        UserError: a photograph is among those, by its bytes.
    """
    record = Path(base) / "teach.json"
    learned = set(read_json(record).get("taught", [])) if record.is_file() else set()
    both = [photo for photo in seen if hash_file(photo.file) in learned]
    if both:
        raise UserError(
            f"{base} was taught {len(both)} of the {len(seen)} photographs to evaluate on (the "
            f"first: {both[0].file}). Take the --fold that it was taught with, or others."
        )


def _list(row: dict[str, Any], name: str, where: str) -> list[Any]:
    found = row.get(name, [])
    if not isinstance(found, list):
        raise UserError(f"{where}: {name!r} is a list, not {found!r}; [] if there is nothing.")
    return found


def _refuse_unreadable(file: Path, where: str) -> None:
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{where}: {file} has no suffix of {', '.join(IMAGE_SUFFIXES)}; rename it.")
    try:
        open_image(file)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _known(name: object, words: Vocabulary, where: str) -> str:
    found = words.name_of(str(name).lower())
    if found is None:
        raise UserError(f"{where}: {name!r} is none of COCO's 80 objects, nor a synonym of one.")
    return found


def _box(row: Any, words: Vocabulary, where: str) -> Box:
    if not isinstance(row, list) or len(row) != 5:
        raise UserError(f"{where}: a box is [name, center x, center y, width, height], not {row}.")
    name, *shares = row
    if not all(isinstance(v, int | float) and -1 <= v <= 2 for v in shares):
        raise UserError(
            f"{where}: the box of {name!r} has {shares}. Give center, width and height as shares "
            "of the picture's width and height, from 0 to 1, not in pixels."
        )
    x, y, width, height = shares
    return Box(
        _known(name, words, where),
        max(x - width / 2, 0.0),
        max(y - height / 2, 0.0),
        min(x + width / 2, 1.0),
        min(y + height / 2, 1.0),
    )


def split_photos(photos: Sequence[Photo], fold: int, folds: int = 4, paired: float = 0.25) -> Split:
    """Hold a fold out; of the others a share is kept for pairs. The same for every seed.

    Args:
        photos: all of them.
        fold: which one is held out, from 0.
        folds: how many there are; every photograph is held out in exactly one.
        paired: share of the others that only preference pairs are made of.

    Raises:
        UserError: there is no such fold, or too few photographs for it.
    """
    if len(photos) < 2 * folds:
        raise UserError(f"{len(photos)} photographs are too few for {folds} folds: give more.")
    if not 0 <= fold < folds:
        raise UserError(f"--fold is {fold}; there are 0 to {folds - 1}.")
    order = generator(0, "folds").permutation(len(photos))
    held_out = [photos[i] for place, i in enumerate(order) if place % folds == fold]
    others = [photos[i] for place, i in enumerate(order) if place % folds != fold]
    mixed = generator(0, "paired", fold).permutation(len(others))
    kept = round(paired * len(others))
    return Split(
        tuple(others[i] for i in mixed[kept:]),
        tuple(others[i] for i in mixed[:kept]),
        tuple(held_out),
    )


def make_views(photo: Photo, count: int, seed: int = 0) -> list[View]:
    """The whole photograph, its mirror image, and `count` - 2 crops, every other one mirrored.

    Args:
        photo: without boxes there are only the first two.
        count: how many views.
        seed: of the crops.
    """
    random = generator(seed, "views", photo.id)
    views = []
    for number in range(count if photo.boxes else min(count, 2)):
        frame = (0.0, 0.0, 1.0, 1.0)
        if number > 1:
            width, height = random.uniform(0.35, 0.95, size=2)
            left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
            frame = (float(left), float(top), float(left + width), float(top + height))
        views.append(view(photo, frame, number % 2 == 1, number))
    return views


def view(
    photo: Photo, frame: tuple[float, float, float, float], flipped: bool, number: int = 0
) -> View:
    """One view, with its labels cut out of the photograph's boxes."""
    left, top, right, bottom = frame
    areas: dict[str, float] = {}
    counts: dict[str, int] = {}
    whole = frame == (0.0, 0.0, 1.0, 1.0)
    # What captions name and no box shows may be anywhere.
    unclear = set(photo.objects) - {box.name for box in photo.boxes}
    if not photo.boxes and whole:
        # Without boxes all that is known is that each is there.
        return View(f"{photo.id}-{number}", photo, frame, flipped,
                    tuple((name, 1) for name in photo.objects), frozenset())  # fmt: skip
    for box in photo.boxes:
        width = min(box.right, right) - max(box.left, left)
        height = min(box.bottom, bottom) - max(box.top, top)
        inside = max(width, 0.0) * max(height, 0.0)
        share = inside / box.area if box.area > 0 else 0.0
        seen = inside / ((right - left) * (bottom - top))
        if (share >= VISIBLE or whole or seen > 0.3) and seen >= SMALLEST:
            counts[box.name] = counts.get(box.name, 0) + 1
            areas[box.name] = areas.get(box.name, 0.0) + seen
        elif share > HIDDEN:
            unclear.add(box.name)
    names = sorted(counts, key=lambda name: (-areas[name], name))
    return View(
        f"{photo.id}-{number}",
        photo,
        frame,
        flipped,
        tuple((name, counts[name]) for name in names),
        frozenset(unclear - counts.keys()),
    )


def picture(shown: View) -> Image.Image:
    """What the model is shown."""
    image = open_image(shown.photo.file)
    width, height = image.size
    left, top, right, bottom = shown.frame
    cut = image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )
    return ImageOps.mirror(cut) if shown.flipped else cut


def description(shown: View) -> str:
    """A true sentence about each thing in sight, the largest first."""
    if not shown.counts:
        return "There is nothing to name."
    return " ".join(f"There {_some(name, count)}." for name, count in shown.counts)


def _some(name: str, count: int) -> str:
    if count == 1 and IRREGULAR.get(name) != name:
        return f"is {article(name)} {name}"
    if IRREGULAR.get(name) == name:
        return f"{'is' if name == 'broccoli' else 'are'} some {name}"
    return f"are {number_word(count)} {plural(name)}"


def article(name: str) -> str:
    """`a` or `an`."""
    return "an" if name[:1].lower() in "aeiou" else "a"


def plural(name: str) -> str:
    """The plural of one of COCO's names."""
    if name in IRREGULAR:
        return IRREGULAR[name]
    return name + ("es" if name.endswith(("s", "ch", "sh", "x")) else "s")


def number_word(count: int) -> str:
    """A small number as a word; `many` from ten on."""
    return NUMBERS[count] if count < len(NUMBERS) else "many"


def is_there(name: str) -> str:
    """POPE's question."""
    return f"Is there {article(name)} {name} in the image?"


def how_many(name: str) -> str:
    """A question about a number."""
    return f"How many {plural(name)} are in the image?"


def conversation(shown: View, image: Path) -> dict[str, Any]:
    """The view's description as a line for `veridical build bdhs`."""
    return {
        "id": shown.id,
        "image": str(image),
        "messages": [
            {"role": "user", "content": DESCRIBE},
            {"role": "assistant", "content": description(shown)},
        ],
    }


def write_objects(photos: Sequence[Photo], path: Path) -> None:
    """What is in each photograph, for `veridical eval`."""
    path.write_text(json.dumps({photo.id: list(photo.objects) for photo in photos}, indent=1))


def write_pictures(photos: Sequence[Photo], folder: Path, shuffled: bool = False) -> None:
    """The photographs under their own names, or each under the name of the next one.

    Under the next one's name every answer is about another photograph than the one that it is
    scored by: what is still right then was not seen.

    Raises:
        UserError: there is no next one.
    """
    if shuffled and len(photos) < 2:
        raise UserError("One photograph can't be exchanged for another; evaluate on two or more.")
    folder.mkdir(parents=True, exist_ok=True)
    named = sorted(photos, key=lambda photo: photo.id)
    for place, photo in enumerate(named):
        source = named[(place + 1) % len(named)] if shuffled else photo
        target = folder / f"{photo.id}{source.file.suffix}"
        target.write_bytes(source.file.read_bytes())
