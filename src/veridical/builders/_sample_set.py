"""The set of samples that a build ends as, and what its summary counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

from datasets import Dataset

from veridical.builders._rows import Sample, Skipped, sort_out, write_set
from veridical.builders._samples import Sampled, prompt_messages
from veridical.data.messages import assistant_message
from veridical.data.records import RecordSet
from veridical.runtime.progress import part_of
from veridical.runtime.shards import print_result


@dataclass(frozen=True)
class KeptResponses:
    """The responses that are kept of a record; `index` is its own among the usable ones."""

    index: int
    texts: list[str]


class SampleSummary(TypedDict):
    """`summary.json` of a set of samples."""

    records: int
    prompts: int
    responses: int
    duplicates: int
    prompts_with_one_response: int
    empty: int
    cut_off: int
    mean_words: float
    skipped: int


def write_sample_set(
    out: Path, results: Sequence[Sampled], records: RecordSet, settings: Mapping[str, Any]
) -> SampleSummary:
    """Write `samples.parquet` and `skipped.jsonl`; returns the summary.

    Raises:
        UserError: not a single response came out.
    """
    outcome = sort_out(_answered_or_skipped(index, one) for index, one in enumerate(results))
    rows = map(vars, _samples(outcome.kept, records.rows, settings))
    skipped = write_set(out / "samples.parquet", "sample", rows, outcome, records, "response")
    summary = _summary(results, [one.texts for one in outcome.kept], skipped)
    if cut := summary["cut_off"]:
        told = part_of(cut, cut + summary["responses"], "responses", "was", "were")
        print_result(f"{told} cut off at --max-new-tokens and left out.")
    return summary


def _answered_or_skipped(index: int, one: Sampled) -> KeptResponses | Skipped:
    if texts := one.finished:
        return KeptResponses(index, texts)
    return Skipped(one.id, "prompt", one.refused or _why_none(one))


def _why_none(one: Sampled) -> str:
    cut, count = one.stop_reasons.count("length"), len(one.stop_reasons)
    if not cut:
        return "every response is empty"
    empty = "" if cut == count else ", the others are empty"
    return f"{part_of(cut, count, 'responses', 'was', 'were')} cut off at --max-new-tokens{empty}"


def _samples(
    kept: Sequence[KeptResponses], rows: Dataset, settings: Mapping[str, Any]
) -> Iterator[Sample]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    provenance = json.dumps({"builder": "sample", "settings": settings}, ensure_ascii=False)
    for one in kept:
        row = raw[one.index].to_pylist()[0]
        yield Sample(
            id=row["id"],
            images=row["images"],
            prompt=prompt_messages(row),
            responses=[[assistant_message(text)] for text in one.texts],
            facts=row.get("facts"),
            expected_answer=row.get("expected_answer"),
            source=provenance,
        )


def _summary(
    results: Sequence[Sampled], finished: Sequence[Sequence[str]], skipped: int
) -> SampleSummary:
    texts = [text for row in finished for text in row]
    stops = [reason for one in results for reason in one.stop_reasons]
    cut_off = stops.count("length")
    return {
        "records": len(results),
        "prompts": len(finished),
        "responses": len(texts),
        "duplicates": sum(len(row) - len(set(row)) for row in finished),
        "prompts_with_one_response": sum(len(set(row)) == 1 for row in finished),
        "empty": len(stops) - len(texts) - cut_off,
        "cut_off": cut_off,
        "mean_words": round(fmean(len(text.split()) for text in texts), 2),
        "skipped": skipped,
    }
