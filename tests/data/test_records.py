"""Records: what is written comes back, what is wrong is named, and nothing is dropped silently."""

from __future__ import annotations

import json
import math
import os
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from veridical.data.importers.webdataset import webdataset_rows
from veridical.data.messages import assistant_message, text_of, user_message
from veridical.data.origins import with_origins
from veridical.data.record_files import parquet_columns, stream_json_list, stream_rows
from veridical.data.records import Kind, read_records, write_records
from veridical.eval import halbench_files
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json, write_jsonl

Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images/0.png ... images/4.png, each of its own width."""
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.new("RGB", (8 + number, 8), "red").save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def preference(number: int = 0) -> Row:
    return {
        "id": f"row{number}",
        "images": [f"images/{number % 5}.png"],
        "prompt": [user_message("What is there?")],
        "chosen": [assistant_message(f"{number} red cups.")],
        "rejected": [assistant_message(f"{number} blue cups.")],
    }


def conversation(number: int = 0) -> Row:
    row = preference(number)
    return {
        "id": row["id"],
        "images": row["images"],
        "messages": [*row["prompt"], *row["chosen"]],
    }


def prompt(number: int = 0) -> Row:
    return {key: preference(number)[key] for key in ("id", "images", "prompt")}


def read_one(folder: Path, row: Row, kind: Kind = "preference") -> Row:
    write_jsonl(folder / "one.jsonl", [row])
    read: Row = read_records(folder / "one.jsonl", kind).rows[0]
    return read


def sample(number: int = 0) -> Row:
    answers = [[assistant_message(text)] for text in ("A red cup.", "A dog.", "A dog.")]
    ratings = [{"answer": "responses/2", "aspect": "exact", "value": -1.0}]
    return prompt(number) | {"responses": answers, "ratings": ratings, "source": '{"k": 3}'}


def unpaired(number: int = 0) -> Row:
    answer = {"completion": [assistant_message("A red cup.")], "label": number % 2 == 0}
    return prompt(number) | answer


def reason_against(folder: Path, row: Any, kind: Kind = "preference") -> str:
    """The problem of a bad row that stands between two good ones."""
    make = {
        "preference": preference, "conversation": conversation, "prompt": prompt, "sample": sample,
        "unpaired": unpaired,
    }[kind]  # fmt: skip
    lines = [json.dumps(item) for item in (make(1), row, make(2))]
    (folder / "bad.jsonl").write_text("\n".join(lines))
    read = read_records(folder / "bad.jsonl", kind, max_bad_fraction=0.5)
    assert read.total == 3 and read.rows["id"][:] == ["row1", "row2"]
    (problem,) = read.problems
    assert problem.row == 2
    return f"{problem.field}: {problem.reason}"


# What is written comes back


FULL = {
    "rejected_images": ["images/1.png"],
    "contrast_images": ["images/2.png"],
    "contrast_chosen": [assistant_message("2 dogs.")],
    "rejected_masked": 0.5,
    "contrast_masked": 1.0,
    "more_rejected": [[assistant_message("0 dogs.")], [assistant_message("0.")]],
    "ratings": [{"answer": "chosen", "aspect": "faithful", "value": 4.0}],
    "facts": ["There is a cup.", "It is red."],
    "expected_answer": "a cup",
    "beta_factor": 0.5,
    "answer_prefix": "0",
    "span_weights": [
        {"answer": "rejected", "start": 2, "end": 5, "weight": 2.5},
        {"answer": "more_rejected/1", "start": None, "end": None, "weight": 0.0},
    ],
    "source": '{"builder": "bdhs"}',
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("make", [preference, unpaired, conversation, prompt, sample])
def test_round_trip(folder: Path, suffix: str, make: Callable[[int], Row]) -> None:
    kind: Kind = make.__name__  # type: ignore[assignment]
    rows = [make(number) for number in range(5)]
    for row in rows:
        row["images"] = [folder / name for name in row["images"]]
    path = folder / f"set.{suffix}"
    write_records(rows, path, kind)
    read = read_records(path, kind)
    assert (read.total, read.problems, read.ignored) == (5, [], ())
    for row, back in zip(rows, read.rows, strict=True):
        assert [image.size for image in back["images"]] == [Image.open(row["images"][0]).size]
        assert {**back, "images": None} == {**row, "images": None}
    write_records(read.rows.select([3, 1]), folder / f"again.{suffix}", kind)
    again = read_records(folder / f"again.{suffix}", kind).rows
    assert again["id"][:] == ["row3", "row1"]
    assert again[0]["images"][0].size == (11, 8)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_optional_fields_come_back(folder: Path, suffix: str) -> None:
    rows = [preference(0) | FULL, preference(1)]
    for row in rows:
        for field in ("images", "rejected_images", "contrast_images"):
            row[field] = [str(folder / name) for name in row.get(field, [])] or None
    rows[1]["images"] = []
    rows[1]["prompt"] = [user_message("No picture.", images=0)]
    write_records(rows, folder / f"set.{suffix}", "preference")
    full, bare = read_records(folder / f"set.{suffix}", "preference").rows
    assert full["rejected_images"][0].size == (9, 8)
    assert full["contrast_images"][0].size == (10, 8)
    assert {key: full[key] for key in FULL if not key.endswith("images")} == {
        key: FULL[key] for key in FULL if not key.endswith("images")
    }
    assert bare["images"] == [] and bare["facts"] is None and bare["more_rejected"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": None}, "responses: is missing"),
        ({"responses": []}, "responses: is empty"),
        ({"responses": "A dog."}, "responses: must be a list"),
        ({"responses": ["A dog.", " "]}, "responses: is empty"),
        (
            {"ratings": [{"answer": "responses/3", "aspect": "exact", "value": 1}]},
            "ratings: rates 'responses/3', but there is responses/0, responses/1, responses/2",
        ),
        (
            {"ratings": [{"answer": "responses/0", "aspect": "exact", "value": float("nan")}]},
            "ratings: nan is not finite",
        ),
        ({"prompt": "Q", "images": [], "responses": ["A."], "ratings": []}, ""),
    ],
)
def test_samples_that_cannot_be_used(folder: Path, change: Row, message: str) -> None:
    row = sample() | change
    if message:
        assert message in reason_against(folder, row, "sample")
    else:  # plain strings will do
        (folder / "good.jsonl").write_text(json.dumps(row))
        (read,) = read_records(folder / "good.jsonl", "sample").rows
        assert read["responses"] == [[assistant_message("A.")]]


def test_samples_of_one_prompt_get_ids_of_their_own(folder: Path) -> None:
    rows = [sample() | {"id": None, "responses": [text], "ratings": None} for text in ("A.", "B.")]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, other = read_records(folder / "a.jsonl", "sample").rows["id"][:]
    assert one != other and "-" not in other


def test_parquet_stands_alone_and_keeps_the_bytes(folder: Path) -> None:
    Image.new("CMYK", (9, 9)).save(folder / "images" / "Küche.jpg")
    content = (folder / "images" / "Küche.jpg").read_bytes()
    row = preference() | {"images": [folder / "images" / "Küche.jpg"]}
    write_records([row], folder / "a.parquet", "preference")
    write_records(
        read_records(folder / "a.parquet", "preference").rows, folder / "b.parquet", "preference"
    )
    (folder / "images" / "Küche.jpg").unlink()
    stored = pq.read_table(folder / "b.parquet").to_pylist()[0]["images"]
    assert stored == [{"bytes": content, "path": "Küche.jpg"}]


def test_json_lines_copy_images_from_elsewhere_beside_the_file(folder: Path) -> None:
    target = folder / "out" / "set.jsonl"
    inside = folder / "out" / "mine.png"
    inside.parent.mkdir()
    Image.new("RGB", (3, 3)).save(inside)
    memory = Image.new("RGB", (4, 4), "blue")
    rows = [
        preference(0) | {"images": [inside]},
        preference(1) | {"images": [folder / "images" / "1.png"]},
        preference(2) | {"images": [memory]},
    ]
    write_records(rows, target, "preference")
    written = [json.loads(line)["images"][0] for line in target.read_text().splitlines()]
    assert written[0] == "mine.png"
    assert all(name.startswith("set_images/") for name in written[1:])
    sizes = [row["images"][0].size for row in read_records(target, "preference").rows]
    assert sizes == [(3, 3), (9, 8), (4, 4)]


def test_images_are_decoded_on_access_only(folder: Path) -> None:
    write_jsonl(folder / "set.jsonl", [preference(number) for number in range(3)])
    records = read_records(folder / "set.jsonl", "preference")
    rows = records.rows
    (folder / "images" / "1.png").unlink()
    assert records.ids == ["row0", "row1", "row2"]
    (left,) = with_origins(records, [{"id": "row1", "field": "chosen", "reason": "why"}])
    assert (left["row"], left["image_files"]) == (2, [str(folder / "images/1.png")])
    texts = rows.select_columns(["id", "prompt"])
    assert texts["prompt"][:] == [[user_message("What is there?")]] * 3
    assert rows[0]["images"][0].size == (8, 8)
    with pytest.raises(UserError, match=r"1\.png: the file does not exist"):
        rows[1]


def test_writing_names_a_bad_row_and_leaves_the_old_file(folder: Path) -> None:
    path = folder / "set.parquet"
    path.write_text("old")
    rows = [preference(0) | {"images": [folder / "images/0.png"]}, preference(1) | {"chosen": []}]
    with pytest.raises(UserError, match=r"Row 2 .* chosen"):
        write_records(rows, path, "preference")
    assert path.read_text() == "old"
    assert [item.name for item in folder.iterdir() if item.name.startswith(".")] == []
    with pytest.raises(UserError, match="parquet or"):
        write_records([], folder / "set.csv", "preference")


# Other forms are understood


def test_image_column_and_plain_strings(folder: Path) -> None:
    row = {
        "image": "images/2.png",
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What?"},
        ],
        "chosen": [{"role": "assistant", "content": "A cup."}],
        "rejected": "A dog.",
    }
    read = read_one(folder, row)
    assert read["images"][0].size == (10, 8)
    assert read["prompt"][1] == user_message("What?")
    assert read["chosen"] == [assistant_message("A cup.")]
    assert read["rejected"] == [assistant_message("A dog.")]


def test_implicit_prompt_is_the_shared_beginning(folder: Path) -> None:
    row = preference()
    implicit = {
        "images": row["images"],
        "chosen": [*row["prompt"], *row["chosen"]],
        "rejected": [*row["prompt"], *row["rejected"]],
    }
    read = read_one(folder, implicit)
    assert [read[key] for key in ("prompt", "chosen", "rejected")] == [
        row[key] for key in ("prompt", "chosen", "rejected")
    ]


def test_llava_conversations(folder: Path) -> None:
    turns = [
        {"from": "human", "value": "<image>\nWhat is there?"},
        {"from": "gpt", "value": "A cup."},
        {"from": "human", "value": "Is it red?"},
        {"from": "gpt", "value": "Yes."},
    ]
    after = [{"from": "human", "value": "What?\n<image>"}, turns[1]]
    text = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    write_json(
        folder / "llava.json",
        [
            {"id": "000", "image": "images/0.png", "conversations": turns},
            {"id": "000", "image": "images/0.png", "conversations": after},
            {"id": "000", "conversations": text},
        ],
    )
    rows = read_records(folder / "llava.json", "conversation").rows
    assert rows["id"][:] == ["000", "000-2", "000-3"], "LLaVA's ids name images, not rows"
    assert rows[0]["messages"] == [
        user_message("What is there?"),
        assistant_message("A cup."),
        user_message("Is it red?", images=0),
        assistant_message("Yes."),
    ]
    assert rows[1]["messages"][0]["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image"},
    ]
    assert rows[2]["images"] == []
    assert rows[2]["messages"][0] == user_message("Hi", images=0)


@pytest.mark.parametrize(
    ("value", "image", "reason"),
    [
        ("What?", "images/0.png", "0 <image> placeholders for 1 image"),
        ("<image>\nWhat?", None, "1 <image> placeholder for 0 images"),
        ("<image><image>", "images/0.png", "2 <image> placeholders for 1 image"),
    ],
)
def test_llava_placeholders_must_be_as_many_as_images(
    folder: Path, value: str, image: str | None, reason: str
) -> None:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "A cup."}]
    row = {"id": "x", "image": image, "conversations": turns}
    assert reason in reason_against(folder, row, "conversation")


def test_parquet_of_others_with_paths_and_filled_blocks(folder: Path) -> None:
    rows = [preference(0), preference(1)]
    other = datasets.Dataset.from_list([{**row, "score_chosen": 1.0} for row in rows])
    other.to_parquet(folder / "other.parquet")
    read = read_records(folder / "other.parquet", "preference")
    assert read.ignored == ("score_chosen",)
    assert read.rows[1]["prompt"] == rows[1]["prompt"]
    assert read.rows[1]["images"][0].size == (9, 8)


def test_rows_without_ids_get_one_from_their_content(folder: Path) -> None:
    rows = [{**preference(number), "id": None} for number in (0, 1, 0)]
    write_jsonl(folder / "set.jsonl", rows)
    write_jsonl(folder / "turned.jsonl", rows[1:])
    ids = read_records(folder / "set.jsonl", "preference").rows["id"][:]
    assert len(ids[0]) == 16 and ids[0] != ids[1] and ids[2] == f"{ids[0]}-2"
    assert read_records(folder / "turned.jsonl", "preference").rows["id"][:] == [ids[1], ids[0]]


def test_unicode_line_separators_do_not_tear_json_lines(folder: Path) -> None:
    row = preference() | {"chosen": "One\u2028two\x85three."}
    assert read_one(folder, row)["chosen"] == [assistant_message("One\u2028two\x85three.")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_white_space_at_a_prefix_end_counts_with_the_rest(folder: Path, suffix: str) -> None:
    rows = [preference(n) | {"answer_prefix": prefix} for n, prefix in enumerate(["0 ", " ", ""])]
    write_records(
        [row | {"images": [folder / row["images"][0]]} for row in rows],
        folder / f"set.{suffix}", "preference",
    )  # fmt: skip
    read = read_records(folder / f"set.{suffix}", "preference").rows
    assert [row["answer_prefix"] for row in read] == ["0", None, None]


# What is wrong is named


def change(**fields: Any) -> Row:
    return preference() | fields


def weigh(also: Row | None = None, **span: Any) -> Row:
    weights = [{"answer": "chosen", "weight": 2} | span, *([also] if also else [])]
    return preference() | {"span_weights": weights}


BAD = {
    "no chosen": (change(chosen=None), "chosen: is missing"),
    "empty answer": (change(chosen=[assistant_message(" \n")]), "chosen: is empty"),
    "no turns": (change(rejected=[]), "rejected: is empty"),
    "same": (change(rejected=preference()["chosen"]), "rejected: is the same as chosen"),
    "no prompt": (change(prompt=None), "prompt: is missing"),
    "role order": (
        change(prompt=[user_message("a"), user_message("b")]),
        "prompt: roles must alternate",
    ),
    "ends with assistant": (
        change(prompt=[user_message("a"), assistant_message("b")]),
        "prompt: roles must alternate",
    ),
    "answer by user": (change(chosen=[user_message("a", 0)]), "chosen: must be one assistant"),
    "unknown role": (change(prompt=[{"role": "human", "content": "a"}]), "role 'human'"),
    "list of texts": (change(chosen=["a", "b"]), "chosen: must be one text, not a list of 2"),
    "no content": (change(prompt=[{"role": "user"}]), "must have a role and a content"),
    "unknown block": (
        change(prompt=[{"role": "user", "content": [{"type": "video"}]}]),
        "a block must be",
    ),
    "image in answer": (
        change(chosen=[{"role": "assistant", "content": [{"type": "image"}]}]),
        "chosen: an answer cannot hold image blocks",
    ),
    "too few blocks": (
        change(prompt=[user_message("a", images=0)]),
        "prompt: 0 image blocks for 1 image",
    ),
    "literal placeholder": (
        change(prompt=[user_message("<image>\na<image>", images=0)]),
        "2 <image> tags for 1 image",
    ),
    "too many blocks": (change(images=[]), "prompt: 1 image block for 0 images"),
    "two image fields": (change(image="images/0.png"), "image: there is an `images` field"),
    "not a path": (change(images=[3]), "images: an image must be a path"),
    "missing image": (change(images=["images/9.png"]), "images: images/9.png is not a file"),
    "corrupt image": (change(images=["images/cut.png"]), "images/cut.png: cannot be decoded"),
    "escape": (change(images=["../secret.png"]), "leads out of"),
    "url": (change(images=["http://example.com/a.png"]), "is a URL; images are never fetched"),
    "rejected image": (change(rejected_images=["images/9.png"]), "rejected_images: images/9"),
    "contrast image": (change(contrast_images=["images/9.png"]), "contrast_images: images/9"),
    "contrast images": (change(contrast_images=[]), "contrast_images: 0 images"),
    "rejected images": (change(rejected_images=[]), "rejected_images: 0 images"),
    "rating": (change(ratings=[{"answer": "chosen"}]), "ratings: a rating must have"),
    "facts": (change(facts=[1]), "facts: must be"),
    "no factor": (change(beta_factor="high"), "beta_factor: 'high' is not a number"),
    "factor of 0": (change(beta_factor=0), "beta_factor: 0 is not above 0"),
    "no number as a factor": (change(beta_factor=math.nan), "beta_factor: nan is not above 0"),
    "prefix of no answer": (change(answer_prefix="The"), "answer_prefix: chosen does not begin"),
    "prefix that is not text": (change(answer_prefix=3), "answer_prefix: must be a text, not int"),
    "weights": (change(span_weights=7), "span_weights: must be a list"),
    "weight without answer": (change(span_weights=[{"weight": 1}]), "span_weights: an entry must"),
    "weight of nothing": (weigh(answer="third"), "weighs 'third', but there is chosen, rejected"),
    "weight in words": (weigh(weight="high"), "span_weights: the weight 'high' is not a number"),
    "weight below 0": (weigh(weight=-1), "span_weights: the weight -1 is not finite and 0 or"),
    "part of a character": (weigh(start=0.5), "span_weights: start 0.5 is not a whole number"),
    "part that is not there": (weigh(end=99), "characters, no part 0 to 99"),
    "part before the text": (weigh(start=-2), "characters, no part -2 to"),
    "parts that overlap": (
        weigh(also={"answer": "chosen", "weight": 1, "start": 3}),
        "parts 0 to 11 and 3 to 11 of chosen overlap; give each character one weight",
    ),
    "id": (change(id=1.5), "id: must be text"),
    "known id": (change(id="row1"), "id: is that of row 1 too"),
    "half a character": (
        change(id="\ud800", chosen="\ud800"),
        "row: '\\ud800' is not whole Unicode",
    ),
    "no object": ([1, 2], "row: not a JSON object but list"),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_rows_say_what_is_wrong(folder: Path, row: Any, reason: str) -> None:
    content = (folder / "images" / "4.png").read_bytes()
    (folder / "images" / "cut.png").write_bytes(content[:45])
    assert reason in reason_against(folder, row)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"label": None}, "label: is missing"),
        ({"label": "good"}, "label: 'good' must be true"),
        ({"completion": None}, "completion: is missing"),
        ({"completion": [user_message("a")]}, "completion: must be one assistant turn"),
    ],
)
def test_bad_single_answers_say_what_is_wrong(folder: Path, changed: Row, reason: str) -> None:
    assert reason in reason_against(folder, unpaired() | changed, "unpaired")


def test_single_answers_under_other_names(folder: Path) -> None:
    """ms-swift's and LLaMA-Factory's forms, and a question with an answer."""
    asked, said = user_message("What is there?"), assistant_message("A red cup.")
    plain = {"images": ["images/0.png"], "question": "What is there?", "answer": "A red cup."}
    for row in (
        {"images": ["images/0.png"], "messages": [asked, said], "label": False},
        {"images": ["images/0.png"], "messages": [asked, said], "kto_tag": False},
        plain | {"desirable": False},
        plain | {"label": 0},
    ):
        read = read_one(folder, row, "unpaired")
        assert read["label"] is False
        assert text_of(read["completion"]) == "A red cup."
        assert text_of(read["prompt"]) == "What is there?"


def test_bad_conversations_say_what_is_wrong(folder: Path) -> None:
    turns = [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": "<image>"}]
    row = {"id": "x", "image": "images/0.png", "conversations": turns}
    assert "an answer holds" in reason_against(folder, row, "conversation")
    row["conversations"] = [{"from": "human"}]
    assert "turn 1 must have" in reason_against(folder, row, "conversation")
    for label in ({"label": False}, {"label": 0}, {"desirable": False}, {"kto_tag": 0}):
        assert "labeled as a bad one" in reason_against(
            folder, conversation() | label, "conversation"
        )
    unanswered = conversation() | {"messages": [user_message("a")]}
    assert "last assistant" in reason_against(folder, unanswered, "conversation")
    assert "last user" in reason_against(
        folder, prompt() | {"prompt": [assistant_message("a")]}, "prompt"
    )


def test_bad_lines_and_shares(folder: Path) -> None:
    path = folder / "set.jsonl"
    lines = [json.dumps(preference(number)) for number in range(199)]
    path.write_text("\n".join([*lines[:7], "", '{"torn', *lines[7:]]))
    read = read_records(path, "preference")
    assert [str(problem)[:23] for problem in read.problems] == ["row 9, row: is not JSON"]
    assert (read.total, len(read.rows)) == (200, 199)
    with pytest.raises(UserError, match=r"1 of 200 rows .* 0\.004 .*row 9") as error:
        read_records(path, "preference", max_bad_fraction=0.004)
    assert "set.jsonl" in str(error.value)


def test_unreadable_files_are_user_errors(folder: Path) -> None:
    (folder / "cut.parquet").write_bytes(b"PAR1 and nothing")
    (folder / "empty.jsonl").write_text("\n")
    (folder / "object.json").write_text("{}")
    (folder / "table.csv").write_text("id")
    for name, reason in [
        ("cut.parquet", "can.t be read as Parquet"),
        ("empty.jsonl", "holds no rows"),
        ("object.json", "must hold a JSON list"),
        ("table.csv", "must end in"),
        ("missing.jsonl", "does not exist"),
        ("images", "is a folder"),
    ]:
        with pytest.raises(UserError, match=reason):
            read_records(folder / name, "preference")
    with pytest.raises(UserError, match="choose of"):
        read_records(folder / "empty.jsonl", "pairs")  # type: ignore[arg-type]


def test_images_root_can_be_another_folder(folder: Path, tmp_path: Path) -> None:
    lists = folder / "lists"
    write_jsonl(lists / "set.jsonl", [preference()])
    assert len(read_records(lists / "set.jsonl", "preference", images_root=folder).rows) == 1
    with pytest.raises(UserError, match="is not a file under"):
        read_records(lists / "set.jsonl", "preference")


def test_real_photographs(test_data: Path, tmp_path: Path) -> None:
    images = sorted((test_data / "coco128" / "images").glob("*.jpg"))[:16]
    rows = [
        {"images": [path], "prompt": "What?", "chosen": f"{number}", "rejected": "-"}
        for number, path in enumerate(images)
    ]
    write_records(rows, tmp_path / "set.parquet", "preference")
    read = read_records(tmp_path / "set.parquet", "preference")
    assert [row["images"][0].size for row in read.rows] == [
        Image.open(path).size for path in images
    ]


JUNK: list[Any] = [
    None,
    0,
    True,
    "x",
    [],
    [0],
    {},
    {"a": 1},
    [[]],
    [{}],
    [{"role": []}],
    [{"from": []}],
    [{"path": 3}],
    [{"bytes": "x"}],
]


@pytest.mark.parametrize("field", ["id", "images", "image", "prompt", "chosen", "rejected", *FULL])
def test_junk_is_a_bad_row_and_never_a_crash(folder: Path, field: str) -> None:
    rows = [{**preference(number), "id": f"{number}"} for number in range(len(JUNK))]
    rows = [row | {field: junk} for row, junk in zip(rows, JUNK, strict=True)]
    write_jsonl(folder / "junk.jsonl", [preference(100), *rows])
    read = read_records(folder / "junk.jsonl", "preference", max_bad_fraction=1)
    assert len(read.rows) + len(read.problems) == read.total == len(JUNK) + 1
    assert len(list(read.rows)) == len(read.rows)


@pytest.mark.parametrize("field", ["messages", "conversations", "source"])
def test_junk_in_conversations_is_a_bad_row(folder: Path, field: str) -> None:
    rows = [{**conversation(number), "id": f"{number}"} for number in range(len(JUNK))]
    if field == "conversations":
        rows = [row | {"messages": None} for row in rows]
    rows = [row | {field: junk} for row, junk in zip(rows, JUNK, strict=True)]
    write_jsonl(folder / "junk.jsonl", [conversation(100), *rows])
    read = read_records(folder / "junk.jsonl", "conversation", max_bad_fraction=1)
    assert len(read.rows) + len(read.problems) == read.total


def tar_of(path: Path, keys: Sequence[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for key in keys:
            tar.addfile(tarfile.TarInfo(f"{key}.txt"))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.json", lambda path: stream_json_list(path, "rows")),
        ("a.tar", webdataset_rows),
        ("a.json", lambda path: halbench_files._items(path, "rows")),
        ("a.parquet", lambda path: parquet_columns(path, ["id"])),
    ],
)
def test_every_reader_of_rows_refuses_a_file_that_changes(
    tmp_path: Path, name: str, read: Callable[[Path], Iterator[object]]
) -> None:
    path = tmp_path / name
    if name == "a.json":
        write_json(path, {"rows": [{"id": 1}, {"id": 2}]})
    elif name == "a.tar":
        tar_of(path, ["a", "b"])
    else:
        pq.write_table(pa.table({"id": ["1", "2"]}), path)
    os.utime(path, (0, 0))
    assert len(list(read(path))) == 2
    rows = read(path)
    next(rows)
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match="was changed while it was read"):
        list(rows)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("change", ["cut", "written over"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, suffix: str, change: str
) -> None:
    file, other = tmp_path / f"pairs{suffix}", tmp_path / f"other{suffix}"
    texts = [random.Random(n).randbytes(2000).hex() for n in range(1000)]
    for path, more in ((file, "a"), (other, "b")):
        rows = [{"id": text[:20], "images": [], "prompt": more, "chosen": text, "rejected": "No."}
                for text in texts]  # fmt: skip
        write_records(rows, path, "preference")
    os.utime(file, (0, 0))  # so that no clock is too coarse to tell
    reading = stream_rows(file)
    next(reading)
    if change == "cut":  # mapped into memory, the rest of it would be a bus error
        os.truncate(file, 100)
    else:  # in place, as `cp` does it; both files have the same length
        file.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="was changed while it was read"):
        list(reading)


def test_a_command_without_the_option_does_not_advise_it(tmp_path: Path) -> None:
    """As `eval label_free`, and the trial of `align`."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "What?", "chosen": "A.", "rejected": "B."}\n{"prompt": "What?"}\n')
    with pytest.raises(UserError, match="or set --max-bad-fraction higher"):
        read_records(path, "preference")
    with pytest.raises(UserError, match="more than the 1 % that may be left out") as refusal:
        read_records(path, "preference", has_option=False)
    assert "--" not in str(refusal.value)
