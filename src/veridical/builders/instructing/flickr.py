"""Captions of Flickr30k Entities, with a box behind each thing that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from veridical.builders.instructing.found import Gathered, ImageFolder, Talk, no_image
from veridical.builders.instructing.prompts import Prompts
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the image's width and height."""
_PHRASE = re.compile(r"\[/EN#(\d+)/\S+ ([^\]]+)\]")


def flickr_talks(folder: Path, images: ImageFolder, prompts: Prompts) -> Gathered:
    """A caption of each Flickr30k image with a box behind each thing that it names.

    Boxes are Shikra's (Chen et al. 2023): left, top, right and bottom as shares of the image,
    with three decimals, several separated by a semicolon.

    Args:
        folder: of Flickr30k Entities, with `Sentences/ID.txt` and `Annotations/ID.xml`.
        images: Flickr30k's, named by id.
        prompts: what is asked.

    Raises:
        UserError: the folder lacks these.
    """
    files = sorted((folder / "Sentences").glob("*.txt"))
    if not files or not (folder / "Annotations").is_dir():
        raise UserError(
            f"{folder} is not Flickr30k Entities: it needs Sentences/ and Annotations/."
        )
    found = Gathered()
    for file in files:
        found.rows += 1
        name = file.stem
        image = images.of(name) or images.of(int(name) if name.isdigit() else name)
        if image is None:
            found.skip(name, file, "image", no_image(name, images))
            continue
        try:
            boxes = read_boxes(folder / "Annotations" / f"{name}.xml")
        except (OSError, ElementTree.ParseError, ValueError, ZeroDivisionError) as error:
            found.skip(
                name, folder / "Annotations" / f"{name}.xml", "boxes", f"unreadable: {error}"
            )
            continue
        try:
            lines = [line for line in read_text(file).splitlines() if line.strip()]
        except UserError as error:
            found.skip(name, file, "sentence", str(error).rstrip("."))
            continue
        marked = [line for line in lines if any(e in boxes for e, _ in _PHRASE.findall(line))]
        if not marked:
            found.skip(name, file, "sentence", "no sentence names anything that has a box")
            continue
        line = marked[prompts.draw(len(marked), f"flickr/{name}", "sentence")]
        asked = prompts.ask("flickr", f"flickr/{name}")
        found.talks.append(
            Talk(f"flickr/{name}", image, ((asked, spotted(line, boxes)),), "Flickr30k")
        )
    return found


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Entity to its boxes, in shares of the image's width and height."""
    root = ElementTree.parse(path).getroot()
    width, height = (float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    boxes: dict[str, list[Box]] = {}
    for thing in root.iter("object"):
        box = thing.find("bndbox")
        if box is None:
            continue
        left, top, right, bottom = (
            float(box.findtext(side) or "nothing") for side in ("xmin", "ymin", "xmax", "ymax")
        )
        shares = (left / width, top / height, right / width, bottom / height)
        for name in thing.iter("name"):
            boxes.setdefault(name.text or "", []).append(shares)
    return boxes


def spotted(sentence: str, boxes: Mapping[str, Sequence[Box]]) -> str:
    """A sentence of Flickr30k Entities with boxes behind its phrases instead of marks in them."""

    def written(match: re.Match[str]) -> str:
        own = boxes.get(match[1])
        if not own:
            return match[2]
        shown = ";".join(",".join(f"{share:.3f}" for share in box) for box in own)
        return f"{match[2]} [{shown}]"

    return _PHRASE.sub(written, sentence).strip()
