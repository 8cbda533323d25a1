"""Prompts with most of their image tokens left out: what bias-driven sampling continues.

A part of `batching`, which alone knows of padding, image tokens and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from veridical._positions import continued, token_positions, vision_inputs
from veridical.batching import PromptBatch, process
from veridical.images import ImageLike
from veridical.models import Policy, image_token_id
from veridical.rendering import tokenise_after


@dataclass(frozen=True)
class EncodedImages:
    """One prompt's image features where they enter the language model, with its tokens.

    Attributes:
        embeddings: the prompt's input embeddings, features in place. Shape: (tokens, hidden).
        is_image: True at image tokens. Shape: (tokens,).
        positions: of the tokens. Shape: (tokens,) or (3, tokens).
    """

    embeddings: Tensor
    is_image: Tensor
    positions: Tensor


def encode_prompts(
    policy: Policy, images: Sequence[Sequence[ImageLike]], prompt_texts: Sequence[str]
) -> list[EncodedImages]:
    """Encode each prompt's images once, so that many continuations can share them."""
    core = policy.core
    inputs = process(policy, images, prompt_texts, "right")
    ids = inputs["input_ids"]
    attention = inputs["attention_mask"].bool()
    positions = token_positions(core, inputs)
    is_image = ids == image_token_id(policy)
    embeddings = core.get_input_embeddings()(ids)
    if is_image.any():
        features = torch.cat(list(core.get_image_features(**vision_inputs(inputs)).pooler_output))
        embeddings = embeddings.masked_scatter(is_image.unsqueeze(-1), features.to(embeddings))
    return [
        EncodedImages(embeddings[row, kept], is_image[row, kept], positions[..., row, kept])
        for row, kept in enumerate(attention)
    ]


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
    embed = policy.core.get_input_embeddings()
    rows, positions, attention = [], [], []
    for prompt, text, prompt_text, seen in zip(
        prompts, continuations, prompt_texts, visible, strict=True
    ):
        ids = torch.tensor(tokenise_after(policy, text, prompt_text), dtype=torch.long)
        embeddings = torch.cat([prompt.embeddings, embed(ids.to(policy.device))])
        keep = torch.ones(len(embeddings), dtype=torch.bool)
        keep[: len(prompt.is_image)][prompt.is_image.cpu()] = seen.cpu()
        keep = keep.to(policy.device)
        where = torch.cat([prompt.positions, continued(prompt.positions, len(ids))], dim=-1)
        rows.append(embeddings[keep] if drop else embeddings)
        positions.append(where[..., keep] if drop else where)
        attention.append(keep.long()[keep] if drop else keep.long())
    width = max(len(row) for row in rows)
    inputs = {
        "inputs_embeds": torch.stack([_pad_left(row.T, width).T for row in rows]),
        "position_ids": torch.stack([_pad_left(p, width) for p in positions], dim=-2),
        "attention_mask": torch.stack([_pad_left(a, width) for a in attention]),
    }
    return PromptBatch(inputs, torch.tensor([len(row) for row in rows]))


def _pad_left(row: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(row, (width - row.shape[-1], 0))
