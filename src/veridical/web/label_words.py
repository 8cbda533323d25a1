"""The overview's numbers as its page writes them."""

from __future__ import annotations

from collections.abc import Mapping

from veridical.web.label_overview import AgreementRow, AnnotatorRow

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EM DASH}"
COEFFICIENTS = {"krippendorff_alpha": "Krippendorff's alpha", "cohen_kappa": "Cohen's kappa"}


def annotator_words(row: AnnotatorRow) -> Mapping[str, str]:
    """By the heading of its column, what is said of an annotator."""
    gold = NOTHING
    if row.gold_low is not None and row.gold_high is not None:
        interval = f"{100 * row.gold_low:.0f} to {100 * row.gold_high:.0f} %"
        gold = f"{row.gold_right} of {row.gold_done} ({interval})"
    ties = "tie" if row.answers["tie"] == 1 else "ties"
    kinds = {"decided": "decided", "tie": ties, "unsure": "can't tell", "broken": "broken"}
    said = [f"{row.answers[kind]} {word}" for kind, word in kinds.items() if row.answers[kind]]
    return {
        "Done": f"{row.done} of {row.total}",
        "Median": NOTHING if row.median_seconds is None else f"{row.median_seconds:.1f} s",
        "Per hour": NOTHING if row.per_hour is None else f"{row.per_hour:,.0f}",
        "Gold": gold,
        "Answers": ", ".join(said) or NOTHING,
    }


def agreement_label(row: AgreementRow) -> str:
    """Between whom a coefficient is, and which."""
    who = " and ".join(row.annotators)
    if row.coefficient == "krippendorff_alpha":
        who = "All annotators" if row.question == "preferred" else "The first question alone"
    return f"{who}: {COEFFICIENTS[row.coefficient]}"


def agreement_words(row: AgreementRow) -> Mapping[str, str]:
    """By the heading of its column, what is said of a coefficient."""
    interval = "too few for an interval"
    if row.low is not None and row.high is not None:
        interval = f"{_number(row.low)} to {_number(row.high)}"
    return {
        "Value": "not defined" if row.value is None else _number(row.value),
        "Interval": interval,
        "Same label": NOTHING if row.same is None else f"{100 * row.same:.0f} %",
        "Comparisons": str(row.units),
    }


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)
