"""Groups of responses become tensors.

Two ways to lay out one prompt with k responses, one type for both:

- *a row for each response* (`row_batch`): exactly as the model's own processor makes it. Works for
  every model; encodes the image once per response.
- *shared prefix* (`shared_batch`): one row `[prompt | response 1 | ... | response k]` whose
  attention mask keeps the responses from seeing each other and whose positions restart at the
  prompt's end. The image is preprocessed and encoded once.

Code that reads a batch need not know which it is: the batch says where each token is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from veridical.models.branch_attention import Branches, remember
from veridical.models.policy import Policy
from veridical.models.positions import (
    TOKEN_INPUTS,
    continued,
    first_tokens,
    layer_kinds,
    masks_by_layer,
    token_positions,
    vision_inputs,
)
from veridical.models.prefix_masks import image_blocks, shared_mask
from veridical.models.processing import process
from veridical.models.refused_rows import naming_rows
from veridical.models.rendering import Group
from veridical.runtime.errors import UserError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Groups with the same number of responses, as the model's forward takes them.

    Attributes:
        inputs: what the forward takes, padded on the right, with explicit positions. With a shared
            prefix the attention mask is boolean and 4-D; where layers differ, one for each kind.
        shares_prefix: the layout: one row a group, and one more for each response with images of
            its own; or one row a response, group-major.
        rows: the input row of each response token that counts. Shape: (tokens,), by response.
        sources: the index whose hidden state predicts the token. Shape: (tokens,).
        targets: the token ids. Shape: (tokens,).
        owners: group * k + response, for each token. Shape: (tokens,).
        ends: row and index of each response's last token, whether it counts or not.
            Shape: (groups * k, 2).
        groups: their number.
        responses: k.
        beta_factors: of each group, where any has another than 1. Shape: (groups, 1), float64.
        weights: of each response token that counts; None where all are 1. Shape: (tokens,),
            float64.
        contrasts: how many of each group's last responses are there for a comparison alone.
        labels: whether each group's answer is a good one, for rows without a pair.
            Shape: (groups, 1), boolean.
    """

    inputs: dict[str, Any]
    shares_prefix: bool
    rows: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    ends: Tensor
    groups: int
    responses: int
    beta_factors: Tensor | None = None
    weights: Tensor | None = None
    contrasts: int = 0
    labels: Tensor | None = None

    def sum_by_response(self, values: Tensor) -> Tensor:
        """Sum a value of each token, times its weight, over its response.

        Shape: (tokens,) to (groups, k).
        """
        if self.weights is not None:
            values = values * self.weights.to(values.dtype)
        sums = values.new_zeros(self.groups * self.responses).index_add(0, self.owners, values)
        return sums.view(self.groups, self.responses)

    @property
    def token_counts(self) -> Tensor:
        """Tokens of each response that count. Shape: (groups, k)."""
        # Not by `bincount`, for which the host would wait on an accelerator.
        flat = self.owners.new_zeros(self.groups * self.responses)
        flat.index_add_(0, self.owners, torch.ones_like(self.owners))
        return flat.view(self.groups, self.responses)

    @property
    def lengths(self) -> Tensor:
        """What a mean over a response's tokens divides by: the sum of their weights.

        Shape: (groups, k).
        """
        if self.weights is None:
            return self.token_counts
        return self.sum_by_response(torch.ones_like(self.weights))


@dataclass(frozen=True)
class Draft:
    """A batch on the CPU, before it is moved to where the model is.

    It can be made beside a step, since nothing of it runs on an accelerator.

    Attributes:
        batch: the batch; where responses share a prefix, without its mask.
        segments: what that mask is made from, see `shared_mask`. Shape: (rows, length).
        blocks: images whose tokens see each other, by the kind of layer.
        branches: tokens of each row's prompt, and of the responses behind it.
    """

    batch: Batch
    segments: Tensor | None = None
    blocks: Mapping[str, Tensor] = field(default_factory=dict)
    branches: tuple[Branches, ...] = ()

    def pinned(self) -> Draft:
        """The same in memory that an accelerator copies from while it computes."""
        return self._with(lambda tensor: tensor.pin_memory())

    def on(self, policy: Policy) -> Batch:
        """The batch where the model is; a mask of all pairs of tokens is made there."""
        device = policy.device
        wait = device.type != "cuda"
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=not wait))
        if moved.segments is None:
            return moved.batch
        masks = {
            kind: shared_mask(moved.segments, moved.blocks.get(kind))
            for kind in layer_kinds(policy.core)
        }
        inputs = moved.batch.inputs
        mask = masks_by_layer(policy.core, masks, inputs["position_ids"])
        if isinstance(mask, Tensor) and not moved.blocks:
            remember(mask, self.branches)
        return replace(moved.batch, inputs={**inputs, "attention_mask": mask})

    def _with(self, act: Callable[[Tensor], Tensor]) -> Draft:
        batch = self.batch
        tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
        changed: dict[str, Any] = {
            name: act(value) for name, value in tensors.items() if isinstance(value, Tensor)
        }
        inputs = {name: act(value) for name, value in batch.inputs.items()}
        return Draft(
            replace(batch, inputs=inputs, **changed),
            None if self.segments is None else act(self.segments),
            {kind: act(value) for kind, value in self.blocks.items()},
            self.branches,
        )


