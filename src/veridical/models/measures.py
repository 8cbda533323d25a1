"""What the proofs compare between our path and the stock forward: a number for each response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from veridical.models.batch import Batch
from veridical.models.batching import row_batch
from veridical.models.heads import token_logps
from veridical.models.hidden_tokens import hidden_image_tokens
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.positions import first_tokens, token_positions
from veridical.models.precision import working_dtype
from veridical.models.rendering import Group, open_images
from veridical.models.rounding import rounding_of_logps


@dataclass(frozen=True)
class ResponseMeasure:
    """What the proofs look at: one number for each response.

    Attributes:
        ours: of a batch, by the path that trains. Shape of what it returns: (groups, k).
        stock: of one group, by the model's own processor and forward alone. Shape: (k,).
        rounding: how much rounding alone may move any of these rows' numbers, in float32 or more.
        unit: of the numbers.
    """

    ours: Callable[[Batch], Tensor]
    stock: Callable[[Group], Tensor]
    rounding: Callable[[Sequence[Group]], float]
    unit: str


MeasureOf = Callable[[Policy], ResponseMeasure]


def logps_measure(policy: Policy) -> ResponseMeasure:
    """Log-probabilities of the responses, in nats."""

    def by_rounding(groups: Sequence[Group]) -> float:
        sums = response_logps(policy.model, row_batch(policy, groups)).sums
        longest = max(len(ids) for group in groups for ids in group.response_ids)
        return rounding_of_logps(sums, working_dtype(policy), longest)

    return ResponseMeasure(
        lambda batch: response_logps(policy.model, batch).sums,
        lambda group: stock_logps(policy, group),
        by_rounding,
        "nats",
    )


def stock_logps(policy: Policy, group: Group) -> Tensor:
    """Log-probs by the model's own processor and forward alone, without any code of ours.

    Returns:
        Shape: (k,).
    """
    sums = []
    for index, (text, ids) in enumerate(zip(group.response_texts, group.response_ids, strict=True)):
        images = open_images(group.images_of(index))
        inputs = stock_inputs(policy, images, group.prompt_of(index) + text)
        # Counted from the end: a processor turns a prompt's placeholders into any number of tokens.
        prompt = inputs["input_ids"].shape[1] - group.tokens_of(index)
        inputs = first_tokens(inputs, prompt + len(ids))
        hidden = hidden_image_tokens(policy, inputs["input_ids"], [(group, index)])
        if hidden is not None:
            inputs["position_ids"] = token_positions(policy.core, inputs)
            inputs["attention_mask"] = inputs["attention_mask"].masked_fill(hidden, 0)
        logits = policy.core(**inputs).logits[0, prompt - 1 : prompt - 1 + len(ids)]
        targets = inputs["input_ids"][0, prompt : prompt + len(ids)]
        learned = group.learned_of(index).to(logits.device)
        logps = token_logps(logits, targets)
        if group.weights:
            logps = logps * group.weights[index].to(logps)
        sums.append(logps[learned].sum())
    return torch.stack(sums)


def stock_inputs(policy: Policy, images: list[Image.Image], text: str) -> dict[str, Tensor]:
    """One row as the model's own processor makes it, floats in the model's dtype."""
    bos = policy.processor.tokenizer.bos_token
    inputs = policy.processor(
        images=[images] if images else None,
        text=[text],
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    ).to(policy.device)
    dtype = working_dtype(policy)
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}
