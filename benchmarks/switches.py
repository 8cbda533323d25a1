"""Veridical with one of its techniques switched off, for `sides.py`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from veridical.models import heads, logprobs
from veridical.models.policy import unwrap

OFF = (
    "prefix sharing",
    "head on response positions",
    "head in chunks",
    "precomputed reference",
    "image encoded once",
    "vision without a graph",
)
"""Prefix sharing and the reference are options of the command; the rest is patched here."""


def switch_off(technique: str) -> None:
    """Make the product do without a technique, in this process."""
    if technique == "head on response positions":
        patch(logprobs, "batch_logps", _head_everywhere)
    elif technique == "head in chunks":
        patch(logprobs, "head_logps", _head_at_once)
    elif technique == "image encoded once":
        patch(logprobs, "response_logps", _first(_encode_twice, logprobs.response_logps))
    elif technique == "vision without a graph":
        patch(logprobs, "response_logps", _first(_want_pixel_gradients, logprobs.response_logps))


def patch(module: ModuleType, name: str, function: Callable[..., Any]) -> Any:
    """Put a function in the place of one of the product's, and return that one.

    Raises:
        AttributeError: the product has no such name in that module any longer.
    """
    stock = getattr(module, name)
    setattr(module, name, function)
    return stock


def _head_everywhere(model: Any, batch: Any) -> torch.Tensor:
    hidden = logprobs.hidden_states(model, batch)
    others = torch.ones(hidden.shape[:2], dtype=torch.bool)
    others[batch.rows, batch.sources] = False
    states = torch.cat([hidden[others], hidden[batch.rows, batch.sources]])
    targets = torch.cat([batch.targets.new_zeros(int(others.sum())), batch.targets])
    head = unwrap(model).get_output_embeddings()
    return heads.head_logps(head, states, targets)[-len(batch.targets) :]


def _head_at_once(
    head: Any, hidden: torch.Tensor, targets: torch.Tensor, chunk: int | None = None
) -> torch.Tensor:
    return heads.token_logps(head(hidden), targets)


def _first(act: Any, stock: Any) -> Any:
    def response_logps(model: Any, batch: Any) -> Any:
        act(model, batch)
        return stock(model, batch)

    return response_logps


def _encode_twice(model: Any, batch: Any) -> None:
    with torch.no_grad():
        unwrap(model).get_image_features(pixel_values=batch.inputs["pixel_values"])


def _want_pixel_gradients(model: Any, batch: Any) -> None:
    batch.inputs["pixel_values"].requires_grad_(torch.is_grad_enabled())
