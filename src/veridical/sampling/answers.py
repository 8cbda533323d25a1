"""Responses from a policy: plain, or guided by a given beginning."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.data.responses import Response
from veridical.models.policy import Policy
from veridical.models.prompt_batches import PromptBatch
from veridical.models.prompt_texts import in_thought, render_requests
from veridical.models.refused_rows import naming_rows
from veridical.runtime.progress import track
from veridical.sampling.beginnings import shared_prompt_batch
from veridical.sampling.loop import Draw, ReadPrompts, decode
from veridical.sampling.reader import Reader
from veridical.sampling.requests import Decoding, Request


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
        RefusedRowsError: the processor refuses requests; by their ids.
        UserError: the model's logits are NaN or infinite.
    """
    texts = render_requests(
        policy, [(request.prompt.messages, request.prefix) for request in requests]
    )

    def read(numbers: list[int]) -> PromptBatch:
        images = [requests[number].prompt.images for number in numbers]
        with naming_rows([requests[number].prompt.id for number in numbers]):
            return shared_prompt_batch(policy, images, [texts[number] for number in numbers])

    return responses(policy, requests, read, decoding, label, until_sentence_end)


def responses(
    policy: Policy,
    requests: Sequence[Request],
    read: ReadPrompts,
    decoding: Decoding,
    label: str,
    until_sentence_end: bool,
) -> list[Response]:
    """One response to every request, in order, whose prompts `read` lays out."""
    reader = Reader(policy.processor.tokenizer, requests, in_thought(policy))
    draws = [
        Draw(
            request.prompt.id,
            number,
            bool(request.prompt.images),
            reader.watch(number) if until_sentence_end else None,
        )
        for number, request in enumerate(requests)
    ]
    said = decode(policy, draws, read, decoding)
    found = dict(track(said, label, len(draws)) if label else said)
    return [
        reader.read(number, found[number], until_sentence_end) for number in range(len(requests))
    ]
