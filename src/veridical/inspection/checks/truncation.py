"""Rows that are too long for a model, counted by its own processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.lengths import Measured
from veridical.inspection.rows import Row

NAME = "truncation"


def truncation_check(
    measure: Callable[[Row], Measured], limit: int, model: str
) -> Callable[[Row], Iterator[Finding]]:
    """The check for a length and a model.

    Args:
        measure: tokens of a row.
        limit: tokens that a prompt and its longest answer may have together.
        model: its name.
    """

    def check_truncation(row: Row) -> Iterator[Finding]:
        """Check that prompt, images and the longest answer fit."""
        if row.record is None or any(picture.problem for picture in row.pictures):
            return
        found = measure(row)
        if found.refusal:
            yield Finding(
                NAME, "error", row.number, row.id, f"{model} refuses it: {found.refusal}",
                "change the text or the image, or take another model",
            )  # fmt: skip
        elif found.prompt + found.answer > limit:
            rest = max(0, limit - found.prompt)
            yield Finding(
                NAME, "error", row.number, row.id,
                f"{found.prompt + found.answer:,} tokens with {model} ({found.prompt:,} of prompt "
                f"and images, {found.answer:,} of the longest answer) exceed {limit:,}",
                f"set --max-length higher, or cut answers with --max-response-tokens {rest}"
                if rest
                else "set --max-length higher, or make the prompt shorter: images are never cut",
            )  # fmt: skip

    return check_truncation
