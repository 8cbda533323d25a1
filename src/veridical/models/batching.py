"""Messages and images become tensors.

The only place that knows about padding, image tokens and prefix sharing. Two ways to lay out one
prompt with k responses:

- *two-row* (`row_batch`): each response is a row of its own, exactly as the model's own processor
  makes it. Works for every model; encodes the image once per response.
- *shared prefix* (`shared_batch`): one row `[prompt | response 1 | ... | response k]` whose
  attention mask keeps the responses from seeing each other and whose positions restart at the
  prompt's end. The image is preprocessed and encoded once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from veridical.data.image_checks import words_of
from veridical.data.images import ImageLike, image_key, load_image
from veridical.data.messages import assistant_message, user_message
from veridical.models.decoder_inputs import (
    KINDS,
    Lookahead,
    blocks,
    find_lookahead,
    known_lookahead,
)
from veridical.models.policy import Policy, image_features, image_token_id
from veridical.models.positions import (
    TOKEN_INPUTS,
    continued,
    layer_kinds,
    masks_by_layer,
    token_positions,
    vision_inputs,
)
from veridical.models.precision import working_dtype
from veridical.models.rendering import Group, render_prompt
from veridical.runtime.errors import UserError


class RefusedRowsError(UserError):
    """Rows of a batch that the model's processor refuses even alone.

    Attributes:
        reasons: by the row's place in the batch.
        by_name: by the row's name, where names are known.
    """

    def __init__(self, model: str, reasons: dict[int, str], names: Sequence[str] = ()) -> None:
        """Say which rows, by name where names are known."""
        self.model, self.reasons = model, reasons
        self.by_name = {names[place]: why for place, why in reasons.items()} if names else {}
        row, reason = next(iter(reasons.items()))
        name = f"Row {names[row]}" if names else f"Row {row + 1} of a batch"
        more = f" ({len(reasons) - 1} more of this batch too.)" if len(reasons) > 1 else ""
        super().__init__(f"{name} can't be used by {model}: {reason}.{more} Leave it out.")

    @property
    def reason(self) -> str:
        """The first row's."""
        return next(iter(self.reasons.values()))


@contextmanager
def naming_rows(names: Sequence[str]) -> Iterator[None]:
    """Name the rows that are refused."""
    try:
        yield
    except RefusedRowsError as error:
        raise RefusedRowsError(error.model, error.reasons, names) from error.__cause__


@dataclass(frozen=True)
class RowBatch:
    """Two-row layout: `inputs` for the stock forward, one row a response.

    Attributes:
        inputs: what the model's forward takes; right-padded. Rows: groups * k, group-major.
        response_mask: True at response tokens that count. Shape: (rows, length).
        responses: k.
    """

    inputs: dict[str, Tensor]
    response_mask: Tensor
    responses: int


@dataclass(frozen=True)
class SharedBatch:
    """Shared-prefix layout: one row a group, and one more for each response with own images.

    Attributes:
        inputs: what the model's forward takes, with a boolean 4-D mask (where layers differ, one
            for each kind of layer) and explicit positions.
        rows: the batch row of each response token. Shape: (tokens,).
        sources: the index whose hidden state predicts the token. Shape: (tokens,).
        targets: the token ids. Shape: (tokens,).
        owners: group * k + response, for each token. Shape: (tokens,).
        groups: their number.
        responses: k.
        ends: row and index of each response's last token. Shape: (groups * k, 2).
    """

    inputs: dict[str, Any]
    rows: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    groups: int
    responses: int
    ends: Tensor


Batch = RowBatch | SharedBatch


@dataclass(frozen=True)
class Branch:
    """A prompt that begins as a row of a batch does, and goes on with text of its own.

    Attributes:
        row: of the batch.
        shared: how many of that row's tokens it has, padding not counted; only text follows them.
        tail: the tokens behind those; at least one.
    """

    row: int
    shared: int
    tail: list[int]


@dataclass(frozen=True)
class PromptBatch:
    """Left-padded prompts, ready to be continued.

    Attributes:
        inputs: what `generate` takes.
        lengths: lengths of the rows in tokens, padding not counted. Shape: (rows,).
        branches: the prompts, where they are not just the rows.
    """

    inputs: dict[str, Tensor]
    lengths: Tensor
    branches: tuple[Branch, ...] = ()


