"""`veridical data check`: exit status, findings in a file, the repaired copy, leaks and lengths."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspected_rows import pair, photo, write_rows
from PIL import Image

from veridical import cli
from veridical.data.records import assistant_message, read_records, text_of, user_message
from veridical.inspection.benchmark_files import name_key, read_benchmarks
from veridical.inspection.inspecting import Inspection, inspect_file
from veridical.models.load import load_policy, load_without_weights
from veridical.models.rendering import render_group
from veridical.runtime.files import read_jsonl


def check(file: Path, *options: Any) -> int:
    return cli.main(["data", "check", str(file), *map(str, options)])


def test_the_exit_status_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1), pair(2)])
    assert check(file) == 0
    assert "No findings." in capsys.readouterr().out
    write_rows(file, [pair(1), pair(2, chosen="As an AI, I can't tell.")])
    assert check(file) == 0  # a warning
    assert check(file, "--fail-on", "warning") == 1
    write_rows(file, [pair(1), pair(2, images=["none.png"])])
    capsys.readouterr()
    assert check(file) == 1
    out, err = capsys.readouterr()
    assert "row 2 (r2): none.png is not a file" in out
    assert "1 error in 1 row, 0 warnings. With --fix OUT: 1 row left out." in out
    assert "veridical:" not in err
    assert check(file, "--fix", tmp_path / "fixed.jsonl") == 1
    said = capsys.readouterr().out
    assert f"0 warnings. In {tmp_path / 'fixed.jsonl'}: 1 row left out." in said
    assert "--fix OUT" not in said
    assert check(tmp_path / "nowhere.jsonl") == 2


def test_each_image_that_cant_be_read_has_advice_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.png").write_bytes(b"no image")
    advice = {
        "https://a.b/c.png": "save the image first",
        "none.png": "set --images-root",
        "../a.png": "to a folder above it",
        "cut.png": "put a whole PNG",
    }
    for name, told in advice.items():
        file = write_rows(tmp_path / "pairs.jsonl", [pair(1, images=[name])])
        assert check(file) == 1
        (fix,) = [line for line in capsys.readouterr().out.splitlines() if "to fix:" in line]
        assert told in fix
        assert fix.count("--images-root") == (name in ("none.png", "../a.png"))


def test_a_question_without_text_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1), pair(2, prompt=" ")])
    assert check(file) == 0
    assert "row 2 (r2): the question has no text" in capsys.readouterr().out


def test_the_command_that_leaves_found_rows_out_finds_the_images_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.png", 1)
    (tmp_path / "my set").mkdir()
    rows = [pair(1, images=["a.png"]), pair(2, images=["none.png"])]
    file = write_rows(tmp_path / "my set" / "pairs.jsonl", rows)
    found = tmp_path / "found.jsonl"
    assert check(file, "--images-root", tmp_path, "--out", found) == 1
    said = capsys.readouterr().out
    words = shlex.split(said[said.index("veridical build compose") :].splitlines()[0])
    assert cli.main([*words[1:-1], str(tmp_path / "out")]) == 0
    assert "1 row left out" in capsys.readouterr().out


def test_all_findings_go_into_a_file(tmp_path: Path) -> None:
    rows = [pair(n, images=["none.png"]) for n in range(1, 8)]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    assert check(file, "--out", tmp_path / "found.jsonl") == 1
    found = read_jsonl(tmp_path / "found.jsonl")
    assert [row["row"] for row in found] == [1, 2, 3, 4, 5, 6, 7]
    about = {"set", "sha256"}
    assert set(found[0]) == about | {"check", "level", "row", "id", "what", "fix", "repair"}


def test_what_is_fixed_is_said_and_the_copy_is_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.png", 1)
    rows: list[Any] = [
        *(pair(n, images=["a.png"], rejected=f"It is {n} buses.</s>\n") for n in range(1, 13)),
        pair(13, id="r1", author="me"),
        pair(14, images=["none.png"]),
        pair(15, chosen="The same.", rejected="The same. "),
        "{",
        pair(17),
        {**pair(17), "id": "r18"},
    ]
    file, out = write_rows(tmp_path / "pairs.jsonl", rows), tmp_path / "out" / "fixed.jsonl"
    out.parent.mkdir()
    assert check(file, "--fix", out) == 1
    said = capsys.readouterr().out
    # 18 rows, of which 14 (image), 15 (equal), 16 (no JSON) and 18 (duplicate) are left out.
    assert "14 rows written to" in said
    assert f"In {out}: 4 rows left out, 1 id changed, ends of answers changed." in said
    assert "\n  ids: 1 row, id changed" in said
    changes = read_jsonl(tmp_path / "out" / "fixed.jsonl.changes.jsonl")
    left_out = {
        change["row"]: change["check"] for change in changes if "left out" in change["done"]
    }
    assert left_out == {14: "images", 15: "equal answers", 16: "form", 18: "duplicates"}
    fixed = read_records(out, "preference", max_bad_fraction=0.0).rows
    assert text_of(fixed[0]["rejected"]) == "It is 1 buses."
    assert list(fixed["id"])[12] == "r1-2"
    assert json.loads(fixed[12]["source"]) == {"author": "me"}
    capsys.readouterr()
    assert check(out) == 0
    assert "No findings." in capsys.readouterr().out


def test_a_file_that_changes_before_it_is_fixed_is_not_fixed_by_old_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1), pair(2, chosen=" ")])

    def inspect(*given: Any) -> Inspection:
        found = inspect_file(*given)
        write_rows(file, [pair(1, chosen=" "), pair(2), pair(3)])  # row 2 is a good one now
        return found

    monkeypatch.setattr("veridical.inspection.check.inspect_file", inspect)
    assert check(file, "--fix", tmp_path / "fixed.jsonl") == 2
    assert "was changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "fixed.jsonl").exists()


def test_a_set_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1)])
    before = file.read_bytes()
    for option in ("--fix", "--out"):
        assert check(file, option, file) == 2
        assert "is the file that is checked" in capsys.readouterr().err
    assert check(file, "--fix", tmp_path / "x.csv") == 2
    assert check(file, "--max-length", 10) == 2
    assert file.read_bytes() == before


def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "imagehash" else find(name)
    )
    assert check(write_rows(tmp_path / "pairs.jsonl", [pair(1)])) == 2
    assert "needs imagehash, not installed here" in capsys.readouterr().err


def test_a_foreign_set_is_named_with_the_command_that_brings_it_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "x.jsonl", [{"a": 1, "b": 2}])
    assert check(file) == 2
    assert "veridical data import" in capsys.readouterr().err


# --- leaks -------------------------------------------------------------------------------------


def test_names_of_one_image_are_recognized_and_usual_names_are_not() -> None:
    assert name_key("COCO_val2014_000000310196.jpg") == name_key("x/000000310196.png")
    assert name_key("AMBER_17.jpg") == "amber_17"
    assert [name_key(name) for name in ("12.jpg", "image_3.png", "a/img-0004.png", "")] == [""] * 4


def test_images_and_questions_of_a_benchmark_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench").mkdir()
    shown = photo(tmp_path / "bench" / "17.png", 5, (160, 120))
    questions = [
        {"image": "COCO_val2014_000000000042.jpg", "text": "Is there a dog?", "label": "yes"},
        {"image": "COCO_val2014_000000000043.jpg", "text": "Is there a dog?", "label": "no"},
        {"image": "17.png", "text": "Why is the tall man laughing so loudly?"},
    ]
    write_rows(tmp_path / "bench" / "q.json", questions)  # JSON Lines, as POPE's .json files are
    (tmp_path / "same.png").write_bytes(shown.read_bytes())
    Image.open(shown).resize((80, 60)).save(tmp_path / "again.jpg", quality=60)
    for number, name in enumerate(("000000000042.png", "17.png", "other.png")):
        photo(tmp_path / name, 20 + number)
    rows = [
        pair(1, images=["000000000042.png"], prompt="Is there a dog?"),
        pair(2, images=["same.png"]),
        pair(3, images=["again.jpg"]),
        pair(4, images=["17.png"]),  # another picture whose name says nothing
        pair(5, images=["other.png"], prompt="Is there a dog?"),  # asked of many images
        pair(6, images=["other.png"], prompt="why is the tall man laughing so loudly"),
    ]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    assert check(file, "--benchmarks", tmp_path / "bench", "--out", tmp_path / "f.jsonl") == 1
    leaks = [row for row in read_jsonl(tmp_path / "f.jsonl") if row["check"] == "leakage"]
    assert [(row["row"], row["level"], row["what"]) for row in leaks] == [
        (1, "error", "bench has an image of the same name (000000000042.png), "
                     "with the same question"),
        (2, "error", "bench has the same file (same.png)"),
        (3, "error", "bench has an image that looks the same (again.jpg)"),
        (6, "warning", "bench asks the same question: 'why is the tall man laughing so loudly'"),
    ]  # fmt: skip


def test_images_in_a_parquet_benchmark_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = photo(tmp_path / "a.png", 5).read_bytes()
    held = [{"image": {"bytes": one, "path": None}, "text": "Q?"} for one in (shown, b"broken")]
    pq.write_table(pa.Table.from_pylist(held), tmp_path / "bench.parquet")
    photo(tmp_path / "b.png", 6)
    rows = [pair(1, images=["a.png"]), pair(2, images=["b.png"])]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    assert check(file, "--benchmarks", tmp_path / "bench.parquet") == 1
    told = capsys.readouterr().out
    assert "row 1 (r1): bench has the same file (a.png)" in told
    assert "bench.parquet: 1 image can't be read" in told


def test_a_benchmark_that_holds_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "pairs.jsonl", [pair(1)])
    assert check(file, "--benchmarks", write_rows(tmp_path / "b.json", [[1, 2]])) == 2
    assert "holds neither images nor questions" in capsys.readouterr().err
    assert check(file, "--benchmarks", tmp_path / "gone.json") == 2


def test_published_benchmarks_are_read(test_data: Path) -> None:
    paths = ("pope/coco_pope_random.json", "benchmarks/amber", "benchmarks/dash_b",
             "benchmarks/llava_bench_wild", "benchmarks/vl_rewardbench")  # fmt: skip
    pope, amber, dash, wild, rewards = read_benchmarks([test_data / path for path in paths])
    assert len(pope.names) == 500
    assert len(pope.asked) == 3000
    assert len(amber.names) == 1004
    assert wild.questions
    assert len(rewards.names) == 1225  # 25 ids, and so names, are there twice
    assert dash.names or dash.questions == set()


# --- lengths -----------------------------------------------------------------------------------


def test_lengths_are_those_of_the_model_without_its_weights(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    whole, light = load_policy("embedded"), load_without_weights("embedded")
    assert all(parameter.is_meta for parameter in light.model.parameters())
    prompt, answer = [user_message("What?")], [assistant_message("A red car.")]
    one, other = (
        render_group(policy, "x", [tmp_path / "a.png"], prompt, [answer])
        for policy in (whole, light)
    )
    assert one.prompt_text == other.prompt_text
    assert one.response_ids[0].tolist() == other.response_ids[0].tolist()


def test_rows_that_are_too_long_for_a_model_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.png", 1)
    rows = [
        pair(1, images=["a.png"]),
        pair(2, images=["a.png"], chosen=" ".join(["There is a red car."] * 30)),
    ]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    assert check(file, "--model", "embedded", "--max-length", 150) == 1
    said = capsys.readouterr().out
    assert "error: truncation, 1 finding" in said
    assert "row 2 (r2):" in said
    assert "exceed 150" in said
    assert check(file, "--model", "embedded", "--max-length", 4000) == 0


@pytest.mark.parametrize("option", ["--out", "--fix"])
def test_no_file_of_the_users_is_written_over(option: str, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "Q?", "chosen": "A.", "rejected": "B. "}\n')
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Q?", "chosen": "kept", "rejected": "B."}\n')
    before = other.read_bytes()
    assert check(data, option, other) == 2
    assert other.read_bytes() == before
    new = tmp_path / "new.jsonl"
    for _ in range(2):  # What the command wrote, it may write again.
        assert check(data, option, new) in (0, 1)
    link = tmp_path / "link.jsonl"
    link.symlink_to(link)
    assert check(data, option, link) == 2
