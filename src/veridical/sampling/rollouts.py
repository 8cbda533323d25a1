"""Samples of the current policy, kept as what they were: tokens, log-probs, and why they ended.

Nothing here is ever tokenized again: another tokenization of the same text would be another sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from veridical.data.responses import Response
from veridical.models.policy import Policy
from veridical.models.prompt_batches import PromptBatch, prompt_batch
from veridical.models.prompt_texts import in_thought, render_prompt
from veridical.models.refused_rows import naming_rows
from veridical.models.rendering import Group
from veridical.runtime.progress import track
from veridical.sampling.loop import Draw, decode
from veridical.sampling.reader import Reader
from veridical.sampling.requests import Decoding, Request


def roll_out(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    k: int = 1,
    version: int = 0,
    label: str = "",
) -> list[list[Response]]:
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
        RefusedRowsError: the processor refuses requests; by their ids.
    """
    texts = [render_prompt(policy, request.prompt.messages, request.prefix) for request in requests]
    draws = [
        Draw(f"{request.prompt.id}/{number}", place, pictures=bool(request.prompt.images))
        for place, request in enumerate(requests)
        for number in range(k)
    ]

    def read(places: list[int]) -> PromptBatch:
        images = [requests[place].prompt.images for place in places]
        with naming_rows([requests[place].prompt.id for place in places]):
            return prompt_batch(policy, images, [texts[place] for place in places])

    said = decode(policy, draws, read, decoding, with_logps=True)
    found = dict(track(said, label, len(draws)) if label else said)
    reader = Reader(policy.processor.tokenizer, requests, in_thought(policy))
    rollouts = [
        replace(reader.read(draws[number].prompt, found[number], False), version=version)
        for number in range(len(draws))
    ]
    return [rollouts[place * k : (place + 1) * k] for place in range(len(requests))]


def rollout_group(policy: Policy, request: Request, rollouts: Sequence[Response]) -> Group:
    """A prompt with sampled responses, ready to be laid out in batches.

    Raises:
        RefusedRowError: the prompt cannot be rendered.
    """
    decode = policy.processor.tokenizer.decode
    return Group(
        request.prompt.id,
        tuple(request.prompt.images),
        render_prompt(policy, request.prompt.messages, request.prefix),
        tuple(decode(list(rollout.token_ids)) for rollout in rollouts),
        tuple(torch.tensor(rollout.token_ids) for rollout in rollouts),
        tuple(rollout.stop_reason == "length" for rollout in rollouts),
        sampled=True,
    )
