"""Merge adapters into their base in float32, and round the result once, without bias.

A small update is lost where the base is kept in half precision: most of its numbers are less than
half a unit in the last place of the weight that they belong to, and rounding to the nearest number
returns that weight as it was. So weights are rounded up or down at random, with probabilities that
make the expected value right (stochastic rounding; Gupta et al. 2015). What is lost then is noise,
which averages out over a matrix, instead of the update itself. A weight that was not changed stays
exactly as it was, and the noise is keyed by the weight's name, so that an adapter merged twice
gives the same model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from veridical.models.merge_cost import RoundedWeight, rounded_weight
from veridical.models.precision import HALF, narrow, unmixed
from veridical.runtime.randomness import generator

MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}
SMALLEST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}


def round_unbiased(values: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Round to half precision so that the expected value is right.

    Args:
        values: float32 or wider, any shape.
        dtype: bfloat16 or float16; any other is an ordinary cast.
        name: keys the noise.

    Returns:
        The same shape. Numbers that `dtype` has stay as they are.
    """
    if dtype not in HALF or values.dtype == dtype:
        return values.to(dtype)
    wide = values.float()
    exponent = (torch.frexp(wide).exponent - 1).clamp(min=SMALLEST_EXPONENT[dtype])
    places = exponent - MANTISSA_BITS[dtype]
    steps = torch.ldexp(wide, -places)
    below = steps.floor()
    noise = generator(0, "rounding", name).random(tuple(values.shape), dtype="float32")
    up = torch.from_numpy(noise).to(wide.device) < steps - below
    rounded = torch.ldexp(below + up, places).to(dtype)
    # Above the largest number only the ordinary cast knows what to do.
    return torch.where(rounded.isfinite() & wide.isfinite(), rounded, wide.to(dtype))


def merge_adapters(
    model: PeftModel,
    dtype: torch.dtype | None = None,
    rounded: list[RoundedWeight] | None = None,
) -> Any:
    """Merge the active adapter into its base, a layer at a time, and take the adapters off.

    Each layer is added up in float32 and rounded once, so that memory holds the model and one
    wide layer.

    Args:
        model: it can't be used any more afterwards.
        dtype: of the result; as the base is kept if not given.
        rounded: gets what rounding did to each weight tensor of a base in half precision.

    Returns:
        Transformers' model.
    """
    core = model.base_model.model
    rounded = [] if rounded is None else rounded
    if dtype is not None and dtype not in HALF:
        round_weights(core, dtype)
    for name, layer in list(core.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            rounded += _merge_layer(name, layer, dtype)
    replaced = _replaced_weights(core)
    merged = model.unload()
    for name, module in merged.named_modules():
        home = narrow(module)
        if home is not None:
            wide = {parameter: parameter.data for parameter in module.parameters()}
            round_weights(module, home if dtype is None else dtype, f"{name}.")
            for parameter in wide.keys() & replaced.keys():
                before = replaced[parameter]
                rounded.append(rounded_weight(before, wide[parameter], parameter.data))
    return merged if dtype is None else round_weights(merged, dtype)


def round_weights(model: PreTrainedModel, dtype: torch.dtype, prefix: str = "") -> object:
    """Cast every floating parameter and saved buffer in place, a tensor at a time, without bias.

    Args:
        model: any module.
        dtype: of the result.
        prefix: what names of parameters begin with, as they key the noise.
    """
    for name, module in model.named_modules():
        start = f"{prefix}{name}." if name else prefix
        for short, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = round_unbiased(parameter.data, dtype, start + short)
        for short, buffer in list(module.named_buffers(recurse=False)):
            computed = short in module._non_persistent_buffers_set
            if buffer.is_floating_point() and not computed:
                module._buffers[short] = buffer.to(dtype)
    return model


def _replaced_weights(core: PreTrainedModel) -> dict[nn.Parameter, Tensor]:
    """The base's own weights, by those that an adapter brings in their place."""
    found: dict[nn.Parameter, Tensor] = {}
    for wrapper in core.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            own = dict(wrapper.original_module.named_parameters())
            for adapter in wrapper.active_adapters:
                brought = wrapper.modules_to_save[adapter]
                found |= {p: own[short].data for short, p in brought.named_parameters()}
    return found


def _merge_layer(name: str, layer: Any, dtype: torch.dtype | None) -> Iterator[RoundedWeight]:
    """Merge one layer's adapter; nested layers (stacked experts) share one base.

    A base in half precision is rounded to `dtype`, or to its own if that is None.
    """
    base: nn.Module = layer.get_base_layer()
    narrow_weights = {
        short: parameter.data
        for short, parameter in base.named_parameters(recurse=False)
        if parameter.dtype in HALF
    }
    weights = dict(base.named_parameters(recurse=False))
    for short in narrow_weights:
        weights[short].data = weights[short].data.float()
    ranks = getattr(layer, "r", {})
    rank = sum(ranks[adapter] for adapter in layer.active_adapters if adapter in ranks) or None
    with unmixed():
        layer.merge()
    weights = dict(base.named_parameters(recurse=False))
    for short, before in narrow_weights.items():
        wide = weights[short].data
        weights[short].data = round_unbiased(wide, dtype or before.dtype, f"{name}.{short}")
        yield rounded_weight(before, wide, weights[short].data, rank)
