"""Samples of the current policy, kept as what they were: tokens, log-probs, and why they ended.

Nothing here is ever tokenised again: another tokenisation of the same text would be another sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from veridical._decoding import Continuation, cache_has_rows
from veridical.batching import prompt_batch
from veridical.models import Policy, end_token_ids
from veridical.progress import track
from veridical.randomness import generator
from veridical.rendering import Group, render_prompt
from veridical.sampling import (
    Decoding,
    Reader,
    Request,
    StopReason,
    choose_tokens,
    never_sampled,
)


@dataclass(frozen=True)
class Rollout:
    """One response of a policy.

    Attributes:
        text: without special tokens.
        token_ids: as sampled; the last is an end token unless the length cut it.
        logps: log-probability of each token as it was drawn: at the sampling temperature, among
            the tokens that may be sampled. In nats; as long as `token_ids`.
        stop_reason: `end` (end token) or `length`.
        version: of the policy that said it: the training step whose weights it had.
    """

    text: str
    token_ids: tuple[int, ...]
    logps: tuple[float, ...]
    stop_reason: StopReason
    version: int = 0


def roll_out(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    k: int = 1,
    version: int = 0,
    label: str = "",
) -> list[list[Rollout]]:
    """Answer every request k times.

    A prompt and its images are read once, and what is kept of them is shared by its k responses;
    responses that have ended leave the batch. The noise of response number n is keyed by
    `<request id>/<n>`, so that a response depends neither on its batch nor on k.

    Args:
        policy: who answers.
        requests: what is asked.
        decoding: how tokens are chosen; `batch_size` counts responses.
        k: responses to each request.
        version: of the policy, kept with what it says.
        label: names the progress line; empty for none.

    Returns:
        For each request its k responses.

    Raises:
        RefusedRowError: a prompt that cannot be rendered.
    """
    together = cache_has_rows(policy)
    banned, ends = never_sampled(policy), end_token_ids(policy)
    found: list[list[Rollout]] = [[] for _ in requests]
    for places, numbers in _chunks(len(requests), k, decoding.batch_size, label):
        chunk = [requests[place] for place in places]
        # A cache that has no rows takes as many prompts as there are responses.
        rows = chunk if together else [request for request in chunk for _ in numbers]
        texts = [render_prompt(policy, row.prompt, row.prefix) for row in rows]
        batch = prompt_batch(policy, [row.images for row in rows], texts)
        named = [
            dataclasses.replace(request, id=f"{request.id}/{number}")
            for request in chunk
            for number in numbers
        ]
        with torch.inference_mode():
            continuation = Continuation(policy, batch, len(numbers) if together else 1)
            said = _continue(continuation, named, decoding, banned, ends, together)
        responses = iter(_read(policy, named, said, ends, version))
        for place in places:
            found[place] += [next(responses) for _ in numbers]
    return found


def rollout_group(policy: Policy, request: Request, rollouts: Sequence[Rollout]) -> Group:
    """A prompt with sampled responses, ready to be laid out in batches.

    Raises:
        RefusedRowError: the prompt cannot be rendered.
    """
    decode = policy.processor.tokenizer.decode
    return Group(
        request.id,
        tuple(request.images),
        render_prompt(policy, request.prompt, request.prefix),
        tuple(decode(list(rollout.token_ids)) for rollout in rollouts),
        tuple(torch.tensor(rollout.token_ids) for rollout in rollouts),
        tuple(rollout.stop_reason == "length" for rollout in rollouts),
        sampled=True,
    )


def _chunks(requests: int, k: int, batch_size: int, label: str) -> Iterator[tuple[range, range]]:
    """Which requests, and which of their k responses, are made at once."""
    prompts = max(1, batch_size // k)
    starts = range(0, requests, prompts)
    for start in track(starts, label) if label else starts:
        for number in range(0, k, batch_size):
            places = range(start, min(start + prompts, requests))
            yield places, range(number, min(number + batch_size, k))


def _continue(
    continuation: Continuation,
    requests: Sequence[Request],
    decoding: Decoding,
    banned: list[int],
    ends: set[int],
    leave: bool,
) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probs of every row; with `leave`, ended rows cost nothing from then on."""
    streams = [generator(decoding.seed, "tokens", request.id) for request in requests]
    said: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    alive = list(range(len(requests)))
    for step in range(decoding.max_new_tokens):
        noise = [streams[row] for row in alive]
        tokens, logps = choose_tokens(continuation.logits, noise, decoding.temperature, banned)
        going = []
        for place, (row, token, logp) in enumerate(
            zip(alive, tokens.tolist(), logps.tolist(), strict=True)
        ):
            ids, values = said[row]
            if ids and ids[-1] in ends:
                continue
            ids.append(token)
            values.append(logp)
            if token not in ends:
                going.append(place)
        if not going or step == decoding.max_new_tokens - 1:
            break
        if leave and len(going) < len(alive):
            kept = torch.tensor(going, device=tokens.device)
            continuation.keep(kept)
            tokens, alive = tokens[kept], [alive[place] for place in going]
        continuation.feed(tokens)
    return said


def _read(
    policy: Policy,
    requests: Sequence[Request],
    said: Sequence[tuple[list[int], list[float]]],
    ends: set[int],
    version: int,
) -> Iterator[Rollout]:
    tokenizer = policy.processor.tokenizer
    prefixes = [tokenizer(r.prefix, add_special_tokens=False)["input_ids"] for r in requests]
    reader = Reader(tokenizer, prefixes, ends)
    for row, (ids, logps) in enumerate(said):
        response = reader.response(row, ids, until_sentence_end=False)
        yield Rollout(response.text, tuple(ids), tuple(logps), response.stop_reason, version)
