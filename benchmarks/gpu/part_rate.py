"""How fast the device multiplies matrices and moves bytes: what everything else is measured by."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from measuring import Figures, Settings, run_part, seconds_of

PRODUCTS = 10


def measure_rates(settings: Settings, figures: Figures) -> None:
    """Square products in bfloat16 and float32, and a copy on the device."""
    size = 128 if settings.tiny else 8192
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")

        def product(dtype: torch.dtype = dtype) -> dict[str, Any]:
            return {"flops_per_second": product_rate(size, dtype, settings.device)}

        figures.attempt({"measure": "matrix product", "dtype": name, "size": size}, 1.0, product)
    gigabytes = 0.01 if settings.tiny else 4.0
    figures.attempt(
        {"measure": "copy", "gigabytes": gigabytes},
        1.0,
        lambda: {"bytes_per_second": copy_rate(gigabytes, settings.device)},
    )


def product_rate(size: int, dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of one size x size product, on random numbers."""
    noise = torch.Generator(device).manual_seed(0)
    one, other = (torch.randn(size, size, generator=noise, device=device).to(dtype) for _ in "ab")
    out = torch.empty_like(one)
    seconds = _seconds_each(lambda: torch.mm(one, other, out=out))
    return float(2 * size**3 / seconds)


def copy_rate(gigabytes: float, device: str) -> float:
    """Bytes read and written a second when a tensor is copied on the device."""
    source = torch.ones(int(gigabytes * 1e9), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds_each(lambda: target.copy_(source))


def _seconds_each(act: Any) -> float:
    """The median of five groups of calls: one call may be too short for the clock."""

    def several() -> None:
        for _ in range(PRODUCTS):
            act()

    several()
    return statistics.median(seconds_of(several) for _ in range(5)) / PRODUCTS


if __name__ == "__main__":
    run_part(measure_rates)
