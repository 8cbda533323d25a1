"""Sets of pairs composed of others: draws, mixtures, recombined answers, label noise, recipes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from veridical.builders.composing import rows
from veridical.builders.composing.recipe import Amounts, quotas, set_names, swapped_ids
from veridical.cli import main
from veridical.data.records import read_records, text_of
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, read_jsonl, write_json, write_jsonl


def run(*words: object) -> int:
    return main(["build", "compose", *map(str, words)])


def pairs(folder: Path, name: str, count: int, **more: Any) -> Path:
    """`count` pairs 0, 1, ... of one set, each with a red square and answers that name the set."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(folder / "red.png")
    rows = [
        {"id": str(n), "images": ["red.png"], "prompt": f"Question {n}?", "chosen": f"True {n}.",
         "rejected": f"{name} {n}.",
         "ratings": [{"answer": "chosen", "aspect": "x", "value": 1.0},
                     {"answer": "rejected", "aspect": "x", "value": 0.0}],
         "source": json.dumps({"judge": "odd" if n % 2 else "even", "columns": {"third": n % 3}})}
        | more
        for n in range(count)
    ]  # fmt: skip
    write_jsonl(folder / f"{name}.jsonl", rows)
    return folder / f"{name}.jsonl"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(read_records(folder / "pairs.parquet", "preference").rows)


def ids_of(folder: Path) -> set[str]:
    return {row["id"] for row in rows_of(folder)}


def test_quotas_by_largest_remainder() -> None:
    """10 at 1 : 1 : 1 are 4, 3, 3; 7 at 2 : 1 are 4.67 and 2.33, so 5 and 2."""
    assert quotas([9, 9, 9], Amounts(size=10, weights=[1, 1, 1]), "abc") == [4, 3, 3]
    assert quotas([9, 9], Amounts(size=7, weights=[2, 1]), "ab") == [5, 2]
    # Without weights, in proportion to the sizes: 5 of 30 and 20 are 3 and 2.
    assert quotas([30, 20], Amounts(size=5), "ab") == [3, 2]
    assert quotas([30, 20], Amounts(), "ab") == [30, 20]
    # Without a size, as many as keep the weights: 30 at 3 parts are 40 in all, so 10 of the other.
    assert quotas([30, 20], Amounts(weights=[3, 1]), "ab") == [30, 10]
    with pytest.raises(UserError, match="Set --size 40 or less"):
        quotas([30, 20], Amounts(size=50, weights=[1, 1]), "ab")


def test_a_smaller_draw_is_part_of_a_larger_one(tmp_path: Path) -> None:
    data = pairs(tmp_path, "a", 40)
    for size in (10, 20):
        assert run(data, "--size", size, "--out", tmp_path / str(size)) == 0
    small, large = ids_of(tmp_path / "10"), ids_of(tmp_path / "20")
    assert (len(small), len(large)) == (10, 20)
    assert small < large
    assert run(data, "--size", 10, "--seed", 1, "--out", tmp_path / "other") == 0
    assert ids_of(tmp_path / "other") != small


def test_sets_are_mixed_by_weight_and_keep_where_each_pair_is_from(tmp_path: Path) -> None:
    sets = (pairs(tmp_path, "a", 40), pairs(tmp_path, "b", 30))
    assert run(*sets, "--size", 20, "--weights", 3, 1, "--chosen-by", "people", "-",
               "--out", tmp_path / "out") == 0  # fmt: skip
    rows = rows_of(tmp_path / "out")
    sources = [json.loads(row["source"]) for row in rows]
    assert Counter(source["set"] for source in sources) == {"a": 15, "b": 5}
    for row, source in zip(rows, sources, strict=True):
        name, number = row["id"].split("/")
        assert (name, text_of(row["rejected"])) == (source["set"], f"{name} {number}.")
        assert source.get("chosen_by") == ("people" if name == "a" else None)
        assert source["judge"] == ("odd" if int(number) % 2 else "even")
        assert json.loads(source["from"])["columns"] == {"third": int(number) % 3}
    # Mixed, not one set behind the other; and both sets give the same prompts as far as they go.
    assert {source["set"] for source in sources[:8]} == {"a", "b"}
    numbers = {
        name: {row["id"].split("/")[1] for row in rows if row["id"][0] == name} for name in "ab"
    }
    assert len(numbers["a"] & numbers["b"]) > 0


