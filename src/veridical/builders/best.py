"""Rejection sampling: the best of several responses to each prompt, to be learned by SFT.

Li et al. (2024) fine-tune on their model's own high-scoring samples, one for each prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from veridical.builders._parts import finish
from veridical.builders._rated import (
    QUALITY,
    RatedSample,
    as_source,
    rated_samples,
    require_aspects,
)
from veridical.builders._rows import Conversation, Skipped, sort_out, usual_reason, write_set
from veridical.data.reading import read
from veridical.judges.attributes import EXACT
from veridical.runtime.files import require_file
from veridical.runtime.options import Reading
from veridical.runtime.progress import are_in
from veridical.runtime.runs import start_run


@dataclass(frozen=True)
class BestResponse:
    """A sample's best response: its number, and the sum of its ratings."""

    sample: RatedSample
    number: int
    sum: float

    def conversation(self, aspects: list[str]) -> Conversation:
        """The prompt with that response."""
        made = {
            "builder": "best",
            "aspects": aspects,
            "sum": self.sum,
            "response": self.number,
            "of": len(self.sample.texts),
        }
        row = self.sample.row
        return Conversation(
            id=self.sample.id,
            images=self.sample.read_images(),
            messages=[*row["prompt"], *row["responses"][self.number]],
            source=as_source(self.sample.provenance() | made),
        )


def build_best(
    samples: Path,
    out: Path,
    aspects: list[str] | None = None,
    minimum: float | None = None,
    reading: Reading = Reading(),
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
        reading: how SAMPLES is read.
    """
    require_file(samples, "--samples")
    options = {
        "samples": samples, "out": out, "aspects": aspects, "minimum": minimum, "reading": reading,
    }  # fmt: skip
    with start_run(out, "build best", options, {"samples": samples}) as run:
        records = read(samples, "sample", reading)
        rows = list(rated_samples(records.rows))
        by_truth = any(EXACT in ratings for row in rows for ratings in row.ratings)
        wanted = aspects if aspects is not None else [EXACT] if by_truth else list(QUALITY)
        require_aspects(rows, wanted)
        outcome = sort_out(best_response(row, wanted, minimum) for row in rows)
        best, path = outcome.kept, out / "conversations.parquet"
        conversations = (vars(one.conversation(wanted)) for one in best)
        nothing = f"Not one response is kept{usual_reason(outcome.skipped, out)} Lower --minimum."
        skipped = write_set(
            path, "conversation", conversations, outcome, records, "response", nothing
        )
        # Each prompt counts once, as among the best: else prompts with more responses weigh more.
        of_all = [fmean(one.sample.qualities(wanted).values()) for one in best]
        summary = {
            "conversations": len(best),
            "skipped": skipped,
            "aspects": wanted,
            "mean_of_all": round(fmean(of_all), 4),
            "mean_of_best": round(fmean(one.sum for one in best), 4),
        }
        finish(run, summary)
        print(are_in(len(best), "best responses", path))


def best_response(
    sample: RatedSample, aspects: list[str], minimum: float | None = None
) -> BestResponse | Skipped:
    """The response with the highest sum (the first of equals), unless that is below a minimum."""
    sums = sample.qualities(aspects)
    if not sums:
        return Skipped(sample.id, "ratings", "no response is rated")
    best = max(sums, key=lambda number: sums[number])
    if minimum is not None and sums[best] < minimum:
        reason = f"its best response has {sums[best]:g}, less than {minimum:g}"
        return Skipped(sample.id, "ratings", reason)
    return BestResponse(sample, best, sums[best])
