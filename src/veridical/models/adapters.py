"""Adapters on disk: their base, whether they fit, and how they are merged."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from veridical.models.lora_targets import (
    EXPERTS_ARE_NO_MODULES,
)
from veridical.models.merge_cost import RoundedWeight, describe_merge, merge_cost
from veridical.models.merging import merge_adapters
from veridical.models.policy import Policy
from veridical.models.precision import widen, working_dtype
from veridical.runtime import processes
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.lacking import is_memory_full
from veridical.runtime.progress import counted


def adapter_parameters(model: PreTrainedModel, adapter: str) -> list[nn.Parameter]:
    """The weights of one of several adapters, and of modules that it brings whole.

    By the modules that hold them: layers of a model may be called what an adapter is called.
    """
    found: dict[int, nn.Parameter] = {}
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper):
            continue
        for kind in layer.adapter_layer_names:
            held = getattr(layer, kind, {})
            own = held[adapter] if adapter in list(held) else None
            many = own.parameters() if isinstance(own, nn.Module) else [own]
            found |= {id(p): p for p in many if isinstance(p, nn.Parameter)}
    return list(found.values())


def adapter_base(folder: Path) -> str:
    """The name of the base that an adapter's folder names.

    Raises:
        UserError: it names none.
    """
    try:
        base = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        if is_memory_full(error):
            raise
        reason = reason_of(error)
        raise UserError(f"{folder / 'adapter_config.json'} can't be read: {reason}.") from error
    if not base:
        raise UserError(
            f"{folder} is an adapter that does not name its base. "
            "Load the base model and give the adapter as --init-adapter."
        )
    return str(base)


def require_adapter(folder: Path) -> None:
    """Refuse a folder without an adapter.

    Raises:
        UserError: there is none in it.
    """
    if not (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds no PEFT adapter (adapter_config.json is missing).")


def merge_adapter(policy: Policy, adapter: Path) -> Policy:
    """Put an adapter's folder on a policy, merge it into the weights, and say what rounding cost.

    Raises:
        UserError: the folder holds no adapter, or one that does not fit in every tensor.
    """
    require_adapter(adapter)
    with require_fitting_adapter(
        f"The adapter {adapter} does not fit {policy.name}", "Name its own base model."
    ):
        widen_saved_modules(policy.core, adapter)
        adapted = PeftModel.from_pretrained(policy.model, str(adapter))
    rounded: list[RoundedWeight] = []
    model = merge_adapters(adapted, rounded=rounded)
    cost = merge_cost(str(adapter), working_dtype(policy), rounded)
    if cost is not None and processes.is_first():
        print(describe_merge(cost))
    merges = policy.merges if cost is None else (*policy.merges, cost)
    return dataclasses.replace(
        policy, model=model.eval(), vision=None, merges=merges, adapter=str(adapter)
    )


def widen_saved_modules(core: PreTrainedModel, adapter: Path) -> None:
    """Keep modules that an adapter brings whole in float32, or they are rounded when it is loaded.

    Args:
        core: Transformers' model.
        adapter: folder of the adapter that is loaded next.
    """
    named = PeftConfig.from_pretrained(str(adapter)).__dict__.get("modules_to_save") or ()
    for name, module in list(core.named_modules()):
        wrapped = isinstance(module, AuxiliaryTrainingWrapper)
        if name.endswith(tuple(named)) and named and not wrapped:
            widen(module)


@contextmanager
def require_fitting_adapter(trouble: str, advice: str, shared: bool = False) -> Iterator[None]:
    """Refuse an adapter, loaded within, that does not fit in every tensor.

    PEFT only warns of weights that it does not find, and drops those that have no place in silence.

    Args:
        trouble: how the error begins.
        advice: how it ends.
        shared: whether other adapters work on the same base, which then may not change.

    Raises:
        UserError: a tensor is missing, left over or of another shape, or it would change a base
            that is shared.
    """
    try:
        with _watch_adapters() as (lacking, unplaced, changed):
            yield
    except UserError:
        raise
    # A damaged file is met with whatever it leads to.
    except Exception as error:
        if is_memory_full(error):
            raise
        # PEFT looks the tensors of `modules_to_save` up one by one.
        lost = isinstance(error, KeyError) and str(error.args[0]).startswith("base_model.")
        reason = f"it lacks the tensor {error.args[0]}" if lost else reason_of(error)
        raise UserError(f"{trouble}: {reason}.\n{advice}") from error
    for names, what in (
        (lacking, ("it lacks the tensor", "it lacks {} tensors")),
        (unplaced, ("it has no place for the tensor", "it has no place for {} tensors")),
    ):
        if len(names) == 1:
            raise UserError(f"{trouble}: {what[0]} {names[0]}.\n{advice}")
        if names:
            many = what[1].format(len(names))
            raise UserError(f"{trouble}: {many} ({names[0]} among them).\n{advice}")
    if changed and shared:
        raise UserError(
            f"{trouble}: it brings {counted(len(changed), 'weights')} of the base in another state "
            f"({changed[0]}), which would change the other models on this base too.\n{advice}"
        )
    if changed and processes.is_first():
        print(
            f"The adapter brings {counted(len(changed), 'weights')} of its base in another state "
            f"({', '.join(changed[:3])}), and the base gets them."
        )


@contextmanager
def _watch_adapters() -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Collect what adapters loaded within lack, what has no place, and what changes the base."""
    lacking: list[str] = []
    unplaced: list[str] = []
    changed: list[str] = []
    stock = peft_model.set_peft_model_state_dict

    def noting(
        model: PreTrainedModel, tensors: Any, adapter_name: str = "default", **named: Any
    ) -> Any:
        base = {n: w for n, w in model.state_dict().items() if adapter_name not in n.split(".")}
        # PEFT saves the base's layer beside an adapter on an embedding; mostly it is as it was.
        alike = {n for n, w in tensors.items() if n in base and _equal(base[n], w)}
        result = stock(model, tensors, adapter_name, **named)
        changed.extend(sorted(base.keys() - set(result.missing_keys) - alike))
        # The base's own weights are "missing" too, and so are other adapters'. PEFT's own list
        # leaves modules out that are kept whole beside the adapters (`modules_to_save`).
        lacking.extend(sorted(n for n in result.missing_keys if adapter_name in n.split(".")))
        unplaced.extend(sorted(result.unexpected_keys))
        return result

    peft_model.set_peft_model_state_dict = noting
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")
            warnings.filterwarnings("ignore", message=EXPERTS_ARE_NO_MODULES)
            yield lacking, unplaced, changed
    finally:
        peft_model.set_peft_model_state_dict = stock


def _equal(held: Tensor, given: Tensor) -> bool:
    return held.shape == given.shape and torch.equal(given.to(held.device, held.dtype), held)
