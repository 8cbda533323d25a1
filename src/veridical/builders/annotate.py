"""Samples rated by a model that sees all responses to a prompt together.

Li et al. (2024) had a large model reason about every candidate first and then give five marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from veridical.builders._judged import (
    JudgedSample,
    cost_summary,
    identity,
    judged_samples,
    tell,
)
from veridical.builders._parts import Parts, write_skipped
from veridical.data.records import RecordSet, read_records, response_name, write_records
from veridical.judges.criterion import Criterion, read_criterion
from veridical.judges.endpoint import endpoint_settings
from veridical.judges.judging import Judge
from veridical.judges.orders import Marked, mark
from veridical.judges.prompted import Asking, marking_judge
from veridical.judges.spec import JudgeSpec, open_judge
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.options import DtypeName
from veridical.runtime.progress import counted
from veridical.runtime.runs import start_run

JUDGES = ("local", "endpoint")


def build_annotate(
    samples: Path,
    judge: str,
    out: Path,
    criteria: str = "five",
    swap: bool = False,
    facts: bool = False,
    attempts: int = 3,
    temperature: float | None = 0.0,
    retry_temperature: float = 0.7,
    max_new_tokens: int = 1024,
    limit: int | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    endpoint: dict[str, Any] | None = None,
    batch_size: int = 8,
    dtype: DtypeName = "auto",
    device: str = "auto",
    template: dict[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Have a model mark every response in SAMPLES, all responses to a prompt seen together.

    The model reasons first and then gives the marks. The order in which it sees the responses is
    drawn by seed for each prompt. A reply that cannot be read is asked for again; a prompt that
    still has none is listed in `skipped.jsonl`. Interrupted and started again it goes on where it
    was.

    Args:
        samples: records of kind `sample`, as `build sample` writes them. Ratings on other aspects
            stay.
        judge: `local:MODEL` (hub name, folder or `embedded`) or `endpoint:MODEL` (its name at an
            OpenAI-compatible endpoint).
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`,
            and `spent.jsonl` for an endpoint.
        criteria: `five` (0 to 4), `three` (1 to 5), or a Markdown file of your own.
        swap: ask a second time in the reversed order, and keep the mean of both marks.
        facts: tell the judge the records' `facts`.
        attempts: how often a prompt is asked at most, until the reply can be read.
        temperature: of the first reply; null leaves it to the endpoint.
        retry_temperature: of later replies.
        max_new_tokens: limit of one reply, in tokens.
        limit: use only the first so many records.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is rated.
        endpoint: url, key_variable, concurrency, retries, timeout (seconds), input_price and
            output_price (dollars for a million tokens), max_dollars, max_tokens, cache,
            cache_gigabytes.
        batch_size: replies at once, of a local model.
        dtype: of a local model's weights.
        device: of a local model: `auto`, `cpu`, `cuda`, ...
        template: KEY=VALUE, given to a local model's chat template, such as enable_thinking=true
            (false where the template reads it and nothing is said).
        seed: of the order and of sampling.
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    spec = JudgeSpec(
        judge, attempts, temperature, retry_temperature, max_new_tokens, facts, seed, template
    )
    spec.check(JUDGES)
    settings, criterion = endpoint_settings(endpoint), read_criterion(criteria, "marks")
    inputs = {"samples": samples}
    with start_run(out, "build annotate", configuration, inputs, models=spec.folders) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        items = judged_samples(records, limit)
        opened = open_judge(spec, settings, out, batch_size, dtype, device)
        tell(opened, items)
        marking = marking_judge(opened.ask, Asking(criterion, attempts, facts))
        whole = {"swap": swap, "data": run.record["inputs"]["samples"]["sha256"]}
        parts = Parts(out, whole | identity(run, spec, criterion, opened))
        results = parts.work_through(
            items, lambda chunk: mark_chunk(marking, chunk, seed, swap), "marks"
        )
        summary = assemble(out, items, results, records, spec, criterion)
        questions = len(results) * (2 if swap else 1)
        summary["cost"] = cost_summary([row["cost"] for row in results], questions, opened)
        write_json(out / "summary.json", summary)
        parts.forget()
        run.finish(**summary)
        print(
            f"The marks of responses to {counted(summary['prompts'], 'prompts')} are in "
            f"{out}/samples.parquet."
        )


def mark_chunk(
    judge: Judge, items: Sequence[JudgedSample], seed: int, swap: bool
) -> list[dict[str, Any]]:
    """Mark some records; one result for each, in JSON's types."""
    marked = mark(judge, [item.case for item in items], seed, swap)
    return [_result(item.id, one) for item, one in zip(items, marked, strict=True)]


def _result(id: str, marked: Marked) -> dict[str, Any]:
    verdict = marked.verdict
    return {
        "id": id,
        "ratings": [dict(ratings) for ratings in verdict.ratings],
        "reasons": list(verdict.reasons),
        "orders": [list(order) for order in marked.orders],
        "equal": list(marked.equal),
        "cost": vars(verdict.cost),
        "problem": verdict.problem,
    }


def assemble(
    out: Path,
    items: Sequence[JudgedSample],
    results: Sequence[Mapping[str, Any]],
    records: RecordSet,
    spec: JudgeSpec,
    criterion: Criterion,
) -> dict[str, Any]:
    """Write `samples.parquet` and `skipped.jsonl`.

    Raises:
        UserError: not one record has marks.
    """
    left_out = [
        {"id": row["id"], "field": "responses", "reason": row["problem"]}
        for row in results
        if row["problem"]
    ]
    skipped = write_skipped(out, records, left_out, "marks")
    scored = [pair for pair in zip(items, results, strict=True) if not pair[1]["problem"]]
    if not scored:
        raise UserError(
            f"Not one record of {len(results)} could be marked; {out / 'skipped.jsonl'} says why."
        )
    rows = [_row(item, result, spec, criterion) for item, result in scored]
    write_records(rows, out / "samples.parquet", "sample")
    equal, compared = (sum(result["equal"][i] for _, result in scored) for i in (0, 1))
    ratings = [rating for _, result in scored for rating in result["ratings"]]
    return {
        "prompts": len(scored),
        "responses": len(ratings),
        "skipped": skipped,
        "judge": spec.judge,
        "criteria": criterion.name,
        "means": {
            name: round(fmean(rating[name] for rating in ratings), 4) for name in criterion.aspects
        },
        "equal_marks_in_both_orders": round(equal / compared, 4) if compared else None,
    }


def _row(
    item: JudgedSample, result: Mapping[str, Any], spec: JudgeSpec, criterion: Criterion
) -> dict[str, Any]:
    ratings = [
        {"answer": response_name(number), "aspect": aspect, "value": value}
        for number, (old, new) in enumerate(
            zip(item.sample.ratings, result["ratings"], strict=True)
        )
        for aspect, value in {**old, **new}.items()
    ]
    rated = {
        "judge": spec.judge,
        "criteria": criterion.name,
        "criteria_sha256": criterion.sha256,
        "orders": result["orders"],
        "reasons": result["reasons"],
    }
    source = json.dumps(item.sample.provenance() | {"rated": rated}, ensure_ascii=False)
    return item.sample.row | {"ratings": ratings, "source": source}
