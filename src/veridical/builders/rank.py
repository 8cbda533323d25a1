"""Preference pairs by comparing responses two at a time (Amirloo et al. 2024, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veridical.builders._comparisons import (
    Compared,
    compare_chunk,
    judges_agreement,
    pairs_or_skipped,
)
from veridical.builders._judged import (
    AskedJudge,
    JudgedSample,
    asked_judge,
    cost_summary,
    judged_samples,
)
from veridical.builders._parts import Parts, finish
from veridical.builders._rows import sort_out, write_set
from veridical.builders.options import By, Comparing, ObjectFiles, Replies
from veridical.data.reading import read
from veridical.judges.chair import ChairWeights
from veridical.judges.criterion import read_criterion
from veridical.judges.judging import Judge, PairwiseJudge
from veridical.judges.kinds import BY_OBJECTS
from veridical.judges.local import logprob_looker
from veridical.judges.named import by_chair, score_looker, truth
from veridical.judges.prompted import Questioning, choosing_looker
from veridical.judges.spec import JudgeSpec, Opened
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_jsonl
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import Loading, Reading
from veridical.runtime.progress import are_in
from veridical.runtime.runs import Run, start_run
from veridical.runtime.shards import print_result, read_shard

JUDGES = (*BY_OBJECTS, "local", "endpoint")


def build_rank(
    samples: Path,
    judge: str,
    out: Path,
    criteria: str = "honesty",
    comparing: Comparing = Comparing(),
    chair: ChairWeights = ChairWeights(),
    files: ObjectFiles = ObjectFiles(),
    replies: Replies = Replies(),
    reading: Reading = Reading(),
    loading: Loading = Loading(),
    shard: str | None = None,
) -> None:
    """Make preference pairs from SAMPLES by having a judge compare the responses two at a time.

    Every two different responses to a prompt are compared, in both orders. Ties are counted and
    give no pair; so do comparisons that turn with the order. A reply that cannot be read is asked
    for again, and listed in `skipped.jsonl` if none can. An interrupted run continues when the
    command is given again. The number of shards does not change the result.

    Args:
        samples: records of kind `sample`, as `build sample` writes them.
        judge: `exact` or `chair` (they need --objects), `local:MODEL` (hub name, folder or
            `embedded`), or `endpoint:MODEL` (its name at an OpenAI-compatible endpoint).
        out: folder for the run: `pairs.parquet`, `comparisons.jsonl`, `summary.json`,
            `skipped.jsonl`, `run.json`, and `spent.jsonl` for an endpoint.
        criteria: `honesty` (fewer hallucinations, then help), or a Markdown file of your own.
        comparing: how two responses are compared, and which comparisons become a pair.
        chair: of the judge `chair`.
        files: what `exact` and `chair` know.
        replies: how a judging model is asked.
        reading: how SAMPLES is read.
        loading: how a local model is loaded.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(samples, "--samples")
    part = read_shard(shard)
    asked = asked_judge(judge, JUDGES, replies, loading)
    asking = Questioning(read_criterion(criteria, "choice"), replies.attempts, replies.facts)
    files.check(judge)
    _check(asked.spec, comparing)
    options = {
        "samples": samples, "judge": judge, "out": out, "criteria": criteria,
        "comparing": comparing, "chair": chair, "files": files, "replies": replies,
        "reading": reading, "loading": loading, "shard": shard,
    }  # fmt: skip
    inputs = {"samples": samples, **files.inputs}
    folders = asked.spec.folders
    with start_run(out, "build rank", options, inputs, any_process=True, models=folders) as run:
        records = read(samples, "sample", reading)
        items = judged_samples(records)
        if files.objects is not None:
            judged = _by_objects(judge, files.objects, files.vocabulary, chair)
            weights = vars(chair) if judge == "chair" else {}
            ready = Ready(score_looker(judged), {"judge": judge, **weights})
        else:
            ready = _open(run, asked, asking, comparing.by, items)
        hashes = {name: run.record["inputs"][name]["sha256"] for name in inputs}
        by, swap, margin = comparing.by, comparing.swap, comparing.margin
        own = {"by": by, "swap": swap, "margin": margin}
        parts = Parts(out, {**own, **ready.identity, **hashes}, Compared)
        compared = parts.work_through_shard(
            items, lambda chunk: compare_chunk(ready.look, chunk, swap, margin), "comparisons", part
        )
        if compared is None:
            return
        write_jsonl(out / "comparisons.jsonl", (row for one in compared for row in one.as_rows()))
        made = {"builder": "rank", "judge": judge, "by": by, "criteria": criteria}
        outcome = sort_out(
            pair_or_skipped
            for item, one in zip(items, compared, strict=True)
            for pair_or_skipped in pairs_or_skipped(item, one, comparing.rule, made)
        )
        rows = (vars(one.pair()) for one in outcome.kept)
        skipped = write_set(out / "pairs.parquet", "preference", rows, outcome, records, "pair")
        counts = {"prompts": len(items), "pairs": len(outcome.kept), "skipped": skipped}
        finish(run, {**counts, **_summary(compared, swap, ready.opened)}, parts)
        print_result(are_in(len(outcome.kept), "pairs", out / "pairs.parquet"))


def _check(spec: JudgeSpec, comparing: Comparing) -> None:
    by, margin = comparing.by, comparing.margin
    if by == "logprob" and not spec.is_local:
        raise UserError("--by logprob needs a model on this machine: --judge local:MODEL.")
    if margin < 0:
        raise UserError(f"--margin is {margin:g}; it can't be below 0.")
    if margin > 0 and by == "words" and spec.judge not in BY_OBJECTS:
        raise UserError("--margin needs numbers: --by logprob, or --judge exact or chair.")


def _by_objects(judge: str, objects: Path, vocabulary: Path | None, chair: ChairWeights) -> Judge:
    if judge == "chair":
        return by_chair(objects, vocabulary, chair)
    return truth(objects, vocabulary)


@dataclass(frozen=True)
class Ready:
    """A judge that compares, ready to.

    Attributes:
        look: compares two responses.
        identity: what decides its verdicts, besides the files that options name.
        opened: what it is asked through; None for the exact judge.
    """

    look: PairwiseJudge
    identity: Mapping[str, Any] = field(default_factory=dict)
    opened: Opened | None = None


def _open(
    run: Run, asked: AskedJudge, asking: Questioning, by: By, items: Sequence[JudgedSample]
) -> Ready:
    """Load the model that judges, or get ready to ask the endpoint."""
    opened = asked.open(run.folder, items)
    if by == "logprob" and opened.policy is not None:
        look = logprob_looker(opened.policy, asking, asked.batch_size)
    else:
        look = choosing_looker(opened.ask, asking)
    return Ready(look, asked.identity(run, asking.criterion, opened), opened)


def _summary(compared: Sequence[Compared], swap: bool, opened: Opened | None) -> JsonObject:
    """How the comparisons ended, and what they cost."""
    comparisons = [row for one in compared for row in one.comparisons]
    questions = sum(not row.same for row in comparisons) * (2 if swap else 1)
    cost = cost_summary([row.cost for row in comparisons], questions, opened)
    return {**judges_agreement(comparisons), "cost": cost}
