"""Which weights low-rank adapters sit on: linear layers, and experts kept as bare parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from veridical.runtime.errors import UserError

WORTH_SAYING = 0.01
"""Share of the weights that adapters do not reach from which on it is said (our choice)."""

EXPERTS_ARE_NO_MODULES = r"The following (rank|alpha)_pattern keys did not match"
"""What PEFT warns of by mistake: it looks for these keys among modules, not parameters."""


@dataclass(frozen=True)
class LoraTargets:
    """Where adapters go.

    Attributes:
        modules: names of linear layers.
        parameters: names of stacked expert weights, which belong to no linear layer.
        expert_rank: rank of each expert's adapter.
        missed: share of the weights of these parts, without embeddings, that no adapter reaches.
        missed_names: their names without numbers.
        asked: whether somebody named the layers, so that missing others is what was wanted.
    """

    modules: list[str]
    parameters: list[str]
    expert_rank: int
    missed: float
    missed_names: list[str]
    asked: bool = False

    def rank_pattern(self) -> dict[str, int]:
        """PEFT's rank for each expert weight."""
        return dict.fromkeys(map(re.escape, self.parameters), self.expert_rank)

    def alpha_pattern(self, scaling: float, rslora: bool = False) -> dict[str, float]:
        """PEFT's alpha for each expert weight, with the same scaling as everywhere else."""
        divisor = math.sqrt(self.expert_rank) if rslora else self.expert_rank
        return dict.fromkeys(map(re.escape, self.parameters), divisor * scaling)


def lora_targets(
    core: PreTrainedModel, roots: Sequence[nn.Module], rank: int, wanted: Sequence[str] = ()
) -> LoraTargets:
    """Find every weight matrix inside these parts that an adapter can sit on.

    A token passes through several experts at once, so each expert's adapter gets the rank divided
    by their number: as many trained numbers act on a token as in a dense model (Schulman et al.
    2025, "LoRA Without Regret").

    Args:
        core: Transformers' model.
        roots: its parts that are trained.
        rank: of adapters on linear layers.
        wanted: last parts of names (`q_proj`, `mlp.down_proj`) of the weights that get one; all of
            them where it is empty.

    Raises:
        UserError: one of these is the name of nothing that an adapter can sit on.
    """
    head = core.get_output_embeddings()
    inside = {id(module) for root in roots for module in root.modules()}
    modules, parameters, missed_names = [], [], []
    reached = missed = 0
    for name, module in core.named_modules():
        if id(module) not in inside or module is head or isinstance(module, nn.Embedding):
            continue
        for short, parameter in module.named_parameters(recurse=False):
            full = f"{name}.{short}"
            if isinstance(module, nn.Linear):
                reached += parameter.numel()
            elif parameter.dim() == 3 and not isinstance(module, _ConvNd):
                parameters.append(full)
                reached += parameter.numel()
            elif parameter.dim() > 1:
                missed_names.append(re.sub(r"\.\d+(?=\.)", "", full))
                missed += parameter.numel()
        if isinstance(module, nn.Linear):
            modules.append(name)
    if wanted:
        _require_there(core, wanted, [*modules, *parameters])
        modules = [name for name in modules if _is_named(name, wanted)]
        parameters = [name for name in parameters if _is_named(name, wanted)]
    active = getattr(core.config.get_text_config(), "num_experts_per_tok", None) or 1
    return LoraTargets(
        modules,
        parameters,
        max(1, rank // int(active)),
        missed / max(1, missed + reached),
        sorted(set(missed_names)),
        bool(wanted),
    )


def refuse_on_experts(core: PreTrainedModel, dropout: float, dora: bool) -> None:
    """Refuse what adapters on stacked weights can't do.

    Raises:
        UserError: names the option.
    """
    for asked, option in ((dropout > 0, "--lora-dropout"), (dora, "--lora-dora")):
        if asked:
            raise UserError(
                f"{type(core).__name__} keeps its experts in stacked weights, where LoRA knows no "
                f"{option.removeprefix('--lora-')}. Leave {option} out, or name other layers with "
                "--lora-targets."
            )


def _is_named(name: str, wanted: Sequence[str]) -> bool:
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _require_there(core: PreTrainedModel, wanted: Sequence[str], names: Sequence[str]) -> None:
    absent = [one for one in wanted if not any(_is_named(name, [one]) for name in names)]
    if absent:
        there = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise UserError(
            f"--lora-targets: {type(core).__name__} has no {absent[0]} in the parts that are "
            f"trained. There is: {there}."
        )


def describe_targets(targets: LoraTargets) -> str | None:
    """What is special about where adapters go, for the log; None if nothing is."""
    lines = []
    if targets.asked:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in targets.modules}))
        lines.append(f"LoRA on {len(targets.modules)} linear layers: {kinds}.")
    if targets.parameters:
        lines.append(
            f"LoRA also reaches {len(targets.parameters)} stacked expert weights, at rank "
            f"{targets.expert_rank} for each expert."
        )
    if targets.missed > WORTH_SAYING and not targets.asked:
        names = ", ".join(targets.missed_names[:4])
        lines.append(
            f"LoRA does not reach {targets.missed:.1%} of the trained part's weights ({names})."
        )
    return "\n".join(lines) or None
