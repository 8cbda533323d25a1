"""Preference pairs by comparing responses two at a time (Amirloo et al. 2024, section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from veridical.builders._judged import (
    JudgedSample,
    cost_summary,
    identity,
    judged_samples,
    tell,
)
from veridical.builders._parts import Parts, write_skipped
from veridical.data.records import RecordSet, read_records, write_records
from veridical.judges.criterion import read_criterion
from veridical.judges.endpoint import endpoint_settings
from veridical.judges.judging import Looker
from veridical.judges.local import logprob_looker
from veridical.judges.named import score_looker, truth
from veridical.judges.orders import Comparison, compare
from veridical.judges.prompted import Asking, choosing_looker
from veridical.judges.spec import JudgeSpec, Opened, open_judge
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json, write_jsonl
from veridical.runtime.options import DtypeName
from veridical.runtime.progress import are_in, counted
from veridical.runtime.runs import start_run

JUDGES = ("exact", "local", "endpoint")
By = Literal["words", "logprob"]
Rule = Literal["all", "extremes"]


def build_rank(
    samples: Path,
    judge: str,
    out: Path,
    criteria: str = "honesty",
    by: By = "words",
    swap: bool = True,
    margin: float = 0.0,
    rule: Rule = "all",
    objects: Path | None = None,
    vocabulary: Path | None = None,
    facts: bool = False,
    attempts: int = 3,
    temperature: float | None = 0.0,
    retry_temperature: float = 0.7,
    max_new_tokens: int = 256,
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
    """Make preference pairs from SAMPLES by having a judge compare the responses two at a time.

    Every two different responses to a prompt are compared, in both orders. Ties are counted and
    give no pair; so do comparisons that turn with the order. A reply that cannot be read is asked
    for again, and listed in `skipped.jsonl` if none can. Interrupted and started again it goes on
    where it was.

    Args:
        samples: records of kind `sample`, as `build sample` writes them.
        judge: `exact` (needs --objects), `local:MODEL` (hub name, folder or `embedded`), or
            `endpoint:MODEL` (its name at an OpenAI-compatible endpoint).
        out: folder for the run: `pairs.parquet`, `comparisons.jsonl`, `summary.json`,
            `skipped.jsonl`, `run.json`, and `spent.jsonl` for an endpoint.
        criteria: `honesty` (fewer hallucinations, then help), or a Markdown file of your own.
        by: `words`: the judge names the better one; `logprob`: by the odds of both names, of a
            local model.
        swap: compare in both orders; without it, place and merit can't be told apart.
        margin: log-odds (`logprob`) or points (`exact`) up to which two responses are a tie.
        rule: `all`: every decided comparison is a pair; `extremes`: the response that won most
            against the one that won least, where these were compared and decided so.
        objects: for `exact`: JSON {image_id: [names of the objects in the image]}.
        vocabulary: for `exact`: JSON {name: [words]}; a short list of our own for COCO's 80
            classes if not set.
        facts: tell the judge the records' `facts`.
        attempts: how often a comparison is asked at most, until the reply can be read.
        temperature: of the first reply; null leaves it to the endpoint.
        retry_temperature: of later replies.
        max_new_tokens: limit of one reply, in tokens.
        limit: use only the first so many records.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
        endpoint: url, key_variable, concurrency, retries, timeout (seconds), input_price and
            output_price (dollars for a million tokens), max_dollars, max_tokens, cache,
            cache_gigabytes.
        batch_size: comparisons at once, of a local model.
        dtype: of a local model's weights.
        device: of a local model: `auto`, `cpu`, `cuda`, ...
        template: KEY=VALUE, given to a local model's chat template, such as enable_thinking=true
            (false where the template reads it and nothing is said).
        seed: of sampling.
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    spec = JudgeSpec(
        judge, attempts, temperature, retry_temperature, max_new_tokens, facts, seed, template
    )
    spec.check(JUDGES)
    settings = endpoint_settings(endpoint)
    asking = Asking(read_criterion(criteria, "choice"), attempts, facts)
    _check(spec, by, margin, objects)
    given = {"samples": samples, "objects": objects, "vocabulary": vocabulary}
    inputs = {name: path for name, path in given.items() if path is not None}
    with start_run(out, "build rank", configuration, inputs, models=spec.folders) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        items = judged_samples(records, limit)
        opened = None
        whole: dict[str, Any] = {"by": by, "swap": swap, "margin": margin}
        if objects is not None:
            look = score_looker(truth(objects, vocabulary))
        else:
            opened = open_judge(spec, settings, out, batch_size, dtype, device)
            whole |= identity(run, spec, asking.criterion, opened)
            tell(opened, items)
            look = _asking_looker(opened, asking, by, batch_size)
        whole |= {name: run.record["inputs"][name]["sha256"] for name in inputs}
        parts = Parts(out, whole)
        results = parts.work_through(
            items, lambda chunk: compare_chunk(look, chunk, swap, margin), "comparisons"
        )
        provenance = {"builder": "rank", "judge": judge, "by": by, "criteria": criteria}
        summary = assemble(out, items, results, records, rule, provenance)
        compared = [row for result in results for row in result["comparisons"]]
        questions = sum(not row["same"] for row in compared) * (2 if swap else 1)
        summary["cost"] = cost_summary([row["cost"] for row in compared], questions, opened)
        write_json(out / "summary.json", summary)
        parts.forget()
        run.finish(**summary)
        print(are_in(summary["pairs"], "pairs", out / "pairs.parquet"))


