"""Prompts with most of their image tokens left out: what bias-driven sampling continues.

A part of `batching`, which alone knows of padding, image tokens and positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from veridical.data.images import ImageLike
from veridical.models.decoder_inputs import decoder_inputs
from veridical.models.policy import Policy, image_token_id
from veridical.models.positions import continued, token_positions
from veridical.models.prefix_masks import lookahead_kinds
from veridical.models.processing import process
from veridical.models.prompt_batches import PromptBatch
from veridical.models.prompt_texts import tokenize_after


@dataclass(frozen=True)
class EncodedImages:
    """One prompt's image features where they enter the language model, with its tokens.

    Attributes:
        ids: the prompt's tokens, placeholders included. Shape: (tokens,).
        embeddings: its input embeddings, features in place. Shape: (tokens, hidden).
        is_image: True at image tokens. Shape: (tokens,).
        positions: of the tokens. Shape: (tokens,) or (3, tokens).
        deeper: features that are added to image tokens behind the first layers (Qwen3-VL's
            deepstack), a tensor a layer; mostly none. Shape of each: (image tokens, hidden).
        kinds: what the processor says of each token, where image tokens see each other in both
            directions; mostly nothing. Shape of each: (tokens,).
    """

    ids: Tensor
    embeddings: Tensor
    is_image: Tensor
    positions: Tensor
    deeper: tuple[Tensor, ...] = ()
    kinds: Mapping[str, Tensor] = field(default_factory=dict)


def encode_prompts(
    policy: Policy, images: Sequence[Sequence[ImageLike]], prompt_texts: Sequence[str]
) -> list[EncodedImages]:
    """Encode each prompt's images once, so that many continuations can share them."""
    core = policy.core
    inputs = process(policy, images, prompt_texts, "right")
    ids = inputs["input_ids"]
    positions = token_positions(core, inputs)
    is_image = ids == image_token_id(policy)
    given = decoder_inputs(core, {**inputs, "position_ids": positions})
    embeddings = given["inputs_embeds"]
    deeper = [torch.as_tensor(layer) for layer in given.get("deepstack_visual_embeds") or ()]
    kinds = lookahead_kinds(policy, inputs)
    counts = is_image.sum(-1).tolist()
    by_row = [layer.split(counts) for layer in deeper]
    return [
        EncodedImages(
            ids[row, kept],
            embeddings[row, kept],
            is_image[row, kept],
            positions[..., row, kept],
            tuple(layer[row] for layer in by_row),
            {name: values[row, kept] for name, values in kinds.items()},
        )
        for row, kept in enumerate(inputs["attention_mask"].bool())
    ]


@dataclass(frozen=True)
class _Row:
    ids: Tensor
    embeddings: Tensor
    positions: Tensor
    attention: Tensor
    features: tuple[Tensor, ...]
    kinds: Mapping[str, Tensor]


def masked_prompt_batch(
    policy: Policy,
    prompts: Sequence[EncodedImages],
    continuations: Sequence[str],
    prompt_texts: Sequence[str],
    visible: Sequence[Tensor],
    drop: bool = True,
) -> PromptBatch:
    """Prompts of which only some image tokens can be seen, left-padded, for `generate`.

    A key that is masked for every query never changes anything, so the masked tokens may just as
    well be dropped, as long as the positions of the rest stay what they were.

    Args:
        policy: whose embeddings are used.
        prompts: the encoded prompts. One a row.
        continuations: rendered text after the prompt, e.g. the answer's beginning.
        prompt_texts: the rendered prompts themselves.
        visible: True at image tokens that may be seen. Shape of each: (image tokens,).
        drop: leave masked tokens out (fast); else keep them and mask them (the obvious way).
    """
    rows = []
    for prompt, text, prompt_text, seen in zip(
        prompts, continuations, prompt_texts, visible, strict=True
    ):
        ids = torch.tensor(tokenize_after(policy, text, prompt_text), dtype=torch.long)
        rows.append(_masked_row(policy, prompt, ids.to(policy.device), seen, drop))
    width = max(len(row.ids) for row in rows)
    # `generate` counts rows in whatever comes first, and positions may begin with another axis.
    inputs: dict[str, Any] = {
        "attention_mask": torch.stack([_pad_left(row.attention, width) for row in rows]),
        "position_ids": torch.stack([_pad_left(row.positions, width) for row in rows], dim=-2),
    }
    for name in rows[0].kinds:
        inputs[name] = torch.stack([_pad_left(row.kinds[name], width) for row in rows])
    if any(row.features for row in rows):
        # Only the model itself knows what to add to which layer: it is given what its vision
        # tower made, for the tokens that are left.
        pad = policy.processor.tokenizer.pad_token_id
        layers = zip(*(row.features for row in rows if row.features), strict=True)
        first, *deeper = [(torch.cat(layer),) for layer in layers]
        inputs["input_ids"] = torch.stack([_pad_left(row.ids, width, pad) for row in rows])
        outputs = SimpleNamespace(pooler_output=first, deepstack_features=deeper)
        inputs["mm_encoder_outputs"] = {"image": outputs}
    else:
        inputs["inputs_embeds"] = torch.stack([_pad_left(r.embeddings.T, width).T for r in rows])
    return PromptBatch(inputs, torch.tensor([len(row.ids) for row in rows]))


def _masked_row(
    policy: Policy, prompt: EncodedImages, ids: Tensor, seen: Tensor, drop: bool
) -> _Row:
    embeddings = torch.cat([prompt.embeddings, policy.core.get_input_embeddings()(ids)])
    positions = torch.cat([prompt.positions, continued(prompt.positions, len(ids))], dim=-1)
    visible = torch.ones(len(embeddings), dtype=torch.bool, device=policy.device)
    seen = seen.to(policy.device)
    visible[: len(prompt.is_image)][prompt.is_image] = seen
    kept = visible if drop else torch.ones_like(visible)
    kept_images = seen if drop else torch.ones_like(seen)
    features: tuple[Tensor, ...] = ()
    if prompt.deeper:
        first = prompt.embeddings[prompt.is_image]
        features = tuple(layer[kept_images] for layer in (first, *prompt.deeper))
    return _Row(
        torch.cat([prompt.ids, ids])[kept],
        embeddings[kept],
        positions[..., kept],
        visible[kept].long(),
        features,
        {n: torch.cat([kind, torch.zeros_like(ids)])[kept] for n, kind in prompt.kinds.items()},
    )


def _pad_left(row: Tensor, width: int, value: int = 0) -> Tensor:
    return torch.nn.functional.pad(row, (width - row.shape[-1], 0), value=value)
