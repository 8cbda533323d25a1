"""Identity preference optimization: a squared distance from a fixed margin."""

from __future__ import annotations

from torch import Tensor


def ipo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Identity preference optimisation (Azar et al. 2023, eq. 17): (h - 1 / (2 beta))^2.

    h is the difference of the two log-ratios. It grows with the answers' length, and so does what
    is asked of it; divide all four log-probs by their answers' lengths first where that is not
    wanted (as the authors did, and TRL does).

    Args:
        policy_chosen_logps: log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: the paper's tau; > 0. The margin aimed at is 1 / (2 beta).

    Returns:
        One loss a pair, 1 / (4 beta^2) where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    return (chosen_logratios - rejected_logratios - 1 / (2 * beta)).square()
