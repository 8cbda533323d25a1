"""Responses while most of the image cannot be seen."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from veridical.data.images import image_key
from veridical.data.responses import Response
from veridical.models.masked_prompts import EncodedImages, encode_prompts, masked_prompt_batch
from veridical.models.policy import Policy
from veridical.models.prompt_batches import PromptBatch
from veridical.models.prompt_texts import render_requests, tokenize_after
from veridical.models.refused_rows import naming_rows
from veridical.runtime.randomness import generator
from veridical.sampling.answers import responses
from veridical.sampling.beginnings import can_share, plan, with_branches
from veridical.sampling.requests import Decoding, Request


def complete_masked(
    policy: Policy,
    requests: Sequence[Request],
    mask_ids: Sequence[str],
    threshold: float,
    decoding: Decoding,
    until_sentence_end: bool,
    drop: bool = True,
    label: str = "",
) -> tuple[list[Response], list[float]]:
    """Answer while most of the image cannot be seen (Amirloo et al. 2024, section 3.4.1).

    Args:
        policy: who answers.
        requests: what is asked; neighbors that share images and prompt share one encoding.
        mask_ids: for each request, the key of its mask; equal keys get the same mask.
        threshold: rho_th; an image token survives with probability 1 - threshold.
        decoding: how tokens are chosen.
        until_sentence_end: stop at the end of the first sentence and cut there.
        drop: leave masked tokens out of the prompt instead of masking them: the same
            distribution from a far shorter prompt.
        label: names the progress line; empty for none.

    Returns:
        The responses in order, and the share of image tokens that was masked for each.
    """
    prompts = _MaskedPrompts(policy, requests, mask_ids, threshold, decoding.seed, drop)
    answers = responses(policy, requests, prompts.read, decoding, label, until_sentence_end)
    return answers, [prompts.shares[number] for number in range(len(requests))]


def sample_mask(tokens: int, threshold: float, seed: int, mask_id: str) -> Tensor:
    """Which image tokens stay visible: rho_i ~ U(0, 1), visible where rho_i >= threshold.

    Source: Amirloo et al. 2024, eq. 6. A threshold of 1 masks everything, 0 nothing.

    Returns:
        Boolean. Shape: (tokens,).
    """
    return torch.from_numpy(generator(seed, "mask", mask_id).random(tokens) >= threshold)


_Key = tuple[tuple[str | int, ...], str]


class _MaskedPrompts:
    """Lays out masked prompts a few at a time, encoding neighbors' images once."""

    def __init__(
        self,
        policy: Policy,
        requests: Sequence[Request],
        mask_ids: Sequence[str],
        threshold: float,
        seed: int,
        drop: bool,
    ) -> None:
        self.policy, self.requests, self.mask_ids = policy, requests, mask_ids
        self.threshold, self.seed, self.drop = threshold, seed, drop
        asked = [
            (request.prompt.messages, prefix)
            for request in requests
            for prefix in ("", request.prefix)
        ]
        rendered = render_requests(policy, asked)
        self.texts, begun = rendered[::2], rendered[1::2]
        pairs = zip(self.texts, begun, strict=True)
        self.begun = [whole[len(text) :] for text, whole in pairs]
        self.keys: list[_Key] = [
            (tuple(map(image_key, request.prompt.images)), text)
            for request, text in zip(requests, self.texts, strict=True)
        ]
        self.shares: dict[int, float] = {}
        self.known: dict[_Key, EncodedImages] = {}

    def read(self, numbers: list[int]) -> PromptBatch:
        """The prompts with these numbers, left-padded; what sentences of an answer share, once."""
        encoded, seen = self._encoded(numbers), self._masks(numbers)
        tokens = [
            [int(prompt.ids[-1]), *tokenize_after(self.policy, self.begun[n], self.texts[n])]
            for n, prompt in zip(numbers, encoded, strict=True)
        ]
        # With an image at a prompt's very end there is no text to begin the rest with.
        families: list[Hashable] = [
            (self.keys[n], self.mask_ids[n]) if not bool(prompt.is_image[-1]) else n
            for n, prompt in zip(numbers, encoded, strict=True)
        ]
        before = [
            len(prompt.ids) - 1 - (int((~visible).sum()) if self.drop else 0)
            for prompt, visible in zip(encoded, seen, strict=True)
        ]
        found = plan(tokens, families, before)
        if not found.shares or not can_share(self.policy):
            return self._batch(numbers, encoded, seen)
        whole = found.whole
        batch = self._batch(
            [numbers[n] for n in whole], [encoded[n] for n in whole], [seen[n] for n in whole]
        )
        return with_branches(batch, found, tokens)

    def _batch(
        self, numbers: list[int], encoded: list[EncodedImages], seen: list[Tensor]
    ) -> PromptBatch:
        return masked_prompt_batch(
            self.policy, encoded, [self.begun[n] for n in numbers],
            [self.texts[n] for n in numbers], seen, self.drop,
        )  # fmt: skip

    def _masks(self, numbers: list[int]) -> list[Tensor]:
        """Which image tokens each prompt may see; notes the share that it may not."""
        made: dict[tuple[_Key, str], Tensor] = {}
        for number in numbers:
            key, mask_id = self.keys[number], self.mask_ids[number]
            if (key, mask_id) not in made:
                tokens = int(self.known[key].is_image.sum())
                made[key, mask_id] = sample_mask(tokens, self.threshold, self.seed, mask_id)
            seen = made[key, mask_id]
            self.shares[number] = float((~seen).float().mean()) if len(seen) else 0.0
        return [made[self.keys[number], self.mask_ids[number]] for number in numbers]

    def _encoded(self, numbers: list[int]) -> list[EncodedImages]:
        """Each image once; those of the last call are kept, since its answer may go on in this."""
        first = {self.keys[number]: number for number in reversed(numbers)}
        new = sorted(number for key, number in first.items() if key not in self.known)
        with naming_rows([self.requests[number].prompt.id for number in new]):
            made = encode_prompts(
                self.policy,
                [self.requests[number].prompt.images for number in new],
                [self.texts[number] for number in new],
            ) if new else []  # fmt: skip
        fresh = {self.keys[number]: prompt for number, prompt in zip(new, made, strict=True)}
        self.known = {key: fresh[key] if key in fresh else self.known[key] for key in first}
        return [self.known[self.keys[number]] for number in numbers]
