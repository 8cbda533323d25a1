"""Files in the shapes of other programs, and columns that nothing is read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from veridical.data.messages import assistant_message, user_message
from veridical.data.record_names import IMAGES
from veridical.data.records import Kind, read_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl

Row = dict[str, Any]
IMAGE: Row = {"type": "image"}
PAIR = {"prompt": "What is there?", "chosen": "A dog.", "rejected": "A cat."}
ASKED = {"from": "human", "value": "<image>\nWhat is there?"}


@pytest.fixture(autouse=True)
def image(tmp_path: Path) -> None:
    """One picture, a.png."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")


def read_one(folder: Path, row: Row, kind: Kind) -> Row:
    write_jsonl(folder / "rows.jsonl", [row])
    found: Row = read_records(folder / "rows.jsonl", kind).rows[0]
    return found


@pytest.mark.parametrize("name", [name for name in IMAGES if name != "image_bytes"])
def test_names_of_the_column_of_images(tmp_path: Path, name: str) -> None:
    found = read_one(tmp_path, PAIR | {name: "a.png"}, "preference")
    assert [image.size for image in found["images"]] == [(8, 8)]
    assert found["prompt"] == [user_message("What is there?")]


def test_bytes_under_another_name(tmp_path: Path) -> None:
    row = PAIR | {"image_bytes": (tmp_path / "a.png").read_bytes()}
    Dataset.from_list([row]).to_parquet(tmp_path / "rows.parquet")
    assert len(read_records(tmp_path / "rows.parquet", "preference").rows[0]["images"]) == 1


def test_the_plainest_name_counts(tmp_path: Path) -> None:
    row = PAIR | {"image": "a.png", "file_name": "gone.png"}
    assert len(read_one(tmp_path, row, "preference")["images"]) == 1


PAIRS: dict[str, Row] = {
    "question": {"question": "What is there?", "chosen": "A dog.", "rejected": "A cat."},
    "instruction": {"instruction": "What is there?", "chosen": "A dog.", "rejected": "A cat."},
    "responses": {
        "prompt": "What is there?", "chosen_response": "A dog.", "rejected_response": "A cat.",
    },
    "one message each": {
        "prompt": "What is there?",
        "chosen": {"role": "assistant", "content": "A dog."},
        "rejected": {"role": "assistant", "content": "A cat."},
    },
    "LLaMA-Factory's ShareGPT": {
        "conversations": [ASKED],
        "chosen": {"from": "gpt", "value": "A dog."},
        "rejected": {"from": "gpt", "value": "A cat."},
    },
    "two conversations": {
        "conversations": [ASKED, {"from": "gpt", "value": "A dog."}],
        "rejected_conversations": [ASKED, {"from": "gpt", "value": "A cat."}],
    },
    "messages and a rejected response": {
        "messages": [
            {"role": "user", "content": "<image>What is there?"},
            {"role": "assistant", "content": "A dog."},
        ],
        "rejected_response": "A cat.",
    },
    "messages and rejected messages": {
        "messages": [
            {"role": "user", "content": "<image>What is there?"},
            {"role": "assistant", "content": "A dog."},
        ],
        "rejected_messages": [
            {"role": "user", "content": "<image>What is there?"},
            {"role": "assistant", "content": "A cat."},
        ],
    },
    "an answer and a rejected one": {
        "question": "<image>What is there?", "answer": "A dog.", "rejected_answer": "A cat.",
    },
    "texts in objects": {
        "question": "What is there?", "chosen": {"text": "A dog."}, "rejected": {"text": "A cat."},
    },
}  # fmt: skip


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS.keys())
def test_pairs_of_others(tmp_path: Path, row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_one(tmp_path, row | {"image": "a.png"}, "preference")
    assert found["prompt"] == [user_message("What is there?")]
    assert found["chosen"] == [assistant_message("A dog.")]
    assert found["rejected"] == [assistant_message("A cat.")]
    assert "not used" not in capsys.readouterr().out


CONVERSATIONS: dict[str, Row] = {
    "question and answer": {"question": "What is there?", "answer": "A dog."},
    "prompt and completion": {"prompt": "What is there?", "completion": "A dog."},
    "caption": {"instruction": "What is there?", "caption": "A dog."},
    "text": {"instruction": "<image>\nWhat is there?", "text": "A dog."},
    "output": {"instruction": "What is there?", "input": "", "output": "A dog."},
    "turns": {"messages": [ASKED, {"from": "gpt", "value": "A dog."}]},
}


@pytest.mark.parametrize("row", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_conversations_of_others(tmp_path: Path, row: Row) -> None:
    found = read_one(tmp_path, row | {"img": "a.png"}, "conversation")
    assert found["messages"] == [user_message("What is there?"), assistant_message("A dog.")]


def test_an_input_follows_its_instruction_and_a_system_prompt_comes_first(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "instruction": "Translate.", "input": "Hund"}
    first, second = read_one(tmp_path, row, "prompt")["prompt"]
    assert (first["role"], first["content"][0]["text"]) == ("system", "Be brief.")
    assert second == user_message("Translate.\nHund", images=0)


def test_own_names_come_first(tmp_path: Path) -> None:
    row = PAIR | {"question": "Another?", "answer": "A bird.", "image": "a.png"}
    assert read_one(tmp_path, row, "preference")["prompt"] == [user_message("What is there?")]
    read = read_records(tmp_path / "rows.jsonl", "preference")
    assert read.ignored == ("answer", "question")


def test_ignored_columns_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_one(tmp_path, PAIR | {"image": "a.png", "split": "train", "score": 3}, "preference")
    assert "a preference has no such column: score, split." in capsys.readouterr().out


QUESTION = {"role": "user", "content": "What is there?"}
DOG, CAT = ({"role": "assistant", "content": f"A {animal}."} for animal in ("dog", "cat"))
HELD = {"role": "user", "content": [{"type": "image", "image": "a.png"},
                                    {"type": "text", "text": "What is there?"}]}  # fmt: skip
URL = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}},
                                   {"type": "text", "text": "What is there?"}]}  # fmt: skip