def test_factors_select_by_declaration_and_by_what_rows_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 40, 20 are odd; of 0 to 39, 13 leave a rest of 1 by 3: 7 odd ones (1, 7, ..., 37)."""
    data = pairs(tmp_path, "a", 40)
    assert run(data, "--keep", "judge=odd", "--out", tmp_path / "odd") == 0
    assert ids_of(tmp_path / "odd") == {str(n) for n in range(1, 40, 2)}
    assert run(data, "--keep", "judge=odd", "columns.third=1", "--out", tmp_path / "both") == 0
    assert ids_of(tmp_path / "both") == {str(n) for n in range(1, 40, 6)}
    summary = read_json(tmp_path / "both" / "summary.json")
    assert summary["not_kept"] == {"judge=odd": 20, "columns.third=1": 13}
    assert run(data, "--keep", "columns.third=1", "columns.third=2", "--out", tmp_path / "any") == 0
    assert len(ids_of(tmp_path / "any")) == 26
    assert "no pair has" not in capsys.readouterr().out
    assert run(data, "--keep", "judge=odd", "judge=ood", "--out", tmp_path / "ood") == 0
    assert "--keep: no pair has judge=ood." in capsys.readouterr().out
    other = pairs(tmp_path, "b", 5)
    assert run(data, other, "--prompts", "llava", "vg", "--keep", "prompts=vg",
               "--out", tmp_path / "vg") == 0  # fmt: skip
    assert ids_of(tmp_path / "vg") == {f"b/{n}" for n in range(5)}


def test_rejected_answers_come_from_another_set_of_the_same_prompts(tmp_path: Path) -> None:
    spans = [{"answer": one, "weight": 2.0} for one in ("chosen", "rejected")]
    parts = {"rejected": "Trust me.", "answer_prefix": "Tru", "span_weights": spans}
    data = pairs(tmp_path, "a", 6, rejected_masked=0.5, **parts)
    other = pairs(tmp_path / "x", "b", 5)
    changed = read_jsonl(other)
    changed[1] |= {"prompt": "Another question?"}
    changed[2] |= {"chosen": "Another answer."}
    Image.new("RGB", (4, 4), "blue").save(other.parent / "blue.png")
    changed[3] |= {"images": ["blue.png"]}
    write_jsonl(other, changed)
    assert run(data, "--rejected-from", other, "--out", tmp_path / "out") == 0
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    assert {name: text_of(row["rejected"]) for name, row in rows.items()} == {
        "0": "b 0.",
        "4": "b 4.",
    }
    for column in ("ratings", "span_weights"):
        assert [one["answer"] for one in rows["0"][column]] == ["chosen"]
    assert rows["0"].get("answer_prefix") is None, "the other answer does not begin so"
    assert rows["0"].get("rejected_masked") is None, "that was of the answer which is gone"
    reasons = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")}
    assert reasons == {
        "1": "the pair of this id has another prompt",
        "2": "the pair of this id has another chosen answer",
        "3": "the pair of this id has another picture as image 1",
        "5": "--rejected-from has no pair of this id",
    }


def test_label_noise_swaps_an_exact_share_and_more_noise_keeps_less(tmp_path: Path) -> None:
    data = pairs(tmp_path, "a", 30, span_weights=[{"answer": "rejected", "weight": 2.0}])
    swapped: dict[float, set[str]] = {}
    for share, count in ((0.25, 8), (0.5, 15)):  # 7.5 is rounded up
        out = tmp_path / str(share)
        who = ("--chosen-by", "people", "--rejected-by", "model")
        assert run(data, "--swap", share, *who, "--out", out) == 0
        swapped[share] = set()
        for row in rows_of(out):
            text = f"True {row['id']}."
            turned = text_of(row["rejected"]) == text
            source = json.loads(row["source"])
            authors = ("model", "people") if turned else ("people", "model")
            assert (source["chosen_by"], source["rejected_by"]) == authors
            assert source["swapped"] is turned
            assert turned or text_of(row["chosen"]) == text
            values = {one["answer"]: one["value"] for one in row["ratings"]}
            assert values == {"chosen": float(not turned), "rejected": float(turned)}
            weighed = [one["answer"] for one in row["span_weights"]]
            assert weighed == ["chosen" if turned else "rejected"]
            swapped[share] |= {row["id"]} if turned else set()
        assert len(swapped[share]) == read_json(out / "summary.json")["swapped"] == count
    assert swapped[0.25] < swapped[0.5]
    assert swapped_ids(["a", "b"], 1.0, 0) == {"a", "b"}


@pytest.mark.parametrize("form", ["findings.jsonl", "ids.json", "ids.txt"])
def test_flagged_rows_are_left_out_and_listed(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pairs(tmp_path, "a", 5)
    path, has_levels = tmp_path / form, form == "findings.jsonl"
    if has_levels:
        write_jsonl(
            path,
            [
                {"id": "1", "level": "warning", "what": "a line\u2028separator"},
                {"id": "3", "level": "error", "check": "refusals", "what": "it refuses"},
                {"id": ""},
                {"id": "gone", "level": "error"},
            ],
        )
    elif form == "ids.json":
        write_json(path, ["1", "3"])
    else:
        path.write_text("1\n3\n")
    assert run(data, "--without-flagged", path, "--out", tmp_path / "out") == 0
    assert ids_of(tmp_path / "out") == {"0", "2", "4"}
    said = "--without-flagged lists 1 id that no row has, such as gone."
    assert (said in capsys.readouterr().out) == has_levels
    listed = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert [(row["id"], row["row"], row["reason"]) for row in listed] == [
        ("1", 2, "it is flagged: a line\u2028separator" if has_levels else "it is flagged"),
        ("3", 4, "it is flagged: refusals: it refuses" if has_levels else "it is flagged"),
    ]
    words = ("--without-flagged", path, "--flagged-level", "error", "--out", tmp_path / "errors")
    assert run(data, *words) == 0
    left = {"0", "1", "2", "4"} if has_levels else {"0", "2", "4"}
    assert ids_of(tmp_path / "errors") == left


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_findings_leave_out_their_rows_alone_and_those_are_no_bad_rows(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of six rows two can't be used, far over 1 %, and one of them repeats a good row's id."""
    given = read_jsonl(pairs(tmp_path, "a", 6))
    given[1] |= {"chosen": "The same.", "rejected": "The same."}
    given[2] |= {"id": "0", "prompt": "Another question, with the id of the first?"}
    given[4] |= {"chosen": "I'm sorry, but I can't help with that."}
    data, found = tmp_path / f"b{suffix}", tmp_path / "found.jsonl"
    if suffix == ".jsonl":
        write_jsonl(data, given)
    else:
        pq.write_table(pa.Table.from_pylist(given), data)
    assert main(["data", "check", str(data), "--out", str(found)]) == 1
    assert f"To leave their 3 rows out: veridical build compose {data}" in capsys.readouterr().out
    for out in ("out", "again"):  # the second time from the cache
        words = ("--without-flagged", found, "--max-bad-fraction", 0, "--out", tmp_path / out)
        assert run(data, *words) == 0
        assert ids_of(tmp_path / out) == {"0", "3", "5"}
    assert "3 rows left out, as --without-flagged asks." in capsys.readouterr().out
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["flagged"], summary["skipped"]) == (3, 0)
    listed = read_jsonl(tmp_path / "out" / "skipped.jsonl")
    assert [(row["row"], row["reason"].split(": ")[1]) for row in listed] == [
        (2, "equal answers"), (3, "ids"), (5, "refusals"),
    ]  # fmt: skip
    assert run(data, "--without-flagged", found, "--flagged-level", "error", "--out",
               tmp_path / "errors") == 0  # fmt: skip
    assert ids_of(tmp_path / "errors") == {"0", "3", "4", "5"}
    skipped = tmp_path / "out" / "skipped.jsonl"  # names the file, and its rows have those ids
    assert run(data, "--without-flagged", skipped, "--out", tmp_path / "by-file") == 0
    assert ids_of(tmp_path / "by-file") == {"0", "3", "5"}


