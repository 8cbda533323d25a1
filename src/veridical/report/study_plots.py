"""The plots of a study: effects with their intervals, cost beside effect, learning curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from veridical.report.curves import series
from veridical.report.figures import (
    BLUE,
    GRAY,
    GREEN,
    SIZE,
    VERMILION,
    Plot,
    arm_label,
    canvas,
    embed_svg,
)
from veridical.report.hacking import movement
from veridical.report.study_results import Effect, ShownArm
from veridical.report.wording import interval_text

CURVES = (
    ("rewards_margin", "Margin (chosen \N{MINUS SIGN} rejected), on the scale of each arm's loss"),
    ("reward", "Reward"),
    ("loss", "Loss"),
)
MOST_CURVES = 8
LEGEND_MARK, LEGEND_LETTER = 0.42, 0.058
"""Inches of a legend's entry: its line with the space around it, and a letter of 7.5 points."""
STYLES = (("-", BLUE), ("-", VERMILION), ("-", GREEN), ("-", GRAY),
          ("--", BLUE), ("--", VERMILION), ("--", GREEN), ("--", GRAY))  # fmt: skip


def forest(effects: Sequence[Effect], difference: float) -> Plot | None:
    """The primary metric's differences with their intervals, an arm a line."""
    drawn = [effect for effect in effects if effect.value is not None]
    if not drawn:
        return None
    metric = drawn[0].metric
    scale = 100.0 if metric.unit == "percent" else 1.0
    words = []
    left = 0.25 + 0.075 * max(len(arm_label(effect.arm)) for effect in drawn)
    height, width = 0.7 + 0.3 * len(drawn), 2 * SIZE[0]
    with canvas(left, bottom=0.46, top=0.05, height=height, width=width) as (figure, axes):
        axes.axvspan(-difference * scale, difference * scale, color="#eef1f3", linewidth=0)
        axes.axvline(0.0, color="#9aa3ad", linewidth=1)
        for place, effect in enumerate(drawn):
            assert effect.value is not None
            color = {"better": BLUE, "worse": VERMILION}.get(effect.conclusion, GRAY)
            if effect.low is not None and effect.high is not None:
                ends = [effect.low * scale, effect.high * scale]
                axes.plot(ends, [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([effect.value * scale], [place], marker="o", markersize=6.5, color=color)
            range_ = interval_text(effect.low, effect.high, metric.unit, signed=True)
            words.append(f"{effect.arm} {interval_value(effect)} ({range_})")
        axes.set_yticks(range(len(drawn)), [arm_label(effect.arm) for effect in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("points" if metric.unit == "percent" else "")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10))
        title = f"{metric.label}: difference from {drawn[0].baseline}"
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(words)}.")


def cost_plot(arms: Sequence[ShownArm], effects: Sequence[Effect]) -> Plot | None:
    """Each arm's effect over what it took."""
    seconds = {arm.name: arm.seconds for arm in arms}
    points = [
        (taken / 60, effect)
        for effect in effects
        if effect.value is not None and (taken := seconds.get(effect.arm)) is not None
    ]
    if not points:
        return None
    metric = points[0][1].metric
    scale = 100.0 if metric.unit == "percent" else 1.0
    base, own = points[0][1].baseline, seconds.get(points[0][1].baseline)
    with canvas(left=0.55, bottom=0.46, top=0.1, height=2.7) as (figure, axes):
        axes.axhline(0.0, color="#9aa3ad", linewidth=1)
        middle = sum(minutes for minutes, _ in points) / len(points)
        for minutes, effect in points:
            assert effect.value is not None
            color = {"better": BLUE, "worse": VERMILION}.get(effect.conclusion, GRAY)
            _mark(axes, effect.arm, (minutes, effect.value * scale), color, minutes > middle)
        if own is not None:
            _mark(axes, base, (own / 60, 0.0), GRAY, own / 60 > middle)
        axes.set_xlabel("minutes of all steps that one run of the arm needs")
        axes.margins(x=0.25, y=0.2)
        title = f"{metric.label}: difference from {base}, and what it took"
        words = [f"{e.arm} {interval_value(e)} in {minutes:.1f} minutes" for minutes, e in points]
        words += [] if own is None else [f"{base} itself in {own / 60:.1f} minutes"]
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(words)}.")


