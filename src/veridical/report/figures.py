"""Plots as SVG inside the page: small, one message each, in colours the colour-blind can tell."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from veridical.report.curves import Rows, series
from veridical.report.hacking import standardized
from veridical.report.results import ArmValue, Results
from veridical.report.wording import interval_text, scientific, show
from veridical.runtime.descriptions import BenchmarkDescription

# Okabe and Ito's palette, made for colour-blind readers; blue is what is preferred throughout.
BLUE, VERMILION, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#5b6470"
SIZE = (3.6, 2.45)
# Above this many points the raw curve is drawn faint behind a running mean.
SMOOTH_ABOVE = 30
SMOOTH_SHARE = 0.08
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa3ad",
    "axes.labelcolor": GRAY,
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "veridical",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,  # it would stand in the legend
}


@dataclass(frozen=True)
class Plot:
    """An SVG as a data URI, with a title above, and words for those who cannot see it."""

    title: str
    uri: str
    words: str


@dataclass(frozen=True)
class Curve:
    """One figure of the log and how it is drawn."""

    name: str
    label: str
    color: str


TICK, LETTER = 0.15, 0.08
"""Inches of a tick with its pad and a minus sign, and of a digit, at the page's font size."""
LONGEST_LABEL = 20
"""Of an arm beside its values, in letters."""


