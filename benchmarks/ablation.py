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

from veridical.runtime.files import write_json

STEPS = 3
TOKENS = (144, 576, 1156, 2916)


def figures(results: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Of one side's processes."""
    seconds = seconds_a_step(results)
    return {
        "seconds_a_step": seconds,
        "pairs_per_second": batch / seconds,
        "cpu_seconds_a_step": seconds_a_step(results, "cpu_seconds"),
        "peak_bytes": max(result["peak_bytes"] for result in results),
        "raw": results,
    }


def take_turns(
    sides: dict[str, Settings], repetitions: int, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Every side's results; one process of each, then again, so that all meet the same machine."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for number, (name, settings) in enumerate(sides.items()):
            result = run_side(settings, folder / f"{repetition}-{number}")
            found[name].append(result)
            print(
                f"  {name or 'all on':32} {seconds_a_step([result]):7.2f} s, CPU "
                f"{seconds_a_step([result], 'cpu_seconds'):7.2f} s, "
                f"{result['peak_bytes'] / 1e9:5.2f} GB",
                flush=True,
            )
    return found


def techniques(size: Size, threads: int, repetitions: int, scratch: Path) -> list[dict[str, Any]]:
    """A row for everything on, and one for each technique off."""
    folder = scratch / "techniques"
    model = make_case(folder, "llava", size, 2 * STEPS)
    sides = {
        without: Settings(
            "veridical", model, str(folder / "pairs.parquet"), "full",
            "in_step" if without == "precomputed reference" else "precomputed",
            STEPS, 2, threads, without,
        )
        for without in ("", *OFF)
    }  # fmt: skip
    found = take_turns(sides, repetitions, folder)
    return [{"without": without, **figures(results, 2)} for without, results in found.items()]


def image_tokens(
    size: Size, tokens: tuple[int, ...], threads: int, repetitions: int, scratch: Path
) -> list[dict[str, Any]]:
    """Pairs per second of both sides."""
    rows = []
    for count in tokens:
        print(f"{count} image tokens", flush=True)
        folder = scratch / f"tokens-{count}"
        model = make_case(folder, "llava", dataclasses.replace(size, image_tokens=count), STEPS)
        sides = {
            side: Settings(
                side, model, str(folder / "pairs.parquet"), "lora", reference, STEPS, 1, threads
            )
            for side, reference in (("veridical", "precomputed"), ("trl", "in_step"))
        }
        found = take_turns(sides, repetitions, folder)
        rows += [
            {"image_tokens": count, "side": side, **figures(results, 1)}
            for side, results in found.items()
        ]
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What each technique contributes.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--part", nargs="+", default=["techniques", "tokens"])
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    size = TINY if given.quick else Size()
    repetitions = 1 if given.quick else given.repetitions
    with tempfile.TemporaryDirectory() as scratch:
        if "techniques" in given.part:
            rows = techniques(size, given.threads, repetitions, Path(scratch))
            write_json(given.out / "ablation.json", {"rows": rows})
        if "tokens" in given.part:
            counts = (16, 64) if given.quick else TOKENS
            rows = image_tokens(size, counts, given.threads, repetitions, Path(scratch))
            write_json(given.out / "tokens.json", {"rows": rows})


if __name__ == "__main__":
    main()
