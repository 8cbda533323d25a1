"""Foreign sets become records; what can't is counted and named."""

from __future__ import annotations

import csv
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from PIL import Image

from veridical import cli
from veridical.builders import data_import
from veridical.builders.importing.conversion import Conversion
from veridical.data.importers import sources
from veridical.data.importers.recognize import FIRST_ROWS
from veridical.data.records import read_records, text_of
from veridical.runtime.files import read_json, read_jsonl, write_jsonl

ANY = ("--max-bad-fraction", "1")


def picture(folder: Path, name: str, color: tuple[int, int, int] = (9, 90, 200)) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), color).save(path)
    return name


def import_rows(folder: Path, rows: Sequence[Any], *options: str) -> list[dict[str, Any]]:
    write_jsonl(folder / "theirs.jsonl", rows)
    given = [str(folder / "theirs.jsonl"), "--out", str(folder / "ours.parquet"), *options]
    assert cli.main(["data", "import", *given]) == 0
    kind = read_json(folder / "ours.parquet.import.json")["kind"]
    return list(read_records(folder / "ours.parquet", kind).rows)


def skipped(folder: Path) -> list[tuple[int, str, str]]:
    rows = read_jsonl(folder / "ours.parquet.skipped.jsonl")
    return [(row["row"], row["field"], row["reason"]) for row in rows]


def rlaif_v(image: str, **other: Any) -> dict[str, Any]:
    row = {"ds_name": "RLAIF-V", "question": "What is this?", "chosen": "A cup.", "idx": "7"}
    row |= {"rejected": "A dog.", "origin_dataset": "MSCOCO", "origin_split": "{}"}
    return row | {"image_path": image} | other


def test_a_known_set_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = import_rows(tmp_path, [rlaif_v(picture(tmp_path, "a.png"))])
    told = capsys.readouterr().out
    assert (
        "Read as rlaif-v (shape flat): its rows have chosen, origin_dataset, origin_split" in told
    )
    assert text_of(row["prompt"]) == "What is this?"
    assert text_of(row["chosen"]) == "A cup."
    assert [image.size for image in row["images"]] == [(24, 20)]
    source = json.loads(row["source"])
    assert (source["set"], source["row"]) == ("rlaif-v", 1)
    assert source["columns"]["origin_dataset"] == "MSCOCO"


def test_what_is_left_out_is_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = picture(tmp_path, "a.png")
    rows = [rlaif_v(good), rlaif_v("gone.png"), rlaif_v(good, rejected="A cup. "), "text"]
    assert len(import_rows(tmp_path, rows, "--as", "rlaif-v", *ANY)) == 1
    assert [one[:2] for one in skipped(tmp_path)] == [(2, "images"), (3, "rejected"), (4, "row")]
    told = capsys.readouterr().out
    assert "4 rows gave 1 record." in told
    assert "1 x rejected: is the same as chosen (first: row 3)" in told


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", [rlaif_v(picture(tmp_path, "a.png"))] * 7)
    before = sorted(tmp_path.iterdir())
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count('"chosen": "A cup."') == 5
    assert "7 rows gave 7 records" in told
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_names_every_reason_with_its_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = rlaif_v(picture(tmp_path, "a.png"))
    wrong: list[dict[str, Any]] = [
        {"chosen": None}, {"chosen": None}, {"rejected": None}, {"rejected": "A cup."},
        {"image_path": "gone.png"}, {"chosen": 3}, {"rejected": 3}, {"question": 3},
        {"rejected": ""},
    ]  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", [good, good | {"question": " "}, *(good | w for w in wrong)])
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 2
    told, refused = capsys.readouterr()
    reasons = told.partition("9 of 11 records are left out:\n")[2].splitlines()
    counts = [int(line.split(" x ")[0]) for line in reasons if " x " in line]
    assert counts == [2, *[1] * 7]
    assert "1 of 2 records has no text in the last question (first: row 2)." in told
    assert "An import would write nothing: that is more than --max-bad-fraction 0.01" in refused


@pytest.mark.parametrize("asked", ["auto", "flat"])
def test_named_columns_decide_what_a_row_is(tmp_path: Path, asked: str) -> None:
    row = {"prompt": "Q?", "meta": '{"a": {"b": "A."}}', "worse": "B."}
    given = ("--as", asked, "--columns", "chosen=meta.a.b", "rejected=worse")
    (made,) = import_rows(tmp_path, [row], *given)
    assert (text_of(made["chosen"]), text_of(made["rejected"])) == ("A.", "B.")


def test_rows_without_answers_beside_pairs_are_no_prompts(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "chosen": "A.", "rejected": "B."}
    assert len(import_rows(tmp_path, [row | {"chosen": None}, row], *ANY)) == 1
    assert skipped(tmp_path) == [(1, "chosen", "is missing")]


