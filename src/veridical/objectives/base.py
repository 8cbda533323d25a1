"""What an objective is: a frozen dataclass that turns log-probabilities of pairs into losses."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from veridical.runtime.options import options_of
from veridical.runtime.ranges import check_ranges


@dataclass(frozen=True)
class View:
    """An answer that is read once more, for a comparison.

    Attributes:
        answer: a column of the pair; `contrast_chosen` is the right answer to `contrast_images`.
        images: the column of what it is read with; `none` takes the pictures out of the prompt.
        is_right: whether the loss takes the answer for the right one to these images, so that pairs
            that name another right one are refused. It does not change what is read.
    """

    answer: Literal["chosen", "rejected", "contrast_chosen"]
    images: Literal["images", "contrast_images", "none"]
    is_right: bool = field(default=False, compare=False)


CHOSEN_ELSEWHERE = View("chosen", "contrast_images")
REJECTED_ELSEWHERE = View("rejected", "contrast_images")


class Divergence(NamedTuple):
    """How far the policy has moved on answers to other prompts, without gradient; 0 or more.

    Attributes:
        of_sums: the mean log-ratio, summed over tokens. Shape: ().
        of_means: the same of means over tokens. Shape: ().
    """

    of_sums: Tensor
    of_means: Tensor


@dataclass(frozen=True)
class PairLogps:
    """What an objective is called with: log-probabilities of the answers of some pairs.

    The first column is the chosen answer; the others are rejected answers. `policy` and
    `token_counts` are always there. An objective declares what else it reads: `reference` by
    `needs_reference`, `beta_factors` by `uses_beta_factors`, weights by `uses_weights`. What a
    later objective needs besides becomes a field here, with None for who does not declare it.

    Attributes:
        policy: summed over each answer's tokens, each times its weight. Shape:
            (pairs, 1 + rejected).
        reference: the same under the reference; zeros where the objective needs none.
        token_counts: answer lengths in tokens. The same shape.
        beta_factors: what each pair multiplies beta by; None where none says so. Shape: (pairs, 1).
        weight_sums: of each answer's tokens; None where all weights are 1.
            Shape: (pairs, 1 + rejected).
        contrast: of answers that are there for a comparison alone: one for each of the loss's
            `views`, or answers to other prompts, by `mismatched`. Shapes: (pairs, contrasts).
        labels: of rows without a pair, which then are all in the first column: whether the answer
            is a good one. Shape: (rows, 1), boolean.
        policy_weights: how likely the policy is to say each answer, near 1 where it is its own, for
            losses that ask for it by `needs_squares`; None where rows are only evaluated. Shape as
            `policy`.
        divergence: estimated from all batches of the step, for losses that read mismatched answers;
            None where these rows are all there are.
        mean_log_ratio: of the answers of all steps before this one, for losses that ask for it by
            `follows_rewards`; 0 before the first step.
    """

    policy: Tensor
    reference: Tensor
    token_counts: Tensor
    beta_factors: Tensor | None = None
    weight_sums: Tensor | None = None
    contrast: PairLogps | None = None
    mean_log_ratio: float = 0.0
    labels: Tensor | None = None
    policy_weights: Tensor | None = None
    divergence: Divergence | None = None

    @property
    def branches(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The policy's chosen and rejected answers, then the reference's.

        Shapes: (pairs, 1) of chosen answers and (pairs, rejected) of rejected ones.
        """
        policy, reference = self.policy, self.reference
        return policy[:, :1], policy[:, 1:], reference[:, :1], reference[:, 1:]

    @property
    def lengths(self) -> Tensor:
        """What a mean over tokens divides by: the sum of their weights. Shape as `policy`."""
        if self.weight_sums is None:
            return self.token_counts
        # Of an answer of weight 0 the sum is 0, and so is its mean.
        return torch.where(self.weight_sums > 0, self.weight_sums, 1.0)

    def per_token(self) -> PairLogps:
        """The same, each divided by its answer's length."""
        lengths, known = self.lengths, self.divergence
        return dataclasses.replace(
            self,
            divergence=None if known is None else Divergence(known.of_means, known.of_means),
            policy=self.policy / lengths,
            reference=self.reference / lengths,
            contrast=None if self.contrast is None else self.contrast.per_token(),
        )

    @property
    def every_policy(self) -> Tensor:
        """Of all answers, those under other images last. Shape: (pairs, k)."""
        own = self.policy
        return own if self.contrast is None else torch.cat([own, self.contrast.policy], 1)

    @property
    def every_reference(self) -> Tensor:
        """The same under the reference. Shape: (pairs, k)."""
        own = self.reference
        return own if self.contrast is None else torch.cat([own, self.contrast.reference], 1)

    def scaled(self, beta: float) -> float | Tensor:
        """A loss's beta: a number, or of shape (pairs, 1) where pairs have factors."""
        return beta if self.beta_factors is None else beta * self.beta_factors


