"""What ten million images and a 34B model take on 64 to 1,024 GPUs, by arithmetic.

    python benchmarks/gpu/scale.py

Prints the tables of docs/scale.md. Estimates: `MEASURED` are figures of docs/performance.md and
docs/data.md (one H100, and CPU cores), the rest are assumptions that stand beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import arithmetic
import flops
from arithmetic import COPY_RATE, LLAVA_7B, LLAVA_34B, MATRIX_RATE

IMAGES = 10_000_000
TOKENS = 576
GPUS = (64, 256, 1024)
MACHINE = 8
"""GPUs of one machine."""

# MEASURED
PAIRS_A_SECOND = 8.1
"""DPO of LLaVA-1.5-7B's shape, 8 pairs a step, the reference stored (one H100)."""
LAUNCH = 0.0325 / 32
"""Seconds a decoded token takes for each layer, whatever the model's size (16 rows, one H100)."""
ROW_SECONDS = 80 / 100_000
"""Seconds of one CPU core for a row that is read, checked and written, with a small image."""
REFERENCE_BYTES = 66_908 / 712
"""Of a pair in `reference_logps.json`."""

# ASSUMED
PICTURE = 150e3
"""Bytes of a photograph."""
PARALLEL = {64: 0.9, 256: 0.87, 1024: 0.8}
"""Share of a GPU's rate that is left in so many."""
INSIDE, BETWEEN, DISK = 300e9, 50e9, 50e9
"""Bytes a second: between GPUs of a machine, for each GPU between machines, of the file system."""
ROWS = 64
"""Answers that are decoded at once."""
EVALUATED = 100_000
"""Images that the model is asked about, once before and once after."""
ANSWER = 100
"""Tokens of an answer."""
BATCH_A_GPU = 4


@dataclass(frozen=True)
class Stage:
    """One stage of the work.

    Attributes:
        name: for the table.
        seconds: on one GPU.
        pace: of a training, seconds a step to compute and to gather layers; they overlap.
        alone: seconds that one process works at the end, however many there are.
        read: bytes from the file system, once for all.
        written: bytes.
    """

    name: str
    seconds: float
    pace: tuple[float, float] | None = None
    alone: float = 0.0
    read: float = 0.0
    written: float = 0.0

    def hours(self, gpus: int) -> float:
        """Until it is done."""
        loads = model_bytes(gpus) / DISK
        work = self.seconds / gpus
        if self.pace is not None:
            computing, gathering = self.pace
            work *= max(1 / PARALLEL[gpus], gathering / computing)
        return (max(work, self.read / DISK) + loads + self.alone) / 3600


def model_bytes(gpus: int) -> float:
    """That are read when all processes load the model; those of a machine share its page cache."""
    return gpus / MACHINE * arithmetic.weight_bytes(LLAVA_34B)


def paces() -> tuple[tuple[float, float], tuple[float, float]]:
    """A training step's seconds: FSDP2 over all machines as configured, and within each machine.

    Within a machine, the adapters' gradients are exchanged between machines besides.
    """
    weights = arithmetic.weight_bytes(LLAVA_34B)
    pair = arithmetic.step_of(LLAVA_34B, TOKENS).operations
    gradients = 2 * flops.adapter_weights(LLAVA_34B, arithmetic.RANK) * 4
    computing = BATCH_A_GPU * pair / (reached() * MATRIX_RATE)
    within = 3 * weights / INSIDE + gradients / BETWEEN
    return (computing, 3 * weights / BETWEEN), (computing, within)


def reached() -> float:
    """The share of the matrix rate that the measured step of DPO reached."""
    return arithmetic.step_of(LLAVA_7B, TOKENS).operations * PAIRS_A_SECOND / MATRIX_RATE


