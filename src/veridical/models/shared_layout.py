"""One row for a prompt with its responses side by side, which do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    continued,
    token_positions,
    vision_inputs,
)
from veridical.models.prefix_masks import image_blocks
from veridical.models.processing import process
from veridical.models.refused_rows import naming_rows
from veridical.models.rendering import Group


def shared_draft(policy: Policy, groups: Sequence[Group]) -> Draft:
    """Lay each group out as one row; see `batching.shared_batch`."""
    prefixes = [(i, responses) for i, g in enumerate(groups) for responses in sharing_responses(g)]
    with naming_rows([groups[i].id for i, _ in prefixes]):
        prompts = process(
            policy,
            [groups[i].images_of(responses[0]) for i, responses in prefixes],
            [groups[i].prompt_of(responses[0]) for i, responses in prefixes],
            "right",
            CPU,
        )
    lengths = prompts["attention_mask"].sum(-1).tolist()
    positions = token_positions(policy.core, prompts)
    rows = [
        _shared_row(
            prompts["input_ids"][row, : lengths[row]],
            positions[..., row, : lengths[row]],
            groups[i],
            responses,
        )
        for row, (i, responses) in enumerate(prefixes)
    ]
    inputs = _joined_inputs(policy, prompts, lengths, rows)
    segments = pad_sequence([row.segments for row in rows], batch_first=True, padding_value=-1)
    first = [(groups[i], responses[0]) for i, responses in prefixes]
    hidden = hidden_image_tokens(policy, inputs["input_ids"], first)
    if hidden is not None:
        segments = segments.masked_fill(hidden, -1)
    k = len(groups[0].response_ids)
    ends = torch.zeros(len(groups) * k, 2, dtype=torch.long)
    for number, (row, (i, responses)) in enumerate(zip(rows, prefixes, strict=True)):
        for response, end in zip(responses, row.ends, strict=True):
            ends[i * k + response] = torch.tensor([number, end])
    tokens = torch.tensor([len(row.targets) for row in rows])
    owners = torch.cat([row.owners + i * k for row, (i, _) in zip(rows, prefixes, strict=True)])
    order = owners.argsort(stable=True)  # responses with images of their own come behind the others
    batch = Batch(
        inputs,
        True,
        torch.repeat_interleave(torch.arange(len(rows)), tokens)[order],
        torch.cat([row.sources for row in rows])[order],
        torch.cat([row.targets for row in rows])[order],
        owners[order],
        ends,
        len(groups),
        k,
        beta_factors_of(groups),
        weights_of_tokens(groups),
        groups[0].contrasts or 0,
        labels_of(groups),
    )
    branches = tuple(
        (length, *(len(groups[i].response_ids[n]) for n in responses))
        for length, (i, responses) in zip(lengths, prefixes, strict=True)
    )
    # Kernels without a mask would see what is hidden.
    known = branches if hidden is None else ()
    return Draft(batch, segments, image_blocks(policy, inputs), known)


@dataclass(frozen=True)
class _Row:
    """A prompt with the responses that share it; `segments` numbers them from 1."""

    ids: Tensor
    positions: Tensor
    segments: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    ends: list[int]


def sharing_responses(group: Group) -> list[list[int]]:
    """Which responses of a group can share one row."""
    k = len(group.response_ids)
    own = [i for i in range(k) if group.response_images and group.response_images[i] is not None]
    together = [i for i in range(k) if i not in own]
    return [*([together] if together else []), *([i] for i in own)]


def _shared_row(
    prompt_ids: Tensor, prompt_positions: Tensor, group: Group, numbers: Sequence[int]
) -> _Row:
    length = len(prompt_ids)
    ids, positions = [prompt_ids], [prompt_positions]
    segments = [torch.zeros(length, dtype=torch.long)]
    sources, targets, owners, ends = [], [], [], []
    start = length
    for number in numbers:
        response, learned = group.response_ids[number], group.learned_of(number)
        n = len(response)
        ids.append(response)
        positions.append(continued(prompt_positions, n))
        segments.append(torch.full((n,), number + 1))
        # The prompt's last token predicts the first token of every response.
        before = torch.cat([torch.tensor([length - 1]), torch.arange(start, start + n - 1)])
        sources.append(before[learned])
        targets.append(response[learned])
        owners.append(torch.full((int(learned.sum()),), number))
        start += n
        ends.append(start - 1)
    return _Row(
        torch.cat(ids),
        torch.cat(positions, dim=-1),
        torch.cat(segments),
        torch.cat(sources),
        torch.cat(targets),
        torch.cat(owners),
        ends,
    )


def _joined_inputs(
    policy: Policy, prompts: dict[str, Tensor], lengths: Sequence[int], rows: Sequence[_Row]
) -> dict[str, Tensor]:
    """The forward's inputs for rows of a prompt with its responses, but for their mask."""
    width = max(len(row.ids) for row in rows)
    pad = policy.processor.tokenizer.pad_token_id
    inputs = {
        **vision_inputs(prompts),
        "input_ids": torch.stack([padded(row.ids, width, pad) for row in rows]),
        "position_ids": torch.stack([padded(row.positions, width, 0) for row in rows], dim=-2),
    }
    for name in TOKEN_INPUTS & prompts.keys() - inputs.keys():
        kept = [prompts[name][row, :length] for row, length in enumerate(lengths)]
        inputs[name] = torch.stack([padded(row, width, 0) for row in kept])
    return inputs
