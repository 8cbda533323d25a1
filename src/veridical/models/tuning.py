"""Which weights of a policy are trained, and how adapters are put on it."""

from __future__ import annotations

import dataclasses
import math
import warnings
import weakref
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from veridical.models.lean_norms import lean_norms
from veridical.models.lora_targets import (
    EXPERTS_ARE_NO_MODULES,
    describe_targets,
    lora_targets,
    refuse_on_experts,
)
from veridical.models.narrow_adapters import narrow_adapters
from veridical.models.policy import Policy
from veridical.models.precision import HALF, HALF_NAMES, widen, working_dtype
from veridical.runtime import processes
from veridical.runtime.errors import UserError

TuningName = Literal["lora", "qlora", "full"]
PROJECTORS = ("multi_modal_projector", "connector", "aligner", "merger", "embed_vision")
VISION_TOWERS = ("vision_tower", "vision_model", "visual")


@dataclass(frozen=True)
class Tuning:
    """Which weights are trained.

    Attributes:
        kind: `lora` trains low-rank adapters on every linear layer of the language model, `qlora`
            the same on weights kept in four bits; `full` trains the language model's own weights.
        rank: LoRA rank.
        alpha: LoRA scaling numerator (the update is scaled by alpha / rank).
        dropout: LoRA dropout, a fraction.
        targets: last parts of the names of the layers that get adapters; empty for all.
        rslora: scale the update by alpha / sqrt(rank) instead.
        dora: train each weight's magnitude apart from its direction.
        train_projector: also train the projector between vision tower and language model.
        train_vision: also train the vision tower (adapters under `lora`).
    """

    kind: TuningName = "lora"
    rank: int = 128
    alpha: int = 256
    dropout: float = 0.0
    train_projector: bool = False
    train_vision: bool = False
    targets: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False

    @property
    def scaling(self) -> float:
        """What every adapter's update is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


_TRAINED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models that `prepare_training` has prepared: they are no longer what they were loaded as."""


def was_trained(policy: Policy) -> bool:
    """Whether this process has trained the model, which then is not what its name gives."""
    return policy.core in _TRAINED


def prepare_training(policy: Policy, tuning: Tuning) -> Policy:
    """Freeze everything, then make what `tuning` asks for trainable.

    Raises:
        UserError: a projector or vision tower is asked for and none is found, or full tuning of
            half-precision weights.
    """
    core = policy.core
    _TRAINED.add(core)
    core.requires_grad_(False)
    language_model = core.get_decoder()
    trained = [language_model]
    projector = _find(core, PROJECTORS, "projector") if tuning.train_projector else None
    if tuning.train_vision:
        trained.append(_find(core, VISION_TOWERS, "vision tower")[1])
    if tuning.kind == "full":
        refuse_full_in_half(str(working_dtype(policy)).removeprefix("torch."))
        for module in (
            *trained,
            core.get_output_embeddings(),
            *([projector[1]] if projector else []),
        ):
            module.requires_grad_(True)
        return policy
    widen_trained(policy, tuning)
    targets = lora_targets(core, trained, tuning.rank, tuning.targets)
    if targets.parameters:
        refuse_on_experts(core, tuning.dropout, tuning.dora)
    described = describe_targets(targets)
    if described is not None and processes.is_first():
        print(described)
    names = targets.modules
    if projector:
        names = [name for name in names if not name.startswith(projector[0] + ".")]
    config = LoraConfig(
        r=tuning.rank,
        lora_alpha=tuning.alpha,
        lora_dropout=tuning.dropout,
        bias="none",
        target_modules=names,
        target_parameters=targets.parameters or None,
        rank_pattern=targets.rank_pattern(),
        alpha_pattern=targets.alpha_pattern(tuning.scaling, tuning.rslora),
        use_rslora=tuning.rslora,
        use_dora=tuning.dora,
        modules_to_save=[projector[0]] if projector else None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=EXPERTS_ARE_NO_MODULES)
        prepared = dataclasses.replace(policy, model=get_peft_model(core, config))
    narrow_adapters(prepared.model)
    if policy.device.type == "cuda":
        lean_norms(prepared.model)
    require_wide(prepared.model)
    return prepared


