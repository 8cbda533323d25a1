"""Experiments that decide, on a real row, whether a model can take a faster path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veridical.checks.controls import HALF_MARGIN, blind, excess, other_kernel, rms
from veridical.data.images import ImageLike
from veridical.models.masked_prompts import EncodedImages, encode_prompts, masked_prompt_batch
from veridical.models.policy import Policy, image_features, image_token_id, takes_features
from veridical.models.positions import special_layers, token_positions, vision_inputs
from veridical.models.precision import dtype_name, exact, working_dtype
from veridical.models.processing import process
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import Request, sample_mask

KEPT_SHARE = 0.1
"""How far kept image features may be from those of the picture, as a share of how far they would be
in reverse order (our choice: rounding in bfloat16 makes about 0.01)."""


@torch.no_grad()
def masking_refusal(policy: Policy, request: Request) -> str | None:
    """Why image tokens of this model cannot be masked; None if they can.

    All processes have to take part.

    Found by experiment on a real prompt: with every image token visible, what is masked or dropped
    must give the logits of the stock processor and forward; with half of them hidden, dropping
    must give the logits of the stock forward with a mask over them.

    A model in half precision is tried as a float32 copy, and then has to be as near to that copy
    by this path as by its stock forward. Where no copy fits, the limit is what rounding does to
    the stock forward, and broken prompts have to be rejected at that limit; if one is not, the
    experiment is blind, which is a refusal. Kept features are compared with those of the picture.
    """
    layers = special_layers(policy.core)
    if layers is not None:
        return f"it has layers for which dropping tokens is not masking them ({layers})"
    text = render_prompt(policy, request.prompt.messages)
    seeing = replace(policy, vision=None)
    if not takes_features(policy.core):
        encoded = encode_prompts(seeing, [request.prompt.images], [text])
        if encoded[0].deeper:
            return "its image encoder feeds several layers, which this Transformers can't be given"
    with exact(seeing, together=True) as precise:
        if precise is None:
            reason = _by_noise(_Trial.of(seeing, request.prompt.images, text))
        else:
            trial = _Trial.of(precise, request.prompt.images, text)
            reason = _exactly(trial)
            if reason is None and precise is not seeing:
                reason = _near_the_copy(_Trial.of(seeing, request.prompt.images, text), trial)
    if reason is None and policy.vision is not None:
        return kept_features_refusal(policy, [request.prompt.images], [text])
    return reason


@dataclass(frozen=True)
class _Trial:
    """One prompt by the stock forward and by the masked path.

    Attributes:
        policy: who reads it.
        images: the prompt's.
        text: the rendered prompt.
        encoded: the prompt with its features.
        after: tokens behind the last image, at least one: logits of these are compared.
    """

    policy: Policy
    images: Sequence[ImageLike]
    text: str
    encoded: EncodedImages
    after: int

    @staticmethod
    def of(policy: Policy, images: Sequence[ImageLike], text: str) -> _Trial:
        encoded = encode_prompts(policy, [images], [text])[0]
        last = encoded.is_image.nonzero().max() if encoded.is_image.any() else -1
        return _Trial(policy, images, text, encoded, max(1, len(encoded.ids) - int(last) - 1))

    def stock(self, times: int = 1, more: str = "") -> Tensor:
        """Logits of the stock forward. Shape: (after, vocabulary).

        Args:
            times: how often the row stands in the batch.
            more: text that a second row has more, so that the first one is padded.
        """
        texts = [self.text] * times + ([self.text + more] if more else [])
        batch = prompt_batch(self.policy, [self.images] * len(texts), texts)
        return self._last(batch.inputs)

    def hidden(self, seen: Tensor) -> Tensor:
        """Logits of the stock forward with the other image tokens masked, at their own positions.

        It is made without `masked_prompt_batch`, whose errors it is there to show.
        """
        inputs = process(self.policy, [self.images], [self.text], "right")
        is_image = inputs["input_ids"] == image_token_id(self.policy)
        positions = token_positions(self.policy.core, inputs)
        attention = inputs["attention_mask"].clone()
        attention[is_image] = seen.to(attention)
        return self._last({**inputs, "attention_mask": attention, "position_ids": positions})

    def dropped(self, seen: Tensor, encoded: EncodedImages | None = None) -> Tensor:
        """Logits of the prompt without the image tokens that are not seen."""
        prompts = [encoded or self.encoded]
        batch = masked_prompt_batch(self.policy, prompts, [""], [self.text], [seen], True)
        return self._last(batch.inputs)

    def _last(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(self.policy.core(**inputs).logits[0, -self.after :])

    @property
    def every(self) -> Tensor:
        """A mask that hides nothing."""
        return torch.ones(int(self.encoded.is_image.sum()), dtype=torch.bool)

    @property
    def half(self) -> Tensor:
        """A mask that hides about half of the image tokens."""
        return sample_mask(len(self.every), 0.5, 0, "masking_refusal")


def _exactly(trial: _Trial) -> str | None:
    stock, stock_dtype = trial.stock(), working_dtype(trial.policy)
    limit = 256 * torch.finfo(stock_dtype).eps * float(stock.abs().max().clamp(min=1.0))
    whole = float((trial.dropped(trial.every) - stock).abs().max())
    if not whole <= limit:
        return f"its logits differ by {whole:.2g} from the stock forward's on that path"
    half = trial.half
    hidden = float((trial.dropped(half) - trial.hidden(half)).abs().max())
    if not hidden <= limit:
        return f"dropping image tokens moves its logits by {hidden:.2g} from those of masking them"
    return None


def _near_the_copy(trial: _Trial, precise: _Trial) -> str | None:
    """Once the copy masks exactly: half precision itself must not add more than it always does.

    What it always does depends on the mask too: a router of experts may choose otherwise under one
    of the two. So the limit is the larger of what the stock forward is off with and without it.
    """
    policy = trial.policy
    true = precise.stock().to(policy.device)
    half = precise.hidden(precise.half).to(policy.device)
    floor = max(rms(trial.stock() - true), rms(trial.hidden(trial.half) - half))
    found = {
        "its logits differ": rms(trial.dropped(trial.every) - true),
        "dropping image tokens differs": rms(trial.dropped(trial.half) - half),
    }
    for what, moved in found.items():
        if not moved <= HALF_MARGIN * floor:
            return (
                f"in {dtype_name(policy)} {what} by {moved:.2g} from float32, the stock forward by "
                f"{floor:.2g}"
            )
    return None


def _by_noise(trial: _Trial) -> str | None:
    """Where no float32 copy fits: against the stock forward's own rounding."""
    stock = trial.stock()
    with other_kernel():
        rounded = trial.stock()
    noise = (trial.stock(1, " Yes") - stock, rounded - stock)
    limit = HALF_MARGIN * max(map(rms, noise))
    whole = excess(trial.dropped(trial.every) - stock, noise)
    if not whole <= HALF_MARGIN:
        return (
            f"its logits differ from the stock forward's by {whole:.2g} times what rounding does "
            f"(limit {HALF_MARGIN:g})"
        )
    half = trial.half
    hidden = rms(trial.dropped(half) - trial.hidden(half))
    if not hidden <= limit:
        return f"dropping image tokens differs by {hidden:.2g} from masking (limit {limit:.2g})"
    for fault, broken in _broken(trial.encoded).items():
        if not excess(trial.dropped(trial.every, broken) - stock, noise) > HALF_MARGIN:
            return blind(trial.policy, fault)
    return None


