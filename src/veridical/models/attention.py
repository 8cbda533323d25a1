"""Which implementation of attention a model computes with, and what is refused before it loads."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from veridical.models.precision import HALF
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.options import AttentionName, DtypeName

FLEX, USUAL = "flex_attention", "sdpa"
FLASH_PACKAGES = {"flash_attn": "flash_attention_2", "flash_attn_interface": "flash_attention_3"}
"""What Transformers calls each package's attention; the first that is installed is taken."""
TAKES_MASKS = ("sdpa", "eager", FLEX)
"""Implementations that take a mask of all pairs of tokens, or of their blocks."""

NOT_IN_FLOAT64 = {
    "flex": "PyTorch's FlexAttention knows no such numbers",
    "eager": "Transformers makes its softmax in float32, where a mask in float64 overflows to NaN",
}


def attention_of(core: PreTrainedModel) -> str:
    """What the language model computes with, as Transformers calls it."""
    return str(core.config.get_text_config()._attn_implementation)


def attentions_of(core: PreTrainedModel) -> str:
    """What all parts compute with: one name where they agree, else with what each part has."""
    config = core.config
    own = str(getattr(config, "_attn_implementation", None))
    parts = {
        name: str(part._attn_implementation)
        for name in sorted(getattr(config, "sub_configs", {}))
        if isinstance(part := getattr(config, name, None), PretrainedConfig)
    }
    other = [f"{name} {used}" for name, used in parts.items() if used != own]
    return ", ".join([own, *other])


def asked_attention(
    asked: AttentionName,
    name: str,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> str:
    """What Transformers is told to compute with.

    Args:
        asked: the option, other than `auto`.
        name: of the model, for errors.
        config: its configuration.
        dtype: that its weights will have.
        device: that it will be on.

    Raises:
        UserError: it can't compute so; says what to set instead.
    """
    check_attention(asked, dtype, device)
    names: dict[str, str | None] = {"flash": _flash(), "flex": FLEX}
    found = names.get(asked) or asked
    _require_supported(asked, found, name, config)
    return found


def check_attention(asked: AttentionName, dtype: torch.dtype | None, device: torch.device) -> None:
    """Refuse what works with no model in this dtype on this device.

    Args:
        asked: the option.
        dtype: of the weights; None where only the checkpoint says.
        device: that the model will be on.

    Raises:
        UserError: it can't be computed so; says what to set instead.
    """
    if dtype == torch.float64 and asked in NOT_IN_FLOAT64:
        raise UserError(
            f"--attention {asked} can't compute in float64: {NOT_IN_FLOAT64[asked]}. Set "
            "--attention sdpa, or --dtype float32."
        )
    if asked != "flash":
        return
    if device.type != "cuda":
        raise UserError(
            f"--attention flash needs a CUDA device, and the model would be on {device.type}. "
            "Set --attention sdpa."
        )
    if dtype is not None and dtype not in HALF:
        raise UserError(
            "--attention flash computes in half precision alone, and the weights would be "
            f"{str(dtype).removeprefix('torch.')}. Set --dtype bfloat16, or --attention sdpa."
        )
    if _flash() is None:
        raise UserError(
            "--attention flash needs the package flash-attn, which is not installed: pip install "
            "flash-attn. Or set --attention sdpa, which has flash kernels of its own."
        )


def has_attention(core: PreTrainedModel, asked: AttentionName) -> bool:
    """Whether a loaded model computes with what is asked for."""
    own = attention_of(core)
    if asked == "flash":
        return own in FLASH_PACKAGES.values()
    return asked == "auto" or own == (FLEX if asked == "flex" else asked)


def check_trainable(asked: AttentionName, dtype: DtypeName, device: torch.device) -> None:
    """`check_attention` before training, for which FlexAttention has no backward pass everywhere.

    Args:
        asked: the option.
        dtype: of the weights, by name.
        device: that the model will be on.

    Raises:
        UserError: it can't be computed or trained so.
    """
    check_attention(asked, None if dtype == "auto" else getattr(torch, dtype), device)
    if asked == "flex" and device.type != "cuda":
        raise UserError(
            f"--attention flex can't train on {device.type}: PyTorch's FlexAttention has no "
            "backward pass there. Set --attention sdpa."
        )


def _flash() -> str | None:
    """Transformers' name for the flash attention that is installed."""
    there = (name for package, name in FLASH_PACKAGES.items() if importlib.util.find_spec(package))
    return next(there, None)


def _require_supported(
    asked: AttentionName, implementation: str, name: str, config: PretrainedConfig
) -> None:
    """Let Transformers make the model without weights, which tells what its parts support."""
    try:
        with torch.device("meta"):
            # It writes what it is told into the configuration.
            own: Any = type(config).from_dict(config.to_dict())
            AutoModelForImageTextToText.from_config(own, attn_implementation=implementation)
    except (ValueError, ImportError) as error:
        instead = "sdpa" if asked != "sdpa" else "eager"
        raise UserError(
            f"{name} can't compute with --attention {asked}: {reason_of(error)}\n"
            f"Set --attention {instead}, or leave it out."
        ) from error
