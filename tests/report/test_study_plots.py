"""The plots of a study, and its table of reward against truth."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.report.figures import arm_label
from veridical.report.study_plots import (
    MOST_CURVES,
    cost_plot,
    learning_curves,
    legend_columns,
    reward_and_truth,
)
from veridical.report.study_results import Effect, ShownArm
from veridical.scoring.object_scores import CHAIR


def arm(name: str, seconds: float | None = None, truth: float | None = None) -> ShownArm:
    """An arm whose reward rises by 1 in 40 steps, and truth by so much."""
    log = [
        {"step": step, "reward": step / 40, "judge_score": step / 40}
        | ({} if truth is None else {"exact_score": 0.5 + truth * step / 40})
        for step in range(41)
    ]
    return ShownArm(name, "", "", {0: 0.1}, seconds, log)


def effect(name: str, value: float) -> Effect:
    return Effect(
        name, "base", CHAIR.metric("chair_i"), value, value - 0.01, value + 0.01, 0.01, 0.02, 0.1,
        0.1 - value, 3, 100, 0.01, "worse",
    )  # fmt: skip


def test_what_the_base_arm_took_stands_beside_the_others() -> None:
    arms = [arm("base", 120.0), arm("dpo", 300.0), arm("unknown")]
    plot = cost_plot(arms, [effect("dpo", 0.02), effect("unknown", 0.01)])
    assert plot is not None
    assert "dpo +2.0 in 5.0 minutes; base itself in 2.0 minutes." in plot.words
    assert "unknown" not in plot.words


def test_curves_that_are_not_drawn_are_counted() -> None:
    def title(count: int) -> Sequence[str]:
        return [plot.title for plot in learning_curves([arm(f"a{n}") for n in range(count)])]

    assert title(MOST_CURVES) == ["Reward"]
    assert title(MOST_CURVES + 1) == ["Reward (1 more arm is not drawn)"]
    assert title(MOST_CURVES + 2) == ["Reward (2 more arms are not drawn)"]


def test_a_legend_of_long_names_has_fewer_columns() -> None:
    assert legend_columns(["dpo", "sft"]) == 3
    assert legend_columns([arm_label("a" * 40), "sft"]) == 2


def test_reward_and_truth_stand_side_by_side() -> None:
    follows, parts = reward_and_truth([arm("dpo"), arm("follows", truth=0.2),
                                       arm("parts", truth=-0.2)])  # fmt: skip
    # Means of the first and the last 4 of 41 steps: 0.5 +- 0.0075, shown as 0.507, and +- 0.1925.
    assert follows["truth"].startswith("0.507 to 0.693 (+")
    assert parts["truth"].startswith("0.492 to 0.307 (-")
    assert (follows["arm"], parts["arm"]) == ("follows", "parts")
