"""Prompts that are to be continued, as `generate` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from veridical.data.images import ImageLike
from veridical.models.policy import Policy
from veridical.models.processing import process


@dataclass(frozen=True)
class Branch:
    """A prompt that begins as a row of a batch does, and goes on with text of its own.

    Attributes:
        row: of the batch.
        shared: how many of that row's tokens it has, padding not counted; only text follows them.
        tail: the tokens behind those; at least one.
    """

    row: int
    shared: int
    tail: list[int]


@dataclass(frozen=True)
class PromptBatch:
    """Left-padded prompts, ready to be continued.

    Attributes:
        inputs: what `generate` takes.
        lengths: lengths of the rows in tokens, padding not counted. Shape: (rows,).
        branches: the prompts, where they are not just the rows.
    """

    inputs: dict[str, Tensor]
    lengths: Tensor
    branches: tuple[Branch, ...] = ()

    @property
    def prompt_lengths(self) -> list[int]:
        """Lengths of the prompts in tokens, whatever they are beside."""
        if self.branches:
            return [branch.shared + len(branch.tail) for branch in self.branches]
        found: list[int] = self.lengths.tolist()
        return found


def prompt_batch(
    policy: Policy, images: Sequence[Sequence[ImageLike]], prompt_texts: Sequence[str]
) -> PromptBatch:
    """Prompts, left-padded, for `generate`."""
    inputs = process(policy, images, prompt_texts, "left")
    return PromptBatch(inputs, inputs["attention_mask"].sum(-1))