def test_a_rejected_answer_beside_conversations_is_never_dropped_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most rows decide what a set is: the first is a conversation only because it lacks one."""
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
    alone = {"conversations": turns}
    pair = alone | {"rejected": "B."}
    made = import_rows(tmp_path, [alone, pair, pair | {"rejected": "C."}], *ANY)
    assert [text_of(one["rejected"]) for one in made] == ["B.", "C."]
    assert [(row, field) for row, field, _ in skipped(tmp_path)] == [(1, "chosen")]
    write_jsonl(tmp_path / "a.jsonl", [alone, alone, pair])
    words = ["data", "import", str(tmp_path / "a.jsonl"), "--dry-run", *ANY]
    assert cli.main(words) == 2
    assert "'rejected' holds an answer, and conversation" in capsys.readouterr().err
    assert cli.main([*words, "--kind", "conversation"]) == 0


def test_a_key_twice_is_refused_in_a_list_too(tmp_path: Path) -> None:
    row = '{"prompt": "Q?", "chosen": "A.", "rejected": "B."%s}'
    rows = (row % "", row % ', "chosen": "C."')
    (tmp_path / "a.json").write_text(f"[{', '.join(rows)}]")
    given = [str(tmp_path / "a.json"), "--out", str(tmp_path / "ours.parquet"), *ANY]
    assert cli.main(["data", "import", *given]) == 0
    assert skipped(tmp_path) == [
        (2, "row", "is not JSON (an object has the key 'chosen' twice)"),
    ]


def test_answers_labeled_bad_are_none_to_learn(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "completion": "A.", "label": True}
    called = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "B."}]
    called[1] |= {"tool_calls": [{"name": "see"}]}  # type: ignore[dict-item]
    bad: list[dict[str, Any]] = [
        row | {"completion": "C.", "label": False}, row | {"completion": "D.", "label": 0},
        {"question": "Q?", "answer": "E.", "desirable": False},
        {"question": "Q?", "answer": "F.", "kto_tag": 0},
    ]  # fmt: skip
    rows = [row, row | {"completion": "G.", "label": 1}, *bad, {"messages": called}]
    assert len(import_rows(tmp_path, rows, "--kind", "conversation", *ANY)) == 2
    why = "its answer is labeled as a bad one, and is none to learn"
    assert sorted(skipped(tmp_path)) == [
        *((number, "label", why) for number in range(3, 7)),
        (7, "messages", "message 2 calls tools, which are not read"),
    ]


def test_labeled_answers_are_kept_as_such(tmp_path: Path) -> None:
    """TRL's form of single answers, the good and the bad ones."""
    row = {"prompt": "Q?", "completion": "A.", "label": True}
    made = import_rows(tmp_path, [row, row | {"completion": "C.", "label": False}], *ANY)
    assert [one["label"] for one in made] == [True, False]
    assert [text_of(one["completion"]) for one in made] == ["A.", "C."]


def test_a_list_of_rejected_texts_is_no_prompt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "Q?", "chosen": "A.", "rejected": ["B.", "C."]}
    write_jsonl(tmp_path / "theirs.jsonl", [row])
    assert cli.main(["data", "import", str(tmp_path / "theirs.jsonl"), "--dry-run"]) == 2
    told = "rejected: must be one text, not a list of 2; more rejected ones go into more_rejected"
    assert told in capsys.readouterr().err


