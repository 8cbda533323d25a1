"""A set that is exported and imported again is equal, whatever its rows are like."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical import cli
from veridical.data.exporters import writing
from veridical.data.exporters.formats import FORMATS
from veridical.data.exporters.licenses import license_identifier
from veridical.data.messages import assistant_message
from veridical.data.records import read_records, write_records
from veridical.runtime.files import read_json, read_jsonl, write_json

Row = dict[str, Any]
IMAGE: Row = {"type": "image"}


def text(value: str) -> Row:
    return {"type": "text", "text": value}


def user(*blocks: Row) -> Row:
    return {"role": "user", "content": list(blocks)}


def picture(color: int, kind: str = "PNG") -> Row:
    memory = io.BytesIO()
    Image.new("RGB", (12, 10), (color, 40, 200 - color)).save(memory, format=kind)
    return {"bytes": memory.getvalue(), "path": None}


PROMPTS: dict[str, tuple[list[Any], list[Any]]] = {
    "before": ([picture(1)], [user(IMAGE, text("Q?"))]),
    "after": ([picture(2, "JPEG")], [user(text("Q?"), IMAGE)]),
    "inside": ([picture(3), picture(4)], [user(text("Is "), IMAGE, text(" like "), IMAGE)]),
    "two before": ([picture(3), picture(3)], [user(IMAGE, IMAGE, text("Q?\n"))]),
    "no image": ([], [user(text("Q?"))]),
    "line breaks": ([picture(5)], [user(IMAGE, text("\n\nQ?\n"))]),
    "parted": ([picture(6)], [user(text("A"), text("B"), IMAGE, text("C"), text("D"))]),
    "turns": (
        [picture(7), picture(8)],
        [
            {"role": "system", "content": [text("Be brief.")]},
            user(IMAGE, text("A?")),
            assistant_message("a"),
            user(text("B?"), IMAGE),
        ],
    ),
}
SAYS_TAG = ([picture(9)], [user(IMAGE, text("What does <image> mean?"))])


def preference(name: str, **more: Any) -> Row:
    images, prompt = PROMPTS[name]
    row = {"id": name, "images": images, "prompt": prompt}
    row |= {"chosen": [assistant_message("Yes.\n")], "rejected": [assistant_message(" No.")]}
    return row | more


def rows_of(kind: str) -> list[Row]:
    rows: list[Row] = []
    for name, (images, prompt) in PROMPTS.items():
        base = {"id": name, "images": images}
        if kind == "preference":
            rows.append(preference(name))
        elif kind == "conversation":
            rows.append(base | {"messages": [*prompt, assistant_message("Yes.")]})
        elif kind == "prompt":
            rows.append(base | {"prompt": prompt, "facts": ["F."]})
        elif kind == "unpaired":
            answer = {"completion": [assistant_message("Yes.")], "label": len(rows) % 2 == 0}
            rows.append(base | {"prompt": prompt} | answer)
        else:
            answers = [[assistant_message("A.")], [assistant_message("B.")]]
            rows.append(base | {"prompt": prompt, "responses": answers})
    if kind == "preference":
        rated = {"answer": "chosen", "aspect": "x", "value": 0.5}
        rows[0] |= {"ratings": [rated], "facts": ["F."], "expected_answer": "yes"}
        rows[1] |= {"more_rejected": [[assistant_message("Maybe.")]], "source": '{"builder": "b"}'}
        spans = [{"answer": "rejected", "start": 1, "end": None, "weight": 2.5}]
        rows[0] |= {"answer_prefix": "Y", "rejected": [assistant_message("You can.")]}
        rows[0] |= {"span_weights": spans, "beta_factor": 0.5}
    if kind == "prompt":
        rows[0] |= {"expected_answer": "yes", "source": "mine"}
        rows[1] |= {"expected_answer": ""}
    return rows


def content(path: Path, kind: Any, root: Path | None = None) -> list[Row]:
    """Every row as it lies in the file; of images the hash of their bytes."""
    raw = read_records(path, kind, root).rows.with_format("arrow")
    rows = [raw[index].to_pylist()[0] for index in range(len(raw))]
    for row in rows:
        for field in ("images", "rejected_images", "contrast_images"):
            if row.get(field) is not None:
                row[field] = [hashed(image) for image in row[field]]
    return rows


def hashed(image: Row) -> str:
    held = image["bytes"] or Path(image["path"]).read_bytes()
    return hashlib.sha256(held).hexdigest()


def there_and_back(folder: Path, to: str, *options: str, kind: str = "preference") -> Path:
    mine, out = folder / "mine.parquet", folder / to
    given = [str(mine), "--to", to, "--out", str(out), "--kind", kind]
    assert cli.main(["data", "export", *given, *options]) == 0
    back = folder / f"{to}.parquet"
    assert cli.main(["data", "import", str(out), "--out", str(back), "--kind", kind]) == 0
    assert read_jsonl(folder / f"{to}.parquet.skipped.jsonl") == []
    return back


CASES = [(one.name, kind) for one in FORMATS.values() for kind in one.kinds]


@pytest.mark.parametrize(("to", "kind"), CASES)
def test_a_set_is_equal_after_export_and_import(to: str, kind: str, tmp_path: Path) -> None:
    rows = rows_of(kind)
    write_records(rows, tmp_path / "mine.parquet", kind)  # type: ignore[arg-type]
    back = there_and_back(tmp_path, to, kind=kind)
    before, after = (content(path, kind) for path in (tmp_path / "mine.parquet", back))
    assert len(before) == len(PROMPTS)
    assert after == before


@pytest.mark.parametrize("to", [one.name for one in FORMATS.values() if "preference" in one.kinds])
@pytest.mark.parametrize("column", ["rejected_images", "contrast_images"])
def test_other_images_stay_or_are_named(to: str, column: str, tmp_path: Path) -> None:
    rows = [preference("before", **{column: [picture(99)]}), preference("after")]
    write_records(rows, tmp_path / "mine.parquet", "preference")
    back = there_and_back(tmp_path, to)
    left = read_jsonl(tmp_path / to / "skipped.jsonl")
    lacks = {"rejected_images": ("llamafactory", "llava")}
    if to in lacks.get(column, ("llamafactory", "llava", "ms-swift")):
        assert [(row["id"], row["field"]) for row in left] == [("before", column)]
        assert len(content(back, "preference")) == 1
    else:
        assert left == []
        assert content(back, "preference") == content(tmp_path / "mine.parquet", "preference")


@pytest.mark.parametrize("to", ["trl", "llamafactory", "hub"])
def test_columns_that_a_trainer_does_not_read_are_named(
    to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_records(rows_of("preference"), tmp_path / "mine.parquet", "preference")
    there_and_back(tmp_path, to)
    note = "more_rejected (1), beta_factor (1), answer_prefix (1), span_weights (1)."
    assert (note in capsys.readouterr().out) is (to != "hub")


@pytest.mark.parametrize("to", ["llamafactory", "ms-swift", "llava", "webdataset"])
def test_a_tag_that_is_text_is_no_picture(to: str, tmp_path: Path) -> None:
    images, prompt = SAYS_TAG
    rows = [preference("before"), preference("after", id="tag", images=images, prompt=prompt)]
    write_records(rows, tmp_path / "mine.parquet", "preference")
    back = there_and_back(tmp_path, to)
    left = [row["id"] for row in read_jsonl(tmp_path / to / "skipped.jsonl")]
    assert left == ([] if to == "webdataset" else ["tag"])
    assert len(content(back, "preference")) == 2 - len(left)


def test_images_are_copied_once_or_referred_to(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [
        {"id": name, "images": [tmp_path / "a.png"], "prompt": "Q?"}
        | {"chosen": "Yes.", "rejected": name}
        for name in ("a", "b")
    ]
    write_records(rows, tmp_path / "mine.jsonl", "preference")
    for mode, count in (("copy", 1), ("refer", 0)):
        out = tmp_path / mode
        given = [str(tmp_path / "mine.jsonl"), "--to", "llava", "--out", str(out)]
        assert cli.main(["data", "export", *given, "--images", mode]) == 0
        assert len(list(out.glob("images/*"))) == count
    assert read_json(tmp_path / "refer/data.json")[0]["image"] == str(tmp_path / "a.png")


def test_parts_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_ROWS", 3)
    write_records(rows_of("preference"), tmp_path / "mine.parquet", "preference")
    for to, suffix in (("webdataset", "tar"), ("hub", "parquet")):
        back = there_and_back(tmp_path, to)
        assert len(list((tmp_path / to).glob(f"*.{suffix}"))) == 3  # 8 rows: 3, 3 and 2
        assert content(back, "preference") == content(tmp_path / "mine.parquet", "preference")


def test_what_cant_be_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(rows_of("preference"), tmp_path / "mine.parquet", "preference")
    mine = str(tmp_path / "mine.parquet")
    cases = [
        (["--to", "verl", "--out", str(tmp_path / "a")], "--kind prompt exports their prompts"),
        (["--to", "trl", "--out", str(tmp_path)], "is not an empty folder"),
        (["--to", "trl", "--out", str(tmp_path / "a"), "--repo", "a/b"], "goes with --to hub"),
    ]
    (tmp_path / "none.jsonl").touch()
    given = [str(tmp_path / "none.jsonl"), "--to", "trl", "--out", str(tmp_path / "a")]
    assert cli.main(["data", "export", *given]) == 2
    assert "holds no rows" in capsys.readouterr().err
    (tmp_path / "torn.jsonl").write_text("{oops\n[1]\n")
    given = [str(tmp_path / "torn.jsonl"), "--to", "trl", "--out", str(tmp_path / "a")]
    assert cli.main(["data", "export", *given]) == 2
    assert "none of its rows can be read. Row 1 is not JSON" in capsys.readouterr().err
    for options, told in cases:
        assert cli.main(["data", "export", mine, *options]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_prompts_of_pairs_go_to_reinforcement_learning(tmp_path: Path) -> None:
    write_records(rows_of("preference"), tmp_path / "mine.parquet", "preference")
    given = [str(tmp_path / "mine.parquet"), "--to", "openrlhf", "--kind", "prompt"]
    assert cli.main(["data", "export", *given, "--out", str(tmp_path / "out")]) == 0
    rows = read_jsonl(tmp_path / "out/data.jsonl")
    assert rows[0]["input"] == [user(IMAGE, text("Q?"))]
    assert rows[0]["label"] == "yes"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--license", "cc-by-4"], "Did you mean cc-by-4.0"),
        (["--license", "our own terms"], "set other"),
        (["--license", "mit", "--to", "trl"], "--license goes with --to hub"),
    ],
)
def test_a_license_that_the_hub_does_not_know_is_refused(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = [] if "--to" in given else ["--to", "hub"]
    words = ["data", "export", str(tmp_path / "x.jsonl"), *to, *given, "--out"]
    assert cli.main([*words, str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_licenses_are_spelled_as_the_hub_spells_them() -> None:
    stated = ["CC BY-NC 4.0", "Apache-2.0", "MIT", "Other"]
    assert [*map(license_identifier, stated)] == ["cc-by-nc-4.0", "apache-2.0", "mit", "other"]


def test_a_card_has_sources_licenses_recipe_and_hashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture_file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture_file)
    theirs = {"question": "Q?", "chosen": "A.", "rejected": "B.", "image_path": "a.png"}
    theirs |= {"origin_dataset": "coco", "origin_split": "{}"}
    (tmp_path / "theirs.jsonl").write_text(json.dumps(theirs) + "\n")
    mine, out = tmp_path / "mine.parquet", tmp_path / "hub"
    assert cli.main(["data", "import", str(tmp_path / "theirs.jsonl"), "--out", str(mine)]) == 0
    assert cli.main(["data", "export", str(mine), "--to", "hub", "--out", str(out)]) == 0
    card = (out / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "openbmb/RLAIF-V-Dataset) | CC BY-NC 4.0 |" in card
    assert "1 row of theirs.jsonl read as rlaif-v; 1 record, 0 left out" in card
    composed = tmp_path / "composed"
    made = ["build", "compose", str(mine), "--out", str(composed), "--prompts", "theirs"]
    assert cli.main(made) == 0
    given = [str(composed / "pairs.parquet"), "--to", "hub", "--out", str(tmp_path / "hub2")]
    assert cli.main(["data", "export", *given]) == 0
    second = (tmp_path / "hub2/README.md").read_text()
    assert "license: cc-by-nc-4.0" in second
    assert '"prompts": ["theirs"]' in second
    for file in (mine, out / "train-00000.parquet", tmp_path / "theirs.jsonl"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert str(tmp_path) not in card
    beside = tmp_path / "mine.parquet.import.json"
    whole = read_json(beside)
    others: list[object] = [[], {}, whole | {"files": 3}, whole | {"rows": "many"}]
    for edited in others:
        write_json(beside, edited)
        out = tmp_path / "again"
        assert cli.main(["data", "export", str(mine), "--to", "hub", "--out", str(out)]) == 2
        assert "is not as an import writes it" in capsys.readouterr().err
        shutil.rmtree(out)
