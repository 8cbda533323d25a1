"""From a batch's log-probs to its losses and what is logged: every pairwise objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from veridical.models.logprobs import ResponseLogps
from veridical.objectives.comparison import implicit_rewards, pair_accuracy
from veridical.objectives.dpo import dpo_loss
from veridical.objectives.ipo import ipo_loss
from veridical.objectives.likelihood import mean_token_nll
from veridical.objectives.several import averaged_loss
from veridical.objectives.slic import slic_loss
from veridical.runtime.errors import UserError
from veridical.train.loop import Outcome

LossName = Literal["sigmoid", "ipo", "slic"]


ROUNDING = 1e-6
"""Part of the log-probs up to which two rewards are the same number."""


@dataclass(frozen=True)
class PreferenceLoss:
    """What is minimised.

    Attributes:
        name: `sigmoid` (DPO), `ipo` or `slic`.
        beta: see the loss.
        label_smoothing: of `sigmoid`: conservative DPO.
        per_token: divide log-probs by their answer's length first.
        gamma: weight of the first rejected answer where a pair has several.
        nll_weight: weight of the chosen answer's negative log-likelihood, per token.
    """

    name: LossName = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    per_token: bool = False
    gamma: float = 0.5
    nll_weight: float = 0.0

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree, without the NLL term."""
        known = {"sigmoid": math.log(2), "ipo": 1 / (4 * self.beta**2), "slic": 1.0}
        return known[self.name]

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return {"sigmoid": self.beta, "ipo": 1 / self.beta, "slic": self.beta}[self.name]


def check_loss(loss: PreferenceLoss) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: names the option.
    """
    if loss.beta <= 0:
        raise UserError(f"--beta is {loss.beta:g}; it must be above 0 (0.1 is usual).")
    if not 0 <= loss.label_smoothing < 0.5:
        raise UserError(
            f"--label-smoothing is {loss.label_smoothing:g}; give a probability below 0.5."
        )
    if loss.label_smoothing and loss.name != "sigmoid":
        raise UserError(
            f"--label-smoothing belongs to --loss sigmoid; {loss.name} has none. Leave it at 0."
        )
    if not 0 <= loss.gamma <= 1:
        raise UserError(f"--gamma is {loss.gamma:g}; give a weight from 0 to 1.")
    if loss.nll_weight < 0:
        raise UserError(f"--nll-weight is {loss.nll_weight:g}; it can't be negative.")


def objective(loss: PreferenceLoss) -> Callable[[ResponseLogps, Tensor], Outcome]:
    """Response 0 is chosen, the others are rejected; logged is the first rejected one."""

    def compute(policy: ResponseLogps, reference: Tensor) -> Outcome:
        lengths = policy.counts if loss.per_token else torch.ones_like(policy.counts)
        losses = pair_losses(loss, policy.sums / lengths, reference / lengths)
        chosen, rejected = policy.sums[:, 0], policy.sums[:, 1]
        if loss.nll_weight:
            losses = losses + loss.nll_weight * mean_token_nll(chosen, policy.counts[:, 0])
        rewards = implicit_rewards(policy.sums, reference, loss.beta)
        sizes = torch.maximum(policy.sums.abs(), reference.abs())[:, :2].amax(-1).detach()
        rounding = loss.beta * ROUNDING * sizes
        measures = {
            "rewards_chosen": rewards[:, 0],
            "rewards_rejected": rewards[:, 1],
            "rewards_margin": rewards[:, 0] - rewards[:, 1],
            "rewards_accuracy": pair_accuracy(rewards[:, 0], rewards[:, 1], rounding),
            "logps_chosen": chosen,
            "logps_rejected": rejected,
            "chosen_tokens": policy.counts[:, 0],
            "rejected_tokens": policy.counts[:, 1],
        }
        return Outcome(losses.sum(), measures)

    return compute


def pair_losses(loss: PreferenceLoss, policy: Tensor, reference: Tensor) -> Tensor:
    """One loss a pair, averaged over its rejected answers.

    Args:
        loss: which, and how strong.
        policy: log-probs of chosen and rejected answers. Shape: (batch, 1 + rejected).
        reference: the same under the reference.

    Returns:
        Shape: (batch,).
    """
    branches = (policy[:, :1], policy[:, 1:], reference[:, :1], reference[:, 1:], loss.beta)
    if loss.name == "sigmoid":
        losses = dpo_loss(*branches, loss.label_smoothing)
    elif loss.name == "ipo":
        losses = ipo_loss(*branches)
    else:
        losses = slic_loss(*branches)
    return averaged_loss(losses, loss.gamma)
