"""Object lists from the annotations of others, for evaluation and the exact judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veridical.builders._annotations import (
    Found,
    read_coco,
    read_detections,
    read_names,
    read_rows_of,
    read_yolo,
)
from veridical.builders._parts import finish
from veridical.data.image_checks import find_images
from veridical.data.object_lists import describe_unknown, match_image_ids, unknown_names
from veridical.data.vocabulary import read_vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json, write_jsonl
from veridical.runtime.progress import counted, part_of
from veridical.runtime.runs import start_run

Form = Literal["auto", "coco", "yolo", "detections"]


def build_objects(
    annotations: Path,
    out: Path,
    form: Form = "auto",
    names: Path | None = None,
    min_score: float = 0.5,
    vocabulary: Path | None = None,
    images: Path | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """Turn ANNOTATIONS of COCO, of YOLO or of a detector into `objects.json`.

    That is JSON {image_id: [names of the objects in the image]}, what `eval chair`, `eval pope` and
    `build rate` call `--objects`. An image that the annotations list without an object has an empty
    list. Names that the vocabulary does not know are printed: they can't be scored. If it knows
    none, nothing is written.

    Args:
        annotations: COCO's instances (JSON), a folder of YOLO's label files (`.txt`), or what a
            detector wrote (JSON or JSON Lines: a row a detection or a row an image).
        out: folder for the run: `objects.json`, `skipped.jsonl`, `summary.json`, `run.json`.
        form: `coco`, `yolo` or `detections`; `auto` tells by the file.
        names: names of the classes where annotations have numbers: a YOLO data.yaml, a text with a
            name a line, or JSON (a list, or COCO's `categories`). For YOLO, data.yaml or
            classes.txt beside or in the folder if not set.
        min_score: detections with a lower score are left out. A share in [0, 1].
        vocabulary: what the names are checked against, as in `eval chair`.
        images: folder of the images. Those that the annotations do not have get an empty list, as
            YOLO writes no label file for an image with nothing in it. Leave it out where images
            are missing since nobody annotated them.
        max_bad_fraction: share of unusable annotations above which nothing is written.
    """
    if not annotations.is_dir():
        require_file(annotations, "--annotations")
    known = read_vocabulary(vocabulary)
    stems = [] if images is None else list(find_images(images))
    options = {
        "annotations": annotations, "out": out, "form": form, "names": names,
        "min_score": min_score, "vocabulary": vocabulary, "images": images,
        "max_bad_fraction": max_bad_fraction,
    }  # fmt: skip
    given = {"annotations": annotations, "names": names, "vocabulary": vocabulary}
    inputs = {name: path for name, path in given.items() if path is not None}
    with start_run(out, "build objects", options, inputs) as run:
        found = _read(annotations, form, names, min_score)
        _refuse(found, annotations, max_bad_fraction)
        made = _lists(found, stems, annotations)
        unknown = unknown_names({name for own in made.lists.values() for name in own}, known)
        write_json(out / "objects.json", made.lists)
        write_jsonl(out / "skipped.jsonl", found.skipped)
        finish(run, {**_summary(found, made), "unknown_names": unknown})
    print(f"{_told(found, made, min_score)} {out / 'objects.json'}")
    if unknown:
        print(
            f"{describe_unknown(unknown, known)} An evaluation leaves them out: correct the names, "
            "or evaluate with a --vocabulary that knows them."
        )


@dataclass(frozen=True)
class ObjectLists:
    """The lists that are written, by image.

    Attributes:
        lists: names of the objects in each image.
        unannotated: the images that the annotations do not have, by their names without suffix.
        skipped: how many annotations could not be used.
    """

    lists: Mapping[str, list[str]]
    unannotated: Sequence[str]
    skipped: int


def _lists(found: Found, stems: Sequence[str], path: Path) -> ObjectLists:
    """The lists of the images of which every annotation is usable.

    Raises:
        UserError: there is none.
    """
    skipped = len(found.skipped)
    matched = match_image_ids(stems, found.objects)
    unannotated = [stem for stem, image in matched.items() if image is None]
    found.leave_out_incomplete()
    if not found.objects:
        raise UserError(f"{path}: no image is left of which every annotation is usable.")
    found.objects.update({stem: set() for stem in unannotated})
    lists = {image: sorted(objects) for image, objects in sorted(found.objects.items())}
    return ObjectLists(lists, unannotated, skipped)


def _summary(found: Found, made: ObjectLists) -> dict[str, int]:
    return {
        "images": len(made.lists),
        "objects": sum(map(len, made.lists.values())),
        "empty": sum(not own for own in made.lists.values()),
        "below_min_score": found.unsure,
        "skipped": made.skipped,
        "images_left_out": len(found.incomplete),
        "images_without_annotation": len(made.unannotated),
    }


def _told(found: Found, made: ObjectLists, least: float) -> str:
    """What was counted, in a line."""
    objects = counted(sum(map(len, made.lists.values())), "objects")
    parts = [f"{objects} in {counted(len(made.lists), 'images')}"]
    if empty := len(made.unannotated):
        parts.append(f"{empty} of them without an annotation, so with an empty list")
    if found.scored:
        parts.append(
            f"{part_of(found.unsure, found.scored, 'detections')} had a lower score than {least:g}"
        )
    if bad := made.skipped:
        images = counted(len(found.incomplete), "images")
        about = "it is" if bad == 1 else "they are"
        parts.append(f"left out: {counted(bad, 'annotations')} and the {images} {about} about")
    return f"{'; '.join(parts)}:"


def _read(annotations: Path, form: Form, names: Path | None, least: float) -> Found:
    if annotations.is_dir() or form == "yolo":
        if form not in ("auto", "yolo") or not annotations.is_dir():
            raise UserError(
                f"--form {form} and {annotations} do not fit: YOLO's labels are a folder of .txt "
                "files, the other forms a file."
            )
        return read_yolo(annotations, read_names(names or _yolo_names(annotations)), least)
    content = read_rows_of(annotations)
    is_coco = isinstance(content, Mapping) and "annotations" in content
    if form == "coco" or (form == "auto" and is_coco):
        if not isinstance(content, Mapping):
            raise UserError(f"{annotations} must be a JSON object, as COCO's instances are.")
        return read_coco(content, annotations)
    if isinstance(content, Mapping):  # image to its detections
        content = [{"image": image, "detections": own} for image, own in content.items()]
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise UserError(f"{annotations} must be a JSON list or JSON Lines of detections.")
    return read_detections(content, read_names(names) if names else {}, least)


def _yolo_names(folder: Path) -> Path:
    places = [base / name for base in (folder, folder.parent, folder.parent.parent)
              for name in ("data.yaml", "classes.txt")]  # fmt: skip
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(
            f"There is no data.yaml or classes.txt beside {folder}; say with --names what the "
            "numbers of the classes mean."
        )
    return found


def _refuse(found: Found, path: Path, most: float) -> None:
    used = found.used + found.unsure
    bad = len(found.skipped)
    if not found.objects and not bad:
        raise UserError(f"{path} holds no annotations.")
    if not found.objects or (bad and bad > most * (used + bad)):
        first = "; ".join(f"{row['id']}, {row['reason']}" for row in found.skipped[:3])
        raise UserError(
            f"{path}: {counted(bad, 'annotations')} can't be "
            f"used{': ' + first if first else ''}. Name the "
            "classes with --names, say which --form it is, or set --max-bad-fraction higher."
        )