def collate(policy: Policy, groups: Sequence[Group], share_prefix: bool) -> Batch:
    """Lay groups out in the way that was decided for this model, on its device."""
    return draft(policy, groups, share_prefix).on(policy)


def draft(policy: Policy, groups: Sequence[Group], share_prefix: bool) -> Draft:
    """The same on the CPU."""
    return _shared_draft(policy, groups) if share_prefix else _row_draft(policy, groups)


def layout_tokens(group: Group, share_prefix: bool) -> int:
    """How many tokens a group takes in a layout, image tokens and padding included."""
    rows, width = layout_shape(group, share_prefix)
    return rows * width


def layout_shape(group: Group, share_prefix: bool) -> tuple[int, int]:
    """How many rows a group takes in a layout, and how many tokens the longest has.

    Counted from its `prompt_tokens`, without opening an image; equal to the shape of `input_ids`
    that `collate` gives for it.
    """
    prompts = group.prompt_tokens
    if share_prefix:
        rows = [
            prompts[own[0]] + sum(len(group.response_ids[i]) for i in own)
            for own in _sharing(group)
        ]
    else:
        rows = [prompt + len(ids) for prompt, ids in zip(prompts, group.response_ids, strict=True)]
    return len(rows), max(rows)


def row_batch(policy: Policy, groups: Sequence[Group]) -> Batch:
    """Lay groups out as the stock processor does, a row for each response.

    All groups must have the same number of responses. Where any was sampled, the responses' tokens
    are put behind the prompts' as they are, since their text might be tokenized differently.
    """
    return _row_draft(policy, groups).on(policy)


def _row_draft(policy: Policy, groups: Sequence[Group]) -> Draft:
    sampled = any(group.sampled for group in groups)
    inputs, counts = (_appended_rows if sampled else _stock_rows)(policy, groups)
    inputs["position_ids"] = token_positions(policy.core, inputs)
    rows, sources = counts[:, 1:].nonzero(as_tuple=True)
    targets = inputs["input_ids"][:, 1:][rows, sources]
    last = inputs["attention_mask"].sum(-1) - 1
    ends = torch.stack([torch.arange(len(last)), last], dim=-1)
    k = len(groups[0].response_ids)
    factors, weights = _beta_factors(groups), _weights(groups)
    again = groups[0].contrasts or 0
    return Draft(
        Batch(
            inputs, False, rows, sources, targets, rows, ends, len(groups), k, factors, weights,
            again, _labels(groups),
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
        inputs[name] = torch.stack([_pad(torch.cat(pair), max(ends), filler) for pair in rows])
    counts = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, (group, index) in enumerate(flat):
        counts[row, lengths[row] : ends[row]] = group.learned_of(index)
    return inputs, counts


def shared_batch(policy: Policy, groups: Sequence[Group]) -> Batch:
    """Lay each group out as one row: the prompt once, then its responses side by side.

    All groups must have the same number of responses. A response with images of its own shares
    no prefix, so it has a row to itself.
    """
    return _shared_draft(policy, groups).on(policy)


def _shared_draft(policy: Policy, groups: Sequence[Group]) -> Draft:
    prefixes = [(i, responses) for i, g in enumerate(groups) for responses in _sharing(g)]
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
        _beta_factors(groups),
        _weights(groups),
        groups[0].contrasts or 0,
        _labels(groups),
    )
    branches = tuple(
        (length, *(len(groups[i].response_ids[n]) for n in responses))
        for length, (i, responses) in zip(lengths, prefixes, strict=True)
    )
    return Draft(batch, segments, image_blocks(policy, inputs), branches)


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


def _sharing(group: Group) -> list[list[int]]:
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
        "input_ids": torch.stack([_pad(row.ids, width, pad) for row in rows]),
        "position_ids": torch.stack([_pad(row.positions, width, 0) for row in rows], dim=-2),
    }
    for name in TOKEN_INPUTS & prompts.keys() - inputs.keys():
        kept = [prompts[name][row, :length] for row, length in enumerate(lengths)]
        inputs[name] = torch.stack([_pad(row, width, 0) for row in kept])
    return inputs


def _beta_factors(groups: Sequence[Group]) -> Tensor | None:
    factors = [[group.beta_factor] for group in groups]
    if all(factor == [1.0] for factor in factors):
        return None
    return torch.tensor(factors, dtype=torch.float64)


def _labels(groups: Sequence[Group]) -> Tensor | None:
    """Of rows without a pair; None of pairs."""
    labels = [group.label for group in groups]
    return None if None in labels else torch.tensor(labels).unsqueeze(-1)


def _weights(groups: Sequence[Group]) -> Tensor | None:
    """Of the tokens that count, by response; None where all groups have none."""
    if not any(group.weights for group in groups):
        return None
    flat = [(group, i) for group in groups for i in range(len(group.response_ids))]
    weights = [group.weights_of(i)[group.learned_of(i)] for group, i in flat]
    return torch.cat(weights)


def _pad(row: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=value)