IN_TEXTS: dict[str, Row] = {
    "images": {**PAIR, "images": '["a.png"]'},
    "an object": {**PAIR, "image": '{"path": "a.png"}'},
    "of another name": {**PAIR, "image_paths": ' ["a.png"]'},
    "messages": {"image": "a.png", "prompt": json.dumps([QUESTION]),
                 "chosen": json.dumps([DOG]), "rejected": json.dumps(CAT)},
    "whole conversations": {"image": "a.png", "chosen": json.dumps([QUESTION, DOG]),
                            "rejected": json.dumps([QUESTION, CAT])},
    "turns": {"image": "a.png", "conversations": json.dumps([ASKED]),
              "chosen": json.dumps({"from": "gpt", "value": "A dog."}), "rejected": "A cat."},
    "blocks": {"image": "a.png", "chosen": "A dog.", "rejected": "A cat.", "prompt": [
        {"role": "user", "content": json.dumps([IMAGE, {"type": "text", "text": "What is there?"}])}
    ]},
    "a block that holds its picture": {**PAIR, "prompt": [HELD]},
    "an address in a block": {**PAIR, "prompt": [URL]},
    "two conversations with the picture": {
        "chosen": [HELD, assistant_message("A dog.")],
        "rejected": [HELD, assistant_message("A cat.")],
    },
    "the same in a text": {"chosen": json.dumps([HELD, DOG]), "rejected": json.dumps([HELD, CAT])},
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("row", IN_TEXTS.values(), ids=IN_TEXTS.keys())
def test_json_in_texts_and_pictures_in_blocks(tmp_path: Path, row: Row, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, [row, row | {"id": "2"}])
    else:
        Dataset.from_list([row, row | {"id": "2"}]).to_parquet(path)
    found = read_records(path, "preference").rows[0]
    assert [image.size for image in found["images"]] == [(8, 8)]
    assert found["prompt"] == [user_message("What is there?")]
    assert found["chosen"] == [assistant_message("A dog.")]
    assert found["rejected"] == [assistant_message("A cat.")]


def test_lists_of_a_sample_in_texts(tmp_path: Path) -> None:
    rating = {"answer": "responses/1", "aspect": "x", "value": 1.0}
    row = {"image": "a.png", "prompt": "What?", "responses": '["A dog.", "A cat."]',
           "ratings": json.dumps([rating]), "facts": '["a dog"]'}  # fmt: skip
    found = read_one(tmp_path, row, "sample")
    assert found["responses"] == [[assistant_message("A dog.")], [assistant_message("A cat.")]]
    assert (found["ratings"], found["facts"]) == ([rating], ["a dog"])


@pytest.mark.parametrize(
    "answer", ['{"text": "A dog."}', "[1, 2]", '{"role": "button"}', "{A dog}"]
)
def test_an_answer_in_json_is_an_answer(tmp_path: Path, answer: str) -> None:
    row = PAIR | {"image": "a.png", "chosen": answer}
    assert read_one(tmp_path, row, "preference")["chosen"] == [assistant_message(answer)]


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("printed", [str(DOG), str([DOG]), f"[{DOG}\n {CAT}]"])
def test_messages_as_python_prints_them_are_refused(
    tmp_path: Path, field: str, printed: str
) -> None:
    with pytest.raises(UserError, match=f"{field}: is messages in a text as Python prints them"):
        read_one(tmp_path, PAIR | {"image": "a.png", field: printed}, "preference")


LOST: dict[str, Any] = {
    "media": '["a.png"]',
    "meta": '{"a": {"image": "a.png"}}',
    "link": "https://host/a.jpg?width=3",
    "blob": "data:image/png;base64,iVBORw0KGgo=",
    "image_id": 391895,
    "source_image": "a.png",
    "pixel_values": [[0.1, 0.2]],
    "jpg_path": "a.jpg",
    "picture_0": "a.png",
    "metadata": {"source": "COCO", "image": "a.png"},
    "info": {"files": [{"kind": "text"}, {"kind": "scan", "path": "scans/a.JPG"}]},
    "extra": {"a": {"b": {"c": {"photo_url": "http://host/1"}}}},
}


PLACES = {
    "meta": "meta.a.image",
    "metadata": "metadata.image",
    "info": "info.files.path",
    "extra": "extra.a.b.c.photo_url",
}


@pytest.mark.parametrize(("name", "value"), LOST.items())
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_images_that_would_be_lost_stop_the_run(
    tmp_path: Path, name: str, value: Any, suffix: str
) -> None:
    rows = [PAIR | {name: value}]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
    place = PLACES.get(name, name)
    with pytest.raises(UserError, match=f"no row has images, but the column '{place}'"):
        read_records(path, "preference")


@pytest.mark.parametrize(
    "more",
    [
        {"image_id": 3, "image": "a.png"},
        {"image_size": None},
        {"topic": "animals"},
        {"metadata": {"source": "COCO", "image": None, "note": "Seen in a.png,\nthen lost."}},
        {"metadata": {"image": "b.png"}, "image": "a.png"},
    ],
)
def test_what_is_no_lost_image(tmp_path: Path, more: Row) -> None:
    assert read_one(tmp_path, PAIR | more, "preference")["chosen"]


@pytest.mark.parametrize(
    "text",
    [
        "Picture 1: <img>a.png</img> What?",
        "<|vision_start|><|image_pad|><|vision_end|>What?",
        "![it](a.png) What?",
        '<img src="a.png"> What?',
    ],
)
def test_pictures_in_texts_stop_the_run_where_no_row_has_images(tmp_path: Path, text: str) -> None:
    rows = [PAIR | {"prompt": text}, PAIR | {"prompt": text, "id": "1"}, PAIR | {"id": "2"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match="2 of 3 have text like"):
        read_records(tmp_path / "rows.jsonl", "preference")
    write_jsonl(tmp_path / "rows.jsonl", [*rows[1:], PAIR | {"id": "3"}])
    assert len(read_records(tmp_path / "rows.jsonl", "preference").rows) == 3


@pytest.mark.parametrize("text", ["<image>\nWhat?", "What? <image>", "Look:\n <image>\nWhat?"])
def test_a_tag_without_an_image_is_a_bad_row(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        UserError, match="<image> marks the place of an image, but the row has none"
    ):
        read_one(tmp_path, PAIR | {"prompt": text}, "preference")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_without_images_beside_others_that_have_some_are_told(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"rows.{suffix}"
    content = None if suffix == "jsonl" else (tmp_path / "a.png").read_bytes()
    images = [{"bytes": content, "path": "a.png"}]
    rows = [PAIR | {"images": images, "media": None}, PAIR | {"images": [], "media": '["a.png"]'}]
    if suffix == "jsonl":
        write_jsonl(path, rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
    for _ in range(2):  # the second time from the store
        assert len(read_records(path, "preference").rows) == 2
        assert "though the column 'media' seems to hold theirs" in capsys.readouterr().out


# What a row must not say


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more_rejected": ["A bird.", " A dog.\n"]}, "more_rejected: answer 1 is the same as"),
        ({"rejected": "A dog. "}, "rejected: is the same as chosen"),
        (
            {"ratings": [{"answer": "more_rejected/0", "aspect": "x", "value": 1}]},
            "ratings: rates 'more_rejected/0', but there is chosen, rejected",
        ),
    ],
)
def test_answers_that_contradict_one_another(tmp_path: Path, change: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_one(tmp_path, PAIR | {"image": "a.png"} | change, "preference")


def test_a_rating_of_an_answer_that_is_there(tmp_path: Path) -> None:
    rating = {"answer": "more_rejected/0", "aspect": "x", "value": 1.0}
    row = PAIR | {"image": "a.png", "more_rejected": ["A bird."], "ratings": [rating]}
    assert read_one(tmp_path, row, "preference")["ratings"] == [rating]


# How files are written


def test_a_byte_order_mark_and_a_suffix_in_capitals(tmp_path: Path) -> None:
    line = json.dumps(PAIR | {"image": "a.png"})
    for name in ("rows.JSONL", "rows.Json"):
        text = f"[{line}]" if name.endswith("Json") else line
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert len(read_records(tmp_path / name, "preference").rows) == 1


def test_a_key_that_is_there_twice_is_a_bad_row(tmp_path: Path) -> None:
    line = json.dumps(PAIR | {"image": "a.png"})
    (tmp_path / "rows.jsonl").write_text(line.replace("{", '{"chosen": "A bird.", ', 1))
    with pytest.raises(UserError, match=r"row 1, row: is not JSON .*the key 'chosen' twice"):
        read_records(tmp_path / "rows.jsonl", "preference")


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        (
            {"image": "a.png", "conversations": [ASKED, {"from": "gpt", "value": "A dog."}]},
            "preference",
            "preference records need prompt, chosen, rejected. The rows are conversation records",
        ),
        (
            {"image": "a.png", "question": "What?", "good": "A dog.", "bad": "A cat."},
            "preference",
            "image, question, good, bad; preference records need prompt, chosen, rejected.",
        ),
        ({"image": "a.png", "good": "A dog."}, "prompt", "prompt records need prompt."),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_columns(
    tmp_path: Path, row: Row, kind: Kind, said: str
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [row, row])
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / "rows.jsonl", kind)
    assert said in str(caught.value)
    assert "--max-bad-fraction" not in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"answer": "Yes."}, "Yes."),
        ({"ground_truth": 4}, "4"),
        ({"answer": "No.", "expected_answer": "Yes."}, "Yes."),
        ({"answer": {"text": "Yes."}}, None),
    ],
)
def test_a_prompts_short_answer_is_what_is_expected(
    answers: Row, expected: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"image": "a.png", "question": "Is there a dog?", **answers}
    assert read_one(tmp_path, row, "prompt").get("expected_answer") == expected
    told = capsys.readouterr().out
    is_unused = "answer" in answers and answers["answer"] != expected
    assert ("no such column: answer" in told) == is_unused
    read_records(tmp_path / "rows.jsonl", "prompt", tells=False)
    assert not capsys.readouterr().out


def test_prompts_of_conversations_are_asked_with_their_kind(tmp_path: Path) -> None:
    row = {"image": "a.png", "messages": [user_message("What?"), assistant_message("A dog.")]}
    with pytest.raises(UserError, match=r"With --kind conversation, .*`train grpo` take them"):
        read_one(tmp_path, row, "prompt")
