"""What preference training minimizes: a loss of each pair, and terms that are added to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from veridical.objectives.base import Described, PairLogps, PairLoss, Part, View
from veridical.objectives.combined import Combined
from veridical.objectives.dpo import DPO
from veridical.objectives.kto import estimated_kl
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.table import AnyPairLoss, AnyTerm
from veridical.objectives.weighted_sum import sum_at_start
from veridical.runtime.errors import UserError
from veridical.runtime.options import options_of

ROUNDING = 1e-6
"""Part of the log-probs up to which two rewards are the same number."""


@dataclass(frozen=True)
class Preference(Described):
    """What is minimized.

    Attributes:
        loss: which loss of a pair; each has options of its own.
        terms: what is added to it.
        per_token: divide log-probs by their answer's length first (usual for `ipo`).
    """

    loss: AnyPairLoss | Combined = DPO()
    terms: tuple[AnyTerm, ...] = ()
    per_token: bool = False

    def __call__(self, logps: PairLogps) -> Tensor:
        """One loss a pair. Shape: (pairs,)."""
        first, *others = zip(self.parts, self._losses(logps), strict=True)
        losses = first[0].weight * first[1]
        for part, own in others:
            losses = losses + part.weight * own
        return losses

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is added up: the loss, or what it is the sum of, and the terms."""
        terms = [Part(term.weight, term) for term in self.terms if term.weight]
        return (*self.loss.parts, *terms)

    @property
    def pair_losses(self) -> list[PairLoss]:
        """Those parts that compare two answers."""
        return [one for _, one in self.parts if isinstance(one, PairLoss)]

    def _losses(self, logps: PairLogps) -> list[Tensor]:
        """Of each part, before its weight. Shape of each: (pairs,)."""
        read = self._as_read(logps)
        return [
            self._average(one(read if isinstance(one, PairLoss) else logps))
            for _, one in self.parts
        ]

    def _as_read(self, logps: PairLogps) -> PairLogps:
        """What losses of pairs are called with: sums over tokens, or their means."""
        return logps.per_token() if self.per_token else logps

    def _average(self, losses: Tensor) -> Tensor:
        """Over a pair's rejected answers: there is one."""
        return losses.squeeze(-1)

    @property
    def title(self) -> str:
        """The loss's full name."""
        return self.loss.title

    @property
    def given_as(self) -> str:
        """The option that chose the loss, and its name where that is one: `--loss dpo`."""
        return "--terms" if isinstance(self.loss, Combined) else f"--loss {self.loss.name}"

    def option_of(self, which: Callable[[PairLoss], bool]) -> str:
        """The option that chose a loss of which something is true, such as `--loss kto`."""
        if not isinstance(self.loss, Combined):
            return self.given_as
        return f"--terms {next(loss.name for loss in self.pair_losses if which(loss))}"

    @property
    def of_means(self) -> bool:
        """Whether rewards and `kl` are of means over tokens."""
        return self.per_token or self.loss.lead.averages_tokens

    @property
    def needs_reference(self) -> bool:
        """Whether the reference's log-probabilities are used."""
        return any(one.needs_reference for _, one in self.parts)

    @property
    def uses_beta_factors(self) -> bool:
        """Whether a pair's own factor on beta is used."""
        return all(loss.uses_beta_factors for loss in self.pair_losses)

    @property
    def uses_weights(self) -> bool:
        """Whether weights of answers' parts are used."""
        return all(loss.uses_weights for loss in self.pair_losses)

    @property
    def follows_rewards(self) -> bool:
        """Whether the mean reward of the steps before is used."""
        return any(one.follows_rewards for _, one in self.parts)

    @property
    def over_batch(self) -> bool:
        """Whether a pair's loss depends on the other pairs of its batch."""
        return any(loss.over_batch for loss in self.pair_losses)

    @property
    def mismatched(self) -> bool:
        """Whether answers to other prompts are read."""
        return any(one.mismatched for _, one in self.parts)

    @property
    def needs_squares(self) -> bool:
        """Whether the whole distribution at each token is used."""
        return any(one.needs_squares for _, one in self.parts)

    @property
    def views(self) -> tuple[View, ...]:
        """Answers that are needed once more, under other images."""
        return max((one.views for _, one in self.parts), key=len)

    @property
    def at_start(self) -> float | None:
        """The loss where policy and reference agree; None where it depends on the rows."""
        return sum_at_start(self.parts)

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return sum(weight * one.slope_at_start for weight, one in self.parts)

    def with_known_start(self) -> Preference:
        """Without the parts whose value at the start depends on the rows."""
        known = tuple(term for term in self.terms if term.at_start is not None)
        loss = cast("AnyPairLoss | Combined", self.loss.with_known_start())
        return dataclasses.replace(self, loss=loss, terms=known)

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UserError: names the option.
        """
        super().check()
        for part in (self.loss, *self.terms):
            part.check()
        for loss in self.pair_losses if self.per_token else ():
            if loss.averages_tokens:
                option = self.option_of(lambda one: one.averages_tokens)
                raise UserError(
                    f"{option} divides log-probs by their answer's length itself, and "
                    "--per-token true would divide them twice. Leave --per-token out."
                )
        if self.per_token and self.follows_rewards:
            raise UserError(
                "A running reward shift is the mean of rewards that are sums over tokens, and "
                "--per-token true divides these. Leave --per-token out, or set a number "
                "(--reward-shift 0)."
            )
        for _, one in self.parts:
            if one.views != self.views[: len(one.views)] or (one.mismatched and self.views):
                other = next(each for _, each in self.parts if each.views == self.views)
                raise UserError(
                    f"--terms can't have both {one.name} and {other.name}: they read other answers "
                    "beside each pair's own, and a row has room for those of one. Leave one out."
                )
        if sum(isinstance(one, Likelihood) for _, one in self.parts) > 1:
            raise UserError(
                f"{self.given_as} has the likelihood already, and --nll-weight would add "
                "it twice. Leave --nll-weight out, and change the weight that it has there."
            )

    def measures(self, logps: PairLogps) -> dict[str, Tensor]:
        """What is logged of each pair, by name; of several rejected answers the first counts.

        Rewards and `kl` are of sums over tokens, or of means where the loss reads means;
        `logps_chosen` and `logps_rejected` are sums, in nats.

        Shape of each: (pairs,).
        """
        lead, own = self.loss.lead, self._as_read(logps)
        if logps.labels is not None:
            return labeled_measures(own, logps.labels, lead, logps.policy)
        rewards, read = lead.rewards(own), lead.as_read(own)
        sizes = torch.maximum(read.policy.abs(), read.reference.abs())[:, :2].amax(-1).detach()
        beta = logps.scaled(lead.beta)
        rounding = (beta.squeeze(-1) if isinstance(beta, Tensor) else beta) * ROUNDING * sizes
        moved = {"kl": estimated_kl(own).expand_as(rewards[:, 0])} if self.mismatched else {}
        return (
            self._by_part(logps)
            | moved
            | {
                "rewards_chosen": rewards[:, 0],
                "rewards_rejected": rewards[:, 1],
                "rewards_margin": rewards[:, 0] - rewards[:, 1],
                "rewards_accuracy": pair_accuracy(rewards[:, 0], rewards[:, 1], rounding),
                "logps_chosen": logps.policy[:, 0],
                "logps_rejected": logps.policy[:, 1],
                "chosen_tokens": logps.token_counts[:, 0],
                "rejected_tokens": logps.token_counts[:, 1],
            }
        )

    def _by_part(self, logps: PairLogps) -> dict[str, Tensor]:
        """The loss of each part, before its weight, where there are several."""
        if len(self.parts) == 1:
            return {}
        losses = zip(self.parts, self._losses(logps), strict=True)
        return {f"loss_{part.objective.name}": loss.detach() for part, loss in losses}

    def describe(self) -> dict[str, object]:
        """What `run.json`, `start.json`, the model card and the report say of it."""
        return {
            "name": self.loss.name,
            "title": self.title,
            "options": options_of(self),
            "at_start": self.with_known_start().at_start,
            "needs_reference": self.needs_reference,
            "rewards": {"beta": self.loss.lead.beta, "of": "means" if self.of_means else "sums"},
        }


def labeled_measures(
    logps: PairLogps, labels: Tensor, lead: PairLoss, policy_sums: Tensor
) -> dict[str, Tensor]:
    """What is logged of answers without a pair; `rewards_chosen` and the like are of good ones.

    Margin and accuracy are of each answer: whether its reward is on its label's side of the
    estimated divergence.

    Args:
        logps: of the batch, as the loss reads it: sums over tokens, or their means.
        labels: whether each is a good one. Shape: (rows, 1), boolean.
        lead: the loss.
        policy_sums: log-probs summed over tokens, which are logged as sums. Shape: (rows, 1).

    Returns:
        Shape of each: (rows,), or as many as there are of its kind.
    """
    rewards, good = lead.rewards(logps).squeeze(-1), labels.squeeze(-1)
    shift = estimated_kl(logps)
    margin = torch.where(good, 1, -1) * (rewards - lead.beta * shift)
    sizes = torch.maximum(logps.policy.abs(), logps.reference.abs()).squeeze(-1).detach()
    found = {
        "rewards_margin": margin,
        "rewards_accuracy": pair_accuracy(
            margin, torch.zeros_like(margin), lead.beta * ROUNDING * sizes
        ),
        "kl": shift.expand_as(rewards),
    }
    for branch, own in (("chosen", good), ("rejected", ~good)):
        found |= {
            f"rewards_{branch}": rewards[own],
            f"logps_{branch}": policy_sums[own, 0],
            f"{branch}_tokens": logps.token_counts[own, 0],
        }
    return found


def pair_accuracy(chosen: Tensor, rejected: Tensor, rounding: Tensor | float = 0.0) -> Tensor:
    """1 where the chosen response has more, 0 where it has less, and 1/2 where they are equal.

    Before training all are equal: nothing is known, which is not to be wrong everywhere.

    Args:
        chosen: rewards. Shape: any.
        rejected: rewards. Shape: the same.
        rounding: up to which difference they count as equal. Shape: the same, or a number.
    """
    margin = chosen - rejected
    # In the rewards' own type, which has these three exactly: not every device has float64.
    return (margin > rounding).to(margin) + (margin.abs() <= rounding).to(margin) / 2