def row_batch(policy: Policy, groups: Sequence[Group]) -> RowBatch:
    """Lay groups out as the stock processor does, a row for each response.

    All groups must have the same number of responses. Where any was sampled, the responses' tokens
    are put behind the prompts' as they are, since their text might be tokenized differently.
    """
    if any(group.sampled for group in groups):
        return _appended_batch(policy, groups)
    flat = [(group, index) for group in groups for index in range(len(group.response_ids))]
    texts = [group.prompt_text + group.response_texts[index] for group, index in flat]
    with naming_rows([group.id for group, _ in flat]):
        inputs = process(policy, [group.images_of(index) for group, index in flat], texts, "right")
    attention = inputs["attention_mask"]
    response_mask = torch.zeros_like(attention, dtype=torch.bool)
    for row, (group, index) in enumerate(flat):
        kept = len(group.response_ids[index])
        start = int(attention[row].sum()) - group.tokens_of(index)
        response_mask[row, start : start + kept] = group.learned_of(index)
        answer = inputs["input_ids"][row, start : start + kept].cpu()
        if not torch.equal(answer, group.response_ids[index]):
            raise UserError(
                f"The processor of {policy.name} does not end row {group.id} with the answer's "
                "tokens, so they can't be found in it. This model is not supported yet."
            )
        attention[row, start + kept :] = 0
    inputs["position_ids"] = token_positions(policy.core, inputs)
    return RowBatch(inputs, response_mask.to(policy.device), len(groups[0].response_ids))


def _appended_batch(policy: Policy, groups: Sequence[Group]) -> RowBatch:
    flat = [(group, index) for group in groups for index in range(len(group.response_ids))]
    texts = [group.prompt_text for group, _ in flat]
    with naming_rows([group.id for group, _ in flat]):
        prompts = process(policy, [group.images_of(index) for group, index in flat], texts, "right")
    lengths = prompts["attention_mask"].sum(-1).tolist()
    answers = [group.response_ids[index].to(policy.device) for group, index in flat]
    ends = [length + len(ids) for length, ids in zip(lengths, answers, strict=True)]
    inputs = vision_inputs(prompts)
    pad = policy.processor.tokenizer.pad_token_id
    for name in TOKEN_INPUTS & prompts.keys():
        kept = [prompts[name][row, :length] for row, length in enumerate(lengths)]
        own = [torch.full_like(ids, int(name == "attention_mask")) for ids in answers]
        rows = zip(kept, answers if name == "input_ids" else own, strict=True)
        filler = pad if name == "input_ids" else 0
        inputs[name] = torch.stack([_pad(torch.cat(pair), max(ends), filler) for pair in rows])
    inputs["position_ids"] = token_positions(policy.core, inputs)
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for row, (group, index) in enumerate(flat):
        mask[row, lengths[row] : ends[row]] = group.learned_of(index).to(policy.device)
    return RowBatch(inputs, mask, len(groups[0].response_ids))


def shared_batch(policy: Policy, groups: Sequence[Group]) -> SharedBatch:
    """Lay each group out as one row: the prompt once, then its responses side by side.

    All groups must have the same number of responses. A response with images of its own shares
    no prefix, so it has a row to itself.
    """
    prefixes = [(i, responses) for i, g in enumerate(groups) for responses in _sharing(g)]
    with naming_rows([groups[i].id for i, _ in prefixes]):
        prompts = process(
            policy,
            [groups[i].images_of(responses[0]) for i, responses in prefixes],
            [groups[i].prompt_text for i, _ in prefixes],
            "right",
        )
    lengths = prompts["attention_mask"].sum(-1).tolist()
    positions = token_positions(policy.core, prompts).cpu()
    rows = [
        _shared_row(
            prompts["input_ids"][row, : lengths[row]].cpu(),
            positions[..., row, : lengths[row]],
            groups[i],
            responses,
        )
        for row, (i, responses) in enumerate(prefixes)
    ]
    width = max(len(row.ids) for row in rows)
    pad = policy.processor.tokenizer.pad_token_id
    inputs = {
        **vision_inputs(prompts),
        "input_ids": torch.stack([_pad(row.ids, width, pad) for row in rows]),
        "position_ids": torch.stack([_pad(row.positions, width, 0) for row in rows], dim=-2),
    }
    for name in TOKEN_INPUTS & prompts.keys() - inputs.keys():
        kept = [prompts[name][row, :length].cpu() for row, length in enumerate(lengths)]
        inputs[name] = torch.stack([_pad(row, width, 0) for row in kept])
    segments = torch.stack([_pad(row.segments, width, -1) for row in rows])
    blocks_of = image_blocks(policy, inputs)
    masks = {kind: shared_mask(segments, blocks_of.get(kind)) for kind in layer_kinds(policy.core)}
    k = len(groups[0].response_ids)
    ends = torch.zeros(len(groups) * k, 2, dtype=torch.long)
    for number, (row, (i, responses)) in enumerate(zip(rows, prefixes, strict=True)):
        for response, end in zip(responses, row.ends, strict=True):
            ends[i * k + response] = torch.tensor([number, end])
    tokens = [len(row.targets) for row in rows]
    owners = [row.owners + i * k for row, (i, _) in zip(rows, prefixes, strict=True)]
    device = policy.device
    return SharedBatch(
        {
            **{name: value.to(device) for name, value in inputs.items()},
            "attention_mask": masks_by_layer(policy.core, masks, inputs["position_ids"], device),
        },
        torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(tokens)).to(device),
        torch.cat([row.sources for row in rows]).to(device),
        torch.cat([row.targets for row in rows]).to(device),
        torch.cat(owners).to(device),
        len(groups),
        k,
        ends.to(device),
    )


