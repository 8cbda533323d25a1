"""Rejection sampling: the best of several responses to each prompt, to be learned by SFT.

Li et al. (2024) fine-tune on their model's own high-scoring samples, one for each prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from veridical.builders._parts import write_skipped
from veridical.builders._rated import QUALITY, RatedSample, rated_samples, require_aspects
from veridical.data.records import read_records, write_records
from veridical.judges.attributes import EXACT
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.progress import are_in
from veridical.runtime.runs import start_run


def build_best(
    samples: Path,
    out: Path,
    aspects: list[str] | None = None,
    minimum: float | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """Keep the best response to each prompt in SAMPLES, as conversations for `train sft`.

    Args:
        samples: rated records of kind `sample`, as `build rate` writes them.
        out: folder for the run: `conversations.parquet`, `summary.json`, `skipped.jsonl`,
            `run.json`.
        aspects: the aspects whose sum decides; `exact` if responses are rated on it, else
            Helpfulness, Correctness and Coherence. The first response wins a tie.
        minimum: prompts whose best response has a lower sum are left out and listed; all are kept
            if not set.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    with start_run(out, "build best", configuration, {"samples": samples}) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        rows = list(rated_samples(records.rows))
        by_truth = any(EXACT in ratings for row in rows for ratings in row.ratings)
        wanted = aspects if aspects is not None else [EXACT] if by_truth else list(QUALITY)
        require_aspects(rows, wanted)
        best, left_out = [], []
        for row in rows:
            found = best_response(row, wanted)
            if found is None:
                left_out.append(
                    {"id": row.id, "field": "ratings", "reason": "no response is rated"}
                )
            elif minimum is not None and found[1] < minimum:
                reason = f"its best response has {found[1]:g}, less than {minimum:g}"
                left_out.append({"id": row.id, "field": "ratings", "reason": reason})
            else:
                best.append((row, *found))
        skipped = write_skipped(out, records, left_out, "response")
        if not best:
            raise UserError(
                f"Not one response is kept; {out / 'skipped.jsonl'} says why. Lower --minimum."
            )
        conversations = [_conversation(*item, wanted) for item in best]
        write_records(conversations, out / "conversations.parquet", "conversation")
        # Each prompt counts once, as among the best: else prompts with more responses weigh more.
        means = [fmean(row.qualities(wanted).values()) for row, _, _ in best]
        summary = {
            "conversations": len(best),
            "skipped": skipped,
            "aspects": wanted,
            "mean_of_all": round(fmean(means), 4),
            "mean_of_best": round(fmean(value for _, _, value in best), 4),
        }
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(are_in(len(best), "best responses", out / "conversations.parquet"))


def best_response(sample: RatedSample, aspects: list[str]) -> tuple[int, float] | None:
    """The number of the response with the highest sum (the first of equals), and the sum."""
    sums = sample.qualities(aspects)
    if not sums:
        return None
    best = max(sums, key=lambda number: sums[number])
    return best, sums[best]


def _conversation(
    sample: RatedSample, number: int, value: float, aspects: list[str]
) -> dict[str, Any]:
    source = sample.provenance() | {
        "builder": "best",
        "aspects": aspects,
        "sum": value,
        "response": number,
        "of": len(sample.texts),
    }
    return {
        "id": sample.id,
        "images": sample.row["images"],
        "messages": [*sample.row["prompt"], *sample.row["responses"][number]],
        "source": json.dumps(source, ensure_ascii=False),
    }
