"""How fast DPO on vision-language models is, and what it takes, beside TRL's DPOTrainer.

    make benchmark          (or: python benchmarks/dpo.py [--quick] [--cases llava world])

Same model, pairs, optimizer and trained weights; float32, no dropout, no checkpointing, no
truncation, vision tower and projector frozen. Each side trains in a process of its own; sides take
turns, in an order that turns too; of every process the first step does not count. Memory is the
high-water mark minus what is resident once the model is loaded. Figures go to
`runs/benchmark/dpo.json`, where cases that were not asked for stay as they are. On a machine that
has other things to do, go by CPU time.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import TINY, Size
from sides import Settings

from veridical.runtime.files import read_json, write_json

CASES = {
    "llava": ("(a) LLaVA", Size(), {"trl": 2, "veridical": 4}),
    "qwen": ("(b) Qwen2.5-VL, 152k words", Size(vocabulary=152_000), {"trl": 2, "veridical": 4}),
    "world": ("(c) embedded world", Size(), {"trl": 40, "veridical": 40}),
}
"""Title, sizes, steps a process. The second step has all of the peak: optimizer state is there."""

SIDES = (("trl", "in_step"), ("veridical", "precomputed"), ("veridical", "in_step"))


BESIDE = (
    "import runpy, sys, torchvision_beside; del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a script with the tests' torchvision, which Qwen's processor wants, and no other may see."""