def test_findings_of_another_file_or_of_one_that_was_changed_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, found = pairs(tmp_path, "a", 4), tmp_path / "found.jsonl"
    rows = read_jsonl(data)
    write_jsonl(data, [rows[0] | {"chosen": " "}, *rows[1:]])
    assert main(["data", "check", str(data), "--out", str(found)]) == 1
    same = tmp_path / "moved.jsonl"
    same.write_bytes(data.read_bytes())
    assert run(same, "--without-flagged", found, "--out", tmp_path / "moved") == 0
    assert ids_of(tmp_path / "moved") == {"1", "2", "3"}
    write_jsonl(data, rows[1:])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == 2
    assert f"lists rows of {data}, which was changed since" in capsys.readouterr().err
    other = pairs(tmp_path, "b", 4)
    assert run(other, "--without-flagged", found, "--out", tmp_path / "out") == 2
    assert f"lists rows of {data}, which is none of the sets" in capsys.readouterr().err
    write_jsonl(found, [{"id": "3", "file": str(data), "row": 1, "reason": "too long"}])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == 2
    assert "row 1 with the id 3, and it has the id 1 now" in capsys.readouterr().err
    about = {"set": str(data), "sha256": hash_file(data)}
    write_jsonl(found, [about | {"id": "2", "row": "2"}, about | {"id": "3"}])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "texts") == 0
    assert ids_of(tmp_path / "texts") == {"1"}, "a number as a text, and an id alone"
    write_jsonl(found, [about | {"id": "9", "row": 4}])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == 2
    assert f"lists row 4 of {data}, which has 3 rows" in capsys.readouterr().err
    assert not (tmp_path / "out" / "pairs.parquet").exists()
    write_jsonl(found, [{"id": str(n), "file": str(data), "row": n} for n in (1, 2, 3)])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == 2
    assert "No pair is left to take: 3 are flagged." in capsys.readouterr().err


