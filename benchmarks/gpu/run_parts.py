"""Correctness, speed and memory on one card: the parts one by one, each in its own process.

    python benchmarks/gpu/run_parts.py [--tiny] [--quick] [--minutes 9] [--parts rate tests dpo ...]

Needs nothing but Python with PyTorch, Transformers and what `requirements.txt` beside this file
lists; no network, no installed package of ours. Each part writes its figures to
`runs/gpu/PART.json` as soon as it has them, and what it prints to `log.txt` there. Without a card
it takes small models and the CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from figures_table import print_part
from measuring import HERE, ROOT, Settings, replace_file

GRACE = 10.0
"""Seconds that a part may take longer than its share before it is stopped."""
TINY_MINUTES = 4.0


@dataclass(frozen=True)
class Part:
    """One script, and its share of the time.

    Attributes:
        script: beside this file.
        share: of the whole time; what one part leaves is shared by those after it.
        what: it measures.
    """

    script: str
    share: float
    what: str


PARTS = {
    "rate": Part("part_rate.py", 0.04, "matrix products and copies"),
    "tests": Part("part_tests.py", 0.18, "the tests marked gpu"),
    "dpo": Part("part_dpo.py", 0.46, "DPO steps at the shapes of 7B models"),
    "sampling": Part("part_sampling.py", 0.22, "sampling and BDHS"),
    "ppo": Part("part_ppo.py", 0.10, "a PPO step taken apart"),
}


def main() -> int:
    """Run the parts; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description="Veridical on one GPU.")
    parser.add_argument("--tiny", action="store_true", help="small models: does everything run?")
    parser.add_argument("--quick", action="store_true", help="one model, one picture size")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--minutes", type=float, help="for all parts (9; 4 with small models)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    given = parser.parse_args()
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = given.tiny or device == "cpu"
    if device == "cpu":
        print("No card: small models on the CPU, to see whether everything runs.", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "log.txt").unlink(missing_ok=True)
    end = time.monotonic() + 60 * (given.minutes or (TINY_MINUTES if tiny else 9.0))
    failed = False
    for number, name in enumerate(given.parts):
        shares = [PARTS[other].share for other in given.parts[number:]]
        seconds = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
        out = given.out.resolve() / f"{name}.json"
        settings = Settings(name, device, tiny, seconds, str(out), given.quick, _rate(given.out))
        print(f"\n== {name}: {PARTS[name].what} (at most {seconds:.0f} s)", flush=True)
        content = run_part_alone(HERE / PARTS[name].script, settings)
        print_part(content)
        failed = failed or content["status"] == "failed"
    return 1 if failed else 0


def run_part_alone(script: Path, settings: Settings) -> dict[str, Any]:
    """Run a part in a process of its own, and stop it when its time is over.

    Whatever becomes of the process, the file has its figures up to then, and how it ended. What it
    prints goes to `log.txt` beside that file, after what others printed.

    Returns:
        The file's content.
    """
    out = Path(settings.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    log = out.with_name("log.txt")
    command = [sys.executable, str(script), json.dumps(dataclasses.asdict(settings))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if settings.device == "cuda":
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")  # or trainers would take all there are
    status, reason = "", ""
    with log.open("a", encoding="utf-8") as output:
        print(f"== {settings.part}", file=output, flush=True)
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(settings.seconds + GRACE)
            if code:
                status, reason = "failed", f"exit status {code}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            # With its children: engines and test runners start some.
            os.killpg(process.pid, 9)
            process.wait()
            status, reason = "cut", f"stopped after {settings.seconds + GRACE:.0f} s"
    content = _figures(out, settings)
    if status and (content["status"] != "failed" or not content["reason"]):
        content |= {"status": status, "reason": reason}
    elif content["status"] == "running":
        content |= {"status": "failed", "reason": "it ended before its end"}
    replace_file(out, content)
    return content


def _figures(out: Path, settings: Settings) -> dict[str, Any]:
    if not out.is_file():
        return {"part": settings.part, "status": "failed", "reason": "", "notes": [], "rows": [],
                "tiny": settings.tiny}  # fmt: skip
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def _rate(folder: Path) -> float | None:
    """The measured rate of bfloat16 products, if that part has run."""
    path = folder / "rate.json"
    if not path.is_file():
        return None
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if row.get("dtype") == "bfloat16" and "flops_per_second" in row:
            return float(row["flops_per_second"])
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