def test_files_of_a_folder_that_are_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "set/a.jsonl", [rlaif_v("a.png")])
    picture(tmp_path, "set/a.png")
    for name in ("more.csv", "old/rows.jsonl.gz", "notes.md"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_text("x")
    assert cli.main(["data", "import", str(tmp_path / "set"), "--dry-run"]) == 0
    said = f"Not read, by their suffix: more.csv, old/rows.jsonl.gz in {tmp_path / 'set'}."
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_two_answers_and_a_winner_become_pairs(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A is better, B is, and so on; then neither, and behind the first rows something else."""
    names = ("image", "question", "response_a", "response_b", "winner")
    winners = [*"AB" * (FIRST_ROWS // 2), "tie", "C"]
    cells = [("a.png", "Which?", f"{n}, one", f"{n}, two", said) for n, said in enumerate(winners)]
    rows = [dict(zip(names, row, strict=True)) for row in cells]
    picture(tmp_path, "a.png")
    file = tmp_path / f"theirs.{form}"
    if form == "jsonl":
        write_jsonl(file, rows)
    else:
        with file.open("w", newline="") as opened:
            table = csv.DictWriter(opened, names, delimiter="," if form == "csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    given = ["data", "import", str(file), "--out", str(tmp_path / "ours.parquet")]
    assert cli.main(given) == 2
    assert "1 of 21 records can't be made" in capsys.readouterr().err
    assert cli.main([*given, *ANY]) == 0
    told = capsys.readouterr().out
    assert "response_a is chosen where winner says 'a', response_b where it says 'b'" in told
    assert "chosen from response_a, response_b, winner" in told
    assert "1 x winner: is 'tie': neither answer is the better one (first: row 21)" in told
    assert "1 x winner: is 'C', neither 'a' nor 'b'" in told
    found = list(read_records(tmp_path / "ours.parquet", "preference").rows)
    assert len(found) == FIRST_ROWS
    assert [(text_of(row["chosen"]), text_of(row["rejected"])) for row in found[:2]] == [
        ("0, one", "0, two"), ("1, two", "1, one"),
    ]  # fmt: skip
    assert len(found[0]["images"]) == 1
    assert cli.main([*given[:3], "--dry-run", "--winner-values", "B", "A", "C"]) == 0
    assert '"chosen": "0, two"' in capsys.readouterr().out


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_split_of_a_folder_is_read_where_its_types_are_not_known_before(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path, "set/a.png")
    row = {"image": "a.png", "question": "Q?", "answer_1": "A.", "answer_2": "B."}
    texts = {"jsonl": "".join(json.dumps(row | {"winner": n}) + "\n" for n in (1, 2))}
    texts["csv"] = "image,question,answer_1,answer_2,winner\na.png,Q?,A.,B.,1\na.png,Q?,A.,B.,2\n"
    for name in ("train", "test"):
        (tmp_path / "set" / f"{name}.{form}").write_text(texts[form])
    given = ["data", "import", str(tmp_path / "set"), "--split", "test", "--dry-run"]
    assert cli.main(given) == 0
    assert '"chosen": "B.", "rejected": "A."' in capsys.readouterr().out
    assert cli.main([*given[:4], "dev", "--dry-run"]) == 2
    assert "split" in capsys.readouterr().err


def test_the_cells_of_a_folders_tables_stay_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Datasets' own reader makes "None" no value and 007 a 7."""
    picture(tmp_path, "set/a.png")
    for name in ("train", "test"):
        (tmp_path / "set" / f"{name}.csv").write_text(
            "image,question,chosen,rejected\na.png,How many?,None,007\n"
        )
    assert cli.main(["data", "import", str(tmp_path / "set"), "--dry-run"]) == 0
    assert '"chosen": "None", "rejected": "007"' in capsys.readouterr().out


def test_images_are_found_in_objects_and_in_lists_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = picture(tmp_path, "a.png")
    pair = {"question": "Q?", "chosen": "A.", "rejected": "B."}
    for held, place in (({"meta": {"file": name}}, "meta.file"), ({"shots": [{"path": name}]},
                         "shots.path")):  # fmt: skip
        write_jsonl(tmp_path / "theirs.jsonl", [pair | held])
        given = ["data", "import", str(tmp_path / "theirs.jsonl"), "--dry-run"]
        assert cli.main(given) == 2
        assert f"Set --columns images={place}" in capsys.readouterr().err
        assert cli.main([*given, "--columns", f"images={place}"]) == 0
        assert "a.png" in capsys.readouterr().out


def test_a_column_is_not_both_read_and_unused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path, "a.png")
    row: dict[str, Any] = {"question": "Q?", "chosen": "A.", "rejected": "B.", "image": "a.png"}
    row |= {"image_path": "a.png", "idea": {"of": "Q?"}}
    write_jsonl(tmp_path / "a.jsonl", [row])
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    read = next(line for line in lines if line.startswith("Read: "))
    unused = next(line for line in lines if line.startswith("Not used: "))
    named = ["chosen from chosen", "images from image", "prompt from question"]
    assert read == f"Read: {'; '.join(named)}; rejected from rejected."
    assert unused == "Not used: idea, image_path."


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"answer": "A cup.", "verdict": "up"}, "'verdict' (up)"),
        ({"answer": "A cup.", "thumb": True}, "'thumb' (True)"),
        ({"answer": "There is none.", "label": "no"}, "'label' (no)"),
        ({"response_a": "A cup.", "response_b": "A dog.", "winner": "left"}, "'winner' (left)"),
        (
            {"response_a": "A cup.", "response_b": "A dog.", "bad": "B"},
            "set --columns a=FIRST "
            "b=SECOND winner=bad --winner-values B A, where A and B stand for",
        ),
    ],
)
def test_a_column_that_may_say_which_answers_are_good_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], told: str
) -> None:
    """Else a bad answer would become one to learn, or the answers would vanish."""
    picture(tmp_path, "a.png")
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "image": "a.png", **more}])
    words = ["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]
    assert cli.main(words) == 2
    refused = capsys.readouterr().err
    assert told in refused
    kind = "conversation" if "answer" in more else "prompt"
    assert f"set --kind {kind}" in refused
    assert cli.main([*words, "--kind", kind]) == 0


def test_thumbs_in_words_are_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path, "a.png")
    said = ["up", "Thumbs down", "👎", "good", "-1", "YES"]
    rows = [{"question": "Q?", "image": "a.png", "answer": "A cup.", "label": one} for one in said]
    write_jsonl(tmp_path / "a.jsonl", rows)
    words = ["data", "import", str(tmp_path / "a.jsonl")]
    assert cli.main([*words, "--dry-run"]) == 0
    assert '"label": false' in capsys.readouterr().out
    out = tmp_path / "out.jsonl"
    words += ["--kind", "unpaired"]
    assert cli.main([*words, "--out", str(out), "--images", "refer"]) == 0
    labels = [row["label"] for row in read_jsonl(out)]
    assert labels == [True, False, False, True, False, True]


