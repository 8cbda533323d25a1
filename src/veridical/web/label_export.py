"""What was labeled, as preference pairs with who said so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from veridical.data.images import resolve_image_path
from veridical.data.messages import Message
from veridical.data.pixels import ImageError
from veridical.data.record_files import stream_rows
from veridical.data.record_kinds import RowError
from veridical.data.record_spans import SpanWeight
from veridical.data.record_types import (
    IMAGE_FIELDS,
    OF_ONE_ANSWER,
    CheckedRow,
    ImageCell,
    NewRow,
    Rating,
)
from veridical.data.records import write_records
from veridical.inspection.rows import read_row
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, write_json, write_jsonl
from veridical.runtime.progress import counted
from veridical.runtime.run_files import SkippedRow
from veridical.web.label_overview import overview
from veridical.web.label_plan import Comparison
from veridical.web.label_state import OTHER, Judgment, joined_spans
from veridical.web.label_store import LabelStore
from veridical.web.sets import ViewedSet

PAIRS, SKIPPED, SUMMARY = "pairs.parquet", "skipped.jsonl", "summary.json"


@dataclass(frozen=True)
class Exporting:
    """What is exported: the labels of a set, into a folder."""

    store: LabelStore
    viewed: ViewedSet
    out: Path
    seed: int
    mark_weight: float
    gold: ViewedSet | None = None
    min_votes: int = 1

    def images(self, one: Comparison) -> ViewedSet:
        """The set that has the images of a comparison."""
        return self.gold if one.gold and self.gold is not None else self.viewed


def export_labels(exporting: Exporting, form: str) -> str:
    """Write what was labeled so far.

    Args:
        exporting: what, and where to.
        form: `pairs`, `label-studio` or `argilla`.

    Returns:
        A sentence that says where it is.

    Raises:
        UserError: nothing is decided, or a row can't be read any more.
    """
    if form != "pairs":
        from veridical.web.label_tools import write_tool

        return write_tool(exporting.store, exporting.images, exporting.out, form)
    decided, skipped = decisions(exporting.store, exporting.min_votes)
    if not decided:
        why = "Nothing is decided yet, so there is no pair to write."
        if exporting.min_votes > 1 and decisions(exporting.store, 1)[0]:
            why = (
                f"No answer has --min-votes {exporting.min_votes} yet, so there is no pair to "
                "write. Set a smaller number."
            )
        raise UserError(why)
    undecided = len(skipped)
    # Images are not in memory together; what can't be written is listed on the way.
    write_records(_pairs(exporting, decided, skipped), exporting.out / PAIRS, "preference")
    pairs = len(decided) - (len(skipped) - undecided)
    write_jsonl(exporting.out / SKIPPED, skipped)
    write_json(exporting.out / SUMMARY, _summary(exporting, pairs, skipped))
    left = f"; {counted(len(skipped), 'comparisons')} left out ({SKIPPED})" if skipped else ""
    return f"{counted(pairs, 'pairs')} in {exporting.out / PAIRS}{left}"


@dataclass(frozen=True)
class Decision:
    """A comparison that a majority decided: `better` is `first` or `second`."""

    comparison: Comparison
    better: str
    said: dict[str, Judgment]


def decisions(store: LabelStore, min_votes: int) -> tuple[dict[int, Decision], list[SkippedRow]]:
    """The decided comparisons by the number of their row, and why others are not.

    More than half of those who could tell must prefer one answer; ties count as votes for neither.
    Gold comparisons, and those that nobody has finished, are in neither list.

    Args:
        store: the labels.
        min_votes: annotators who must prefer the answer.
    """
    decided: dict[int, Decision] = {}
    skipped: list[SkippedRow] = []
    for one in store.comparisons():
        said = {
            name: own[one.task]
            for name, own in store.known.items()
            if one.task in own and own[one.task].is_done
        }
        if one.gold or not said:
            continue
        votes = Counter(judgment.preferred for judgment in said.values())
        telling = votes["first"] + votes["second"] + votes["tie"]
        better = next((side for side in OTHER if 2 * votes[side] > telling), None)
        if votes["broken"] * 2 >= len(said):
            better = None
        if better is not None and votes[better] >= min_votes:
            decided[one.row.number] = Decision(one, better, said)
            continue
        words = ", ".join(f"{votes[kind]} {word}" for kind, word in _WORDS.items() if votes[kind])
        why = "no majority" if better is None else f"fewer than {min_votes} votes"
        skipped.append({"id": one.row.id, "row": one.row.number, "field": "label",
                        "reason": f"{why}: {words}"})  # fmt: skip
    return decided, skipped


VOTES = ("chosen", "rejected", "tie", "unsure", "broken")
_WORDS = {
    "first": "for the first answer",
    "second": "for the second",
    "tie": "for neither",
    "unsure": "can't tell",
    "broken": "broken",
}


def _pairs(
    exporting: Exporting, decided: Mapping[int, Decision], skipped: list[SkippedRow]
) -> Iterator[NewRow]:
    viewed = exporting.viewed
    kind = viewed.record_kind
    assert kind is not None
    found = 0
    for number, raw in stream_rows(viewed.file):
        if number not in decided:
            continue
        found += 1
        decision = decided[number]
        record = read_row(number, raw, kind).record
        if record is None:
            raise UserError(f"{viewed.file}, row {number} can't be read any more.")
        try:
            _refuse_own_images(record, decision)
            images = _with_images(record, viewed)
        except (ImageError, RowError) as error:
            field = error.field if isinstance(error, RowError) else "images"
            reason = error.reason if isinstance(error, RowError) else str(error)
            skipped.append({"id": decision.comparison.row.id, "row": number, "field": field,
                            "reason": reason})  # fmt: skip
            continue
        row: CheckedRow = {**record, **images}
        yield pair_of(row, decision, exporting.mark_weight)
        if found == len(decided):
            return


def _refuse_own_images(record: CheckedRow, decision: Decision) -> None:
    """Refuse to exchange answers of which one alone has an image, or further answers.

    Raises:
        RowError: names the column.
    """
    one = decision.comparison
    if one.first == "chosen" and decision.better == "second":
        for name in OF_ONE_ANSWER:
            if record.get(name):
                raise RowError(name, "the answers were to be exchanged, but this is of one of them")


def _with_images(record: CheckedRow, viewed: ViewedSet) -> CheckedRow:
    """The columns of images, with paths as files under the set's folder.

    Raises:
        ImageError: one is not there.
    """
    root = viewed.root or viewed.file.parent

    def resolved(cell: ImageCell) -> ImageCell:
        if cell["bytes"]:
            return cell
        return {"bytes": None, "path": str(resolve_image_path(str(cell["path"]), root))}

    found: CheckedRow = {}
    for name in IMAGE_FIELDS:
        if record.get(name):
            found[name] = [resolved(cell) for cell in record[name]]
    return found


def pair_of(record: CheckedRow, decision: Decision, mark_weight: float) -> NewRow:
    """The pair that a decision makes of a record."""
    one = decision.comparison
    sides = {"chosen": decision.better, "rejected": OTHER[decision.better]}
    names = {branch: one.first if side == "first" else one.second for branch, side in sides.items()}
    given: Mapping[str, object] = record
    kept = ["images", "prompt", "facts", "expected_answer", "answer_prefix"]
    if names == {"chosen": "chosen", "rejected": "rejected"}:
        kept += [*OF_ONE_ANSWER, "beta_factor", "span_weights"]
    pair = cast(NewRow, {name: given[name] for name in kept if given.get(name) is not None})
    pair["id"] = one.row.id
    pair["chosen"] = _answer(record, names["chosen"])
    pair["rejected"] = _answer(record, names["rejected"])
    renamed = {name: branch for branch, name in names.items()}
    ratings: list[Rating] = [
        {**rating, "answer": renamed[rating["answer"]]}
        for rating in record.get("ratings") or []
        if rating["answer"] in renamed
    ]
    if ratings:
        pair["ratings"] = ratings
    weights = _span_weights(decision, sides, mark_weight)
    if weights:
        pair["span_weights"] = weights
    pair["source"] = json.dumps(_source(record, decision, renamed), ensure_ascii=False)
    return pair


def _answer(record: CheckedRow, name: str) -> list[Message]:
    if name.startswith("responses/"):
        return record["responses"][int(name.partition("/")[2])]
    return record["chosen"] if name == "chosen" else record["rejected"]


def _span_weights(decision: Decision, sides: Mapping[str, str], weight: float) -> list[SpanWeight]:
    """Words that anybody marked as wrong: heavier in the rejected answer, 0 in the chosen."""
    found: list[SpanWeight] = []
    for branch, side in sides.items():
        spans = joined_spans(
            span
            for judgment in decision.said.values()
            for span in (judgment.first_spans if side == "first" else judgment.second_spans)
        )
        found += [
            {"answer": branch, "start": start, "end": end,
             "weight": weight if branch == "rejected" else 0.0}
            for start, end in spans
        ]  # fmt: skip
    return found


def _source(
    record: CheckedRow, decision: Decision, renamed: Mapping[str, str]
) -> dict[str, object]:
    one = decision.comparison
    branch = {"first": renamed[one.first], "second": renamed[one.second]}
    said = [
        {
            "name": name,
            "preferred": branch.get(judgment.preferred, judgment.preferred),
            "by": judgment.by,
            "seconds": round(judgment.seconds, 2),
            "at": judgment.at,
        }
        for name, judgment in decision.said.items()
    ]
    votes = Counter(str(entry["preferred"]) for entry in said)
    # Who alone compared it agrees with nobody.
    agreement = round(votes["chosen"] / len(said), 4) if len(said) > 1 else None
    return {
        "builder": "label",
        "chosen_was": one.first if decision.better == "first" else one.second,
        "annotators": said,
        "votes": {kind: votes[kind] for kind in VOTES},
        "agreement": agreement,
        **({"from": record["source"]} if record.get("source") else {}),
    }


def _summary(exporting: Exporting, pairs: int, skipped: list[SkippedRow]) -> Mapping[str, object]:
    about = exporting.store.about
    state = overview(exporting.store, exporting.seed)
    comparisons = sum(not one.gold for one in exporting.store.comparisons())
    return {
        "pairs": pairs,
        "skipped": len(skipped),
        "unlabeled": comparisons - pairs - len(skipped),
        "data": about["data_file"],
        "data_sha256": about["data"],
        "gold_sha256": about["gold"],
        "guidelines_sha256": hash_file(exporting.out / "guidelines.md"),
        "annotators": [vars(row) for row in state.annotators],
        "agreement": [vars(row) for row in state.agreement],
        "overlap": json.loads(about["overlap"]),
        "seed": exporting.seed,
        "mark_weight": exporting.mark_weight,
        "min_votes": exporting.min_votes,
    }
