"""AlpacaEval 2's length-controlled win rate, against the figures of its own package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from length_cases import annotated, write_gamed

from veridical.cli import main
from veridical.runtime.files import read_json, read_jsonl
from veridical.scoring.length_control import Comparisons, control_lengths

PUBLISHED = {
    "plain": (42.887957728852044, 0.6891585238737581),
    "ties": (45.77793179949289, 0.3930723176402186),
    "unread": (42.40539296828457, 0.686216748326929),
    "some": (42.69125176532971, 0.9836134307124594),
    "shuffled": (42.86327972075178, 0.6905993116974424),
    "strong": (94.2091124288838, 0.14307684254333156),
    "weak": (2.60659598875773, 0.06049053930017819),
    "few": (42.54250606322635, 0.7567568584582806),
}
"""Win rate and standard error in percent: python tests/helpers/length_cases.py."""
METRIC = "length_controlled_win_rate"


def command(folder: Path, rows: list[dict[str, Any]], out: str = "out") -> list[str]:
    """The command that scores rows, whose file is written."""
    if not (folder / "df_gamed.csv").exists():
        write_gamed(folder / "df_gamed.csv")
    (folder / "annotations.json").write_text(json.dumps(rows))
    return ["eval", "alpaca_eval", "--preferences", str(folder / "annotations.json"),
            "--length-controlled", str(folder / "df_gamed.csv"),
            "--out", str(folder / out)]  # fmt: skip


def scored(folder: Path, rows: list[dict[str, Any]], out: str = "out") -> dict[str, Any]:
    assert main(command(folder, rows, out)) == 0
    return dict(read_json(folder / out / "scores.json"))


@pytest.mark.parametrize("case", PUBLISHED)
def test_the_packages_figures(tmp_path: Path, case: str) -> None:
    found = scored(tmp_path, annotated(case))
    printed = found["about"][f"printed/{METRIC}"], found["about"]["printed/lc_standard_error"]
    assert printed == pytest.approx(PUBLISHED[case], abs=1e-6)
    score = found["scores"][METRIC]
    assert 100 * score["value"] == pytest.approx(PUBLISHED[case][0], abs=1e-6)
    # The printed error leaves out that the regression was fitted: it is a fraction of the true one.
    assert score["high"] - score["low"] > 2 * 1.96 * PUBLISHED[case][1] / 100


def test_a_baseline_against_itself(tmp_path: Path) -> None:
    rows = [{**row, "generator_2": "baseline"} for row in annotated("few")]
    assert scored(tmp_path, rows)["scores"][METRIC]["value"] == 0.5


def test_equal_differences_leave_it_undefined(tmp_path: Path) -> None:
    rows = [{**row, "output_1": "xx", "output_2": "x"} for row in annotated("few")]
    score = scored(tmp_path, rows)["scores"][METRIC]
    assert score["value"] is None
    assert "same length" in score["note"]


def test_without_a_preference_there_is_no_figure(tmp_path: Path) -> None:
    """The gamed baselines alone would predict one. Of two preferences the interval is wide."""
    rows = [{**row, "preference": None} for row in annotated("few")]
    found = scored(tmp_path, rows)
    assert found["scores"][METRIC]["value"] is None
    assert "no answer has a preference" in found["scores"][METRIC]["note"]
    assert f"printed/{METRIC}" not in found["about"]
    known = [*annotated("few")[:2], *rows[2:]]
    score = scored(tmp_path, known, "two")["scores"][METRIC]
    assert score["n"] == 2
    assert score["high"] - score["low"] > 0.5


def test_two_models_are_paired(tmp_path: Path) -> None:
    """A better model with the same answers' lengths; against itself there is no difference."""
    scored(tmp_path, annotated("plain"))
    better = [{**row, "preference": min(2, row["preference"] + 0.2)} for row in annotated("plain")]
    scored(tmp_path, better, "better")
    for candidate, low, high in (("better", 0.05, 0.25), ("out", 0, 0)):
        folders = [str(tmp_path / name) for name in ("out", candidate)]
        words = ["eval", "compare", *folders, "--out", str(tmp_path / f"to_{candidate}")]
        assert main(words) == 0
        rows = read_json(tmp_path / f"to_{candidate}" / "comparison.json")["differences"]
        row = next(row for row in rows if row["metric"] == METRIC)
        assert low <= row["value"] <= high
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["p"] < 0.05) == (candidate == "better")


