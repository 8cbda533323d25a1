"""Several rejected answers to one chosen one: two sets of pairs become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from veridical.build._parts import write_skipped
from veridical.errors import UserError
from veridical.files import require_file, write_json
from veridical.records import Message, read_records, text_of, write_records
from veridical.runs import start_run


def build_join(
    pairs: Path,
    more: Path,
    out: Path,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """Add MORE's rejected answers to the pairs of PAIRS that have the same id and chosen answer.

    `train dpo` averages its loss over a pair's rejected answers (`--gamma`). Pairs without a
    partner keep their one answer; MORE's without one are listed in `skipped.jsonl`.

    Args:
        pairs: preference pairs; images, prompts and provenance are taken from here.
        more: preference pairs made from the same records.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        images_root: what image paths are relative to; each data file's folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
    """
    configuration = dict(locals())
    require_file(pairs, "--pairs")
    require_file(more, "--more")
    with start_run(out, "build join", configuration, {"pairs": pairs, "more": more}) as run:
        ours = read_records(pairs, "preference", images_root, max_bad_fraction)
        theirs = read_records(more, "preference", images_root, max_bad_fraction)
        answers = _answers(theirs.rows)
        joined, reasons = _match(ours.rows, answers)
        skipped = write_skipped(out, ours, reasons, "second rejected answer")
        if not joined:
            raise UserError(
                f"Not one pair of {more} has the id and chosen answer of one of {pairs}. "
                "Make both from the same records."
            )
        write_records(_rows(ours.rows, joined), out / "pairs.parquet", "preference")
        summary = {"pairs": len(ours.rows), "joined": len(joined), "skipped": skipped}
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(f"{len(joined)} of {len(ours.rows)} pairs got a further rejected answer.")


def _answers(rows: Any) -> dict[str, tuple[str, list[list[Message]]]]:
    """Id to chosen text and rejected answers."""
    found = {}
    texts = rows.remove_columns([name for name in rows.column_names if name.endswith("images")])
    for row in texts:
        found[row["id"]] = (
            text_of(row["chosen"]),
            [row["rejected"], *(row.get("more_rejected") or [])],
        )
    return found


def _match(
    rows: Any, answers: Mapping[str, tuple[str, list[list[Message]]]]
) -> tuple[dict[str, list[list[Message]]], list[dict[str, Any]]]:
    """What each pair gains, and why the rest of the answers are left out."""
    joined: dict[str, list[list[Message]]] = {}
    refused = dict.fromkeys(answers, "no pair has this id")
    texts = rows.remove_columns([name for name in rows.column_names if name.endswith("images")])
    for row in texts:
        if row["id"] not in answers:
            continue
        chosen, rejected = answers[row["id"]]
        if text_of(row["chosen"]) != chosen:
            refused[row["id"]] = "the pair of this id has another chosen answer"
            continue
        known = {text_of(answer) for answer in (row["rejected"], *(row.get("more_rejected") or []))}
        further = [answer for answer in rejected if text_of(answer) not in known]
        if not further:
            refused[row["id"]] = "the pair of this id has this rejected answer already"
            continue
        joined[row["id"]] = [*(row.get("more_rejected") or []), *further]
        del refused[row["id"]]
    reasons = [{"id": name, "field": "id", "reason": reason} for name, reason in refused.items()]
    return joined, reasons


def _rows(rows: Any, joined: Mapping[str, list[list[Message]]]) -> Iterator[dict[str, Any]]:
    raw = rows.with_format("arrow")
    for index in range(len(rows)):
        # In Arrow's form images are the bytes of their files, not decoded and packed again.
        row = raw[index].to_pylist()[0]
        yield row | {"more_rejected": joined.get(row["id"], row.get("more_rejected"))}
