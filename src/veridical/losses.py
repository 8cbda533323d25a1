"""Every objective as a small pure function of log-probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def share_right(chosen: Tensor, rejected: Tensor, rounding: Tensor | float = 0.0) -> Tensor:
    """1 where the chosen response has more, 0 where it has less, and 1/2 where they are equal.

    Before training all are equal: nothing is known, which is not to be wrong everywhere.

    Args:
        chosen: rewards. Shape: any.
        rejected: rewards. Shape: the same.
        rounding: up to which difference they count as equal. Shape: the same, or a number.
    """
    margin = chosen - rejected
    return (margin > rounding).double() + (margin.abs() <= rounding).double() / 2


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


def slic_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> Tensor:
    """Sequence likelihood calibration's hinge, against a reference (Zhao et al. 2023).

    max(0, 1 - beta h), with h the difference of the two log-ratios: the form in which TRL and
    Amirloo et al. 2024 compare it with DPO.

    Args:
        policy_chosen_logps: summed log-probabilities of the chosen responses. Shape: (batch,).
        policy_rejected_logps: the same of the rejected responses. Shape: (batch,).
        reference_chosen_logps: under the reference. Shape: (batch,).
        reference_rejected_logps: under the reference. Shape: (batch,).
        beta: the margin asked for is 1 / beta nats; > 0.

    Returns:
        One loss a pair, 1 where policy and reference agree. Shape: (batch,).
    """
    chosen_logratios = policy_chosen_logps - reference_chosen_logps
    rejected_logratios = policy_rejected_logps - reference_rejected_logps
    return F.relu(1 - beta * (chosen_logratios - rejected_logratios))


def averaged_loss(losses: Tensor, gamma: float) -> Tensor:
    """Several rejected answers to one chosen one (Amirloo et al. 2024, eq. 5).

    gamma * loss(chosen, first rejected) + (1 - gamma) * loss(chosen, second); with more than two,
    those after the first share 1 - gamma equally (our choice).

    Args:
        losses: the loss against each rejected answer. Shape: (batch, rejected).
        gamma: weight of the first, in [0, 1]; with a single one it has all.

    Returns:
        Shape: (batch,).
    """
    if losses.shape[-1] == 1:
        return losses.squeeze(-1)
    return gamma * losses[:, 0] + (1 - gamma) * losses[:, 1:].mean(-1)


def reward_loss(chosen_rewards: Tensor, rejected_rewards: Tensor, centring: float = 0.0) -> Tensor:
    """Bradley-Terry loss of a reward model (Sun et al. 2023), with a term that centres rewards.

    -log sigmoid(chosen - rejected) + centring * (chosen + rejected)^2. Differences alone leave
    open where zero is. The paper's code takes |mean of the sums over a batch|, which depends on
    the batch; a square of each pair does not (our choice).

    Args:
        chosen_rewards: Shape: (batch,).
        rejected_rewards: Shape: (batch,).
        centring: weight of the second term; 0.001 in the paper's code, for its form of it.

    Returns:
        One loss a pair, ln 2 where both rewards are 0. Shape: (batch,).
    """
    preference = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return preference + centring * (chosen_rewards + rejected_rewards).square()


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float) -> Tensor:
    """DPO's implicit reward, beta * log(policy / reference), without gradient. Shape as given."""
    return beta * (policy_logps - reference_logps).detach()


def mean_token_nll(logps: Tensor, token_counts: Tensor) -> Tensor:
    """Negative log-likelihood of each response, averaged over its tokens.

    Args:
        logps: summed log-probabilities. Shape: (batch,).
        token_counts: response lengths in tokens, at least 1. Shape: (batch,).

    Returns:
        Shape: (batch,).
    """
    return -logps / token_counts


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target token, in at least float32.

    Args:
        logits: Shape: (..., vocabulary).
        targets: token ids. Shape: (...,).
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked - torch.logsumexp(logits, dim=-1)
