"""What each technique contributes, one switched off at a time; and what image tokens cost.

    python benchmarks/ablation.py [--quick] [--part techniques tokens]

Techniques: the LLaVA of `dpo.py`, full fine-tuning, reference precomputed. Image tokens: one pair
at a time, LoRA, beside TRL; LLaVA's pictures are square, so 1,156 and 2,916 stand for 1,152 and
2,880. Figures go to `runs/benchmark/ablation.json` and `tokens.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from cases import TINY, Size
from dpo import make_case, run_side, seconds_a_step
from sides import Settings
from switches import OFF

from veridical.files import write_json

STEPS = 3
TOKENS = (144, 576, 1156, 2916)


def figures(result: dict[str, Any], batch: int) -> dict[str, Any]:
    """Of one process."""
    seconds = seconds_a_step([result])
    return {
        "seconds_a_step": seconds,
        "pairs_per_second": batch / seconds,
        "cpu_seconds_a_step": seconds_a_step([result], "cpu_seconds"),
        "peak_bytes": result["peak_bytes"],
        "raw": result,
    }


def techniques(size: Size, threads: int, scratch: Path) -> list[dict[str, Any]]:
    """A row for everything on, and one for each technique off."""
    model = make_case(scratch / "techniques", "llava", size, 2 * STEPS)
    rows = []
    for number, without in enumerate(("", *OFF)):
        reference = "in_step" if without == "precomputed reference" else "precomputed"
        data = str(scratch / "techniques" / "pairs.parquet")
        settings = Settings("veridical", model, data, "full", reference, STEPS, 2, threads, without)
        row = {"without": without, **figures(run_side(settings, scratch / f"t{number}"), 2)}
        rows.append(row)
        print(
            f"  without {without or 'nothing':28} {row['seconds_a_step']:7.2f} s, CPU "
            f"{row['cpu_seconds_a_step']:7.2f} s, {row['peak_bytes'] / 1e9:5.2f} GB",
            flush=True,
        )
    return rows


def image_tokens(size: Size, tokens: tuple[int, ...], threads: int, scratch: Path) -> list[Any]:
    """Pairs per second of both sides."""
    rows = []
    for count in tokens:
        folder = scratch / f"tokens-{count}"
        model = make_case(folder, "llava", dataclasses.replace(size, image_tokens=count), 2)
        for side, reference in (("veridical", "precomputed"), ("trl", "in_step")):
            data = str(folder / "pairs.parquet")
            settings = Settings(side, model, data, "lora", reference, 2, 1, threads)
            row = {"image_tokens": count, "side": side}
            row |= figures(run_side(settings, folder / side), 1)
            rows.append(row)
            print(
                f"  {count:5} image tokens, {side:10} {row['pairs_per_second']:7.3f} pairs/s, CPU "
                f"{row['cpu_seconds_a_step']:7.2f} s a pair, {row['peak_bytes'] / 1e9:5.2f} GB",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What each technique contributes.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--part", nargs="+", default=["techniques", "tokens"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    size = TINY if given.quick else Size()
    with tempfile.TemporaryDirectory() as scratch:
        if "techniques" in given.part:
            rows = techniques(size, given.threads, Path(scratch))
            write_json(given.out / "ablation.json", {"rows": rows})
        if "tokens" in given.part:
            counts = (16, 64) if given.quick else TOKENS
            rows = image_tokens(size, counts, given.threads, Path(scratch))
            write_json(given.out / "tokens.json", {"rows": rows})


if __name__ == "__main__":
    main()