def refuse_full_in_half(dtype: str) -> None:
    """Refuse to train all weights in half precision.

    Args:
        dtype: theirs, by name.

    Raises:
        UserError: it is one.
    """
    if dtype not in HALF_NAMES:
        return
    raise UserError(
        f"Full fine-tuning of {dtype} weights would round most updates away. Set "
        "--mixed-precision bf16 (float32 weights, computing in bfloat16), --dtype float32, or "
        "--tuning lora (adapters stay in float32)."
    )


def widen_trained(policy: Policy, tuning: Tuning) -> None:
    """Keep what is trained whole beside adapters in float32, in a model of half precision.

    Before the reference is computed, so that it and the start of the policy are the same.

    Raises:
        UserError: a projector is asked for and none is found.
    """
    if tuning.kind != "full" and tuning.train_projector:
        widen(_find(policy.core, PROJECTORS, "projector")[1])


def without_language_head(policy: Policy) -> Policy:
    """Freeze the head that makes words: none are made here, and it would get no gradient.

    Where it shares its weights with the input's embeddings, these are trained as before.
    """
    head = policy.core.get_output_embeddings()
    if head.weight is not policy.core.get_input_embeddings().weight:
        head.requires_grad_(False)
    return policy


def require_wide(model: PreTrainedModel) -> None:
    """Refuse to train weights in half precision, which round small updates away.

    Raises:
        UserError: names a weight.
    """
    narrow = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype in HALF]
    if narrow:
        raise UserError(
            f"{narrow[0]} would be trained in half precision ({len(narrow)} weights in all), which "
            "rounds most updates away. Set --dtype float32."
        )


def find_projector(model: PreTrainedModel) -> Any:
    """The module between vision tower and language model; None if none is found."""
    found = _find_all(model, PROJECTORS)
    return found[0][1] if found else None


def projector_parameters(policy: Policy) -> list[nn.Parameter]:
    """The trained parameters of the projector, which may have a learning rate of their own."""
    found = _find_all(policy.core, PROJECTORS)
    return [p for _, module in found for p in module.parameters() if p.requires_grad]


def trains_vision(policy: Policy) -> bool:
    """Whether anything that images pass before the language model is trained."""
    core = policy.core
    sides = (core.get_decoder(), core.get_output_embeddings(), core.get_input_embeddings())
    language = {id(parameter) for side in sides for parameter in side.parameters()}
    return any(p.requires_grad and id(p) not in language for p in core.parameters())


def all_take_part(policy: Policy) -> bool:
    """Whether every trained weight gets a gradient in every step, whatever the rows.

    Not where tokens choose their experts, nor in image encoders, of which some read other layers
    than the last.
    """
    config = policy.core.config.get_text_config()
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = any(getattr(config, name, None) for name in counts)
    return not experts and not trains_vision(policy)


def _find_all(core: PreTrainedModel, names: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    return [
        (path, module)
        for path, module in core.named_modules()
        if path.rsplit(".", 1)[-1] in names and ".layers." not in path
    ]


def _find(core: PreTrainedModel, names: tuple[str, ...], what: str) -> tuple[str, nn.Module]:
    found = _find_all(core, names)
    if not found:
        raise UserError(
            f"No {what} was found in {type(core).__name__}; leave --train-"
            f"{'projector' if what == 'projector' else 'vision'} off for this model."
        )
    return found[0]


def split_projector(optimizer: torch.optim.Optimizer, policy: Policy, learning_rate: float) -> None:
    """Move the projector's parameters to groups of their own, with their own learning rate.

    Raises:
        UserError: no projector is trained.
    """
    wanted = {id(parameter) for parameter in projector_parameters(policy)}
    if not wanted:
        raise UserError(
            "--projector-learning-rate was given, but the projector is frozen. "
            "Set --train-projector true as well."
        )
    for group in list(optimizer.param_groups):
        inside = [p for p in group["params"] if id(p) in wanted]
        if inside:
            group["params"] = [p for p in group["params"] if id(p) not in wanted]
            optimizer.add_param_group({**group, "params": inside, "lr": learning_rate})