def _broken(encoded: EncodedImages) -> dict[str, EncodedImages]:
    """The prompt with a gap of one position behind the image, and with features in reverse."""
    behind = torch.arange(len(encoded.ids), device=encoded.ids.device)
    behind = behind > encoded.is_image.nonzero().max()
    turned = encoded.embeddings.clone()
    turned[encoded.is_image] = encoded.embeddings[encoded.is_image].flip(0)
    deeper = tuple(layer.flip(0) for layer in encoded.deeper)
    return {
        "shifted positions": replace(encoded, positions=encoded.positions + behind.long()),
        "features in reverse order": replace(encoded, embeddings=turned, deeper=deeper),
    }


@torch.no_grad()
def kept_features_refusal(
    policy: Policy, images: Sequence[Sequence[ImageLike]], texts: Sequence[str]
) -> str | None:
    """Why kept image features are not those of these rows' pictures; None if they are.

    Compared are the features themselves. How far they may be apart is a share of how far they
    would be in reverse order, so that the limit depends on no dtype.
    """
    kept_inputs = process(policy, images, texts, "right")
    inputs = process(replace(policy, vision=None), images, texts, "right")
    if not any(len(row) for row in images):
        return None
    assert policy.vision is not None
    kept = _flat(policy.vision.output(policy, kept_inputs).pooler_output)
    own = _flat(image_features(policy.core, vision_inputs(inputs)).pooler_output)
    places = int((inputs["input_ids"] == image_token_id(policy)).sum())
    if not len(kept) == len(own) == places:
        return (
            f"it has {len(kept)} kept features and {len(own)} of the pictures for {places} places"
        )
    moved, broken = rms(kept - own), rms(own.flip(0) - own)
    # The features of a picture of one color may be the same in any order.
    limit = KEPT_SHARE * (broken if broken > KEPT_SHARE * rms(own) else rms(own))
    if not moved <= limit:
        return f"kept image features differ by {moved:.2g} from the pictures' (limit {limit:.2g})"
    return None


def _flat(features: Tensor | Sequence[Tensor]) -> Tensor:
    pieces = [features] if isinstance(features, Tensor) else list(features)
    return torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in pieces]).float()
