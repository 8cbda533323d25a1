"""Numbers in float64, wherever they are computed: not every device has it."""

from __future__ import annotations

import torch
from torch import Tensor

LACKING = ("mps",)
"""Kinds of devices without float64."""


def widest(device: torch.device) -> torch.dtype:
    """Float64, or float32 where a device has no wider numbers."""
    return torch.float32 if device.type in LACKING else torch.float64


def in_float64(values: Tensor) -> Tensor:
    """The same numbers in float64, on the CPU where their own device has none."""
    return (values.cpu() if values.device.type in LACKING else values).double()


def moved_to(values: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
    """The same numbers on a device, in float32 where they are float64 and it has none."""
    if values.dtype == torch.float64:
        values = values.to(widest(device))
    return values.to(device, non_blocking=non_blocking)