def run_script(name: str, settings: Path, threads: int, torchvision: bool) -> None:
    """Run a script of this folder on a file of settings, in a process of its own."""
    here = Path(__file__).parent
    paths = [here, here.parent / "tests" / "families", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # or waiting would count as work
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    log = settings.with_suffix(".txt")
    command: list[str | Path] = [
        sys.executable,
        *(["-c", BESIDE] if torchvision else []),
        here / name,
        settings,
    ]
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(command, stdout=output, stderr=output, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{log.read_text(encoding='utf-8')[-3000:]}")


def make_case(folder: Path, case: str, size: Size, pairs: int) -> str:
    """Write model and pairs into a folder; returns the model's name."""
    folder.mkdir(parents=True)
    path = folder / "case.json"
    write_json(path, {"case": case, "size": dataclasses.asdict(size), "pairs": pairs})
    run_script("cases.py", path, 2, case == "qwen")
    return "embedded" if case == "world" else str(folder / "model")


def run_side(settings: Settings, folder: Path, torchvision: bool = False) -> dict[str, Any]:
    """Train in a process of its own and return what it measured."""
    folder.mkdir(parents=True)
    write_json(folder / "settings.json", dataclasses.asdict(settings))
    run_script("sides.py", folder / "settings.json", settings.threads, torchvision)
    result: dict[str, Any] = read_json(folder / "result.json")
    return result


def seconds_a_step(results: list[dict[str, Any]], clock: str = "seconds") -> float:
    """The median over processes and steps, without each process's first."""
    return float(statistics.median(s for result in results for s in result[clock][1:]))


def compare(
    case: str, tuning: str, reference: str, found: dict[tuple[str, str], list[dict[str, Any]]],
    batch: int,
) -> dict[str, Any]:  # fmt: skip
    """One row of `dpo.json`."""
    ours, theirs = found["veridical", reference], found["trl", "in_step"]
    seconds = {"veridical": seconds_a_step(ours), "trl": seconds_a_step(theirs)}
    cpu = {
        "veridical": seconds_a_step(ours, "cpu_seconds"),
        "trl": seconds_a_step(theirs, "cpu_seconds"),
    }
    peaks = {
        "veridical": max(r["peak_bytes"] for r in ours),
        "trl": max(r["peak_bytes"] for r in theirs),
    }

    last = min(len(ours[0]["logs"]), len(theirs[0]["logs"])) - 1

    def difference(name: str, step: int) -> float:
        a, b = ours[0]["logs"][step][name], theirs[0]["logs"][step][name]
        return float(abs(a - b) / abs(b))

    return {
        "case": case,
        "tuning": tuning,
        "reference": reference,
        "pairs_per_second_ratio": seconds["trl"] / seconds["veridical"],
        "pairs_per_cpu_second_ratio": cpu["trl"] / cpu["veridical"],
        "peak_memory_ratio": peaks["veridical"] / peaks["trl"],
        "max_loss_difference": difference("loss", 0),
        "max_logps_difference": max(difference(f"logps_{b}", 0) for b in ("chosen", "rejected")),
        "last_loss_difference": difference("loss", last),
        "last_logps_difference": max(
            difference(f"logps_{b}", last) for b in ("chosen", "rejected")
        ),
        "repetitions": len(ours),
        "pair_by_pair_ratios": [
            seconds_a_step([b]) / seconds_a_step([a]) for a, b in zip(ours, theirs, strict=True)
        ],
        **{f"{side}_pairs_per_second": batch / seconds[side] for side in seconds},
        **{f"{side}_seconds_a_step": seconds[side] for side in seconds},
        **{f"{side}_cpu_seconds_a_step": cpu[side] for side in cpu},
        **{f"{side}_peak_bytes": peaks[side] for side in peaks},
        "raw": {"veridical": ours, "trl": theirs},
    }


def run_case(
    case: str, size: Size, steps: dict[str, int], repetitions: int, threads: int, folder: Path,
    tunings: tuple[str, ...],
) -> list[dict[str, Any]]:  # fmt: skip
    """All rows of a case."""
    batch = 2
    model = make_case(folder / case, case, size, max(steps.values()) * batch)
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for repetition in range(repetitions):
        for tuning in tunings:
            results = found.setdefault(tuning, {side: [] for side in SIDES})
            turn = repetition % len(SIDES)
            for side, reference in (*SIDES[turn:], *SIDES[:turn]):
                settings = Settings(
                    side, model, str(folder / case / "pairs.parquet"), tuning, reference,
                    steps[side], batch, threads,
                )  # fmt: skip
                place = folder / case / f"{tuning}-{side}-{reference}-{repetition}"
                result = run_side(settings, place, case == "qwen")
                results[side, reference].append(result)
                figures = f"{seconds_a_step([result]):7.3f} s, {result['peak_bytes'] / 1e9:6.2f} GB"
                print(f"  {case:6} {tuning:5} {side:10} {reference:12} {figures}", flush=True)
    references = ("precomputed", "in_step")
    return [compare(case, t, r, found[t], batch) for t in tunings for r in references]


def print_table(rows: list[dict[str, Any]]) -> None:
    """For people."""
    print(
        "\ncase    tuning  reference     pairs/s   TRL's   ratio  by CPU time  memory   loss off by"
    )
    for row in rows:
        print(
            f"{row['case']:7} {row['tuning']:7} {row['reference']:12} "
            f"{row['veridical_pairs_per_second']:8.2f}{row['trl_pairs_per_second']:8.2f}"
            f"{row['pairs_per_second_ratio']:8.2f}"
            f"{row['pairs_per_cpu_second_ratio']:13.2f}{row['peak_memory_ratio']:8.2f}"
            f"   {row['max_loss_difference']:.1e}"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Veridical's DPO beside TRL's.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tunings", nargs="+", default=["full", "lora"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    rows = []
    path = given.out / "dpo.json"
    order = list(CASES)
    with tempfile.TemporaryDirectory() as scratch:
        for case in given.cases:
            title, size, steps = CASES[case]
            print(title, flush=True)
            size, steps = (TINY, {"trl": 2, "veridical": 2}) if given.quick else (size, steps)
            repetitions = 1 if given.quick else given.repetitions
            found = run_case(
                case, size, steps, repetitions, given.threads, Path(scratch), tuple(given.tunings)
            )
            rows += found
            # After each case, so that a run that is stopped loses only the one it was at.
            others = read_json(path)["rows"] if path.is_file() else []
            kept = [row for row in others if row["case"] != case]
            every = sorted(kept + found, key=lambda row: order.index(row["case"]))
            write_json(path, {"rows": every})
    print_table(rows)


if __name__ == "__main__":
    main()