def test_listed_rows_without_an_id_go_by_number_or_are_said_to_flag_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readers make an id of content where a row's own is empty, and lists have that one."""
    rows = read_jsonl(pairs(tmp_path, "a", 4))
    write_jsonl(data := tmp_path / "a.jsonl", [row | {"id": ""} for row in rows])
    made = read_records(data, "preference").ids
    found = tmp_path / "found.jsonl"
    here = {"file": str(data)}
    lines = [here | {"id": made[0], "row": 1}, here | {"id": "", "row": 2}, {"id": "", "row": 3}]
    write_jsonl(found, [*lines, {"id": "", "row": 4, "file": str(tmp_path / "other.jsonl")}])
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == 0
    assert ids_of(tmp_path / "out") == {*made[2:]}
    assert "2 lines with a row's number, but neither its id nor" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [{"id": "1", "file": "\0", "row": 2}, {"id": "1", "what": "\ud800"},
     {"id": "1", "set": "\ud800", "sha256": "00"}],
)  # fmt: skip
def test_half_characters_in_a_list_end_in_no_traceback(tmp_path: Path, line: Any) -> None:
    data, found = pairs(tmp_path, "a", 2), tmp_path / "found.jsonl"
    found.write_text(json.dumps(line))
    told = 2 if "sha256" in line else 0
    assert run(data, "--without-flagged", found, "--out", tmp_path / "out") == told


def test_the_recipe_makes_the_same_bytes_from_anywhere_and_notices_other_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path / "a", "pairs", 20)
    pairs(tmp_path / "b", "pairs", 20)
    (tmp_path / "bad.txt").write_text("3\n")
    assert run("a/pairs.jsonl", "b/pairs.jsonl", "--size", 12, "--weights", 2, 1, "--swap", 0.25,
               "--keep", "judge=odd", "--without-flagged", "bad.txt", "--seed", 3, "--judge", "-",
               "people", "--keep", "judge=odd", "judge=people", "--out", "one") == 0  # fmt: skip
    monkeypatch.chdir("/")
    recipe = tmp_path / "one" / "recipe.yaml"
    assert run("--config", recipe, "--out", tmp_path / "two") == 0
    files = ("pairs.parquet", "summary.json", "recipe.yaml")
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(yaml.safe_load(recipe.read_text())["expect"]) == 3
    assert {name.split("/")[0] for name in ids_of(tmp_path / "one")} == {"a", "b"}
    pairs(tmp_path / "b", "pairs", 21)
    capsys.readouterr()
    assert run("--config", recipe, "--out", tmp_path / "three") == 2
    assert "b/pairs.jsonl: not the content that the recipe was made with" in capsys.readouterr().err