def test_a_published_set_is_taken_for_it_with_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path, "a.png")
    turns = [{"from": "human", "value": "<image>\nQ?"}]
    one, two = ({"from": "gpt", "value": text} for text in ("A cup.", "A dog."))
    row = {"id": "1", "image": "a.png", "conversations": turns, "output_1": one, "output_2": two,
           "preference": 1}  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", [row])
    words = ["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]
    assert cli.main(words) == 0
    assert "If it is not llava-rlhf, set --as llava" in capsys.readouterr().out
    assert cli.main([*words, "--as", "llava"]) == 0
    assert "llava-rlhf" not in capsys.readouterr().out


def test_too_many_bad_rows_write_nothing_and_are_not_converted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = rlaif_v(picture(tmp_path, "a.png"))
    write_jsonl(tmp_path / "a.jsonl", [good] * 3 + [good | {"chosen": None}])
    given = ["data", "import", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "b.parquet")]
    assert cli.main(given) == 2
    said = capsys.readouterr().err
    assert (
        "1 of 4 records can't be made, more than --max-bad-fraction 0.01 allows: 1 x chosen" in said
    )
    assert not (tmp_path / "b.parquet").exists()
    monkeypatch.setattr(Conversion, "_convert", lambda *_: pytest.fail("converted again"))
    assert cli.main([*given, "--max-bad-fraction", "0.25"]) == 0
    assert not (tmp_path / "b.parquet.parts").exists()
    assert len(read_records(tmp_path / "b.parquet", "preference").rows) == 3
    monkeypatch.undo()
    # A set that was corrected meanwhile is begun anew.
    write_jsonl(tmp_path / "a.jsonl", [good | {"chosen": None}] * 2 + [good])
    given[-1] = str(tmp_path / "c.parquet")
    assert cli.main(given) == 2
    write_jsonl(tmp_path / "a.jsonl", [good] * 2)
    assert cli.main(given) == 0
    assert len(read_records(tmp_path / "c.parquet", "preference").rows) == 2


def test_rows_that_a_sets_rule_leaves_out_are_no_bad_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"image_id": 9, "question": "Is it?", "answer": "no", "correct": False, "chosen": "No."}
    rows = [row | {"reject": "Yes."}, row | {"correct": True}]
    write_jsonl(tmp_path / "theirs.jsonl", rows)
    given = [str(tmp_path / "theirs.jsonl"), "--images", "drop", "--as", "ha-dpo-pope"]
    assert cli.main(["data", "import", *given, "--out", str(tmp_path / "ours.parquet")]) == 0
    assert "1 row left out by the set's own rule:\n  1 x correct" in capsys.readouterr().out
    recipe = read_json(tmp_path / "ours.parquet.import.json")
    assert (recipe["left_out"], recipe["left_out_by_rule"]) == (1, 1)
    assert [one[:2] for one in skipped(tmp_path)] == [(2, "correct")]


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_an_interrupted_import_goes_on_and_gives_the_same_bytes(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path, "a.png")
    rows = [rlaif_v("a.png", id=str(n % 150), question=f"{n}?") for n in range(200)]
    write_jsonl(tmp_path / "a.jsonl", [*rows, rlaif_v("gone.png")])
    given = ["data", "import", str(tmp_path / "a.jsonl"), *ANY, "--out"]
    assert cli.main([*given, str(tmp_path / f"whole/a.{suffix}")]) == 0
    convert, calls = Conversion._convert, list[int]()

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return convert(*args)

    monkeypatch.setattr(Conversion, "_convert", interrupted)
    out = tmp_path / f"cut/a.{suffix}"
    assert cli.main([*given, str(out)]) == 130
    assert not out.exists()
    assert cli.main([*given, str(out), "--images", "drop"]) == 2  # other rules
    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(data_import, "write_json", lambda *_: _interrupt())
        assert cli.main([*given, str(out)]) == 130
    assert out.exists()
    assert cli.main([*given, str(out)]) == 0
    # Of four parts two are kept, then three: the last one names a file that may have come.
    assert len(calls) == 3 + 2 + 1
    for name in (f"a.{suffix}", f"a.{suffix}.skipped.jsonl", f"a.{suffix}.import.json"):
        assert (out.parent / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / f"cut/a.{suffix}.parts").exists()
    ids = [row["id"] for row in read_records(out, "preference").rows]
    assert (len(set(ids)), ids[150]) == (200, "0-2")


def test_columns_of_any_name_are_mapped(tmp_path: Path) -> None:
    texts = {"q": "Why?", "good": "A.", "bad": "B."}
    rows = [{"meta": {"file": picture(tmp_path, "a.png")}} | texts, {"meta": None} | texts]
    columns = ["images=meta.file", "prompt=q", "chosen=good", "rejected=bad"]
    repeated = [word for column in columns for word in ("--columns", column)]
    for options in (["--columns", *columns], repeated):
        row, without = import_rows(tmp_path, rows, "--as", "flat", *options)
        assert (text_of(row["chosen"]), len(row["images"])) == ("A.", 1)
        assert (text_of(without["chosen"]), len(without["images"])) == ("A.", 0)


