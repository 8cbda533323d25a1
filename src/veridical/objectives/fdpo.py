"""f-DPO: a policy held to the reference by another divergence than the reverse KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from veridical.objectives.base import PairLogps, PairLoss
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import ABOVE_ZERO, Range

Divergence = Literal["forward_kl", "js", "alpha"]


@dataclass(frozen=True)
class FDPO(PairLoss):
    """Direct preference optimization with another divergence (f-DPO).

    Attributes:
        beta: how strongly the policy is held to the reference; 0.05 to 0.5 is usual.
        divergence: `forward_kl`, `js` (Jensen-Shannon), or `alpha`; the reverse KL is `--loss dpo`.
        divergence_alpha: of `alpha`: near 0 it is the reverse KL, near 1 the forward KL.
    """

    name: ClassVar[str] = "fdpo"
    uses_beta_factors: ClassVar[bool] = True
    uses_weights: ClassVar[bool] = True
    beta: Annotated[float, ABOVE_ZERO] = 0.1
    divergence: Divergence = "js"
    divergence_alpha: Annotated[float | None, Range(0, 1, above=True, below=True)] = None

    @property
    def at_start(self) -> float:
        """The loss where policy and reference agree."""
        return math.log(2)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return self.beta

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UserError: names the option.
        """
        super().check()
        if self.divergence == "alpha" and self.divergence_alpha is None:
            raise UserError("--divergence alpha needs --divergence-alpha, such as 0.5.")
        if self.divergence != "alpha" and self.divergence_alpha is not None:
            raise UserError(
                f"--divergence-alpha means nothing with --divergence {self.divergence}. Leave it "
                "out, or set --divergence alpha."
            )

    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer. Shape: (pairs, rejected)."""
        alpha = {"js": None, "forward_kl": 1.0, "alpha": self.divergence_alpha}[self.divergence]
        return fdpo_loss(*logps.branches, logps.scaled(self.beta), alpha)


def fdpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float | Tensor,
    alpha: float | None,
) -> Tensor:
    """DPO under an f-divergence (Wang et al. 2024, "Beyond reverse KL", eq. 6).

    -log sigmoid(beta (f'(u_w) - f'(u_l))), u being policy over reference. f'(u) is
    log(2u / (u + 1)) for Jensen-Shannon and (1 - u^-alpha) / alpha for the alpha-divergence, whose
    limits are the reverse KL (0) and the forward KL (1). TRL's coefficient is 1 - alpha.

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        alpha: in (0, 1], 1 being the forward KL; None for Jensen-Shannon.

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    chosen = _slope_of_divergence(policy_chosen_logps - reference_chosen_logps, alpha)
    rejected = _slope_of_divergence(policy_rejected_logps - reference_rejected_logps, alpha)
    return -F.logsigmoid(beta * (chosen - rejected))


def _slope_of_divergence(log_ratios: Tensor, alpha: float | None) -> Tensor:
    if alpha is None:
        return math.log(2) + F.logsigmoid(log_ratios)
    # Beyond it the power would be infinite, and infinity minus infinity is not a loss.
    most = math.log(torch.finfo(log_ratios.dtype).max * alpha / 4)
    return -torch.expm1((-alpha * log_ratios).clamp(max=most)) / alpha