def test_a_composed_set_can_be_composed_again_by_its_factors(tmp_path: Path) -> None:
    sets = (pairs(tmp_path, "a", 6), pairs(tmp_path, "b", 6))
    assert run(*sets, "--chosen-by", "x", "y", "--out", tmp_path / "one") == 0
    words = ("--keep", "chosen_by=y", "--out", tmp_path / "two")
    assert run(tmp_path / "one" / "pairs.parquet", *words) == 0
    assert ids_of(tmp_path / "two") == {f"b/{n}" for n in range(6)}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--weights", 1, 2], "--weights has 2 numbers; give one for each of 1 set."),
        (["--weights", 0], "--weights"),
        (["--chosen-by", "x", "y"], "--chosen-by has 2 texts"),
        (["--keep", "judge"], "--keep judge: write NAME=VALUE"),
        (["--keep", "judge=nobody"], "3 are not judge=nobody. In the sets judge is even (2), odd"),
        (["--keep", "juge=odd"], "--keep juge: no pair has juge. Did you mean judge? They have"),
        (["--keep", "third=1"], "no pair has third. Did you mean columns.third? They have judge"),
        (["--size", 4], "Set --size 3 or less"),
        (["--swap", 1.5], "--swap is 1.5"),
        (["--expect", "abc"], "not the content that the recipe was made with"),
        (["--without-flagged", "{bad}"], "is neither an id nor a row"),
        (["{data}"], "A set is named twice"),
        (["{missing}"], "no.jsonl does not exist"),
    ],
)
def test_what_cannot_be_ends_in_a_line(
    more: list[object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pairs(tmp_path, "a", 3)
    write_jsonl(tmp_path / "bad.jsonl", [{"row": 1}])
    names = {"{bad}": tmp_path / "bad.jsonl", "{data}": data, "{missing}": tmp_path / "no.jsonl"}
    words = [names.get(str(word), word) for word in more]
    assert run(data, *words, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) <= 2


def test_a_pair_with_an_image_for_one_branch_is_not_swapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = pairs(tmp_path, "a", 2, rejected_images=["red.png"])
    assert run(data, "--swap", 0.5, "--out", tmp_path / "out") == 2
    assert "a pair with rejected_images can't be swapped" in capsys.readouterr().err
    assert run(data, "--out", tmp_path / "out") == 0
    assert all(row["rejected_images"] for row in rows_of(tmp_path / "out"))


def test_names_of_sets() -> None:
    assert set_names([Path("x/a.jsonl"), Path("x/b.jsonl")]) == ["a", "b"]
    assert set_names([Path("x/pairs.parquet"), Path("y/pairs.parquet")]) == ["x", "y"]
    assert set_names([Path("x/1/p.parquet"), Path("y/1/p.parquet")]) == ["1", "2"]


MADE = ("pairs.parquet", "recipe.yaml", "summary.json", "skipped.jsonl")


def interrupted_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the making of rows interrupted once; the list counts its calls."""
    row, calls = rows._row, list[int]()

    def killed(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return row(*given)

    monkeypatch.setattr(rows, "_row", killed)
    return calls


def test_killed_and_resumed_and_in_shards_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [pairs(tmp_path, "a", 200), "--size", 150, "--out"]
    assert run(*data, tmp_path / "whole") == 0
    for shard in ("3/3", "1/3", "2/3"):
        assert not (tmp_path / "shards" / "pairs.parquet").exists()
        assert run(*data, tmp_path / "shards", "--shard", shard) == 0
    calls = interrupted_at(100, monkeypatch)
    assert run(*data, tmp_path / "killed") == 130
    assert not (tmp_path / "killed" / "pairs.parquet").exists()
    assert run(*data, tmp_path / "killed") == 0
    # 64 of 150 were kept: 99 before the kill, and the 86 from the second part on.
    assert len(calls) == 100 + 86
    for folder in ("shards", "killed"):
        for name in MADE:
            whole = (tmp_path / "whole" / name).read_bytes()
            assert (tmp_path / folder / name).read_bytes() == whole
        assert not (tmp_path / folder / "parts").exists()


def test_an_image_that_has_changed_since_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pairs(tmp_path, "a", 100)
    interrupted_at(70, monkeypatch)
    assert run(data, "--out", tmp_path / "out") == 130
    Image.new("RGB", (5, 4), "blue").save(tmp_path / "red.png")
    assert run(data, "--out", tmp_path / "out") == 0
    assert {row["images"][0].size for row in rows_of(tmp_path / "out")} == {(5, 4)}