def test_the_command_that_unknown_columns_are_answered_with_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"ASKED": "Why?", "BETTER": "A.", "WORSE": "B."}]
    write_jsonl(tmp_path / "theirs.jsonl", rows)
    assert cli.main(["data", "import", str(tmp_path / "theirs.jsonl"), "--dry-run"]) == 2
    words = "--columns prompt=ASKED chosen=BETTER rejected=WORSE"
    assert words in capsys.readouterr().err
    (row,) = import_rows(tmp_path, rows, "--as", "flat", *words.split())
    assert text_of(row["rejected"]) == "B."


def test_a_rating_that_is_no_number_is_not_counted_as_a_record_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rated = [{"Helpfulness": {"Rating": rating}} for rating in ("4", "N/A")]
    answers = [{"response": f"R{n}", "annotations": one} for n, one in enumerate(rated)]
    rows = [
        {"prompt": "Q?", "models": [], "completions": answers},
        {"prompt": "Q?", "models": [], "completions": []},
    ]
    assert len(import_rows(tmp_path, rows, "--as", "vlfeedback", *ANY)) == 1
    told = capsys.readouterr().out
    assert "1 of 2 records is left out:\n  1 x completions" in told
    assert "without 1 of their responses or ratings:\n  1 x ratings: response 1" in told
    recipe = read_json(tmp_path / "ours.parquet.import.json")
    assert (recipe["left_out"], recipe["parts_left_out"]) == (1, 1)
    assert [one[:2] for one in skipped(tmp_path)] == [(2, "completions"), (1, "ratings")]


def test_a_file_that_no_import_wrote_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [rlaif_v(picture(tmp_path, "a.png"))])
    (tmp_path / "mine.jsonl").write_text("mine")
    given = [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "mine.jsonl")]
    assert cli.main(["data", "import", *given]) == 2
    assert "no import wrote it" in capsys.readouterr().err
    assert (tmp_path / "mine.jsonl").read_text() == "mine"


