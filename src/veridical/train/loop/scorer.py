"""A policy's log-probs, or a reward model's rewards, as one module that processes can wrap.

DDP exchanges gradients, and FSDP2 gathers weights, where the forward of the module that they wrap
is called; a call of the model inside passes them by without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from veridical.models.batch import Batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import (
    Policy,
    adapters_off,
    image_features,
    unwrap,
    weights_swapped,
)
from veridical.models.reward_model import response_rewards
from veridical.train.loop.modes import checkpoint_activations, set_training
from veridical.train.loop.seen import (
    given_features,
    needs_no_graph,
    see_alike,
    watched_features,
    without_graph,
)
from veridical.train.loop.trained import put, trained_parameters


class Scores(NamedTuple):
    """What a scorer says of a batch's responses.

    Attributes:
        sums: log-probabilities in nats (with a head: rewards). Shape: (groups, k).
        counts: lengths in tokens. Shape: (groups, k).
        squares: as `ResponseLogps.log_squares`, if asked for. Shape: (groups, k).
    """

    sums: Tensor
    counts: Tensor
    squares: Tensor | None = None


class Scorer(nn.Module):
    """Scores responses by the policy, or by the reference where that runs in the step."""

    def __init__(
        self,
        policy: Policy,
        frozen: Policy | None = None,
        head: nn.Linear | None = None,
        model_dropout: bool = False,
        squares: bool = False,
    ) -> None:
        """Take the policy in.

        Args:
            policy: what is trained.
            frozen: the reference, if it is a model of its own; else it is the policy with its
                adapters off.
            head: of a reward model, which is trained too: then scores are rewards.
            model_dropout: train with the model's own dropout.
            squares: say of the policy how sure it is at each token, too, where it learns.
        """
        super().__init__()
        self.policy_model = policy.model
        self.head, self.squares = head, squares
        self.frozen_model = None if frozen is None else frozen.model.requires_grad_(False)
        if frozen is not None:
            frozen.model.eval()
        self.model_dropout = model_dropout
        self._inside = list(policy.model.modules())
        self._see_alike = see_alike(policy, frozen, model_dropout)
        self._needs_no_graph = needs_no_graph(policy)
        self.moved: dict[str, Tensor] | None = None
        self._seen: tuple[Batch, object] | None = None
        # What Accelerate reads to shard layer by layer; families name layers that they may lack.
        there = {type(module).__name__ for module in policy.core.modules()}
        self._no_split_modules = sorted(there.intersection(policy.core._no_split_modules or ()))

    def forward(
        self, batch: Batch, blank: dict[str, Tensor] | None = None, reference: bool = False
    ) -> Scores:
        """Log-probability (with a head: reward) and length of every response.

        Args:
            batch: from `collate`.
            blank: vision inputs of a picture that does not count, for a batch without images:
                processes that exchange weights and gradients have to run the same modules.
            reference: by the reference, without gradients.
        """
        seen, self._seen = self._seen, None
        if not reference:
            known = seen[1] if seen is not None and seen[0] is batch else None
            plain = self._needs_no_graph and known is None
            with without_graph(self.policy_model, plain), given_features(self.policy_model, known):
                # Not of held-out rows: their loss would fall where the policy no longer says any.
                squares = self.squares and torch.is_grad_enabled()
                return self._score(self.policy_model, batch, blank, squares)
        model = self.policy_model if self.frozen_model is None else self.frozen_model
        with torch.no_grad(), watched_features(model) as found:
            if self.frozen_model is None:
                with _evaluating(self._inside), self._as_reference():
                    scores = self._score(self.policy_model, batch, blank)
            else:
                scores = self._score(self.frozen_model, batch, blank)
        if self._see_alike and len(found) == 1:
            self._seen = (batch, found[0])
        return scores

    @torch.no_grad()
    def move_reference(self, mix: float) -> None:
        """Let the reference follow the policy.

        Args:
            mix: the policy's share of its new weights; below 1 only where it is a second model.
        """
        trained = trained_parameters(self.policy_model)
        if self.frozen_model is None:
            self.moved = {name: one.detach().clone() for name, one in trained.items()}
            return
        for name, weight in reference_weights(self.frozen_model, trained).items():
            weight.lerp_(trained[name].to(weight), mix)
        self.moved = {}

    @property
    def moved_reference(self) -> dict[str, Tensor] | None:
        """The weights in which a reference that has followed differs from the start, by name."""
        if self.moved is None or self.frozen_model is None:
            return self.moved
        return reference_weights(self.frozen_model, trained_parameters(self.policy_model))

    @torch.no_grad()
    def put_reference(self, values: Mapping[str, Tensor]) -> None:
        """Put a checkpoint's reference in the place of the start.

        Args:
            values: what `moved_reference` was.
        """
        trained = trained_parameters(self.policy_model)
        self.moved = {name: values[name].to(one) for name, one in trained.items()}
        if self.frozen_model is not None:
            put(reference_weights(self.frozen_model, trained), self.moved)
            self.moved = {}

    def _as_reference(self) -> AbstractContextManager[None]:
        """The policy as it was when the reference last followed it; before, without adapters."""
        if self.moved is None:
            return adapters_off(self.policy_model)
        return weights_swapped(trained_parameters(self.policy_model), self.moved)

    def train(self, mode: bool = True) -> Scorer:
        """Switch the policy and the head; a frozen reference never trains.

        Always down to the last module: others may have switched the model in between.
        """
        self.training = mode
        if self.head is not None:
            self.head.train(mode)
        if mode:
            set_training(self._inside, self.model_dropout)
        else:
            self.policy_model.eval()
        return self

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, object] | None = None,
        **options: object,
    ) -> None:
        """What the Trainer calls for `trainer.activation_checkpointing`."""
        wanted = {**(activation_checkpointing_kwargs or {}), **options}
        checkpoint_activations(self.policy_model, self.model_dropout, wanted)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, object] | None = None, **options: object
    ) -> None:
        """The same, as older releases of Transformers call it."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **options)

    def _score(
        self,
        model: PreTrainedModel,
        batch: Batch,
        blank: dict[str, Tensor] | None,
        squares: bool = False,
    ) -> Scores:
        if blank is None:
            return self._read(model, batch, squares)
        with _seeing(model, blank):
            return self._read(model, batch, squares)

    def _read(self, model: PreTrainedModel, batch: Batch, squares: bool) -> Scores:
        if self.head is not None:
            rewards = response_rewards(model, self.head, batch)
            return Scores(rewards, batch.token_counts)
        logps = response_logps(model, batch, squares)
        return Scores(logps.sums.clone(), logps.counts, logps.log_squares)