def stages() -> tuple[Stage, ...]:
    """Build, reference, training for one epoch, and evaluation before and after."""
    rate = reached() * MATRIX_RATE
    pair = arithmetic.step_of(LLAVA_34B, TOKENS)
    weights = flops.language_weights(LLAVA_34B)
    vision = flops.vision_forward(LLAVA_34B, TOKENS)
    token = max(arithmetic.weight_bytes(LLAVA_34B) / COPY_RATE, LAUNCH * LLAVA_34B.layers)
    sentences, decoded = arithmetic.SENTENCES, arithmetic.SENTENCE_TOKENS
    prompt = TOKENS * 0.01 + arithmetic.PROMPT + ANSWER  # 99 % of the image's tokens are masked
    build = (vision + 2 * weights * (prompt + sentences * decoded)) / rate
    build += token * decoded * sentences / ROWS
    answer = (vision + 2 * weights * (TOKENS + arithmetic.PROMPT + ANSWER)) / rate
    answer += token * ANSWER / ROWS
    pictures, text = IMAGES * PICTURE, IMAGES * 2e3
    finish = IMAGES * ROW_SECONDS
    checkpoint = flops.adapter_weights(LLAVA_34B, arithmetic.RANK) * 12.0
    return (
        Stage("build bdhs", IMAGES * build, alone=finish, read=pictures, written=pictures + text),
        Stage("reference", IMAGES * pair.reference / rate, read=pictures,
              written=IMAGES * REFERENCE_BYTES),
        Stage("train dpo", IMAGES * pair.operations / rate, paces()[0], read=pictures,
              written=checkpoint),
        Stage("eval, twice", 2 * EVALUATED * answer, read=2 * EVALUATED * PICTURE,
              written=2 * EVALUATED * 1e3),
    )  # fmt: skip


def stage_lines() -> list[str]:
    """The table of stages."""
    lines = [
        "| stage | GPU hours | GPU s an image | TB read | TB written | hours on 64 | 256 | 1,024 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    total = dict.fromkeys(GPUS, 0.0)
    for stage in stages():
        images = 2 * EVALUATED if stage.name.startswith("eval") else IMAGES
        hours = {gpus: stage.hours(gpus) for gpus in GPUS}
        total = {gpus: total[gpus] + hours[gpus] for gpus in GPUS}
        cells = [
            f"`{stage.name}`", f"{stage.seconds / 3600:,.0f}", f"{stage.seconds / images:.2f}",
            f"{stage.read / 1e12:.2g}", f"{stage.written / 1e12:.2g}",
            *(f"{value:.1f}" for value in hours.values()),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    whole = sum(stage.seconds for stage in stages()) / 3600
    cells = ["together", f"{whole:,.0f}", "", "", "", *(f"{value:.1f}" for value in total.values())]
    return [*lines, "| " + " | ".join(cells) + " |"]


def machine_lines() -> list[str]:
    """The table of what depends on the number of GPUs."""
    (computing, over_all), (_, within) = paces()
    train = stages()[2]
    hybrid = replace(train, pace=(computing, within))
    build = stages()[0].seconds
    rows = {
        f"pairs of a step, {BATCH_A_GPU} a GPU": [f"{BATCH_A_GPU * n:,}" for n in GPUS],
        "optimizer steps of an epoch": [f"{IMAGES / BATCH_A_GPU / n:,.0f}" for n in GPUS],
        "s a step to compute": [f"{computing:.1f}"] * 3,
        "s a step to gather layers three times over all machines": [f"{over_all:.1f}"] * 3,
        "the same within each machine, gradients between them": [f"{within:.1f}"] * 3,
        "hours of `train dpo` then": [f"{hybrid.hours(n):.1f}" for n in GPUS],
        "TB read by loading the model": [f"{model_bytes(n) / 1e12:.1f}" for n in GPUS],
        "minutes for that": [f"{model_bytes(n) / DISK / 60:.1f}" for n in GPUS],
        "GB/s of pictures while building": [
            f"{PICTURE * IMAGES * n / build / 1e9:.2f}" for n in GPUS
        ],
    }
    lines = ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()]
    return ["| | 64 GPUs | 256 | 1,024 |", "|---|---:|---:|---:|", *lines]


def main() -> None:
    """Print the tables."""
    print(f"share of the matrix rate that a measured step reached: {reached():.2f}\n")
    print("\n".join([*stage_lines(), "", *machine_lines()]))


if __name__ == "__main__":
    main()