def test_meta_json_joins_each_sets_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("one", "two"):
        picture(tmp_path, f"images/{part}/a.png")
        row = {"image": "a.png", "question": "<image>\nQ?", "chosen": part, "rejected": "B."}
        write_jsonl(tmp_path / f"{part}.jsonl", [row])
    several = {"image": ["a.png", "a.png"], "question": "Q?", "chosen": "A.", "rejected": "B."}
    write_jsonl(tmp_path / "two.jsonl", [several, several | {"image": "gone.png"}])
    meta = {
        part: {
            "root": part,
            "annotation": f"{part}.jsonl",
            "repeat_time": 2 if part == "two" else 1,
        }
        for part in ("one", "two")
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    out = tmp_path / "ours.parquet"
    root = ["--images-root", str(tmp_path / "images")]
    given = [str(tmp_path / "meta.json"), "--out", str(out), *root, *ANY]
    assert cli.main(["data", "import", *given]) == 0
    told = capsys.readouterr().out
    assert "Read as mmpr" in told
    assert "two x 2" in told
    rows = list(read_records(out, "preference").rows)
    assert [len(row["images"]) for row in rows] == [1, 2]
    assert json.loads(rows[0]["source"])["columns"]["part"] == "one"
    (left,) = read_jsonl(tmp_path / "ours.parquet.skipped.jsonl")
    assert (left["file"], left["row"]) == (str(tmp_path / "two.jsonl"), 2)
    assert "two/gone.png is not a file under" in left["reason"]


def test_an_object_by_image_id(tmp_path: Path) -> None:
    picture(tmp_path, "VG_100K/7.png")
    (tmp_path / "desc_data.json").write_text('{"7": {"chosen": ["A."], "rejected": ["B."]}}')
    (tmp_path / "image_data.json").write_text('{"7": "https://a.b/c/VG_100K/7.png"}')
    given = [str(tmp_path / "desc_data.json"), "--out", str(tmp_path / "ours.jsonl")]
    given += ["--image-table", str(tmp_path / "image_data.json"), "--questions", "Describe it."]
    assert cli.main(["data", "import", *given]) == 0
    (row,) = read_records(tmp_path / "ours.jsonl", "preference").rows
    assert text_of(row["prompt"]) == "Describe it."
    assert row["id"] == "7/0-0"


def parquet_folder(folder: Path) -> Path:
    """As the hub has it: a file for each split, images as bytes."""
    image = datasets.Image()
    text = datasets.Value("string")
    columns = dict.fromkeys(("question", "chosen", "rejected", "image_name"), text)
    for split, count in (("train", 3), ("validation", 1)):
        rows = [
            {"image": Image.new("RGB", (9, 8)), "question": f"{split} {number}?"}
            | {"chosen": "A.", "rejected": "B.", "image_name": "a.jpg"}
            for number in range(count)
        ]
        made = datasets.Dataset.from_list(
            rows, features=datasets.Features(columns | {"image": image})
        )
        (folder / "data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_folder_of_splits(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "spa")
    out = tmp_path / "ours.parquet"
    given = [str(folder), "--split", "validation", "--out", str(out)]
    assert cli.main(["data", "import", *given]) == 0
    (row,) = read_records(out, "preference").rows
    assert (text_of(row["prompt"]), row["images"][0].size) == ("validation 0?", (9, 8))
    recipe = read_json(tmp_path / "ours.parquet.import.json")
    assert (recipe["set"], recipe["records"], len(recipe["files"])) == ("spa-vl", 1, 1)


def test_too_little_memory_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    folder = parquet_folder(tmp_path / "spa")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: default\n---\n")
    source = sources.open_source(str(folder), None, "train", None)
    monkeypatch.setattr(datasets, "load_dataset", full)
    with pytest.raises(MemoryError):
        next(source.rows())


def test_a_set_on_the_hub_is_streamed_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parquet_folder(tmp_path / "spa")
    asked: list[Any] = []
    load = datasets.load_dataset

    def stand_in(name: str, config: str | None, **options: Any) -> Any:
        asked.append((name, options["revision"], options["streaming"]))
        return load(str(folder), config, **options | {"revision": None})

    class Hub:
        def dataset_info(self, name: str, revision: str | None) -> Any:
            assert (name, revision) == ("sqrti/SPA-VL", "main")
            return SimpleNamespace(sha="c0ffee")

    monkeypatch.setattr(sources, "HfApi", Hub)
    monkeypatch.setattr(sources, "can_look_up", lambda host: True)
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    out = tmp_path / "ours.parquet"
    given = ["sqrti/SPA-VL", "--out", str(out), "--limit", "2", "--revision", "main"]
    assert cli.main(["data", "import", *given]) == 0
    assert set(asked) == {("sqrti/SPA-VL", "c0ffee", True)}
    assert len(read_records(out, "preference").rows) == 2
    recipe = read_json(tmp_path / "ours.parquet.import.json")
    assert (recipe["revision"], recipe["license"]) == ("c0ffee", "CC BY 4.0")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["gone.jsonl", "--dry-run"], "can't be reached"),
        (["./gone.jsonl", "--dry-run"], "does not exist"),
        (["", "--dry-run"], "SOURCE is empty"),
        (["a.jsonl"], "--out is missing"),
        (["a.jsonl", "--out", "b.txt"], "must end in .parquet or .jsonl"),
        (["a.jsonl", "--dry-run", "--as", "nothing"], "is not a known set or shape"),
        (["a.jsonl", "--dry-run", "--image-path", "{"], "is not a pattern"),
        (["a.jsonl", "--dry-run", "--image-path", "{name.x}"], "is not a pattern"),
        (["a.jsonl", "--dry-run", "--image-path", "{id.__class__}"], "is not a pattern"),
        (["a.jsonl", "--dry-run", "--image-path", "{id:09999999d}"], "is not a pattern"),
        (["a.jsonl", "--dry-run", "--image-path", "{id:{id}}"], "is not a pattern"),
        (["a.jsonl", "--dry-run", "--image-path", "a.jpg"], "is the same for every image"),
        (["a.jsonl", "--dry-run", "--turn-marks", "USER:"], "takes two texts"),
        (["b.jsonl", "--dry-run"], "of no known shape. Their columns: x"),
        (["c.json", "--dry-run"], "c.json is not JSON"),
        (["d.jsonl", "--dry-run"], "holds no rows"),
        (["i.json", "--dry-run"], "is an object ('a.png' has null, not an object with columns)"),
        (["e.jsonl", "--dry-run"], "gives a preference record (chosen: is missing)"),
        (["h.jsonl", "--dry-run"], "no row can be used. 1 x rejected: is the same as chosen"),
        (["a.jsonl", "--dry-run", "--columns", "foo=chosen"], "is read from a column 'foo'"),
        (["a.jsonl", "--dry-run", "--columns", "promt=chosen"], "Did you mean prompt?"),
        (["a.jsonl", "--dry-run", "--columns", "prompt=q"], "rows has a column 'q'. They have"),
        (["a.jsonl", "--dry-run", "--margin-weight", "1"], "rows has a column margin or ls_factor"),
        (["a.jsonl", "--dry-run", "--split", "test"], "--split test goes with a folder"),
        (["a.jsonl", "--dry-run", "--subset", "x"], "--subset x goes with a folder"),
        (["a.jsonl", "--dry-run", "--revision", "x"], "--revision goes with a set on the hub"),
        (["g.jsonl", "--dry-run", "--margin-weight", "1"], "goes with preference records"),
        (["g.jsonl", "--dry-run", "--kind", "preference"], "its rows are conversation records"),
        (["a.jsonl", "--out", "/proc/a.parquet"], "/proc takes no new file"),
        (["a.jsonl", "--dry-run", "--max-bad-fraction", "2"], "give 0 to 1"),
        (["f.jsonl", "--dry-run"], "seems to hold some. Set --columns images=screenshot"),
        (["a.jsonl", "--dry-run", "--columns", "prompt=Questoin"], "Did you mean question?"),
        (["b.jsonl", "--dry-run", "--columns", "x=prompt"], "other way around: --columns prompt=x"),
        (["a.jsonl", "--dry-run", "--winner-values", "1"], "takes two or more different texts"),
        (["a.jsonl", "--dry-run", "--winner-values", "1", "2"], "Name them: --columns a=FIRST"),
        (["j.jsonl", "--dry-run"], "winner says 0, 1, which may mean answer_1 or answer_2"),
        (["k.csv", "--dry-run"], "The first line of a table has to name them"),
    ],
)
def test_what_cant_be_imported_is_said_in_a_line(
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "can_look_up", lambda host: False)
    pair = {"question": "Q?", "chosen": "A.", "rejected": "B."}
    texts = {"a.jsonl": json.dumps(pair), "b.jsonl": '{"x": 1}', "c.json": '[{"a": 1}, {"b"'}
    texts |= {"d.jsonl": "\n", "e.jsonl": '{"question": "Q?", "rejected": "B.", "chosen": null}'}
    texts["i.json"] = '{"a.png": null}'
    texts["h.jsonl"] = json.dumps(pair | {"rejected": "A."})
    texts["f.jsonl"] = json.dumps(pair | {"screenshot": "a.png"})
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]
    texts["g.jsonl"] = json.dumps({"id": "1", "conversations": turns})
    two = {"question": "Q?", "answer_1": "A.", "answer_2": "B."}
    texts["j.jsonl"] = "".join(json.dumps(two | {"winner": n}) + "\n" for n in (0, 1))
    texts["k.csv"] = "a.png,What?,A.,B.\nb.png,Why?,C.,D.\n"
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    if "e.jsonl" in options:
        options = [*options, "--as", "flat", "--kind", "preference"]
    assert cli.main(["data", "import", *options]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "/proc/.a.parquet" not in said  # a temporary name


TEST_DATA = os.environ.get("VERIDICAL_TEST_DATA")


@pytest.mark.skipif(not TEST_DATA, reason="needs VERIDICAL_TEST_DATA")
def test_real_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Path(str(TEST_DATA)) / "benchmarks/vl_rewardbench/data.json"
    out = tmp_path / "ours.parquet"
    given = [str(bench), "--out", str(out), "--images", "drop", *ANY]
    assert cli.main(["data", "import", *given]) == 0
    assert "Read as vl-rewardbench" in capsys.readouterr().out
    read = json.loads(bench.read_text())
    rows = list(read_records(out, "preference").rows)
    skipped = read_jsonl(tmp_path / "ours.parquet.skipped.jsonl")
    assert len(rows) + len(skipped) == len(read) == 1250
    for row in rows:
        one = read[json.loads(row["source"])["row"] - 1]
        best = one["human_ranking"].index(0)
        assert text_of(row["chosen"]) == one["response"][best]
        assert text_of(row["rejected"]) == one["response"][1 - best]
        assert text_of(row["prompt"]) == one["query"]


@pytest.mark.skipif(not TEST_DATA, reason="needs VERIDICAL_TEST_DATA")
def test_real_text_pairs_of_llama_factory(tmp_path: Path) -> None:
    source = Path(str(TEST_DATA)) / "pairs/text_preference_300.json"
    out = tmp_path / "ours.parquet"
    assert cli.main(["data", "import", str(source), "--out", str(out), *ANY]) == 0
    theirs = json.loads(source.read_text())
    rows = list(read_records(out, "preference").rows)
    assert read_json(tmp_path / "ours.parquet.import.json")["set"] == "sharegpt"
    assert len(rows) + len(read_jsonl(tmp_path / "ours.parquet.skipped.jsonl")) == len(theirs)
    assert len(rows) >= 290
    chosen = {row["chosen"]["value"].strip() for row in theirs}
    assert all(text_of(row["chosen"]).strip() in chosen for row in rows)


def test_images_are_copied_or_named_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [rlaif_v(picture(tmp_path / "pictures", "b/a.png"))])
    root = ["--images-root", str(tmp_path / "pictures")]
    for mode, count in (("copy", 1), ("refer", 0)):
        out = tmp_path / mode / "ours.jsonl"
        out.parent.mkdir()
        given = [str(tmp_path / "a.jsonl"), "--out", str(out), *root, "--images", mode]
        assert cli.main(["data", "import", *given]) == 0
        assert len(list(out.parent.rglob("*.png"))) == count
    (row,) = read_jsonl(tmp_path / "refer/ours.jsonl")
    assert row["images"] == ["b/a.png"]
    assert f"give --images-root {tmp_path / 'pictures'} to read it" in capsys.readouterr().out
    again = read_records(tmp_path / "refer/ours.jsonl", "preference", tmp_path / "pictures")
    assert again.rows[0]["images"][0].size == (24, 20)
    given = [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "a.parquet"), *root]
    assert cli.main(["data", "import", *given, "--images", "refer"]) == 2


