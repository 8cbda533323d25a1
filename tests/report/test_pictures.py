"""What is marked in answers, how images are drawn, and how they are shown."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from veridical.report.folders import Part, find_parts
from veridical.report.pictures import (
    TextSegment,
    choose_examples,
    embed,
    mark_completions,
    mark_mentions,
    share_places,
)


def mention(start: int, end: int, made_up: bool) -> dict[str, Any]:
    return {"start": start, "end": end, "hallucinated": made_up}


def test_mentions_are_cut_out_at_their_places() -> None:
    assert mark_mentions("a cup, a dog.", [mention(9, 12, True), mention(2, 5, False)]) == [
        TextSegment("a ", "plain"),
        TextSegment("cup", "real"),
        TextSegment(", a ", "plain"),
        TextSegment("dog", "made_up"),
        TextSegment(".", "plain"),
    ]


@pytest.mark.parametrize(
    "mentions",
    [[], [mention(5, 90, True)], [mention(4, 4, True)], [mention(-1, 3, True)]],
)
def test_places_that_do_not_fit_leave_the_text_whole(mentions: list[dict[str, Any]]) -> None:
    assert mark_mentions("a cup", mentions) == [TextSegment("a cup", "plain")]


def test_overlapping_mentions_never_repeat_text() -> None:
    segments = mark_mentions("hot dog", [mention(0, 7, True), mention(4, 7, False)])
    assert segments == [TextSegment("hot dog", "made_up")]


def test_completions_are_told_from_what_was_kept() -> None:
    cuts = [
        {"sentence": "A cat sits.", "kept": "A cat", "completion": " sits."},
        {"sentence": "A red cup.", "kept": "A", "completion": " blue dog."},
        {"sentence": "It is a day.", "kept": "It is", "completion": " a day in May."},
    ]
    assert mark_completions("A cat sits. A blue dog. It is a day in May.", cuts) == [
        TextSegment("A cat sits. A ", "kept"),
        TextSegment("blue dog.", "completed"),
        TextSegment(" It is ", "kept"),
        TextSegment("a day in May.", "completed"),
    ]
    assert mark_completions("Plain text.", []) == [TextSegment("Plain text.", "kept")]


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_small_scenes_keep_their_pixels_and_photographs_shrink(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    scene = embed(tmp_path / "scene.png")
    assert scene.small
    assert np.array_equal(np.asarray(decoded(scene.uri)), pixels)
    Image.new("RGB", (1000, 500)).save(tmp_path / "photo.png")
    photo = embed(tmp_path / "photo.png")
    assert (photo.width, photo.height, photo.small) == (320, 160, False)
    assert decoded(photo.uri).format == "JPEG"


def test_a_missing_or_broken_image_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "not an image" in embed(tmp_path / "broken.png").problem
    assert "scene_7" in embed(None, "scene_7").problem


@pytest.mark.parametrize(
    ("fewer", "same", "more", "expected"),
    [
        (80, 10, 10, (10, 1, 1)),
        (500, 200, 1, (8, 3, 1)),
        (3, 2, 1, (3, 2, 1)),
        (6, 3, 3, (6, 3, 3)),
        (100, 0, 0, (12, 0, 0)),
        (0, 0, 0, (0, 0, 0)),
    ],
)
def test_places_go_by_share_and_no_group_is_hidden(
    fewer: int, same: int, more: int, expected: tuple[int, int, int]
) -> None:
    places = share_places({"fewer": fewer, "same": same, "more": more}, 12)
    assert (places["fewer"], places["same"], places["more"]) == expected


def arms(demo: Path) -> tuple[Part, Part]:
    parts = {part.folder: part for part in find_parts([demo])}
    return parts[demo / "eval/base/chair"], parts[demo / "eval/bdhs/chair"]


def test_examples_are_drawn_by_seed_and_those_that_got_worse_stay(demo: Path) -> None:
    before, after = arms(demo)
    examples = choose_examples(before, after)
    # Base makes a dog up on every 2nd image, BDHS on every 5th; every 10th has it in both.
    assert examples.differing == {"fewer": 16, "same": 0, "more": 4}
    assert examples.images == 40
    changes = [item.hallucinated_after - item.hallucinated_before for item in examples.chosen]
    assert (changes.count(-1), changes.count(1)) == (10, 2)
    assert examples == choose_examples(before, after)
    other = choose_examples(before, after, seed=1)
    assert [item.image_id for item in other.chosen] != [item.image_id for item in examples.chosen]


def test_the_order_of_the_rows_does_not_change_the_draw(demo: Path) -> None:
    before, after = arms(demo)
    drawn = [item.image_id for item in choose_examples(before, after).chosen]
    path = before.folder / "details.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[::-1]))
    assert json.loads(path.read_text().splitlines()[0])["image_id"] == "scene_039"
    assert [item.image_id for item in choose_examples(before, after).chosen] == drawn