def _check(spec: JudgeSpec, by: By, margin: float, objects: Path | None) -> None:
    if (spec.judge == "exact") != (objects is not None):
        raise UserError("--judge exact and --objects go together: set both or neither.")
    if by == "logprob" and not spec.is_local:
        raise UserError("--by logprob needs a model on this machine: --judge local:MODEL.")
    if margin < 0:
        raise UserError(f"--margin is {margin:g}; it can't be below 0.")
    if margin > 0 and by == "words" and spec.judge != "exact":
        raise UserError("--margin needs numbers: --by logprob, or --judge exact.")


def _asking_looker(opened: Opened, asking: Asking, by: By, batch_size: int) -> Looker:
    if by == "logprob" and opened.policy is not None:
        return logprob_looker(opened.policy, asking, batch_size)
    return choosing_looker(opened.ask, asking)


def compare_chunk(
    look: Looker, items: Sequence[JudgedSample], swap: bool, margin: float
) -> list[dict[str, Any]]:
    """Compare every two responses of some records; equal texts are ties that nobody is asked.

    Returns:
        For each record {"id", "comparisons"}, in JSON's types.
    """
    every = [
        (number, pair)
        for number, item in enumerate(items)
        for pair in combinations(range(len(item.sample.texts)), 2)
    ]
    asked = [
        (number, pair)
        for number, pair in every
        if items[number].sample.texts[pair[0]] != items[number].sample.texts[pair[1]]
    ]
    cases = [
        replace(
            items[number].case,
            responses=tuple(items[number].sample.texts[index] for index in pair),
        )
        for number, pair in asked
    ]
    found = dict(zip(asked, compare(look, cases, swap, margin), strict=True))
    results: list[dict[str, Any]] = [{"id": item.id, "comparisons": []} for item in items]
    for number, pair in every:
        row = _comparison_row(pair, found.get((number, pair)))
        results[number]["comparisons"].append(row)
    return results


def _comparison_row(pair: tuple[int, int], comparison: Comparison | None) -> dict[str, Any]:
    one = Comparison(tie="judge") if comparison is None else comparison
    return {
        "responses": list(pair),
        "same": comparison is None,
        **{name: value for name, value in vars(one).items() if name not in ("cost", "better")},
        "better": None if one.better is None else pair[one.better],
        "cost": vars(one.cost),
    }


def decided_pairs(result: Mapping[str, Any], rule: Rule) -> list[tuple[int, int]]:
    """Pairs (chosen, rejected) of response numbers.

    Under `extremes` the response with the most wins less losses (the first of equals) against the
    one with the fewest (the last of equals), if that very comparison was decided so: verdicts may
    go round in a circle.
    """
    pairs = [
        (row["better"], sum(row["responses"]) - row["better"])
        for row in result["comparisons"]
        if row["better"] is not None
    ]
    if rule == "all" or not pairs:
        return pairs
    numbers = sorted({number for row in result["comparisons"] for number in row["responses"]})
    balance = dict.fromkeys(numbers, 0)
    for better, worse in pairs:
        balance[better] += 1
        balance[worse] -= 1
    best = max(numbers, key=lambda number: balance[number])
    worst = min(reversed(numbers), key=lambda number: balance[number])
    return [pair for pair in pairs if pair == (best, worst)]


