"""How far a labeling is, how fast it went, and how far annotators agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from scipy.stats import binomtest

from veridical.scoring.agreement import Agreement, cohen_kappa, krippendorff_alpha
from veridical.web.label_plan import exchanged
from veridical.web.label_state import OTHER
from veridical.web.label_store import LabelStore

DECIDED = ("first", "second", "tie")
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class AnnotatorRow:
    """One annotator.

    Attributes:
        name: of the annotator.
        done: comparisons that are done.
        total: that were dealt.
        seconds: the median of a comparison; "" before the first.
        hourly: comparisons an hour at the mean speed; "" before the first.
        gold: share of the gold comparisons that were decided as known, in words.
        said: how often each answer was given, in words.
    """

    name: str
    done: int
    total: int
    seconds: str
    hourly: str
    gold: str
    said: str


@dataclass(frozen=True)
class AgreementRow:
    """One coefficient, in words."""

    label: str
    value: str
    interval: str
    same: str
    units: int


@dataclass(frozen=True)
class Overview:
    """Everything on the page."""

    annotators: list[AnnotatorRow]
    agreement: list[AgreementRow]
    twice: int


def overview(store: LabelStore, seed: int) -> Overview:
    """The state of a labeling."""
    gold = store.gold_tasks()
    names = list(store.dealt)
    turned = exchanged(store.dealt, gold, seed)
    said = final_labels(store, gold)
    table = label_table(said, turned)
    rows = []
    if len(names) > 1:
        rows.append(_row("All annotators: Krippendorff's alpha", krippendorff_alpha(table, seed)))
        first = label_table(_first_labels(store, gold), turned)
        rows.append(
            _row("The first question alone: Krippendorff's alpha", krippendorff_alpha(first, seed))
        )
        for one, other in combinations(range(len(names)), 2):
            two = [(row[one], row[other]) for row in table]
            label = f"{names[one]} and {names[other]}: Cohen's kappa"
            rows.append(_row(label, cohen_kappa(two, seed)))
    twice = sum(sum(label is not None for label in row) > 1 for row in table)
    return Overview([_annotator(store, name, gold) for name in names], rows, twice)


def final_labels(store: LabelStore, gold: set[int]) -> dict[str, dict[int, str]]:
    """By annotator and comparison: `first`, `second` or `tie`, without gold ones."""
    return {
        name: {
            task: judgment.preferred
            for task, judgment in store.known.get(name, {}).items()
            if judgment.preferred in DECIDED and task not in gold
        }
        for name in store.dealt
    }


def _first_labels(store: LabelStore, gold: set[int]) -> dict[str, dict[int, str]]:
    """By annotator and comparison, which answer hallucinates more: `first`, `second` or `same`."""
    return {
        name: {
            task: judgment.worse
            for task, judgment in store.known.get(name, {}).items()
            if judgment.worse in (*OTHER, "same") and task not in gold
        }
        for name in store.dealt
    }


def label_table(
    labels: Mapping[str, Mapping[int, str]], turned: Set[int]
) -> list[list[str | None]]:
    """A row for each comparison with the label of each annotator, None where there is none.

    Args:
        labels: by annotator and comparison, `first`, `second` or what stands for neither.
        turned: comparisons in which `first` and `second` change names: see `exchanged`.
    """
    found: list[list[str | None]] = []
    for task in sorted({task for own in labels.values() for task in own}):
        row = [own.get(task) for own in labels.values()]
        if task in turned:
            row = [OTHER.get(label, label) if label is not None else None for label in row]
        found.append(row)
    return found


def _annotator(store: LabelStore, name: str, gold: set[int]) -> AnnotatorRow:
    own = {t: j for t, j in store.known.get(name, {}).items() if j.is_done}
    seconds = [judgment.seconds for judgment in own.values()]
    known = [own[task].preferred == "first" for task in sorted(own) if task in gold]
    counts: dict[str, int] = {}
    for judgment in own.values():
        kind = judgment.preferred if judgment.preferred not in ("first", "second") else "decided"
        counts[kind] = counts.get(kind, 0) + 1
    ties = "tie" if counts.get("tie") == 1 else "ties"
    words = {"decided": "decided", "tie": ties, "unsure": "can't tell", "broken": "broken"}
    return AnnotatorRow(
        name,
        len(own),
        len(store.dealt[name]),
        f"{median(seconds):.1f} s" if seconds else "",
        f"{3600 * len(seconds) / sum(seconds):,.0f}" if sum(seconds) else "",
        _gold(known),
        ", ".join(f"{counts[kind]} {word}" for kind, word in words.items() if kind in counts),
    )


def _gold(right: Sequence[bool]) -> str:
    if not right:
        return ""
    interval = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return f"{sum(right)} of {len(right)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def _row(label: str, found: Agreement) -> AgreementRow:
    interval = "too few for an interval"
    if found.low is not None and found.high is not None:
        interval = f"{_number(found.low)} to {_number(found.high)}"
    return AgreementRow(
        label,
        "not defined" if found.value is None else _number(found.value),
        interval,
        "" if found.same is None else f"{100 * found.same:.0f} %",
        found.units,
    )


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)