def _mark(axes: Axes, arm: str, place: tuple[float, float], color: str, ends: bool) -> None:
    """A point with its arm's name, which ends there where it would leave the plot."""
    axes.plot([place[0]], [place[1]], marker="o", markersize=6, color=color)
    axes.annotate(
        arm_label(arm), place, xytext=(-4 if ends else 4, 4), textcoords="offset points",
        ha="right" if ends else "left", fontsize=7, color=GRAY,
    )  # fmt: skip


def learning_curves(arms: Sequence[ShownArm]) -> list[Plot]:
    """A plot for each figure that trainings logged, an arm a curve; of the first seed."""
    return [
        plot for name, title in CURVES if (plot := _learning_curve(arms, name, title)) is not None
    ]


def _learning_curve(arms: Sequence[ShownArm], name: str, title: str) -> Plot | None:
    logged = {
        arm.name: points
        for arm in arms
        if (points := series([r for r in arm.log if r.get("split", "train") == "train"], name))
    }
    if not logged:
        return None
    shown = list(itertools.islice(logged.items(), MOST_CURVES))
    columns = legend_columns([arm_label(arm) for arm, _ in shown])
    top = 0.12 + 0.17 * math.ceil(len(shown) / columns)
    with canvas(left=0.5, bottom=0.46, top=top, height=2.3 + top) as (figure, axes):
        for (arm, points), (line, color) in zip(shown, STYLES, strict=False):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, line, color=color, linewidth=1.4, label=arm_label(arm))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.legend(loc="upper left", ncols=columns, handlelength=1.6, columnspacing=1.0,
                      fontsize=7.5)  # fmt: skip
        left_out = len(logged) - MOST_CURVES
        are = "more arm is" if left_out == 1 else "more arms are"
        title += f" ({left_out} {are} not drawn)" if left_out > 0 else ""
        ends = [f"{arm} ends at {points[-1][1]:.3g}" for arm, points in logged.items()]
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(ends)}.")


def legend_columns(labels: Sequence[str]) -> int:
    """How many columns of a legend in the plots' small type fit beside one another."""
    widest = max(len(label) for label in labels)
    return max(1, min(3, int(SIZE[0] / (LEGEND_MARK + LEGEND_LETTER * widest))))


def reward_and_truth(arms: Sequence[ShownArm]) -> list[dict[str, str]]:
    """Of arms that learn from rewards: what is rewarded, what is true and how long answers are."""
    found = []
    for arm in arms:
        rows = [row for row in arm.log if row.get("split", "train") == "train"]
        reward, truth = (movement(rows, name) for name in ("judge_score", "exact_score"))
        length = movement(rows, "response_tokens")
        if reward is not None and (truth is not None or length is not None):
            found.append(
                {"arm": arm.name, "reward": _moved(reward, 2),
                 "truth": "" if truth is None else _moved(truth, 3),
                 "length": "" if length is None else _moved(length, 1)}
            )  # fmt: skip
    return found


def _moved(moved: Sequence[float], digits: int) -> str:
    start, end, errors = moved
    return f"{start:.{digits}f} to {end:.{digits}f} ({errors:+.1f} SE)"


def interval_value(effect: Effect) -> str:
    """A difference with its sign, in the metric's unit."""
    if effect.value is None:
        return "undefined"
    factor = 100 if effect.metric.unit == "percent" else 1
    digits = 1 if effect.metric.unit in ("percent", "words") else 3
    return f"{factor * effect.value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