def assemble(
    out: Path,
    items: Sequence[JudgedSample],
    results: Sequence[Mapping[str, Any]],
    records: RecordSet,
    rule: Rule,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `pairs.parquet`, `comparisons.jsonl` and `skipped.jsonl`.

    Raises:
        UserError: not one pair came out.
    """
    write_jsonl(
        out / "comparisons.jsonl",
        ({"id": result["id"], **row} for result in results for row in result["comparisons"]),
    )
    chosen = [decided_pairs(result, rule) for result in results]
    left_out = [
        row
        for result, pairs in zip(results, chosen, strict=True)
        for row in _left_out(result, pairs)
    ]
    skipped = write_skipped(out, records, left_out, "pair")
    if not any(chosen):
        raise UserError(
            f"Not one pair came out of {counted(len(results), 'records')}; "
            f"{out / 'skipped.jsonl'} says why."
        )
    rows = (
        _pair(item, pair, result, rule, provenance)
        for item, result, pairs in zip(items, results, chosen, strict=True)
        for pair in pairs
    )
    write_records(rows, out / "pairs.parquet", "preference")
    return {
        "prompts": len(results),
        "pairs": sum(map(len, chosen)),
        "skipped": skipped,
        **agreement([row for result in results for row in result["comparisons"]]),
    }


def agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the comparisons ended, and how far the verdicts depend on the order.

    Each comparison is counted once: decided, the same text, a tie of the judge's, a verdict that
    turned with the order, or unscored. `agreed` is the share of those looked at in both orders
    whose verdict was the same; `first_won` the share of verdicts for the response shown first (one
    half without bias).
    """
    both = [row["agreed"] for row in rows if row["agreed"] is not None]
    first = [won for row in rows for won in row["first_won"]]
    return {
        "comparisons": len(rows),
        "decided": sum(row["better"] is not None for row in rows),
        "same_text": sum(row["same"] for row in rows),
        "ties": sum(row["tie"] == "judge" and not row["same"] for row in rows),
        "turned_with_order": sum(row["tie"] == "order" for row in rows),
        "unscored": sum(bool(row["problem"]) for row in rows),
        "agreed": round(sum(both) / len(both), 4) if both else None,
        "first_won": round(sum(first) / len(first), 4) if first else None,
    }


def _left_out(
    result: Mapping[str, Any], pairs: Sequence[tuple[int, int]]
) -> Iterator[dict[str, str]]:
    """Comparisons that could not be made, and records that gave no pair for other reasons."""
    problems = [row for row in result["comparisons"] if row["problem"]]
    for row in problems:
        one, other = row["responses"]
        yield {
            "id": result["id"],
            "field": f"responses/{one} and responses/{other}",
            "reason": row["problem"],
        }
    if not pairs and not problems:
        reason = "there is only one response" if not result["comparisons"] else "no pair is decided"
        yield {"id": result["id"], "field": "responses", "reason": reason}


def _pair(
    item: JudgedSample,
    pair: tuple[int, int],
    result: Mapping[str, Any],
    rule: Rule,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    better, worse = pair
    row = item.sample.row
    said = next(one for one in result["comparisons"] if set(one["responses"]) == set(pair))
    ratings = [
        {"answer": answer, "aspect": aspect, "value": value}
        for answer, number in (("chosen", better), ("rejected", worse))
        for aspect, value in item.sample.ratings[number].items()
    ]
    source = item.sample.provenance() | {
        **provenance,
        "rule": rule,
        "responses": [better, worse],
        "agreed": said["agreed"],
        "margin": None if said["margin"] is None else abs(said["margin"]),
        "reasons": list(said["reasons"]),
    }
    return {
        "id": f"{item.id}/{better}-{worse}" if rule == "all" else item.id,
        "images": row["images"],
        "prompt": row["prompt"],
        "chosen": row["responses"][better],
        "rejected": row["responses"][worse],
        "ratings": ratings or None,
        "facts": row.get("facts"),
        "expected_answer": row.get("expected_answer"),
        "source": json.dumps(source, ensure_ascii=False),
    }
