"""Several responses to each prompt: from a model that is loaded here, or from a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset

from veridical.data.image_checks import require_images
from veridical.data.images import row_images
from veridical.data.messages import Message, count_images
from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.data.steering import steered
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import RefusedRowError
from veridical.runtime.json_types import JsonObject
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.chat import Refusal, Server
from veridical.sampling.rollouts import roll_out


@dataclass(frozen=True)
class SampleSettings:
    """What decides the responses, besides the model and the data.

    Attributes:
        k: responses a prompt.
        decoding: how tokens are chosen.
        steer: what is asked for besides, see `veridical.data.steering`; None asks for nothing.
    """

    k: int
    decoding: Decoding
    steer: str | None = None

    def recorded(self) -> JsonObject:
        """What is recorded of them: the batch size changes no response."""
        decoding = self.decoding
        return {
            "k": self.k,
            "temperature": decoding.temperature,
            "max_new_tokens": decoding.max_new_tokens,
            "seed": decoding.seed,
            "steer": self.steer,
            "top_p": decoding.top_p,
            "top_k": decoding.top_k,
            "min_new_tokens": decoding.min_new_tokens,
        }


@dataclass(frozen=True)
class Sampled:
    """The responses to one prompt.

    Attributes:
        id: the record's.
        responses: their texts.
        stop_reasons: of each, as in `Response`.
        refused: why there are none; "" if there are.
    """

    id: str
    responses: list[str]
    stop_reasons: list[str]
    refused: str = ""

    @property
    def finished(self) -> list[str]:
        """The responses that are something and that ended by themselves."""
        pairs = zip(self.responses, self.stop_reasons, strict=True)
        return [text for text, reason in pairs if text and reason != "length"]


def read_prompts(rows: Dataset) -> list[Prompt]:
    """The prompt of each record; of a conversation everything before its last answer."""
    texts, pictures = rows.remove_columns(["images"]), rows.select_columns(["images"])
    prompts = []
    for index, row in enumerate(texts):
        messages = prompt_messages(row)
        images = row_images(pictures, index, count_images(messages))
        prompts.append(Prompt(row["id"], images, messages))
    return prompts


def prompt_messages(row: Mapping[str, Any]) -> list[Message]:
    """A record's prompt, whatever its kind."""
    messages: list[Message] = row["messages"][:-1] if "messages" in row else row["prompt"]
    return messages


def sample_responses(
    policy: Policy, prompts: Sequence[Prompt], settings: SampleSettings
) -> list[Sampled]:
    """Answer each prompt k times; its image is encoded once."""
    requests: dict[int, Request] = {}
    refused: dict[int, str] = {}
    for index, prompt in enumerate(prompts):
        messages = steered(prompt.messages, settings.steer, policy.processor)
        try:
            render_prompt(policy, messages)
            require_images(policy.processor, prompt.images)
        except RefusedRowError as problem:
            refused[index] = str(problem)
            continue
        requests[index] = Request(replace(prompt, messages=messages))
    places, asked = list(requests), list(requests.values())
    answered, late = leave_out_refused(
        [request.prompt.id for request in asked],
        lambda left: roll_out(policy, [asked[n] for n in left], settings.decoding, settings.k),
    )
    refused |= {places[n]: reason for n, reason in late.items()}
    answers = iter(answered)
    results = []
    for index, prompt in enumerate(prompts):
        if index in refused:
            results.append(Sampled(prompt.id, [], [], refused[index]))
            continue
        mine = next(answers)
        texts = [answer.text.strip() for answer in mine]
        results.append(Sampled(prompt.id, texts, [answer.stop_reason for answer in mine]))
    return results


def served_responses(
    server: Server, prompts: Sequence[Prompt], settings: SampleSettings
) -> list[Sampled]:
    """Have a server answer each prompt k times, as `sample_responses` does.

    A prompt that the server refuses is listed, not left out in silence.
    """
    requests = [
        Request(replace(prompt, id=f"{prompt.id}/{number}"))
        for prompt in prompts
        for number in range(settings.k)
    ]
    decoding = settings.decoding
    said = server.respond(requests, decoding.temperature, decoding.max_new_tokens, decoding.seed)
    results = []
    for index, prompt in enumerate(prompts):
        mine = said[index * settings.k : (index + 1) * settings.k]
        refusal = next((one for one in mine if isinstance(one, Refusal)), None)
        if refusal is not None:
            results.append(Sampled(prompt.id, [], [], refusal.reason))
            continue
        answers = [one for one in mine if isinstance(one, Response)]
        texts = [answer.text for answer in answers]
        results.append(Sampled(prompt.id, texts, [answer.stop_reason for answer in answers]))
    return results
