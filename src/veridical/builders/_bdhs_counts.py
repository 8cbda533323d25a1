"""What a BDHS build says about its set of pairs, and what in it deserves a warning."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypedDict

from veridical.runtime.progress import counted

LEAST_GUIDED = 0.5
"""Share of guided sentences below which a warning is given (our choice: cut at random, sentences of
three words keep a beginning in two cases of three)."""
MOST_SHIFT = 0.05
"""Shift of the share of Yes from which a warning is given (our choice)."""
LEAST_NOISE = 0.1
"""Mean `noise_deviation` below which a warning is given (our choice; 500 steps leave
0.24 to 0.36 of noise that is drawn at the size the model sees, found to a pixel)."""
ENOUGH = 20
"""Records that answer yes or no, from which their balance is compared (our choice)."""

Results = Sequence[Mapping[str, Any]]


class NoiseCounts(TypedDict, total=False):
    """How far noise moved what the model was given, where any was added."""

    mean_noise_deviation: float | None
    noise_not_measured: int


class BDHSSummary(NoiseCounts, total=False):
    """`summary.json` of a BDHS set."""

    records: int
    pairs: int
    skipped: int
    skipped_for: dict[str, int]
    pairs_by_iteration: dict[str, int]
    mean_similarity: float
    mean_share_masked: float
    tries: int
    tries_cut_off: int
    empty_completions: int
    sentences: int
    guided_sentences: int
    share_guided: float | None
    languages: dict[str, int]
    yes_no: dict[str, dict[str, int]]
    warnings: list[str]


def summarize(results: Results, skipped: int) -> BDHSSummary:
    """Counts and means of a set; `warnings` are sentences for the user.

    Args:
        results: of `build_pairs`, one for each record, at least one with a pair.
        skipped: how many records are listed in `skipped.jsonl`.
    """
    pairs = [row for row in results if "rejected" in row]
    sources = [json.loads(row["source"]) for row in pairs]
    iterations = Counter(source["iteration"] for source in sources)
    guided, masked = _guidance(sources), [source["share_masked"] for source in sources]
    summary: BDHSSummary = {
        "records": len(results),
        "pairs": len(pairs),
        "skipped": skipped,
        "skipped_for": dict(Counter(row["reason"] for row in results if "reason" in row)),
        "pairs_by_iteration": {str(i): iterations[i] for i in sorted(iterations)},
        "mean_similarity": round(fmean(source["similarity"] for source in sources), 4),
        "mean_share_masked": round(fmean(masked), 4),
        "tries": sum(row["tries"]["made"] for row in results),
        "tries_cut_off": sum(row["tries"]["cut_off"] for row in results),
        "empty_completions": sum(row["tries"]["empty"] for row in results),
        "sentences": len(guided),
        "guided_sentences": sum(guided),
        "share_guided": round(fmean(guided), 4) if guided else None,
        **_noise(sources),  # type: ignore[typeddict-item]  # further keys are not there
        "languages": dict(Counter(row["language"] for row in results if "language" in row)),
        "yes_no": {"records": _yes_no(results), "pairs": _yes_no(pairs)},
    }
    summary["warnings"] = warnings_of(summary)
    return summary


def warnings_of(summary: BDHSSummary) -> list[str]:
    """What a user should know before training on the set."""
    found = [
        _about_guidance(summary),
        _about_balance(summary["yes_no"]),
        _about_limits(summary),
        *_about_noise(summary),
    ]
    return [warning for warning in found if warning]


def _guidance(sources: Results) -> list[bool]:
    """Of each sentence in guided pairs: whether the model was given its beginning."""
    return [bool(cut["kept"]) for source in sources for cut in source["cuts"]]


def _noise(sources: Results) -> NoiseCounts:
    """How far noise moved what the model was given; nothing where none was added."""
    left = [source["noise_deviation"] for source in sources if "noise_deviation" in source]
    known = [one for one in left if one is not None]
    mean = round(fmean(known), 4) if known else None
    if not left:
        return {}
    return {"mean_noise_deviation": mean, "noise_not_measured": len(left) - len(known)}


def _yes_no(results: Results) -> dict[str, int]:
    counts = Counter(row.get("yes_no") for row in results)
    return {word: counts[word] for word in ("yes", "no")}


def _about_guidance(summary: BDHSSummary) -> str:
    share = summary["share_guided"]
    if share is None or share >= LEAST_GUIDED:
        return ""
    return (
        f"Only {share:.0%} of the sentences were completed from a beginning of the true one. Most "
        "are one word long, or --language does not fit; such pairs differ in more than the image "
        "can tell."
    )


def _about_balance(counts: Mapping[str, Mapping[str, int]]) -> str:
    before, after = (sum(counts[name].values()) for name in ("records", "pairs"))
    if before < ENOUGH:
        return ""
    if not after:
        return f"None of the {before} records that answer yes or no gave a pair."
    had, has = counts["records"]["yes"] / before, counts["pairs"]["yes"] / after
    if abs(has - had) <= MOST_SHIFT:
        return ""
    return (
        f"Yes is the true answer in {had:.0%} of the {before} records that answer yes or no, and "
        f"in {has:.0%} of their {after} pairs: training would teach the model to say "
        f"{'Yes' if has > had else 'No'} more often. Raise --yes-no-swap or --iterations."
    )


def _about_limits(summary: BDHSSummary) -> str:
    if summary["tries_cut_off"] <= summary["tries"] / 10:
        return ""
    return (
        f"{summary['tries_cut_off']} of {summary['tries']} tries were thrown away because a text "
        "reached its limit. Raise --max-new-tokens."
    )


def _about_noise(summary: BDHSSummary) -> list[str]:
    unknown, left = summary.get("noise_not_measured", 0), summary.get("mean_noise_deviation")
    found = []
    if unknown:
        found.append(
            f"For {counted(unknown, 'pairs')} it could not be measured how much of the noise "
            "reached the "
            "model: the values of its image processor can't be read. Noise was drawn at 336 pixels "
            "of the shorter side; look at some pairs, or use --variant mask."
        )
    if left is not None and left < LEAST_NOISE:
        found.append(
            f"The noise moved what the model was given by only {left:.2f} on average (pixel values "
            "from 0 to 1), so most of each image could be seen. Raise --noise-steps."
        )
    return found