def reference_weights(frozen: PreTrainedModel, names: Iterable[str]) -> dict[str, Tensor]:
    """Those of a second model's weights that are trained in the first, by their names there."""
    return {name: frozen.get_parameter(name) for name in names}


@contextmanager
def _seeing(model: PreTrainedModel, blank: dict[str, Tensor]) -> Iterator[None]:
    """Encode a picture that does not count, and let the language model's input depend on it.

    FSDP2 gathers weights and exchanges gradients in the order of use, and processes that differ
    in it get each other's. So the picture goes where pictures go: before and into the language
    model, whose first layer then has a gradient to pass on.
    """
    core = unwrap(model)
    features = image_features(core, blank).pooler_output
    nothing = 0.0 * sum(feature.sum() for feature in features)

    def add(_: nn.Module, __: Any, embeddings: Tensor) -> Tensor:
        with_it: Tensor = embeddings + nothing
        return with_it

    hook = core.get_input_embeddings().register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _evaluating(modules: list[nn.Module]) -> Iterator[None]:
    """What `eval()` and `train()` do, without looking for the modules or through `setattr`."""
    training = [vars(module) for module in modules if module.training]
    for attributes in training:
        attributes["training"] = False
    try:
        yield
    finally:
        for attributes in training:
            attributes["training"] = True
