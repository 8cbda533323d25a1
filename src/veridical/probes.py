"""Experiments that decide, on a real row, whether a model can take a faster path."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from veridical._masked_prompts import encode_prompts, masked_prompt_batch
from veridical._positions import special_layers
from veridical.batching import prompt_batch
from veridical.models import Policy
from veridical.rendering import render_prompt
from veridical.sampling import Request, sample_mask


@torch.no_grad()
def masking_refusal(policy: Policy, request: Request) -> str | None:
    """Why image tokens of this model cannot be masked; None if they can.

    Found by experiment on a real prompt: with every image token visible, what is masked or dropped
    must give the logits of the stock processor and forward; with half of them hidden, dropping
    must give the logits of masking. Kept image features are held against pictures by that.
    """
    if not hasattr(policy.core, "get_image_features"):
        return "it does not tell its image features"
    layers = special_layers(policy.core)
    if layers is not None:
        return f"it has layers for which dropping tokens is not masking them ({layers})"
    text = render_prompt(policy, request.prompt)
    seeing = replace(policy, vision=None)
    stock = policy.core(**prompt_batch(seeing, [request.images], [text]).inputs).logits[:, -1]
    encoded = encode_prompts(policy, [request.images], [text])
    every = torch.ones(int(encoded[0].is_image.sum()), dtype=torch.bool)
    half = sample_mask(len(every), 0.5, 0, "masking_refusal")

    def logits(seen: Tensor, drop: bool) -> Tensor:
        batch = masked_prompt_batch(policy, encoded, [""], [text], [seen], drop)
        return torch.as_tensor(policy.core(**batch.inputs).logits[:, -1])

    limit = 256 * torch.finfo(policy.model.dtype).eps * float(stock.abs().max().clamp(min=1.0))
    whole = float((logits(every, True) - stock).abs().max())
    if not whole <= limit:
        return f"its logits differ by {whole:.2g} from the stock forward's on that path"
    hidden = float((logits(half, True) - logits(half, False)).abs().max())
    if not hidden <= limit:
        return f"dropping image tokens moves its logits by {hidden:.2g} from those of masking them"
    return None
