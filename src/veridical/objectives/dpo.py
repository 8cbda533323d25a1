"""Direct preference optimization: the loss of a pair."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimisation, sigmoid form (Rafailov et al. 2023; Amirloo et al. eq. 3).

    With `label_smoothing` e the preference is taken to be wrong with probability e and the loss
    is (1 - e) * loss(pair) + e * loss(swapped pair) (conservative DPO, Mitchell 2023).

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: how strongly the policy is held to the reference; > 0.
        label_smoothing: probability that a label is wrong, in [0, 0.5).

    Returns:
        One loss a pair, ln 2 where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    logits = beta * (chosen_logratios - rejected_logratios)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)
