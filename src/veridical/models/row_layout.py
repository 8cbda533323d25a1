"""A row for each response, exactly as the model's own processor makes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from veridical.models.batch import (
    CPU,
    Batch,
    Draft,
    beta_factors_of,
    labels_of,
    padded,
    weights_of_tokens,
)
from veridical.models.hidden_tokens import hidden_image_tokens
from veridical.models.policy import Policy
from veridical.models.positions import (
    TOKEN_INPUTS,
    first_tokens,
    token_positions,
    vision_inputs,
)
from veridical.models.processing import process
from veridical.models.refused_rows import naming_rows
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError


def row_draft(policy: Policy, groups: Sequence[Group]) -> Draft:
    """Lay groups out with a row for each response; see `batching.row_batch`."""
    sampled = any(group.sampled for group in groups)
    inputs, counts = (_appended_rows if sampled else _stock_rows)(policy, groups)
    inputs["position_ids"] = token_positions(policy.core, inputs)
    rows, sources = counts[:, 1:].nonzero(as_tuple=True)
    targets = inputs["input_ids"][:, 1:][rows, sources]
    last = inputs["attention_mask"].sum(-1) - 1
    flat = [(group, index) for group in groups for index in range(len(group.response_ids))]
    hidden = hidden_image_tokens(policy, inputs["input_ids"], flat)
    if hidden is not None:
        inputs["attention_mask"] = inputs["attention_mask"].masked_fill(hidden, 0)
    ends = torch.stack([torch.arange(len(last)), last], dim=-1)
    k = len(groups[0].response_ids)
    factors, weights = beta_factors_of(groups), weights_of_tokens(groups)
    again = groups[0].contrasts or 0
    return Draft(
        Batch(
            inputs, False, rows, sources, targets, rows, ends, len(groups), k, factors, weights,
            again, labels_of(groups),
        )
    )  # fmt: skip


def _stock_rows(policy: Policy, groups: Sequence[Group]) -> tuple[dict[str, Tensor], Tensor]:
    """What the processor makes of the texts, and True at response tokens that count.

    It is given whole texts, as a cut one may be tokenized differently; what was cut off goes then.
    """
    flat = [(group, index) for group in groups for index in range(len(group.response_ids))]
    texts = [group.prompt_of(index) + group.response_texts[index] for group, index in flat]
    with naming_rows([group.id for group, _ in flat]):
        images = [group.images_of(index) for group, index in flat]
        inputs = process(policy, images, texts, "right", CPU)
    attention = inputs["attention_mask"]
    counts = torch.zeros_like(attention, dtype=torch.bool)
    for row, (group, index) in enumerate(flat):
        kept = len(group.response_ids[index])
        start = int(attention[row].sum()) - group.tokens_of(index)
        counts[row, start : start + kept] = group.learned_of(index)
        answer = inputs["input_ids"][row, start : start + kept]
        if not torch.equal(answer, group.response_ids[index]):
            raise UserError(
                f"The processor of {policy.name} does not end row {group.id} with the answer's "
                "tokens, so they can't be found in it. This model is not supported yet."
            )
        attention[row, start + kept :] = 0
    width = int(attention.sum(-1).max())
    return first_tokens(inputs, width), counts[:, :width]


def _appended_rows(policy: Policy, groups: Sequence[Group]) -> tuple[dict[str, Tensor], Tensor]:
    """The processor's prompts with the responses' own tokens behind them, and where those count."""
    flat = [(group, index) for group in groups for index in range(len(group.response_ids))]
    texts = [group.prompt_of(index) for group, index in flat]
    with naming_rows([group.id for group, _ in flat]):
        images = [group.images_of(index) for group, index in flat]
        prompts = process(policy, images, texts, "right", CPU)
    lengths = prompts["attention_mask"].sum(-1).tolist()
    answers = [group.response_ids[index] for group, index in flat]
    ends = [length + len(ids) for length, ids in zip(lengths, answers, strict=True)]
    inputs = vision_inputs(prompts)
    pad = policy.processor.tokenizer.pad_token_id
    for name in TOKEN_INPUTS & prompts.keys():
        kept = [prompts[name][row, :length] for row, length in enumerate(lengths)]
        own = [torch.full_like(ids, int(name == "attention_mask")) for ids in answers]
        rows = zip(kept, answers if name == "input_ids" else own, strict=True)
        filler = pad if name == "input_ids" else 0
        inputs[name] = torch.stack([padded(torch.cat(pair), max(ends), filler) for pair in rows])
    counts = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, (group, index) in enumerate(flat):
        counts[row, lengths[row] : ends[row]] = group.learned_of(index)
    return inputs, counts
