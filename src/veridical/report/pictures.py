"""Pictures inside the page, and what was said about them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from veridical.data.images import open_image
from veridical.report.folders import Part
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator
from veridical.runtime.run_files import ANSWERS, DETAILS

# A drawn scene this small is shown as it is, with its pixels enlarged; others become a JPEG.
SMALL = 96
LARGEST = 320
JPEG_QUALITY = 82

SegmentKind = Literal["plain", "real", "made_up", "kept", "completed"]
Trend = Literal["fewer", "same", "more"]


@dataclass(frozen=True)
class ShownPicture:
    """An image as a data URI, or why there is none."""

    uri: str
    width: int
    height: int
    small: bool
    problem: str = ""


@dataclass(frozen=True)
class TextSegment:
    """A stretch of an answer that is shown in one way."""

    text: str
    kind: SegmentKind


@dataclass(frozen=True)
class ShownExample:
    """One image with the answers before and after."""

    image_id: str
    picture: ShownPicture
    prompt: str
    before: list[TextSegment]
    after: list[TextSegment]
    hallucinated_before: int
    hallucinated_after: int


@dataclass(frozen=True)
class Examples:
    """The chosen images, and what they were chosen from."""

    chosen: list[ShownExample]
    images: int
    differing: dict[Trend, int]


def embed(source: Path | bytes | None, name: str = "") -> ShownPicture:
    """Read an image and put it into a data URI; a missing one becomes a note on the page."""
    if source is None:
        return ShownPicture("", 0, 0, False, f"no image file for {name}")
    try:
        image = open_image(source)
    except UserError as error:
        return ShownPicture("", 0, 0, False, str(error))
    small = max(image.size) <= SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    uri = f"data:image/{'png' if small else 'jpeg'};base64,{encoded}"
    return ShownPicture(uri, image.width, image.height, small)


def mark_mentions(answer: str, mentions: Iterable[Mapping[str, Any]]) -> list[TextSegment]:
    """Cut an answer at its mentions of objects: those that are there and those made up.

    Args:
        answer: the text that `start` and `end` count characters of.
        mentions: {"start", "end", "hallucinated"}; overlapping ones after the first are left out.
    """
    segments: list[TextSegment] = []
    position = 0
    for mention in sorted(mentions, key=lambda item: int(item["start"])):
        start, end = int(mention["start"]), int(mention["end"])
        if not position <= start < end <= len(answer):
            continue
        segments.append(TextSegment(answer[position:start], "plain"))
        kind: SegmentKind = "made_up" if mention["hallucinated"] else "real"
        segments.append(TextSegment(answer[start:end], kind))
        position = end
    segments.append(TextSegment(answer[position:], "plain"))
    return [segment for segment in segments if segment.text]


def find_image(reference: Any, part: Part) -> Path | None:
    """The file that a row of `part` names: as it stands, or below the run's folders."""
    if not isinstance(reference, str) or not reference:
        return None
    configuration = part.record.get("configuration", {})
    named = [value for value in configuration.values() if isinstance(value, str) and value]
    bases = [Path(), part.folder, part.root, *(Path(value) for value in named)]
    bases += [Path(value).parent for value in named]
    if where := part.record.get("working_folder"):
        bases += [Path(where) / base for base in bases]
    for base in bases:
        if (base / reference).is_file():
            return base / reference
    return None


def choose_examples(before: Part, after: Part, count: int = 12, seed: int = 0) -> Examples:
    """Draw images whose answers differ, in the shares in which they got better or worse.

    The images are sorted into those with fewer, as many and more hallucinated mentions after
    than before; each group gets its share of the places (at least one if it has any), and within
    a group the draw is uniform and depends on the seed alone.
    """
    rows_before, rows_after = _rows(before), _rows(after)
    groups: dict[Trend, list[str]] = {"fewer": [], "same": [], "more": []}
    shared = [image_id for image_id in rows_before if image_id in rows_after]
    for image_id in shared:
        if rows_before[image_id]["answer"] != rows_after[image_id]["answer"]:
            change = _made_up(rows_after[image_id]) - _made_up(rows_before[image_id])
            groups["fewer" if change < 0 else "more" if change > 0 else "same"].append(image_id)
    places = share_places({trend: len(ids) for trend, ids in groups.items()}, count)
    drawn: list[str] = []
    for trend, ids in groups.items():
        order = generator(seed, "report", "examples", trend).permutation(len(ids))
        drawn += [sorted(ids)[index] for index in order[: places[trend]]]
    chosen = [_example(image_id, rows_before, rows_after, before) for image_id in drawn]
    return Examples(chosen, len(shared), {trend: len(ids) for trend, ids in groups.items()})


def share_places(sizes: Mapping[Trend, int], count: int) -> dict[Trend, int]:
    """Divide `count` places by largest remainder, at least one for each group that has any."""
    total = sum(sizes.values())
    if total <= count:
        return dict(sizes)
    exact = {name: count * size / total for name, size in sizes.items()}
    places = {name: max(int(exact[name]), min(1, size)) for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: exact[name] - places[name], reverse=True)
    for name in by_remainder:
        if sum(places.values()) < count and places[name] < sizes[name]:
            places[name] += 1
    while sum(places.values()) > count:
        places[max(places, key=lambda name: places[name])] -= 1
    return places


def _rows(part: Part) -> dict[str, Mapping[str, object]]:
    """Answers with their mentions, by image."""
    answers = {str(row["image_id"]): row for row in part.read(ANSWERS) or []}
    details = {str(row["image_id"]): row for row in part.read(DETAILS) or []}
    return {
        image_id: {**answers.get(image_id, {}), **detail} for image_id, detail in details.items()
    }


def _made_up(row: Mapping[str, Any]) -> int:
    return sum(bool(mention["hallucinated"]) for mention in row["mentions"])


def _example(
    image_id: str,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    part: Part,
) -> ShownExample:
    first, second = before[image_id], after[image_id]
    return ShownExample(
        image_id,
        embed(find_image(first.get("image"), part), image_id),
        str(first.get("prompt") or ""),
        mark_mentions(first["answer"], first["mentions"]),
        mark_mentions(second["answer"], second["mentions"]),
        _made_up(first),
        _made_up(second),
    )


def mark_completions(rejected: str, cuts: Sequence[Mapping[str, Any]]) -> list[TextSegment]:
    """Cut a rejected answer into what the guidance kept and what the model wrote without seeing.

    A completion that repeats the true sentence's own end made nothing up and counts as kept.
    """
    segments: list[TextSegment] = []
    position = 0
    for cut in cuts:
        kept = str(cut.get("kept") or "").strip()
        completion = str(cut.get("completion") or "").strip()
        after_kept = max(rejected.find(kept, position), position) + len(kept)
        start = rejected.find(completion, after_kept) if completion else -1
        if start < 0 or str(cut.get("sentence") or "").strip().endswith(completion):
            continue
        segments.append(TextSegment(rejected[position:start], "kept"))
        segments.append(TextSegment(rejected[start : start + len(completion)], "completed"))
        position = start + len(completion)
    segments.append(TextSegment(rejected[position:], "kept"))
    return [segment for segment in segments if segment.text]
