"""Which weights low-rank adapters sit on: linear layers, and experts kept as bare parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from veridical.errors import UserError

WORTH_SAYING = 0.01
"""Share of the weights that adapters do not reach from which on it is said (our choice)."""


@dataclass(frozen=True)
class LoraTargets:
    """Where adapters go.

    Attributes:
        modules: names of linear layers.
        parameters: names of stacked expert weights, which belong to no linear layer.
        expert_rank: rank of each expert's adapter.
        missed: share of the weights of these parts, without embeddings, that no adapter reaches.
        missed_names: their names without numbers.
    """

    modules: list[str]
    parameters: list[str]
    expert_rank: int
    missed: float
    missed_names: list[str]

    def rank_pattern(self) -> dict[str, int]:
        """PEFT's rank for each expert weight."""
        return dict.fromkeys(map(re.escape, self.parameters), self.expert_rank)

    def alpha_pattern(self, scaling: float) -> dict[str, float]:
        """PEFT's alpha for each expert weight, with the same scaling as everywhere else."""
        return dict.fromkeys(map(re.escape, self.parameters), self.expert_rank * scaling)


def lora_targets(core: Any, roots: Sequence[nn.Module], rank: int, dropout: float) -> LoraTargets:
    """Find every weight matrix inside these parts that an adapter can sit on.

    A token passes through several experts at once, so each expert's adapter gets the rank divided
    by their number: as many trained numbers act on a token as in a dense model (Schulman et al.
    2025, "LoRA Without Regret").

    Args:
        core: Transformers' model.
        roots: its parts that are trained.
        rank: of adapters on linear layers.
        dropout: of adapters.

    Raises:
        UserError: dropout on stacked experts.
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
    if parameters and dropout:
        raise UserError(
            f"{type(core).__name__} keeps its experts in stacked weights, where LoRA knows no "
            "dropout. Set the dropout of LoRA to 0."
        )
    active = getattr(core.config.get_text_config(), "num_experts_per_tok", None) or 1
    return LoraTargets(
        modules,
        parameters,
        max(1, rank // int(active)),
        missed / max(1, missed + reached),
        sorted(set(missed_names)),
    )


def describe(targets: LoraTargets) -> str | None:
    """What is special about where adapters go, for the log; None if nothing is."""
    lines = []
    if targets.parameters:
        lines.append(
            f"LoRA also reaches {len(targets.parameters)} stacked expert weights, at rank "
            f"{targets.expert_rank} for each expert."
        )
    if targets.missed > WORTH_SAYING:
        names = ", ".join(targets.missed_names[:4])
        lines.append(
            f"LoRA does not reach {targets.missed:.1%} of the trained part's weights ({names})."
        )
    return "\n".join(lines) or None
