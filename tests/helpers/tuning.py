"""Options of full tuning, beside settings of a test that has small adapters."""

from __future__ import annotations

from typing import Any

from veridical.train.options import Training

FULL: dict[str, Any] = {
    "tuning": "full", "lora_rank": Training.lora_rank, "lora_alpha": Training.lora_alpha,
}  # fmt: skip
"""Without the rank and scaling of adapters, which full tuning refuses."""


def tuned(tuning: str) -> dict[str, Any]:
    """The options of a way of tuning."""
    return FULL if tuning == "full" else {"tuning": tuning}