def test_what_a_comparison_moves_is_what_changing_it_does() -> None:
    """The derivative by each preference, against a fit with that preference changed.

    Cross-validation may choose another penalty, which is not a derivative; here it does not.
    """
    random = np.random.default_rng(0)
    count = 400

    def some(preferences: Any) -> Comparisons:
        return Comparisons(lengths, difficulties, np.ones(count), preferences)

    lengths, difficulties = random.normal(size=count), random.normal(size=count)
    logits = 0.4 - lengths + 0.5 * difficulties + random.normal(size=count)
    preferences = 1 / (1 + np.exp(-logits))
    gamed = Comparisons(lengths[:50], difficulties[:50], np.zeros(50), preferences[:50])
    fitted = control_lengths(some(preferences), gamed)
    design = some(preferences).design()
    chances = 1 / (1 + np.exp(-design @ fitted.coefficients))
    direct = (fitted.preferences - fitted.preferences.mean()) / count
    for place in (3, 40, 111):
        changed = preferences.copy()
        changed[place] = 1 - changed[place]
        moved = control_lengths(some(changed), gamed).preferences.mean()
        slope = (fitted.moved - direct)[place] / (preferences - chances)[place]
        wanted = slope * (changed - preferences)[place]
        assert moved - fitted.preferences.mean() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("concise,0,1.5,1,1,False", "row 1: preference must be a number from 0 to 1, not '1.5'"),
        ("concise,0.5,1,1,1,False", "row 1: index must be a whole number, not '0.5'"),
        ("concise,0,1,nan,1,False", "row 1: std_delta_len must be a number, not 'nan'"),
        ("concise,0,1,1,,False", "row 1: instruction_difficulty must be a number, not ''"),
        ("concise,0,1,1,1,0", "row 1: not_gamed_baseline must be True or False"),
        ("concise,0,1,1", "more or fewer cells"),
        ("concise,7,1,1,1,False", ""),
    ],
)
def test_files_of_another_form_are_refused(
    tmp_path: Path, line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gamed(tmp_path / "df_gamed.csv")
    lines = (tmp_path / "df_gamed.csv").read_text().splitlines()
    (tmp_path / "df_gamed.csv").write_text("\n".join([lines[0], line, *lines[2:]]))
    assert main(command(tmp_path, annotated("few"))) == (2 if told else 0)
    assert told in capsys.readouterr().err


def test_difficulties_go_by_number(tmp_path: Path) -> None:
    """Of a file in another order; the package goes by place."""
    write_gamed(tmp_path / "df_gamed.csv")
    head, *lines = (tmp_path / "df_gamed.csv").read_text().splitlines()
    (tmp_path / "df_gamed.csv").write_text("\n".join([head, *lines[::-1]]))
    scored(tmp_path, annotated("few"))
    told = {line.split(",")[1]: float(line.split(",")[4]) for line in lines}
    rows = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert all(row["difficulty"] == told[row["question_id"]] for row in rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda n: {"index": 1000 + n}, "no difficulty of 40 of 40 instructions (1000, 1001"),
        (lambda n: {"generator_2": f"model {n % 2}"}, "names 2: model 0, model 1"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(
    tmp_path: Path, change: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_gamed(tmp_path / "df_gamed.csv")
    rows = [{**row, **change(row["index"])} for row in annotated("few")]
    assert main(command(tmp_path, rows)) == 2
    assert told in capsys.readouterr().err


def test_without_the_library_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(command(tmp_path, annotated("few"))) == 2
    assert "veridical[text]" in capsys.readouterr().err
