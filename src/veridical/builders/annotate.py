"""Samples rated by a model that sees all responses to a prompt together.

Li et al. (2024) had a large model reason about every candidate first and then give five marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from veridical.builders._judged import (
    JudgedSample,
    asked_judge,
    cost_summary,
    judged_samples,
)
from veridical.builders._marks import (
    MarkedSample,
    Marks,
    equal_share,
    marked_or_skipped,
    means,
    stored_marks,
)
from veridical.builders._parts import Parts, finish
from veridical.builders._rows import Sample, sort_out, usual_reason, write_set
from veridical.builders.options import Replies
from veridical.data.reading import read
from veridical.judges.criterion import Criterion, read_criterion
from veridical.judges.judging import Judge
from veridical.judges.orders import mark
from veridical.judges.prompted import Questioning, marking_judge
from veridical.runtime.files import require_file
from veridical.runtime.options import Loading, Reading
from veridical.runtime.progress import counted
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard

JUDGES = ("local", "endpoint")


def build_annotate(
    samples: Path,
    judge: str,
    out: Path,
    criteria: str = "five",
    swap: bool = False,
    replies: Replies = Replies(max_new_tokens=1024),
    reading: Reading = Reading(),
    loading: Loading = Loading(),
    shard: str | None = None,
) -> None:
    """Have a model mark every response in SAMPLES, all responses to a prompt seen together.

    The model reasons first and then gives the marks. The order in which it sees the responses is
    drawn by seed for each prompt. A reply that cannot be read is asked for again; a prompt that
    still has none is listed in `skipped.jsonl`. An interrupted run continues when the command is
    given again. The number of shards does not change the result.

    Args:
        samples: records of kind `sample`, as `build sample` writes them. Ratings on other aspects
            stay.
        judge: `local:MODEL` (hub name, folder or `embedded`) or `endpoint:MODEL` (its name at an
            OpenAI-compatible endpoint).
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`,
            and `spent.jsonl` for an endpoint.
        criteria: `five` (0 to 4), `three` (1 to 5), or a Markdown file of your own.
        swap: ask a second time in the reversed order, and keep the mean of both marks.
        replies: how the judge is asked.
        reading: how SAMPLES is read.
        loading: how a local model is loaded.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(samples, "--samples")
    part = read_shard(shard)
    asked = asked_judge(judge, JUDGES, replies, loading)
    criterion = read_criterion(criteria, "marks")
    options = {
        "samples": samples, "judge": judge, "out": out, "criteria": criteria, "swap": swap,
        "replies": replies, "reading": reading, "loading": loading, "shard": shard,
    }  # fmt: skip
    inputs, folders = {"samples": samples}, asked.spec.folders
    with start_run(out, "build annotate", options, inputs, any_process=True, models=folders) as run:
        records = read(samples, "sample", reading)
        items = judged_samples(records)
        opened = asked.open(out, items)
        marking = marking_judge(opened.ask, Questioning(criterion, replies.attempts, replies.facts))
        whole: dict[str, object] = {"swap": swap, "data": run.record["inputs"]["samples"]["sha256"]}
        parts = Parts(out, whole | asked.identity(run, criterion, opened), Marks)
        marks = parts.work_through_shard(
            items, lambda chunk: mark_chunk(marking, chunk, replies.seed, swap), "marks", part
        )
        if marks is None:
            return
        outcome = sort_out(
            marked_or_skipped(item, one, "responses")
            for item, one in zip(items, marks, strict=True)
        )
        rows = (vars(_sample(one, judge, criterion)) for one in outcome.kept)
        why = usual_reason(outcome.skipped, out)
        nothing = f"Not one record of {len(items)} could be marked{why}"
        path = out / "samples.parquet"
        skipped = write_set(path, "sample", rows, outcome, records, "marks", nothing)
        questions = len(items) * (2 if swap else 1)
        summary = {
            "prompts": len(outcome.kept),
            "responses": sum(len(one.marks.ratings) for one in outcome.kept),
            "skipped": skipped,
            "judge": judge,
            "criteria": criterion.name,
            "means": means(outcome.kept),
            "equal_marks_in_both_orders": equal_share(outcome.kept),
            "cost": cost_summary([one.cost for one in marks], questions, opened),
        }
        finish(run, summary, parts)
        prompts = counted(len(outcome.kept), "prompts")
        print_result(f"The marks of responses to {prompts} are in {path}.")


def mark_chunk(judge: Judge, items: Sequence[JudgedSample], seed: int, swap: bool) -> list[Marks]:
    """Mark some records."""
    marked = mark(judge, [item.case for item in items], seed, swap)
    return [stored_marks(one.verdict, one.orders, one.equal) for one in marked]


def _sample(one: MarkedSample, judge: str, criterion: Criterion) -> Sample:
    by = {
        "judge": judge,
        "criteria": criterion.name,
        "criteria_sha256": criterion.sha256,
        "orders": one.marks.orders,
        "reasons": one.marks.reasons,
    }
    return one.item.sample.rated(one.marks.ratings, by)
