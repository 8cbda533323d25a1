"""Training without the model's own noise: dropout, dropped paths, dropped layers.

Families name their noise differently (an `nn.Dropout`, a number that attention is given, a layer
that is skipped), but all of it is off in evaluation mode. So a policy that is trained stays in
evaluation mode. Two kinds of modules are the exception, since they read `training` for something
else: layers that recompute their activations, and an adapter's dropout, which has an option of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

OF_LAYERS = ("every_n_layers", "offload")
"""Options of activation checkpointing that Transformers reads, not PyTorch."""


def set_training(modules: Sequence[nn.Module], model_dropout: bool) -> None:
    """Put a policy's modules into training mode.

    Args:
        modules: of the policy, all of them.
        model_dropout: train with the model's own noise, as `train()` does.
    """
    adapters = set() if model_dropout else _with_adapter_dropout(modules)
    for module in modules:
        # Not by `train()`, which walks the tree and takes milliseconds at every step.
        vars(module)["training"] = model_dropout or _recomputes(module) or id(module) in adapters


@contextmanager
def learning(model: nn.Module, model_dropout: bool) -> Iterator[None]:
    """Training mode for one forward and backward pass; evaluation mode afterwards."""
    set_training(list(model.modules()), model_dropout)
    try:
        yield
    finally:
        model.eval()


def checkpointing_asked_for(arguments: TrainingArguments) -> dict[str, object] | None:
    """The options of activation checkpointing; None where it is off.

    Older releases of Transformers call it gradient checkpointing alone.
    """
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if getattr(arguments, name, False):
            return dict(getattr(arguments, f"{name}_kwargs") or {})
    return None


def try_checkpointing(options: Mapping[str, Any]) -> None:
    """Recompute one number, so that options that PyTorch does not know fail before any work.

    Args:
        options: `activation_checkpointing_kwargs` of TrainingArguments.

    Raises:
        ValueError, TypeError: PyTorch does not take them.
    """
    given = {"use_reentrant": False} | {k: v for k, v in options.items() if k not in OF_LAYERS}
    checkpoint(torch.square, torch.zeros(1, requires_grad=True), **given)


def checkpoint_activations(
    model: PreTrainedModel, model_dropout: bool, options: Mapping[str, object] | None
) -> None:
    """Let layers recompute their activations in the backward pass.

    Args:
        model: Transformers', or PEFT's around one.
        model_dropout: leave the layers' own noise on.
        options: `activation_checkpointing_kwargs` of TrainingArguments.
    """
    given = dict(options or {})
    beside = {name: given.pop(name) for name in OF_LAYERS if name in given}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=given or None, **beside
        )
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=given or None, **beside)
    if not model_dropout:
        for layer in filter(_recomputes, model.modules()):
            layer._gradient_checkpointing_func = _quiet(layer, layer._gradient_checkpointing_func)


def _quiet(layer: nn.Module, recompute: Callable[..., object]) -> Callable[..., object]:
    """Layers recompute only in training mode, in which some families' have dropout of their own."""

    def act(forward: Callable[..., Any], *arguments: Any) -> Any:
        def run(*given: Any) -> Any:
            before = layer.training
            vars(layer)["training"] = False
            try:
                return forward(*given)
            finally:
                vars(layer)["training"] = before

        return recompute(run, *arguments)

    return act


def _recomputes(module: nn.Module) -> bool:
    return isinstance(module, GradientCheckpointingLayer) and bool(module.gradient_checkpointing)


def _with_adapter_dropout(modules: Sequence[nn.Module]) -> set[int]:
    """Ids of adapters that have dropout, and of that."""
    found: set[int] = set()
    for layer in modules:
        dropouts = getattr(layer, "lora_dropout", None) if _is_adapter(layer) else None
        for dropout in (dropouts or {}).values():
            if isinstance(dropout, nn.Dropout) and dropout.p > 0:
                found |= {id(layer), id(dropout)}
    return found


def _is_adapter(module: nn.Module) -> bool:
    return isinstance(module, BaseTunerLayer)
