"""`<image>` in a text marks where the picture belongs, in rows without image blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.data.messages import assistant_message, user_message
from veridical.data.records import RecordSet, read_records
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl

Blocks = list[dict[str, Any]]
IMAGE: dict[str, Any] = {"type": "image"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def read(folder: Path, row: dict[str, Any], kind: Any) -> RecordSet:
    for number in range(2):
        Image.new("RGB", (8 + number, 8)).save(folder / f"{number}.png")
    write_jsonl(folder / "rows.jsonl", [row])
    return read_records(folder / "rows.jsonl", kind, max_bad_fraction=1.0)


def pair(prompt: Any, images: int = 1) -> dict[str, Any]:
    names = [f"{number}.png" for number in range(images)]
    return {"images": names, "prompt": prompt, "chosen": "A dog.", "rejected": "A cat."}


@pytest.mark.parametrize(
    ("prompt", "images", "expected"),
    [
        ("Read the label in this: <image>", 1, [text("Read the label in this: "), IMAGE]),
        ("<image>\nWhat?", 1, [IMAGE, text("What?")]),
        ("A <image> or B <image>?", 2, [text("A "), IMAGE, text(" or B "), IMAGE, text("?")]),
        ([{"role": "user", "content": "See <image>."}], 1, [text("See "), IMAGE, text(".")]),
        ([user_message("See <image>.", images=0)], 1, [text("See "), IMAGE, text(".")]),
        # Without a tag pictures stand before the first question, as TRL has them.
        ("What?", 2, [IMAGE, IMAGE, text("What?")]),
        # Image blocks say where pictures are; a tag beside them is text.
        ([user_message("See <image>.")], 1, [IMAGE, text("See <image>.")]),
        # Where there is no picture, it is text too.
        ("What does <image> mean in HTML?", 0, [text("What does <image> mean in HTML?")]),
    ],
)  # fmt: skip
def test_a_tag_is_an_image_block(
    tmp_path: Path, prompt: Any, images: int, expected: Blocks
) -> None:
    rows = read(tmp_path, pair(prompt, images), "preference").rows
    assert rows[0]["prompt"][-1]["content"] == expected


def test_a_tag_in_a_later_turn_is_an_image_block_there(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, what is <that>?"},
        {"role": "user", "content": "<image>What do you see?"},
        {"role": "assistant", "content": "A dog."},
    ]
    row = {"images": ["0.png"], "messages": messages}
    assert read(tmp_path, row, "conversation").rows[0]["messages"] == [
        user_message("Hello.", images=0),
        assistant_message("Hello, what is <that>?"),
        user_message("What do you see?"),
        assistant_message("A dog."),
    ]


@pytest.mark.parametrize(("tags", "images"), [(2, 1), (1, 2)])
def test_tags_and_pictures_have_to_be_as_many(tmp_path: Path, tags: int, images: int) -> None:
    with pytest.raises(UserError, match=f"{tags} <image> tags? for {images} images?;"):
        read(tmp_path, pair("What? " + "<image>" * tags, images), "preference")


def test_nothing_is_left_in_the_text(policy: Policy, tmp_path: Path) -> None:
    rows = read(tmp_path, pair("Read this: <image>"), "preference").rows
    assert render_prompt(policy, rows[0]["prompt"]).count("<image>") == 1


def test_rows_that_people_met(test_data: Path) -> None:
    folder = test_data / "cases" / "image-tag-in-text"
    pairs = read_records(folder / "pairs.jsonl", "preference").rows
    talks = read_records(folder / "conversations.jsonl", "conversation").rows
    assert all(row["prompt"][-1]["content"][-1] == IMAGE for row in pairs)
    for row in talks:
        contents = [message["content"] for message in row["messages"]]
        assert [IMAGE in blocks for blocks in contents] == [False, False, True, False]
        assert not any("<image>" in block.get("text", "") for c in contents for block in c)
