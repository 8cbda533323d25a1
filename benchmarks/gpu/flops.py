"""Floating-point operations that a model has to do, by its shape.

Operations of matrix products alone, as is usual: two for each weight and token, and those of
attention. What gradient checkpointing computes twice is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

from shapes import Shape


@dataclass(frozen=True)
class Row:
    """One row of a batch, as a layout makes it.

    Attributes:
        tokens: that the language model reads.
        attended: pairs of a query and a key that it may see.
        predicted: positions that logits are needed of.
        images: that are encoded for it.
    """

    tokens: int
    attended: int
    predicted: int
    images: int = 1


def shared_row(prompt: int, response: int) -> list[Row]:
    """A pair as one row: the prompt once, then both responses."""
    attended = _causal(prompt) + 2 * (prompt * response + _causal(response))
    return [Row(prompt + 2 * response, attended, 2 * response)]


def two_rows(prompt: int, response: int) -> list[Row]:
    """A pair as two rows, each with the prompt and its images."""
    length = prompt + response
    return [Row(length, _causal(length), response)] * 2


def language_weights(shape: Shape) -> int:
    """Weights of the language model's linear layers, without embeddings and head."""
    head = shape.width // shape.heads
    attention = shape.width * head * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.width * shape.intermediate)


def adapter_weights(shape: Shape, rank: int) -> int:
    """Weights of adapters on all those layers."""
    head = shape.width // shape.heads
    sides = 2 * (shape.width + shape.heads * head) + 2 * (shape.width + shape.kv_heads * head)
    return shape.layers * rank * (sides + 3 * (shape.width + shape.intermediate))


def language_forward(shape: Shape, rows: list[Row], weights: int) -> int:
    """The language model and its head.

    Args:
        shape: of the model.
        rows: that it reads.
        weights: each of which every token meets.
    """
    linear = sum(2 * weights * row.tokens for row in rows)
    attention = sum(4 * shape.layers * shape.width * row.attended for row in rows)
    return linear + attention + _head(shape, rows)


def vision_forward(shape: Shape, image_tokens: int) -> int:
    """The image encoder on one picture (without projector and patch embedding)."""
    patches = image_tokens * shape.patches_a_token
    width = shape.vision_width
    # Qwen's feed-forward layers have three matrices, CLIP's two.
    matrices = 3 if shape.family == "qwen" else 2
    weights = shape.vision_layers * (
        4 * width * width + matrices * width * shape.vision_intermediate
    )
    full = len(shape.full_layers) if shape.family == "qwen" else shape.vision_layers
    near = (shape.window // shape.patch) ** 2
    attended = patches * (full * patches + (shape.vision_layers - full) * min(near, patches))
    return 2 * weights * patches + 4 * width * attended


def dpo_step(
    shape: Shape, rows: list[Row], image_tokens: int, rank: int, reference_passes: int
) -> int:
    """A pair's step with adapters on frozen weights.

    The backward pass needs the gradients of inputs everywhere and of weights in the adapters only.

    Args:
        shape: of the model.
        rows: that one pair becomes.
        image_tokens: of a picture.
        rank: of the adapters.
        reference_passes: 1 where the reference runs in the step, 0 where it was precomputed.
    """
    weights, adapters = language_weights(shape), adapter_weights(shape, rank)
    forward = language_forward(shape, rows, weights + adapters)
    tokens = sum(row.tokens for row in rows)
    attention = sum(4 * shape.layers * shape.width * row.attended for row in rows)
    backward = 2 * (weights + 2 * adapters) * tokens + 2 * attention + _head(shape, rows)
    images = sum(row.images for row in rows) * vision_forward(shape, image_tokens)
    reference = reference_passes * (language_forward(shape, rows, weights) + images)
    return forward + backward + images + reference


def _head(shape: Shape, rows: list[Row]) -> int:
    return sum(2 * shape.width * shape.vocabulary * row.predicted for row in rows)


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2
