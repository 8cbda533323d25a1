"""The headline claims what the intervals support, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from veridical.eval._reward_scores import REWARD
from veridical.report import tables
from veridical.report.headline import headline
from veridical.report.results import Arms, Change, Results
from veridical.report.wording import (
    bare_number,
    counted_in,
    duration,
    probability,
    scientific,
    show,
)
from veridical.runtime.descriptions import (
    BenchmarkDescription,
    MetricDescription,
    read_description,
)
from veridical.scoring.object_scores import CHAIR, POPE

METRIC = "chair/chair_i"


def results(*changes: tuple[float, float, float]) -> Results:
    found = Results({"chair": CHAIR})
    score = {"low": 0.15, "high": 0.19, "n": 9, "clusters": 1000}
    for arm, value in (("base", 0.172), ("sft", 0.171), ("bdhs", 0.11)):
        found.add(arm, METRIC, {**score, "value": value})
    found.changes["bdhs", METRIC] = [
        Change(value, low, high, 0.01, "base", seed)
        for seed, (value, low, high) in enumerate(changes)
    ]
    return found


def sentence(found: Results) -> str:
    main = headline(found)
    assert main is not None
    return main.sentence.replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(-0.06, -0.08, -0.04)], "Hallucinated mentions fell from 17.2 % to 11.0 %"),
        ([(0.06, 0.04, 0.08)], "Hallucinated mentions rose from 17.2 % to 11.0 %"),
        (
            [(-0.06, -0.13, 0.01)],
            "No clear change in hallucinated mentions: 17.2 % before, 11.0 % after",
        ),
        (
            [(-0.06, -0.08, -0.04)] * 3,
            "Hallucinated mentions fell from 17.2 % to 11.0 % in all 3 seeds",
        ),
        (
            [(-0.06, -0.08, -0.04), (-0.02, -0.05, 0.01)],
            "Hallucinated mentions clearly fell in only 1 of 2 seeds: 17.2 % before, 11.0 % after",
        ),
        ([], "Hallucinated mentions: 17.2 % before, 11.0 % after; the difference was not tested"),
    ],
)
def test_the_sentence_follows_the_interval(
    changes: list[tuple[float, float, float]], expected: str
) -> None:
    assert sentence(results(*changes)) == expected


def test_an_undefined_interval_supports_nothing() -> None:
    found = results()
    found.changes["bdhs", METRIC] = [Change(-0.06, None, None, None, "base", 0)]
    assert sentence(found).startswith("No clear change")


def test_p_has_to_agree_with_the_interval() -> None:
    assert Change(-0.06, -0.08, -0.04, 0.049, "base", 0).clear
    assert Change(-0.06, -0.08, -0.04, None, "base", 0).clear
    assert not Change(-0.06, -0.08, -0.04, 0.25, "base", 0).clear


def test_the_arm_that_is_asked_for_leads_and_the_named_baseline_is_the_baseline() -> None:
    found = results((-0.06, -0.08, -0.04))
    found.add("noise", METRIC, {"value": 0.1})
    assert found.headline_arm == "noise"  # the last
    found.named = Arms(about="bdhs")
    assert found.headline_arm == "bdhs"
    assert found.baseline == "base"
    assert Results().baseline is None
    assert headline(Results()) is None


def test_differences_from_a_control_stay_apart_from_those_from_the_baseline() -> None:
    found = results((-0.06, -0.08, -0.04))
    found.changes["bdhs", METRIC].insert(0, Change(0.01, -0.01, 0.03, 0.5, "sft", 0))
    found.changes["sft", METRIC] = [Change(-0.001, -0.01, 0.01, 0.9, "base", 0)]
    assert found.baseline == "base"
    assert found.other_baselines == ["sft"]
    assert sentence(found).startswith("Hallucinated mentions fell")
    [row] = tables.table_rows(found, main=True)
    assert [cell.change and cell.change.verdict for cell in row.cells] == [
        None,
        "unclear",
        "better",
    ]
    arms, [other] = tables.difference_rows(found, "sft")
    assert arms == ["bdhs"]
    change = other.cells[0].change
    assert change is not None
    assert change.lines[0].startswith("+1.0 points")


def test_seeds_share_a_verdict_or_differ() -> None:
    found = results((-0.06, -0.08, -0.04), (-0.02, -0.05, 0.01))
    change = tables.table_rows(found, main=True)[0].cells[2].change
    assert change is not None
    assert len(change.lines) == 2
    assert change.words == "seeds differ"
    main = headline(found)
    assert main is not None
    assert "for seeds 0 and 1" in main.details[0]


def test_seeds_are_averaged_and_undefined_values_left_out() -> None:
    found = Results({"chair": CHAIR})
    for value in (0.1, 0.2, None):
        found.add("bdhs", METRIC, {"value": value})
    assert found.mean("bdhs", METRIC) == pytest.approx(0.15)
    assert found.mean("bdhs", "chair/recall") is None


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.2, -0.1, "lower", "better"),
        (-0.2, -0.1, "higher", "worse"),
        (-0.2, -0.1, None, "changed"),
        (-0.2, 0.1, "lower", "unclear"),
    ],
)
def test_better_needs_an_interval_without_zero(
    low: float, high: float, better: str | None, verdict: str
) -> None:
    change = Change((low + high) / 2, low, high, 0.01, "base", None)
    assert change.verdict(better) == verdict  # type: ignore[arg-type]


def test_metrics_of_groups_are_shown_like_those_of_the_whole() -> None:
    pope, reward = Results({"pope": POPE}), Results({"reward": REWARD})
    assert pope.describe("pope/random/f1").label == "Yes/no F1, random"
    assert pope.describe("pope/random/f1").shown == "more"
    assert pope.describe("pope/something").unit == "number"
    of_kind = reward.describe("reward/kind=colour/accuracy")
    assert of_kind.label == "Pairs ranked correctly, kind=colour"


def test_the_headline_is_that_of_the_first_benchmark_that_was_run() -> None:
    found = Results({"pope": replace(POPE, place=1), "chair": CHAIR})
    for arm, value in (("base", 0.8), ("dpo", 0.9)):
        found.add(arm, "pope/accuracy", {"value": value})
    assert sentence(found).startswith("Yes/no questions right: 80.0 % before, 90.0 % after")
    found.add("base", METRIC, {"value": 0.2})
    found.add("dpo", METRIC, {"value": 0.1})
    assert sentence(found).startswith("Hallucinated mentions: 20.0 % before")
    found.sort_metrics()
    assert found.metrics == [METRIC, "pope/accuracy"]


def test_a_benchmark_that_nobody_knows_is_shown_by_its_own_description() -> None:
    told = MetricDescription("score", "Jokes understood", better="higher", shown="top")
    jokes = BenchmarkDescription(
        "jokes", "JOKES", "Jokes were told", (told,), "score", "the share of jokes", "laughs at"
    )
    found = Results({"jokes": read_description(jokes.as_json())})
    for arm, value in (("base", 0.2), ("dpo", 0.5)):
        found.add(arm, "jokes/score", {"value": value})
    found.changes["dpo", "jokes/score"] = [Change(0.3, 0.2, 0.4, 0.001, "base", 0)]
    assert sentence(found) == "Jokes understood rose from 20.0 % to 50.0 %"
    [tile] = tables.tiles(found)
    assert (tile.label, tile.verdict) == ("Jokes understood", "better")


def test_numbers_are_written_for_people() -> None:
    assert show(0.1723, "percent") == "17.2\N{NARROW NO-BREAK SPACE}%"
    assert show(None, "percent") == "\N{EM DASH}"
    assert bare_number(-0.062, "percent", signed=True) == "\N{MINUS SIGN}6.2"
    assert bare_number(0.00001, "percent", signed=True) == "0.0"
    assert show(0.79524, "share") == "0.795"
    assert bare_number(0.002777, "share", signed=True) == "+0.003"
    assert bare_number(-0.0001384, "share", signed=True) == "0.000"
    assert probability(0.00002).endswith("0.001")
    # On which side of 0.05 it lies is shown, since a change is called clear by it.
    shown = {
        p: probability(p).rpartition("\N{NARROW NO-BREAK SPACE}")[2]
        for p in (0.0496, 0.04996, 0.05, 0.0504, 0.031)
    }
    assert list(shown.values()) == ["0.0496", "0.04996", "0.05", "0.05", "0.031"]
    thin = "\N{NARROW NO-BREAK SPACE}"
    assert scientific(1.44e-5) == f"1.4{thin}\N{MULTIPLICATION SIGN}{thin}10\u207b\u2075"
    assert scientific(46.5) == "46.5"
    assert scientific(0) == "0"
    assert duration(3723) == "1 h 2 min"
    assert duration(63.2) == "1 min 3 s"


def test_a_difference_without_a_unit_has_no_space_behind_it() -> None:
    assert counted_in("+1.0", "percent") == "+1.0 points"
    assert counted_in("+1.0", "number") == "+1.0"