@dataclass(frozen=True)
class Described(ABC):
    """What training minimizes, as a dataclass that says of itself what others have to know.

    Its fields are options of the command line: their help is its docstring's, and their ranges are
    in their annotations.

    Attributes:
        name: in a word; of a loss, as in `--loss NAME`.
    """

    name: ClassVar[str]

    @property
    def title(self) -> str:
        """Its full name: the first line of the docstring, as part of a sentence."""
        first = (type(self).__doc__ or self.name).strip().splitlines()[0].rstrip(".")
        is_name = any(map(str.isupper, first.split(maxsplit=1)[0][1:]))
        return first if is_name else first[:1].lower() + first[1:]

    @property
    def at_start(self) -> float | None:
        """The loss before the first step; None where it depends on the rows."""
        return None

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)

    def describe(self) -> dict[str, object]:
        """What `run.json`, the model card and the report say of it."""
        return {
            "name": self.name,
            "title": self.title,
            "options": options_of(self),
            "at_start": self.at_start,
        }


@dataclass(frozen=True)
class Objective(Described):
    """A loss of pairs or a term of one, with its settings; a subclass is one file.

    Attributes:
        needs_reference: whether the reference's log-probabilities are used.
        views: answers that it needs once more, under other images.
        mismatched: whether it reads answers to other prompts beside each pair's own.
        needs_squares: whether it reads `PairLogps.policy_weights`, which take the sum of squared
            probabilities at each token.
    """

    needs_reference: ClassVar[bool] = True
    views: ClassVar[tuple[View, ...]] = ()
    mismatched: ClassVar[bool] = False
    needs_squares: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, logps: PairLogps) -> Tensor:
        """The loss against each rejected answer; of the chosen answer alone, one column.

        Shape: (pairs, rejected) or (pairs, 1).
        """

    @property
    def slope_at_start(self) -> float:
        """How much one nat more between the branches changes the loss there, at most."""
        return 0.0

    @property
    def follows_rewards(self) -> bool:
        """Whether it reads the mean reward of the steps before, `PairLogps.mean_log_ratio`."""
        return False


class Part(NamedTuple):
    """A loss or a term, and what it is multiplied by."""

    weight: float
    objective: Objective


@dataclass(frozen=True)
class PairLoss(Objective):
    """A loss of a chosen answer against a rejected one.

    Attributes:
        beta: scale of the rewards that are logged.
        uses_beta_factors: whether a pair's own factor on beta is used; else such pairs are refused.
        uses_weights: the same of weights of answers' parts.
        averages_tokens: whether it divides log-probs by their answer's length itself.
        two_answers: whether it needs exactly two answers; pairs with further rejected ones are
            refused.
        same_pictures: whether both answers have to be read with `images`; pairs whose rejected one
            has other pictures, or sees less of them, are refused.
        over_batch: whether a pair's loss depends on the other pairs of its batch.
        reads_batch: what it then does, for messages.
        batch_of_one: what a batch of one is, and what to set.
    """

    uses_beta_factors: ClassVar[bool] = False
    uses_weights: ClassVar[bool] = False
    averages_tokens: ClassVar[bool] = False
    two_answers: ClassVar[bool] = False
    same_pictures: ClassVar[bool] = False
    over_batch: ClassVar[bool] = False
    reads_batch: ClassVar[str] = ""
    batch_of_one: ClassVar[str] = ""
    beta: float

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it is the sum of: itself, unless it combines others."""
        return (Part(1.0, self),)

    @property
    def lead(self) -> PairLoss:
        """The loss whose rewards are logged."""
        return self

    def with_known_start(self) -> PairLoss:
        """Without what makes the value at the start depend on the rows, if anything is left."""
        return self

    def weigh(
        self, chosen: Sequence[int], rejected: Sequence[int]
    ) -> tuple[list[float], list[float]] | None:
        """Weights of two answers' tokens, where the loss makes them itself.

        Args:
            chosen: token ids.
            rejected: token ids.

        Returns:
            A weight for each token of chosen and of rejected; None where it makes none.
        """
        del chosen, rejected
        return None

    def rewards(self, logps: PairLogps) -> Tensor:
        """The reward that training gives each answer implicitly, without gradient.

        Shape: (pairs, 1 + rejected).
        """
        read = self.as_read(logps)
        return implicit_rewards(read.policy, read.reference, logps.scaled(self.beta))

    def as_read(self, logps: PairLogps) -> PairLogps:
        """Sums over tokens, or their means where the loss reads these."""
        return logps.per_token() if self.averages_tokens else logps


@dataclass(frozen=True)
class Term(Objective):
    """What is added to a loss, times its weight."""

    @property
    @abstractmethod
    def weight(self) -> float:
        """What it is multiplied by; a term of weight 0 is left out."""


def implicit_rewards(policy_logps: Tensor, reference_logps: Tensor, beta: float | Tensor) -> Tensor:
    """DPO's implicit reward, beta * log(policy / reference), without gradient. Shape as given."""
    return beta * (policy_logps - reference_logps).detach()