def image_blocks(policy: Policy, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which image tokens see each other in both directions, by the kind of layer.

    Found once a model by an experiment: a conversation with two gray pictures, of which the model
    makes its own masks.

    Returns:
        Numbers from 0, -1 where a token only looks back; nothing for a kind of layer in which all
        do. Shape of each: (rows, length).
    """
    lookahead = _lookahead(policy, inputs)
    return {kind: blocks(inputs[lookahead.name], rule) for kind, rule in lookahead.rules.items()}


def lookahead_kinds(policy: Policy, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What tells the model which image tokens see each other in both directions, if any do."""
    name = _lookahead(policy, inputs).name
    return {name: inputs[name]} if name else {}


def _lookahead(policy: Policy, inputs: Mapping[str, Tensor]) -> Lookahead:
    if not any(name in inputs for name in KINDS):
        return Lookahead({}, "")
    return known_lookahead(policy.core) or _find_lookahead(policy)


def _find_lookahead(policy: Policy) -> Lookahead:
    """The rule by which image tokens look ahead, from two pictures with words between them."""
    turns = [user_message("First."), assistant_message("Yes."), user_message("Second.")]
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    seeing = dataclasses.replace(policy, vision=None)
    inputs = process(seeing, [[picture, picture]], [render_prompt(policy, turns)], "right")
    inputs["position_ids"] = token_positions(policy.core, inputs)
    return find_lookahead(policy.core, inputs)


def last_tokens(batch: Batch) -> tuple[Tensor, Tensor]:
    """Row and index of each response's last real token, whether it counts or not.

    Returns:
        Shape of each: (groups * k,), group-major.
    """
    if isinstance(batch, SharedBatch):
        return batch.ends[:, 0], batch.ends[:, 1]
    attention = batch.inputs["attention_mask"]
    return torch.arange(len(attention), device=attention.device), attention.sum(-1) - 1


def response_lengths(batch: Batch) -> Tensor:
    """Tokens of each response that count. Shape: (groups, k)."""
    if isinstance(batch, RowBatch):
        return batch.response_mask.sum(-1).view(-1, batch.responses)
    flat = torch.bincount(batch.owners, minlength=batch.groups * batch.responses)
    return flat.view(batch.groups, batch.responses)


def shared_mask(segments: Tensor, blocks: Tensor | None = None) -> Tensor:
    """The causal mask with the block between responses cut out.

    Args:
        segments: 0 for prompt tokens, 1..k for the responses', -1 for padding. Shape: (b, n).
        blocks: the number of the image whose tokens all see each other, -1 elsewhere; of the
            prompt, where all responses may look. Shape: (b, n).

    Returns:
        True where query (dim 2) may attend to key (dim 3). Padding attends to itself alone, so
        that no softmax runs over nothing. Shape: (b, 1, n, n).
    """
    queries, keys = segments[:, :, None], segments[:, None, :]
    same_branch = (keys == 0) | (keys == queries)
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    earlier = causal.expand(len(segments), -1, -1)
    if blocks is not None:
        earlier = earlier | ((blocks[:, :, None] == blocks[:, None, :]) & (blocks[:, None, :] >= 0))
    allowed = earlier & same_branch & (keys >= 0)
    return (allowed | torch.eye(segments.shape[1], dtype=torch.bool)).unsqueeze(1)


def prompt_batch(
    policy: Policy, images: Sequence[Sequence[ImageLike]], prompt_texts: Sequence[str]
) -> PromptBatch:
    """Prompts, left-padded, for `generate`."""
    inputs = process(policy, images, prompt_texts, "left")
    return PromptBatch(inputs, inputs["attention_mask"].sum(-1))


def blank_vision(policy: Policy) -> dict[str, Tensor]:
    """What `image_features` takes for one gray picture."""
    text = render_prompt(policy, [user_message("", images=1)])
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    seeing = dataclasses.replace(policy, vision=None)
    return vision_inputs(process(seeing, [[picture]], [text], "right"))


def placeholder_counts(policy: Policy, batch: Batch) -> tuple[list[int], list[int]]:
    """Image placeholders in each row, and the features that the image encoder makes for it.

    Returns:
        Two lists with one number a row; equal lists are what the model needs.
    """
    ids = batch.inputs["input_ids"]
    placeholders = (ids == image_token_id(policy)).sum(-1).tolist()
    vision = vision_inputs(batch.inputs)
    if not vision:
        return placeholders, [0] * len(placeholders)
    features = [len(f) for f in image_features(policy.core, vision).pooler_output]
    per_row = _images_per_row(placeholders, features)
    return placeholders, per_row


def _images_per_row(placeholders: Sequence[int], features: Sequence[int]) -> list[int]:
    """Deal the images out in order: each row takes images until its placeholders are filled."""
    totals, image = [], 0
    for wanted in placeholders:
        total = 0
        while image < len(features) and total < wanted:
            total += features[image]
            image += 1
        totals.append(total)
    if image < len(features) and totals:
        totals[-1] += sum(features[image:])
    return totals


@dataclass(frozen=True)
class _Row:
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


def process(
    policy: Policy,
    images: Sequence[Sequence[ImageLike]],
    texts: Sequence[str],
    padding_side: str,
) -> dict[str, Tensor]:
    """The stock processor on a batch; images of a row in the order of its placeholders.

    Where the policy has a cache of features, they come in the place of pixels.

    Raises:
        RefusedRowsError: the processor refuses rows of the batch even alone.
        UserError: it takes each row alone, and not all together.
    """
    if policy.vision is not None:
        kept: dict[str, Tensor] = policy.vision.process(policy, images, texts, padding_side)
        return kept
    opened = _loaded(images)
    try:
        encoded = _processed(policy, opened, texts, padding_side)
    except MemoryError:
        raise  # of the machine, not of a row
    # Processors are others' code, and refuse a picture with whatever they meet.
    except Exception as error:
        reasons = _refused_alone(policy, opened, texts, padding_side)
        if not reasons:
            raise UserError(
                f"The processor of {policy.name} takes each of these {len(texts)} rows alone, but "
                f"not together ({words_of(error)}). Set --batch-size 1, which "
                "will do for sampling and evaluation; the proofs of a training run read up to 4 "
                "rows together, so there set the processor to make equally many tiles of every "
                "image."
            ) from error
        raise RefusedRowsError(policy.name, reasons) from error
    # With labels a forward computes a loss, and PaliGemma's processor always writes some.
    inputs = {n: value.to(policy.device) for n, value in encoded.items() if n != "labels"}
    dtype = working_dtype(policy)
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.items()}