@contextmanager
def canvas(
    left: float, bottom: float, top: float, height: float = SIZE[1], width: float = SIZE[0]
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes in the page's style; margins and size in inches.

    Margins are given because working them out draws every figure twice.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        box = (
            left / width,
            bottom / height,
            1 - (left + 0.16) / width,
            1 - (bottom + top) / height,
        )
        yield figure, figure.add_axes(box)


def make_room(figure: Figure) -> None:
    """Move axes to the right as far as the longest number beside them needs."""
    for axes in figure.axes:
        numbers = axes.yaxis.get_major_formatter()
        if isinstance(numbers, ScalarFormatter):  # names have their margin
            longest = max(map(len, numbers.format_ticks(list(axes.get_yticks()))), default=0)
            box = axes.get_position()
            left = max(box.x0, (TICK + LETTER * longest) / figure.get_figwidth())
            axes.set_position((left, box.y0, box.x1 - left, box.height))


def embed_svg(figure: Figure) -> str:
    """The figure as a data URI; the same data give the same bytes."""
    make_room(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Panel:
    """A plot of the log.

    Attributes:
        title: stands above it.
        curves: what is drawn.
        line: a level that means something, drawn across; None for none.
    """

    title: str
    curves: tuple[Curve, ...]
    line: float | None = None


def _two(title: str, one: tuple[str, str], other: tuple[str, str], line: float | None) -> Panel:
    """A panel of two figures, each by its name in the log and its label."""
    return Panel(title, (Curve(*one, BLUE), Curve(*other, VERMILION)), line)


PANELS = (
    _two(
        "Rewards", ("rewards_chosen", "chosen"), ("rewards_rejected", "rejected"), line=0.0
    ),
    Panel(
        "Margin (chosen \N{MINUS SIGN} rejected)", (Curve("rewards_margin", "margin", BLUE),), 0.0
    ),
    Panel(
        "Accuracy (pairs whose chosen answer has the higher reward)",
        (Curve("rewards_accuracy", "accuracy", BLUE),), 0.5
    ),
    Panel("Loss", (Curve("loss", "loss", BLUE),)),
    _two(
        "Log-probability of the answers, in nats",
        ("logps_chosen", "chosen"), ("logps_rejected", "rejected"), line=None,
    ),
    Panel("Reward", (Curve("reward", "reward", BLUE),)),
    _two("Moved from the start, nats a response", ("kl_k1", "k1"), ("kl_k3", "k3"), line=0.0),
    Panel("Entropy, nats a token", (Curve("entropy", "entropy", BLUE),)),
    Panel("Length of sampled responses, tokens", (Curve("response_tokens", "tokens", BLUE),)),
    _two(
        "Shares of clipped ratios, and of variance explained",
        ("clip_share", "clipped"), ("explained_variance", "explained"), line=0.0,
    ),
    Panel(
        "Fresh pairs: share of prompts",
        (
            Curve("share_online", "decided", BLUE),
            Curve("share_tie", "ties", VERMILION),
            Curve("share_offline", "the record's own", GREEN),
        ),
    ),
)  # fmt: skip


def training_plots(
    log: Rows, checked: Sequence[BenchmarkDescription] = (), of_means: bool = False
) -> list[Plot]:
    """Rewards, margin, accuracy, loss and log-probabilities; those that were logged.

    Args:
        log: the rows of `log.jsonl`.
        checked: the benchmarks that it has figures of.
        of_means: whether rewards are of means over tokens, and not of sums.
    """
    panels = [_of_means(panel) for panel in PANELS] if of_means else PANELS
    plots = [_training_plot(log, panel) for panel in panels]
    # Evaluations alone have these figures: a curve of their own, not circles beside one.
    asked = [{**row, "split": "train"} for row in log if row.get("split") == "eval"]
    for benchmark in checked:
        title = f"{benchmark.title} on the checked images"
        plots.append(_training_plot(asked, Panel(title, _curves(benchmark))))
    return [plot for plot in (_hacking_plot(log), *plots) if plot is not None]


def _of_means(panel: Panel) -> Panel:
    """With a title that says so, where the panel shows rewards."""
    if not panel.curves[0].name.startswith(("rewards_chosen", "rewards_margin")):
        return panel
    return dataclasses.replace(panel, title=f"{panel.title}, of means over tokens")


def _curves(benchmark: BenchmarkDescription) -> tuple[Curve, ...]:
    drawn = [metric for metric in benchmark.metrics if metric.curve]
    colors = itertools.cycle((BLUE, VERMILION, GREEN))
    return tuple(
        Curve(f"{benchmark.name}/{metric.name}", metric.curve, color)
        for metric, color in zip(drawn, colors, strict=False)
    )


def _hacking_plot(log: Rows) -> Plot | None:
    """What is rewarded, what is true and how long it is, in one plot: they should go together.

    Each curve is in its own standard deviations, from where it started.
    """
    curves = [
        Curve("judge_score", "what is rewarded", BLUE),
        Curve("exact_score", "what is true", GREEN),
        Curve("response_tokens", "length", VERMILION),
    ]
    log = [row for row in log if row.get("split", "train") == "train"]
    if not (series(log, "judge_score") and series(log, "exact_score")):
        return None
    title = "Reward, truth and length, each in its own standard deviations"
    words = []
    with canvas(left=0.5, bottom=0.46, top=0.32) as (figure, axes):
        axes.axhline(0.0, color="#9aa3ad", linewidth=1, linestyle=(0, (2, 2)))
        for curve in curves:
            points = series(log, curve.name)
            _draw_curve(axes, standardized(points), curve, several=True)
            words.append(f"{curve.label} {_ends([value for _, value in points])}")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.margins(x=0.02)
        _legend(figure, axes, held_out_color=GRAY)
        return Plot(title, embed_svg(figure), f"{title}: {'; '.join(words)}.")


def _training_plot(log: Rows, panel: Panel) -> Plot | None:
    train = [row for row in log if row.get("split", "train") == "train"]
    held_out = [row for row in log if row.get("split") == "eval"]
    several = len(panel.curves) > 1
    words = []
    with canvas(left=0.5, bottom=0.46, top=0.32) as (figure, axes):
        if panel.line is not None:
            axes.axhline(panel.line, color="#9aa3ad", linewidth=1, linestyle=(0, (2, 2)))
        for curve in panel.curves:
            drawn = _draw_curve(axes, series(train, curve.name), curve, several)
            drawn += _draw_held_out(axes, series(held_out, curve.name), curve, several)
            words += drawn
        if not words:
            return None
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.margins(x=0.02)
        if len(words) > 1:
            _legend(figure, axes, held_out_color=GRAY if several else VERMILION)
        return Plot(panel.title, embed_svg(figure), f"{panel.title}: {'; '.join(words)}.")


def _legend(figure: Figure, axes: Axes, held_out_color: str) -> None:
    """The curves by colour, and once for all of them what the circles are."""
    handles = axes.get_legend_handles_labels()[0]
    if any(line.get_marker() == "o" for line in axes.get_lines()):
        circles: dict[str, Any] = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white"}
        handles.append(Line2D([], [], color=held_out_color, ls="--", label="held out", **circles))
    figure.legend(handles=handles, loc="upper left", ncols=3, handlelength=1.8, columnspacing=1.2)


def _finite(points: Sequence[tuple[float, float]]) -> tuple[Any, Any]:
    kept = [(step, value) for step, value in points if np.isfinite(value)]
    return np.array([step for step, _ in kept]), np.array([value for _, value in kept])


def _draw_curve(
    axes: Axes, points: Sequence[tuple[float, float]], curve: Curve, several: bool
) -> list[str]:
    steps, values = _finite(points)
    if not len(steps):
        return []
    label = curve.label if several else "training"
    if len(steps) > SMOOTH_ABOVE:
        axes.plot(steps, values, color=curve.color, linewidth=0.8, alpha=0.28)
        values = running_mean(values, max(3, round(len(values) * SMOOTH_SHARE)))
    marker = "." if len(steps) < 3 else None
    axes.plot(steps, values, color=curve.color, linewidth=1.7, label=label, marker=marker)
    return [f"{label} {_ends(values)}"]


def _draw_held_out(
    axes: Axes, points: Sequence[tuple[float, float]], curve: Curve, several: bool
) -> list[str]:
    steps, values = _finite(points)
    if not len(steps):
        return []
    color = curve.color if several else VERMILION
    axes.plot(
        steps,
        values,
        color=color,
        linewidth=1.2,
        linestyle=(0, (4, 2)),
        marker="o",
        markersize=4.5,
        markerfacecolor="white",
        markeredgewidth=1.3,
    )
    which = f"{curve.label}, held out," if several else "held out"
    return [f"{which} {_ends(values)}"]


def _ends(values: Sequence[float]) -> str:
    return f"from {scientific(float(values[0]))} to {scientific(float(values[-1]))}"


def running_mean(values: Any, width: int) -> Any:
    """Centered mean over `width` values, over fewer at both ends; the same length as `values`."""
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def metric_plots(results: Results) -> list[Plot]:
    """One small plot a main metric: every arm's value with its 95 % interval."""
    plots = []
    for metric in results.metrics:
        rows = {arm: results.values.get((arm, metric), []) for arm in results.arms}
        rows = {arm: [v for v in values if v.value is not None] for arm, values in rows.items()}
        rows = {arm: values for arm, values in rows.items() if values}
        if results.describe(metric).shown != "more" and rows:
            plots.append(_metric_plot(metric, rows, results))
    return plots


def arm_label(arm: str) -> str:
    """An arm's name at an axis: without its middle where it is long, and never as a formula."""
    half = LONGEST_LABEL // 2
    short = arm if len(arm) <= LONGEST_LABEL else f"{arm[:half]}…{arm[-half:]}"
    return short.replace("$", r"\$")


def _metric_plot(metric: str, rows: Mapping[str, Sequence[ArmValue]], results: Results) -> Plot:
    name = results.describe(metric)
    scale = 100.0 if name.unit == "percent" else 1.0
    words = []
    left = 0.2 + 0.075 * max(len(arm_label(arm)) for arm in rows)
    with canvas(left, bottom=0.46, top=0.05, height=0.6 + 0.3 * len(rows)) as (figure, axes):
        for place, (arm, values) in enumerate(rows.items()):
            color = GRAY if arm == results.baseline else VERMILION
            color = BLUE if arm == results.headline_arm else color
            for index, value in enumerate(values):
                shift = (index - (len(values) - 1) / 2) * 0.22
                _draw_value(axes, value, place + shift, scale, color)
            first = values[0]
            range_ = interval_text(first.low, first.high, name.unit)
            words.append(f"{arm} {show(first.value, name.unit)} ({range_})")
        axes.set_yticks(range(len(rows)), [arm_label(arm) for arm in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(
            {"percent": "percent", "words": "words", "share": "", "number": ""}[name.unit]
        )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.margins(x=0.08)
        return Plot(name.label, embed_svg(figure), f"{name.label}: {'; '.join(words)}.")


def _draw_value(axes: Axes, value: ArmValue, place: float, scale: float, color: str) -> None:
    center = (value.value or 0.0) * scale
    if value.low is not None and value.high is not None:
        ends = [value.low * scale, value.high * scale]
        axes.plot(ends, [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.plot([center], [place], marker="o", markersize=6.5, color=color)
