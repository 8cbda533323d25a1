"""Responses from a policy: plain, guided by a given beginning, and with a masked image.

Noise is drawn per response and position from (seed, request id), so a response does not depend on
the batch it is made in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from veridical._masked_prompts import encode_prompts, masked_prompt_batch
from veridical.batching import PromptBatch, prompt_batch
from veridical.images import ImageLike, image_key
from veridical.losses import token_logps
from veridical.models import Policy, end_token_ids, image_token_id
from veridical.progress import track
from veridical.randomness import generator
from veridical.records import Message
from veridical.rendering import render_prompt
from veridical.sentences import ends_sentence, first_sentence
from veridical.vision_cache import as_model_inputs

StopReason = Literal["end", "sentence", "length"]
PLACEHOLDER = re.compile(r"^(image|video|audio|vision|boi|eoi)_(.*_)?token_(id|index)$")
"""How configurations name the tokens that stand for what is not text, or go around it."""


@dataclass(frozen=True)
class Request:
    """What is to be answered.

    Attributes:
        id: keys the noise; distinct for distinct draws.
        images: in the order of the prompt's image blocks.
        prompt: messages that end with a user turn.
        prefix: the beginning of the answer, which the policy continues; no space at its end.
    """

    id: str
    images: Sequence[ImageLike]
    prompt: Sequence[Message]
    prefix: str = ""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: length limit, in tokens.
        temperature: 0 takes the most likely token; 1 samples from the policy itself.
        seed: of the sampling noise.
        batch_size: responses made at once; it never changes them.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class Response:
    """What the policy said.

    Attributes:
        text: without special tokens; after a prefix, what follows it, leading space included.
        token_ids: as sampled, the end token included where there is one.
        stop_reason: `end` (end token), `sentence` (asked to stop there) or `length`.
    """

    text: str
    token_ids: list[int] = field(default_factory=list)
    stop_reason: StopReason = "end"


def respond(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    label: str = "answers",
    until_sentence_end: bool = False,
) -> list[Response]:
    """Answer every request, in order.

    Args:
        policy: who answers.
        requests: what is asked.
        decoding: how tokens are chosen.
        label: names the progress line; empty for none.
        until_sentence_end: stop at the end of the first sentence and cut there.

    Raises:
        RefusedRowError: a prompt that cannot be rendered (special tokens in its text, ...).
    """
    answers: list[Response] = []
    for chunk in _batches(requests, decoding.batch_size, label):
        texts = [render_prompt(policy, r.prompt, r.prefix) for r in chunk]
        batch = prompt_batch(policy, [r.images for r in chunk], texts)
        answers += _continue(policy, batch, chunk, decoding, until_sentence_end)
    return answers


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
        requests: what is asked; those that share images and prompt share one encoding.
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
    answers: list[Response] = []
    shares: list[float] = []
    pairs = list(zip(requests, mask_ids, strict=True))
    for chunk in _batches(pairs, decoding.batch_size, label):
        batch, masked = _masked_batch(policy, chunk, threshold, decoding.seed, drop)
        wanted = [request for request, _ in chunk]
        answers += _continue(policy, batch, wanted, decoding, until_sentence_end)
        shares += masked
    return answers, shares


def sample_mask(tokens: int, threshold: float, seed: int, mask_id: str) -> Tensor:
    """Which image tokens stay visible: rho_i ~ U(0, 1), visible where rho_i >= threshold.

    Source: Amirloo et al. 2024, eq. 6. A threshold of 1 masks everything, 0 nothing.

    Returns:
        Boolean. Shape: (tokens,).
    """
    return torch.from_numpy(generator(seed, "mask", mask_id).random(tokens) >= threshold)


def _masked_batch(
    policy: Policy,
    chunk: Sequence[tuple[Request, str]],
    threshold: float,
    seed: int,
    drop: bool,
) -> tuple[PromptBatch, list[float]]:
    prompt_texts = [render_prompt(policy, request.prompt) for request, _ in chunk]
    # Sentences of one answer share image and prompt; the image is encoded once for them all.
    keys = [
        (tuple(map(image_key, r.images)), t) for (r, _), t in zip(chunk, prompt_texts, strict=True)
    ]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first.values())
    with torch.inference_mode():
        encoded = encode_prompts(
            policy, [chunk[i][0].images for i in distinct], [prompt_texts[i] for i in distinct]
        )
        by_index = dict(zip(distinct, encoded, strict=True))
        prompts = [by_index[first[key]] for key in keys]
        visible = [
            sample_mask(int(prompt.is_image.sum()), threshold, seed, mask_id)
            for prompt, (_, mask_id) in zip(prompts, chunk, strict=True)
        ]
        continuations = [
            render_prompt(policy, request.prompt, request.prefix)[len(text) :]
            for (request, _), text in zip(chunk, prompt_texts, strict=True)
        ]
        batch = masked_prompt_batch(policy, prompts, continuations, prompt_texts, visible, drop)
    shares = [float((~seen).float().mean()) if len(seen) else 0.0 for seen in visible]
    return batch, shares


def _continue(
    policy: Policy,
    batch: PromptBatch,
    requests: Sequence[Request],
    decoding: Decoding,
    until_sentence_end: bool,
) -> list[Response]:
    tokenizer = policy.processor.tokenizer
    ends = end_token_ids(policy)
    prefixes = [tokenizer(r.prefix, add_special_tokens=False)["input_ids"] for r in requests]
    reader = Reader(tokenizer, prefixes, ends)
    width = batch.inputs["input_ids"].shape[1] if "input_ids" in batch.inputs else 0
    chooser = _TokenChooser(requests, decoding, never_sampled(policy))
    stopping = [_SentenceEnds(reader, width)] if until_sentence_end else []
    with torch.inference_mode():
        output = policy.core.generate(
            **as_model_inputs(policy.core, batch.inputs),
            generation_config=_generation_config(policy, decoding, ends),
            logits_processor=[chooser],
            stopping_criteria=stopping,
        )
    rows = output[:, width:].tolist()
    return [reader.response(i, row, until_sentence_end) for i, row in enumerate(rows)]


def _generation_config(policy: Policy, decoding: Decoding, ends: set[int]) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(ends),
        pad_token_id=policy.processor.tokenizer.pad_token_id,
    )


def never_sampled(policy: Policy) -> list[int]:
    """Image, video, padding and begin tokens: a sampled one would break the next forward pass."""
    tokenizer, config = policy.processor.tokenizer, policy.core.config
    special = [image_token_id(policy), tokenizer.pad_token_id, tokenizer.bos_token_id]
    special += [getattr(config, name) for name in vars(config) if PLACEHOLDER.search(name)]
    size, ends = config.get_text_config().vocab_size, end_token_ids(policy)
    return sorted({i for i in special if isinstance(i, int) and 0 <= i < size and i not in ends})


def choose_tokens(
    logits: Tensor, streams: Sequence[np.random.Generator], temperature: float, banned: list[int]
) -> tuple[Tensor, Tensor]:
    """The next token of every row, from the row's own stream of noise.

    Sampling inverts the cumulative distribution at one uniform number a row.

    Args:
        logits: Shape: (rows, vocabulary).
        streams: one a row; each gives one number, unless the temperature is 0.
        temperature: 0 takes the most likely token.
        banned: tokens that are never chosen; the others share what they had.

    Returns:
        The tokens, and their log-probabilities in float64, at the temperature (at 1 where it is 0).
        Shape of each: (rows,).
    """
    # MPS has no float64; the CPU does this as fast.
    wide = logits.to("cpu", torch.float64, copy=True) / (temperature or 1.0)
    wide[:, banned] = -torch.inf
    if temperature == 0:
        chosen = wide.argmax(-1)
    else:
        cumulative = torch.softmax(wide, -1).cumsum(-1)
        uniform = torch.tensor([stream.random() for stream in streams], dtype=torch.float64)
        target = (uniform * cumulative[:, -1]).unsqueeze(-1)
        chosen = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        chosen = chosen.clamp(max=logits.shape[1] - 1)
    return chosen.to(logits.device), token_logps(wide, chosen)


class _TokenChooser(LogitsProcessor):
    """Leaves the one token that was chosen; `generate` then only has to take it."""

    def __init__(self, requests: Sequence[Request], decoding: Decoding, banned: list[int]) -> None:
        self.streams = [generator(decoding.seed, "tokens", request.id) for request in requests]
        self.temperature = decoding.temperature
        self.banned = banned

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen, _ = choose_tokens(scores, self.streams, self.temperature, self.banned)
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, chosen.unsqueeze(-1), 0.0)


class Reader:
    """Turns sampled tokens into text, with the spacing that they have after the prefix."""

    def __init__(self, tokenizer: Any, prefixes: list[list[int]], ends: set[int]) -> None:
        """Take the rows' beginnings, in tokens, and the tokens that end a response."""
        self.tokenizer, self.prefixes, self.ends = tokenizer, prefixes, ends
        self.prefix_texts = [self._decode(prefix) for prefix in prefixes]

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def text(self, row: int, ids: list[int]) -> str:
        """What a row's tokens say, without special tokens."""
        if not self.prefixes[row]:
            return self._decode(ids).strip()
        return self._decode(self.prefixes[row] + ids)[len(self.prefix_texts[row]) :]

    def sentence_is_over(self, row: int, ids: list[int]) -> bool:
        """Whether a row's first sentence has ended."""
        return ends_sentence(self.text(row, ids), before=self.prefix_texts[row])

    def response(self, row: int, ids: list[int], until_sentence_end: bool) -> Response:
        """What a row of tokens is, up to its end token or its first sentence's end."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        kept = ids if end is None else ids[: end + 1]
        reason: StopReason = "length" if end is None else "end"
        if not until_sentence_end:
            return Response(self.text(row, kept), kept, reason)
        over = (n for n in range(1, len(kept) + 1) if self.sentence_is_over(row, kept[:n]))
        stop = next(over, None)
        if stop is not None and (end is None or stop <= end):
            kept, reason = kept[:stop], "sentence"
        # Where only the next word showed that the sentence was over, that word is cut off again.
        text = first_sentence(self.text(row, kept), before=self.prefix_texts[row])
        return Response(text, kept, reason)


class _SentenceEnds(StoppingCriteria):
    def __init__(self, reader: Reader, width: int) -> None:
        self.reader, self.width = reader, width

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        rows = input_ids[:, self.width :].tolist()
        over = [self.reader.sentence_is_over(i, row) for i, row in enumerate(rows)]
        return torch.tensor(over, device=input_ids.device)


def _batches(items: Sequence[Any], size: int, label: str) -> Iterator[Any]:
    starts: Iterable[int] = range(0, len(items), size)
    if label:
        starts = track(starts, label)
    for start in starts:
        yield items[start : start + size]
