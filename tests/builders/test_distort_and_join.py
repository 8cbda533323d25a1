"""Pairs with a distorted picture, and pairs with several rejected answers, from file to file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from veridical.builders._row_parts import RowParts
from veridical.builders.distort import build_distort
from veridical.builders.join import build_join
from veridical.cli.dispatch import main
from veridical.data.records import (
    assistant_message,
    read_records,
    text_of,
    user_message,
    write_records,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.runtime.options import Reading


def conversations(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "id": f"row-{i}",
            "images": [pictures[i]] if i < 3 else [],
            "messages": [
                user_message("What is here?", images=int(i < 3)),
                assistant_message(f"There is a red cup {i}."),
            ],
        }
        for i in range(4)
    ]
    write_records(rows, tmp_path / "talk.parquet", "conversation")
    return tmp_path / "talk.parquet"


def pairs(tmp_path: Path, name: str, answers: dict[str, str], chosen: str = "Yes.") -> Path:
    rows = [
        {
            "id": identity,
            "images": [],
            "prompt": [user_message("Is it?", images=0)],
            "chosen": [assistant_message(chosen)],
            "rejected": [assistant_message(answer)],
        }
        for identity, answer in answers.items()
    ]
    write_records(rows, tmp_path / f"{name}.parquet", "preference")
    return tmp_path / f"{name}.parquet"


def by_id(folder: Path) -> dict[str, Any]:
    rows = read_records(folder / "pairs.parquet", "preference").rows
    return {row["id"]: row for row in rows}


def test_conversations_become_pairs_that_differ_in_the_picture(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    data = conversations(tmp_path, pictures)
    assert main(["build", "distort", "--data", str(data), "--out", str(tmp_path / "a")]) == 0
    rows = read_records(tmp_path / "a" / "pairs.parquet", "preference").rows
    assert len(rows) == 3
    for i, row in enumerate(rows):
        assert row["chosen"] == row["rejected"] == [assistant_message(f"There is a red cup {i}.")]
        clean, noisy = (
            np.asarray(row[name][0], dtype=int) for name in ("images", "rejected_images")
        )
        assert np.array_equal(clean, np.asarray(pictures[i]))
        assert clean.shape == noisy.shape
        assert np.abs(clean - noisy).mean() > 10
        assert json.loads(row["source"])["noise_steps"] == 500
    assert read_jsonl(tmp_path / "a" / "skipped.jsonl")[0]["id"] == "row-3"
    build_distort(data, tmp_path / "b")
    again = read_records(tmp_path / "b" / "pairs.parquet", "preference").rows
    assert again[1]["rejected_images"][0].tobytes() == rows[1]["rejected_images"][0].tobytes()


def test_pairs_keep_their_rejected_answer(tmp_path: Path, pictures: list[Image.Image]) -> None:
    rows = [
        {
            "id": "a",
            "images": [pictures[0]],
            "prompt": [user_message("What?")],
            "chosen": [assistant_message("A cup.")],
            "rejected": [assistant_message("A dog.")],
            "source": '{"builder": "bdhs"}',
        }
    ]
    write_records(rows, tmp_path / "pairs.jsonl", "preference")
    build_distort(tmp_path / "pairs.jsonl", tmp_path / "out", kind="preference", noise_steps=900)
    row = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows[0]
    assert text_of(row["rejected"]) == "A dog."
    assert json.loads(row["source"])["from"] == '{"builder": "bdhs"}'


def test_a_part_of_the_picture_goes_beside_it_for_mdpo(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """1 to 20% of the area, as large as the picture; the rejected answer keeps its own picture."""
    rows = [
        {"id": f"row-{i}", "images": [picture], "prompt": [user_message("What is here?")],
         "chosen": "A cup.", "rejected": "A dog."}
        for i, picture in enumerate(pictures)
    ]  # fmt: skip
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    options = {"kind": "preference", "how": "crop", "column": "contrast_images"}
    for out in ("a", "b"):
        build_distort(tmp_path / "pairs.parquet", tmp_path / out, **options)  # type: ignore[arg-type]
    found, again = by_id(tmp_path / "a"), by_id(tmp_path / "b")
    for i, picture in enumerate(pictures):
        row = found[f"row-{i}"]
        other = row["contrast_images"][0]
        assert other.size == picture.size and other.tobytes() != picture.tobytes()
        assert other.tobytes() == again[f"row-{i}"]["contrast_images"][0].tobytes()
        assert "rejected_images" not in row or row["rejected_images"] is None
    with pytest.raises(UserError, match="--column contrast_images needs pairs"):
        build_distort(tmp_path / "pairs.parquet", tmp_path / "c", column="contrast_images")


@pytest.mark.parametrize("how", ["pixels", "blocks", "rotate", "black", "other"])
def test_corruptions_by_name(tmp_path: Path, how: Any) -> None:
    """Each changes what it names and nothing else, and draws the same again."""
    draw = np.random.default_rng(0)
    sizes = [(42, 70), (30, 29), (3, 200)]  # width, height
    images = [
        Image.fromarray(draw.integers(1, 255, (high, wide, 3), dtype=np.uint8))
        for wide, high in sizes
    ]
    rows = [
        {"id": f"row-{i}", "images": [image], "prompt": [user_message("What is here?")],
         "chosen": "A cup.", "rejected": "A dog."}
        for i, image in enumerate(images)
    ]  # fmt: skip
    data = tmp_path / "pairs.parquet"
    write_records(rows, data, "preference")
    for out in ("a", "b"):
        build_distort(data, tmp_path / out, "preference", how)
    found, again = by_id(tmp_path / "a"), by_id(tmp_path / "b")
    originals = [np.asarray(image) for image in images]
    for i, before in enumerate(originals):
        after = np.asarray(found[f"row-{i}"]["rejected_images"][0])
        assert np.array_equal(after, np.asarray(again[f"row-{i}"]["rejected_images"][0]))
        assert json.loads(found[f"row-{i}"]["source"])["how"] == how
        if how == "black":
            assert after.shape == before.shape and not after.any()
        elif how == "rotate":
            assert any(np.array_equal(after, np.rot90(before, turns)) for turns in (1, 2, 3))
        elif how == "other":
            others = [one for j, one in enumerate(originals) if j != i]
            assert any(np.array_equal(after, one) for one in others)
        else:
            _check_covered(before, after, 14 if how == "blocks" else 1)


def _check_covered(before: Any, after: Any, side: int) -> None:
    """Three in ten parts have the mean color, as a whole; the others are as they were."""
    mean = before.mean((0, 1)).round()
    covered = 0
    high, wide = (-(-length // side) for length in before.shape[:2])
    for row in range(high):
        for column in range(wide):
            part = slice(side * row, side * row + side), slice(side * column, side * column + side)
            hidden = bool((after[part] == mean).all())
            assert hidden or np.array_equal(after[part], before[part])
            covered += hidden
    assert covered == max(1, round(0.3 * high * wide))


def test_what_cannot_be_distorted(tmp_path: Path) -> None:
    data = pairs(tmp_path, "text", {"a": "No."})
    with pytest.raises(UserError, match="1 to 1000"):
        build_distort(data, tmp_path / "out", kind="preference", noise_steps=0)
    with pytest.raises(UserError, match="nothing to distort"):
        build_distort(data, tmp_path / "out", kind="preference")
    with pytest.raises(UserError, match="--noise-steps means nothing with --how crop"):
        build_distort(data, tmp_path / "out", "preference", "crop", noise_steps=500)
    with pytest.raises(UserError, match="--covered means nothing with --how noise"):
        build_distort(data, tmp_path / "out", kind="preference", covered=0.5)


def test_another_picture_of_a_set_that_has_one(tmp_path: Path, pictures: list[Image.Image]) -> None:
    row = {"images": pictures[:1], "prompt": [user_message("What is here?")],
           "chosen": "A cup.", "rejected": "A dog."}  # fmt: skip
    write_records([row | {"id": name} for name in "ab"], tmp_path / "one.parquet", "preference")
    with pytest.raises(UserError, match="--how other needs two pictures that differ"):
        build_distort(tmp_path / "one.parquet", tmp_path / "out", "preference", "other")


def test_join_adds_answers_by_id(tmp_path: Path) -> None:
    first = pairs(tmp_path, "first", {"a": "No.", "b": "No.", "c": "No."})
    second = pairs(tmp_path, "second", {"b": "Never.", "c": "No.", "d": "Never."})
    assert main(["build", "join", str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    rows = {
        row["id"]: row for row in read_records(tmp_path / "out/pairs.parquet", "preference").rows
    }
    assert list(rows) == ["a", "b", "c"]
    assert [text_of(answer) for answer in rows["b"]["more_rejected"]] == ["Never."]
    assert rows["a"]["more_rejected"] is None
    skipped = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")}
    assert "already" in skipped["c"]
    assert "no pair" in skipped["d"]
    assert read_json(tmp_path / "out" / "summary.json") == {"pairs": 3, "joined": 1, "skipped": 2}
    third = pairs(tmp_path, "third", {"b": "Perhaps."})
    build_join(tmp_path / "out" / "pairs.parquet", third, tmp_path / "three")
    rows = {
        row["id"]: row for row in read_records(tmp_path / "three/pairs.parquet", "preference").rows
    }
    assert [text_of(a) for a in rows["b"]["more_rejected"]] == ["Never.", "Perhaps."]


def test_sets_that_do_not_belong_together(tmp_path: Path) -> None:
    first = pairs(tmp_path, "first", {"a": "No."})
    other = pairs(tmp_path, "other", {"a": "No, never."}, chosen="Sure.")
    with pytest.raises(UserError, match="Make both from the same records"):
        build_join(first, other, tmp_path / "out")


def seen(folder: Path, name: str, picture: Path, answer: str, question: str = "Is it?") -> Path:
    """One pair about a picture that is named by its path."""
    row = {
        "id": "a",
        "images": [str(picture)],
        "prompt": [user_message(question)],
        "chosen": [assistant_message("Yes.")],
        "rejected": [assistant_message(answer)],
    }
    (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return folder / f"{name}.jsonl"


def test_join_compares_what_is_asked_and_what_is_seen(
    tmp_path: Path, pictures: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """An id alone says nothing: two sets may number their rows alike."""
    for number in (0, 1):
        pictures[number].save(tmp_path / f"{number}.png")
    pictures[0].save(tmp_path / "again.bmp")
    first = seen(tmp_path, "first", tmp_path / "0.png", "No.")
    build_join(first, seen(tmp_path, "same", tmp_path / "again.bmp", "Never."), tmp_path / "out")
    (row,) = read_records(tmp_path / "out/pairs.parquet", "preference").rows
    assert [text_of(answer) for answer in row["more_rejected"]] == ["Never."]
    other_picture = seen(tmp_path, "picture", tmp_path / "1.png", "Never.")
    other_question = seen(tmp_path, "question", tmp_path / "0.png", "Never.", "Was it?")
    equal = seen(tmp_path, "equal", tmp_path / "0.png", "No.")
    for more, reason in (
        (other_picture, "another picture as image 1"),
        (other_question, "another prompt"),
        (equal, "already"),
    ):
        with pytest.raises(UserError, match=reason):
            build_join(first, more, tmp_path / "wrong")


def test_join_refuses_answers_with_an_image_of_their_own(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    pictures[0].save(tmp_path / "0.png")
    first = seen(tmp_path, "first", tmp_path / "0.png", "No.")
    build_distort(first, tmp_path / "noisy", kind="preference")
    with pytest.raises(UserError, match="rejected_images"):
        build_join(first, tmp_path / "noisy" / "pairs.parquet", tmp_path / "out")
    # The other way round is well: a further answer goes with the image that the chosen one has.
    more = seen(tmp_path, "more", tmp_path / "0.png", "No.")
    build_join(tmp_path / "noisy" / "pairs.parquet", more, tmp_path / "both")
    (row,) = read_records(tmp_path / "both/pairs.parquet", "preference").rows
    assert row["rejected_images"] and text_of(row["more_rejected"][0]) == "No."
    third = seen(tmp_path, "third", tmp_path / "0.png", "Never.")
    build_join(tmp_path / "noisy" / "pairs.parquet", third, tmp_path / "three")
    (row,) = read_records(tmp_path / "three/pairs.parquet", "preference").rows
    assert row["rejected_images"] and text_of(row["more_rejected"][0]) == "Never."


def test_shards_distort_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veridical.builders._row_parts.CHUNK", 2)
    data = conversations(tmp_path, [Image.new("RGB", (9, 9), c) for c in ("red", "blue", "gray")])
    build_distort(data, tmp_path / "whole")
    build_distort(data, tmp_path / "shards", shard="2/2")
    assert not (tmp_path / "shards" / "pairs.parquet").exists()
    build_distort(data, tmp_path / "shards", shard="1/2")
    for name in ("pairs.parquet", "skipped.jsonl", "summary.json"):
        both = [(tmp_path / out / name).read_bytes() for out in ("whole", "shards")]
        assert both[0] == both[1], name


def test_parts_with_other_pictures_drawn_are_not_mixed_with_those_of_a_larger_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("veridical.builders._row_parts.CHUNK", 1)
    data = conversations(tmp_path, [Image.new("RGB", (9, 9), c) for c in ("red", "blue", "gray")])
    write = RowParts.write

    def cut_off(parts: RowParts, start: int, *given: Any) -> None:
        if start:
            raise RuntimeError("killed")
        write(parts, start, *given)

    def build(name: str, limit: int) -> None:
        build_distort(data, tmp_path / name, how="other", reading=Reading(limit=limit))

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="killed"):
        patched.setattr(RowParts, "write", cut_off)
        build("cut", 2)
    with pytest.raises(UserError, match="unfinished build with other settings"):
        build("cut", 3)
    build("cut", 2)
    build("whole", 2)
    both = [(tmp_path / name / "pairs.parquet").read_bytes() for name in ("cut", "whole")]
    assert both[0] == both[1]