def _loaded(images: Sequence[Sequence[ImageLike]]) -> list[list[Image.Image]]:
    """Every image decoded once, however many rows of the batch see it."""
    opened: dict[str | int, Image.Image] = {}
    for row in images:
        for image in row:
            key = image_key(image)
            if key not in opened:
                opened[key] = load_image(image)
    return [[opened[image_key(image)] for image in row] for row in images]


def _processed(
    policy: Policy, opened: list[list[Image.Image]], texts: Sequence[str], padding_side: str
) -> Any:
    bos = policy.processor.tokenizer.bos_token
    return policy.processor(
        # Row by row even where a row has none: some tell from it how to cut each image.
        images=opened if any(opened) else None,
        text=list(texts),
        return_tensors="pt",
        padding=True,
        padding_side=padding_side,
        add_special_tokens=not (bos and texts[0].startswith(bos)),
    )


def _refused_alone(
    policy: Policy, opened: list[list[Image.Image]], texts: Sequence[str], padding_side: str
) -> dict[int, str]:
    """Which rows the processor refuses by themselves, and why."""
    reasons = {}
    for row, (own, text) in enumerate(zip(opened, texts, strict=True)):
        try:
            _processed(policy, [own], [text], padding_side)
        except MemoryError:
            raise
        except Exception as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in own)
            seen = f" with images of {sizes} pixels" if own else ""
            reasons[row] = f"the processor refuses it{seen}: {words_of(error)}"
    return reasons


def _pad(row: Tensor, width: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=value)
