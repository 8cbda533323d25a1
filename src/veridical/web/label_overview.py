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


@dataclass(frozen=True)
class AnnotatorRow:
    """One annotator; None where there is nothing to count.

    Attributes:
        name: of the annotator.
        done: comparisons that are done.
        total: that were dealt.
        median_seconds: of a comparison.
        per_hour: comparisons an hour at the mean speed.
        gold_done: gold comparisons that are done.
        gold_right: those that were decided as known.
        gold_low: of the share that is right, the lower end of its 95 % interval (Wilson).
        gold_high: the upper end.
        answers: how often each answer was given: `decided`, `tie`, `unsure`, `broken`.
    """

    name: str
    done: int
    total: int
    median_seconds: float | None
    per_hour: float | None
    gold_done: int
    gold_right: int
    gold_low: float | None
    gold_high: float | None
    answers: dict[str, int]


@dataclass(frozen=True)
class AgreementRow:
    """One coefficient.

    Attributes:
        coefficient: `krippendorff_alpha` of all, or `cohen_kappa` of two.
        question: `preferred`, what both questions decide, or `worse`, the first one alone.
        annotators: whose labels are compared.
        value: None where it is not defined.
        low: lower end of its 95 % interval; None where there are too few comparisons.
        high: the upper end.
        same: share of the pairs of labels that are the same.
        units: comparisons that at least two have.
    """

    coefficient: str
    question: str
    annotators: list[str]
    value: float | None
    low: float | None
    high: float | None
    same: float | None
    units: int


@dataclass(frozen=True)
class Overview:
    """Everything on the page, as numbers; `label_words` writes them out."""

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
        alpha, first = "krippendorff_alpha", label_table(_first_labels(store, gold), turned)
        rows.append(_row(alpha, "preferred", names, krippendorff_alpha(table, seed)))
        rows.append(_row(alpha, "worse", names, krippendorff_alpha(first, seed)))
        for one, other in combinations(range(len(names)), 2):
            two = [(row[one], row[other]) for row in table]
            who = [names[one], names[other]]
            rows.append(_row("cohen_kappa", "preferred", who, cohen_kappa(two, seed)))
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
    counts = dict.fromkeys(("decided", "tie", "unsure", "broken"), 0)
    for judgment in own.values():
        counts[judgment.preferred if judgment.preferred in counts else "decided"] += 1
    gold_low, gold_high = _interval(known)
    return AnnotatorRow(
        name,
        len(own),
        len(store.dealt[name]),
        median(seconds) if seconds else None,
        3600 * len(seconds) / sum(seconds) if sum(seconds) else None,
        len(known),
        sum(known),
        gold_low,
        gold_high,
        counts,
    )


def _interval(right: Sequence[bool]) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of a share (Wilson's)."""
    if not right:
        return None, None
    found = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _row(coefficient: str, question: str, who: Sequence[str], found: Agreement) -> AgreementRow:
    return AgreementRow(
        coefficient, question, [*who], found.value, found.low, found.high, found.same, found.units
    )
