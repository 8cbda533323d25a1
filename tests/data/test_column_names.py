"""Names of columns that differ in capitals, spaces, hyphens and underscores are one name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical import cli
from veridical.data.column_names import as_known, known
from veridical.data.record_flags import own_id
from veridical.data.record_names import with_own_names
from veridical.data.records import read_records, text_of
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl

SPELLED = [
    ("Question", "Image path", "Chosen Answer", "Rejected Answer"),
    ("QUESTION", "image-path", "chosen-response", "REJECTED RESPONSE"),
    ("Prompt", "imagePath", "Chosen", "Rejected"),
    ("prompt", "File Name", "ChosenText", "rejected_Text"),
]


def rows(folder: Path, names: tuple[str, ...], **more: Any) -> list[dict[str, Any]]:
    Image.new("RGB", (24, 20), (9, 90, 200)).save(folder / "a.png")
    return [dict(zip(names, ("What?", "a.png", "A cup.", "A dog."), strict=True)) | more]


@pytest.mark.parametrize("names", SPELLED)
def test_records_are_read_however_their_columns_are_written(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(tmp_path, names, **{"Id": "x", "Note": "n"}))
    (row,) = read_records(tmp_path / "a.jsonl", "preference").rows
    assert (row["id"], text_of(row["prompt"]), text_of(row["chosen"])) == ("x", "What?", "A cup.")
    assert len(row["images"]) == 1
    assert capsys.readouterr().out.endswith("has no such column: Note.\n")


@pytest.mark.parametrize("names", SPELLED)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_they_are_imported_and_checked(
    names: tuple[str, ...], form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = rows(tmp_path, names)
    if form == "csv":
        with (tmp_path / "a.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, names)
            table.writeheader()
            table.writerows(made)
    else:
        write_jsonl(tmp_path / "a.jsonl", made)
    given = ["data", "import", str(tmp_path / f"a.{form}"), "--out", str(tmp_path / "ours.jsonl")]
    assert cli.main(given) == 0
    told = capsys.readouterr().out
    assert f"chosen from {names[2]}; images from {names[1]}; prompt from {names[0]}" in told
    assert "Not used" not in told
    (row,) = read_records(tmp_path / "ours.jsonl", "preference").rows
    assert text_of(row["rejected"]) == "A dog."
    assert len(row["images"]) == 1
    if form == "jsonl":
        assert cli.main(["data", "check", str(tmp_path / "a.jsonl")]) == 0


def test_two_answers_and_a_winner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [
        {"Question": "What?", "Response A": f"A{n}", "Response B": f"B{n}", "Winner": n,
         "Model A": "x", "Model B": "y"}
        for n in (1, 2)
    ]  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", made)
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "Response A is chosen where Winner says '1', Response B where it says '2'" in told
    assert '"chosen": "A1", "rejected": "B1"' in told
    assert '"chosen": "B2", "rejected": "A2"' in told


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_tie_may_lack_its_winner_however_that_is_written(
    lacking: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [
        {"Question": "What?", "Response A": f"A{n}", "Response B": f"B{n}", "Winner": said}
        for n, said in enumerate("abab")
    ]
    del made[lacking]["Winner"]
    write_jsonl(tmp_path / "a.jsonl", made)
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "Response A is chosen where Winner says 'a', Response B where it says 'b'" in told
    assert "chosen from Response A, Response B, Winner" in told


def test_who_wrote_an_answer_is_noted_however_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"question": "Q?", "chosen": "A.", "rejected": "B.", "Chosen Model": "x", "Note": "n"}
    write_jsonl(tmp_path / "a.jsonl", [made])
    given = ["data", "import", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "ours.jsonl")]
    assert cli.main(given) == 0
    told = capsys.readouterr().out
    assert "Noted in `source`: Chosen Model.\nNot used: Note." in told
    (row,) = read_records(tmp_path / "ours.jsonl", "preference").rows
    assert json.loads(row["source"])["chosen_by"] == "x"


def test_an_empty_id_does_not_hide_another_spelling() -> None:
    assert own_id({"id": None, "ID": 7}) == "7"
    assert own_id({"id": 1, "ID": 7}) == "1"
    assert own_id({"ID": None}) == ""


@pytest.mark.parametrize("more", ["question", "QUESTION", "Question "])
def test_two_columns_of_one_name_are_refused(
    more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = rows(tmp_path, SPELLED[0], **{more: "Which?"})
    write_jsonl(tmp_path / "a.jsonl", made)
    with pytest.raises(UserError, match="are one name, and hold different values"):
        read_records(tmp_path / "a.jsonl", "preference")
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 2
    assert "are one name" in capsys.readouterr().err
    assert cli.main(["data", "check", str(tmp_path / "a.jsonl")]) in (1, 2)
    assert "are one name" in "".join(capsys.readouterr())
    write_jsonl(
        tmp_path / "b.jsonl", [*rows(tmp_path, SPELLED[0]), *rows(tmp_path, SPELLED[0]), *made]
    )
    assert cli.main(["data", "check", str(tmp_path / "b.jsonl")]) == 1
    assert "to fix: keep one of the two columns" in capsys.readouterr().out
    given = ["data", "import", str(tmp_path / "a.jsonl"), "--dry-run", "--columns"]
    assert cli.main([*given, f"prompt={more}"]) == 0
    assert '"prompt": "Which?"' in capsys.readouterr().out
    write_jsonl(tmp_path / "a.jsonl", rows(tmp_path, SPELLED[0], **{more: "What?"}))
    assert len(read_records(tmp_path / "a.jsonl", "preference").rows) == 1


def test_a_column_that_may_judge_is_seen_however_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Q?", "answer": "A.", "Is better": "x"}])
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 2
    assert "the column 'Is better' (x) may say which answers are good" in capsys.readouterr().err


def test_a_column_that_seems_to_hold_images_is_named_in_a_form_that_a_shell_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "Q?", "chosen": "A.", "rejected": "B.", "Image link": "a.png"}
    write_jsonl(tmp_path / "a.jsonl", [row])
    assert cli.main(["data", "import", str(tmp_path / "a.jsonl"), "--dry-run"]) == 2
    assert "Set --columns 'images=Image link'," in capsys.readouterr().err


def test_a_known_name_comes_first_and_nothing_hides_it() -> None:
    names = known(("file_name", "filename"))
    assert as_known({"File-Name": "a"}, names) == {"File-Name": "file_name"}
    assert as_known({"file_name": "a", "filename": "b"}, names) == {}
    assert as_known({"file_name": None, "FILENAME": "b"}, names) == {"FILENAME": "file_name"}
    named, used = with_own_names({"question": None, "Question": "Q?"}, "prompt")
    assert named["prompt"] == [{"role": "user", "content": "Q?"}]
    assert "Question" in used