def test_an_interrupted_import_with_a_limit_through_a_prompt_does_not_go_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of p1's two rows the limit reads one: its record is not that of the whole set."""
    marks = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 1)
    rows = [{"prompt": f"p{n // 2}", "response": f"r{n}"} | marks for n in range(4)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    given = ["data", "import", str(tmp_path / "a.jsonl"), "--as", "helpsteer", "--out",
             str(tmp_path / "out.jsonl")]  # fmt: skip
    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(data_import, "write_json", lambda *_: _interrupt())
        assert cli.main([*given, "--limit", "3"]) == 130
    assert cli.main(given) == 2
    assert "out.jsonl.parts" in capsys.readouterr().err


def test_images_that_are_elsewhere_come_with_the_two_ways_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"image": "a.png", "question": "Q?", "chosen": "A.", "rejected": "B."}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    assert cli.main(["data", "import", str(tmp_path / "x.jsonl"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "a.png is not a file under" in said
    assert "--images-root, or leave them out with --images drop" in said


def test_a_dry_run_says_the_command_and_an_import_how_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path, "a.png")
    rows = [{"Frage": f"Q{n}?", "chosen": "A.", "rejected": "B.", "image": "a.png"} for n in "ab"]
    write_jsonl(tmp_path / "my pairs.jsonl", rows)
    options = ["--columns", "prompt=Frage", "--limit", "1", "--as", "flat"]
    given = ["data", "import", str(tmp_path / "my pairs.jsonl"), *options, "--dry-run"]
    assert cli.main(given) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("To import it: veridical data import ")
    words = shlex.split(last.removeprefix("To import it: "))[1:]
    assert words[-2:] == ["--out", "FILE.parquet"]
    assert cli.main([*words[:-1], str(tmp_path / "ours.parquet")]) == 0
    assert "`veridical eval label_free MODEL --data" in capsys.readouterr().out
    assert len(read_records(tmp_path / "ours.parquet", "preference").rows) == 1
    assert cli.main(["data", "check", str(tmp_path / "ours.parquet")]) == 0
    assert "`veridical eval label_free MODEL --data" in capsys.readouterr().out
    fixed = ["--fix", str(tmp_path / "fixed.parquet")]
    assert cli.main(["data", "check", str(tmp_path / "ours.parquet"), *fixed]) == 0
    assert f"data split {tmp_path / 'fixed.parquet'} --out" in capsys.readouterr().out


def test_a_dry_run_shows_no_command_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "chosen": "A.", "rejected": "B."}])
    given = ["data", "import", str(tmp_path / "a.jsonl"), "--images", "refer", "--dry-run", "--out"]
    assert cli.main([*given, str(tmp_path / "ours.parquet")]) == 2
    assert "--images refer goes with a .jsonl file" in capsys.readouterr().err
    assert cli.main([*given, str(tmp_path / "ours.jsonl")]) == 0


