"""What a 7B and a 34B model take, by arithmetic: operations, bytes, seconds on 1, 8 and 64 GPUs.

    python benchmarks/gpu/arithmetic.py

Estimates, not measurements. Two figures are measured on an H100 (`part_rate.py`): the rate of
bfloat16 matrix products and that of copies. What share of the first a step reaches is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import flops
from shapes import SHAPES, Shape

LLAVA_7B = SHAPES[0]
LLAVA_34B = Shape(
    "LLaVA-NeXT-34B", "llava", width=7168, intermediate=20480, layers=60, heads=56, kv_heads=8,
    vocabulary=64000, vision_width=1024, vision_intermediate=4096, vision_layers=24,
    vision_heads=16,
)  # fmt: skip
MATRIX_RATE, COPY_RATE = 708e12, 3.0e12
"""Operations and bytes a second, measured on an H100 80GB HBM3."""
SHARE = 0.45
"""Of the matrix rate that a step reaches (assumed)."""
PARALLEL = {1: 1.0, 8: 0.95, 64: 0.9}
"""Share of a GPU's rate that is left in so many (assumed; gradients of adapters are small)."""
PROMPT, RESPONSE, RANK = 60, 150, 128
LINK = 300e9
"""Bytes a second between the GPUs of one machine, in an all-gather (assumed: NVLink)."""
SENTENCES, SENTENCE_TOKENS, ANSWER, ROWS = 4, 20, 100, 256
EAGER_STEP = 0.03
"""Seconds that the host takes to launch one token of a 7B model's 32 layers (assumed)."""


@dataclass(frozen=True)
class Step:
    """What a pair takes.

    Attributes:
        operations: those that checkpointing repeats included.
        reference: of one pass of the reference.
        activations: bytes kept for the backward pass, with checkpointing.
    """

    operations: float
    reference: float
    activations: float


def main() -> None:
    """Print the tables."""
    heads = [
        "model", "image tokens", "TFLOP a pair", "a reference pass", "weights, GB", "adapters, GB",
        "activations a pair, GB", "pairs/s on 1", "8", "64", "hours for 1M pairs on 1", "8", "64",
    ]  # fmt: skip
    print_heads(heads)
    for shape in (LLAVA_7B, LLAVA_34B):
        for tokens in (576, 2880):
            print(line(shape, tokens))
    gathered = 3 * weight_bytes(LLAVA_34B) / LINK
    print(f"\nFSDP2 of the 34B: {gathered:.2f} s a step to gather its layers three times.")
    print()
    heads = ["masked tokens", "TFLOP an image", "s an image", "days for 10M on 1", "8", "64"]
    print_heads(heads)
    for kept in (6, 576):
        print(bdhs_line(LLAVA_7B, kept))


def print_heads(names: list[str]) -> None:
    """The first two lines of a table."""
    print("| " + " | ".join(names) + " |")
    print("|" + " --- |" * len(names))


def step_of(shape: Shape, image_tokens: int) -> Step:
    """DPO with adapters and activation checkpointing, the prompt shared, the reference stored."""
    rows = flops.shared_row(image_tokens + PROMPT, RESPONSE)
    weights = flops.language_weights(shape)
    with_adapters = weights + flops.adapter_weights(shape, RANK)
    again = flops.language_forward(shape, rows, with_adapters)
    done = flops.dpo_step(shape, rows, image_tokens, RANK, 0) + again
    reference = flops.language_forward(shape, rows, weights)
    reference += flops.vision_forward(shape, image_tokens)
    tokens = rows[0].tokens
    inside = tokens * 2 * (6 * shape.width + 4 * shape.intermediate)
    return Step(done, reference, 2 * tokens * shape.width * shape.layers + inside)


def weight_bytes(shape: Shape) -> float:
    """Of the language model in bfloat16, embeddings and head included."""
    return 2.0 * (flops.language_weights(shape) + 2 * shape.width * shape.vocabulary)


def line(shape: Shape, image_tokens: int) -> str:
    """A row of the first table."""
    step = step_of(shape, image_tokens)
    adapters = flops.adapter_weights(shape, RANK) * 16  # weight, gradient, two moments in float32
    rates = {n: n * SHARE * MATRIX_RATE * share / step.operations for n, share in PARALLEL.items()}
    cells = [
        shape.name, f"{image_tokens:,}", f"{step.operations / 1e12:.0f}",
        f"{step.reference / 1e12:.0f}", f"{weight_bytes(shape) / 1e9:.1f}", f"{adapters / 1e9:.1f}",
        f"{step.activations / 1e9:.2f}", *(f"{rate:.1f}" for rate in rates.values()),
        *(f"{1e6 / rate / 3600:.1f}" for rate in rates.values()),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def bdhs_line(shape: Shape, kept: int) -> str:
    """A row of the second table: four sentences of an answer, each completed with 20 tokens."""
    prompt = kept + PROMPT + ANSWER
    decoded = SENTENCES * SENTENCE_TOKENS
    weights = flops.language_weights(shape)
    done = flops.vision_forward(shape, 576) + 2.0 * weights * (prompt + decoded)
    read = weight_bytes(shape) / COPY_RATE
    images = ROWS / SENTENCES
    seconds = done / (SHARE * MATRIX_RATE) + SENTENCE_TOKENS * max(read, EAGER_STEP) / images
    days = [1e7 * seconds / (n * share) / 86400 for n, share in PARALLEL.items()]
    what = "dropped" if kept < 576 else "kept"
    cells = [what, f"{done / 1e12:.1f}", f"{seconds:.3f}", *(f"{d:.2g}" for d in days)]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