@pytest.mark.parametrize("winner", ["winner", "Better one"])
def test_a_first_row_without_a_winner_is_left_out_and_counted(
    winner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Q?", "response_a": "A.", "response_b": "B.", "model_a": "x", "model_b": "y"}
    first = {name: value for name, value in row.items() if not name.startswith("model")}
    made = import_rows(tmp_path, [first, *(row | {winner: said} for said in "ABA")])
    assert [text_of(one["chosen"]) for one in made] == ["A.", "B.", "A."]
    told = capsys.readouterr().out
    assert "1 row left out by the set's own rule:" in told
    assert "1 x winner: is empty: neither answer is the better one (first: row 1)" in told


def test_a_third_answer_is_not_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"question": "Q?", "response_a": "A.", "response_b": "B.", "response_c": "C."}
    file = tmp_path / "a.jsonl"
    for more in ({"winner": "A"}, {}):
        write_jsonl(file, [row | more, row | more])
        assert cli.main(["data", "import", str(file), "--dry-run"]) == 2
        told = capsys.readouterr().err
        assert "3 answers (response_a, response_b, response_c), and" in told
        assert "response_c would not be read" in told
    write_jsonl(file, [row | {"winner": "A"}])
    words = ["--columns", "a=response_a", "b=response_b", "winner=winner", "--dry-run"]
    assert cli.main(["data", "import", str(file), *words]) == 0
    write_jsonl(file, [row])
    assert cli.main(["data", "import", str(file), "--dry-run"]) == 2
    assert "or --kind prompt to read none." in capsys.readouterr().err
    assert cli.main(["data", "import", str(file), "--dry-run", "--kind", "prompt"]) == 0
    options = {"question": "Q?", "A": "x", "B": "y", "C": "z", "answer": "B"}
    write_jsonl(file, [options])
    assert cli.main(["data", "import", str(file), "--dry-run"]) == 0


def test_who_wrote_an_answer_is_not_called_unused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Q?", "chosen": "A.", "rejected": "B.", "chosen_model": "x", "note": "n"}
    (made,) = import_rows(tmp_path, [row])
    assert json.loads(made["source"])["chosen_by"] == "x"
    told = capsys.readouterr().out
    assert "Noted in `source`: chosen_model." in told
    assert "Not used: note." in told
