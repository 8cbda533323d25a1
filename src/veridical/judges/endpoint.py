"""A server that speaks OpenAI's chat completions, as a judge: limits, a ledger, kept replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from veridical.data.messages import text_of
from veridical.judges.judging import Cost
from veridical.judges.ledger import Ledger, Limits
from veridical.judges.prompted import JudgeQuestion, JudgeReply, reply_of
from veridical.runtime.cache import Cache, digest, open_cache
from veridical.runtime.errors import UserError
from veridical.sampling.engines.address import FailedError, StoppedError
from veridical.sampling.engines.replies import Completion
from veridical.sampling.engines.server import (
    CUT_OFF,
    ServerSettings,
    encoded_image,
    image_block,
    open_client,
    read_settings,
)

KIND = "replies"
ATTEMPTS = 1000
"""Seeds between two draws: more than a question has attempts."""


@dataclass(frozen=True)
class EndpointSettings(ServerSettings):
    """Where a judge is asked, how patiently, and for how much.

    Attributes:
        input_price: dollars for a million tokens read.
        output_price: dollars for a million tokens written.
        max_dollars: stop when so much has been spent.
        max_tokens: stop when so many tokens have been read and written.
        cache: folder of replies; as `--cache` of `train dpo`. `none` keeps none.
        cache_gigabytes: what it may hold.
    """

    input_price: float | None = None
    output_price: float | None = None
    max_dollars: float | None = None
    max_tokens: int | None = None
    cache: str | None = None
    cache_gigabytes: float = 10.0

    @property
    def limits(self) -> Limits:
        """The prices and what may be spent."""
        return Limits(self.input_price, self.output_price, self.max_dollars, self.max_tokens)


@dataclass(frozen=True)
class Wording:
    """What decides a reply, besides the question.

    Attributes:
        model: its name at the endpoint.
        max_new_tokens: limit of one reply.
        temperature: of the first; None leaves it to the endpoint.
        retry_temperature: of later ones.
        seed: sent along; later tries send the next ones, later draws those 1000 further.
            Endpoints may ignore it.
    """

    model: str
    max_new_tokens: int
    temperature: float | None
    retry_temperature: float | None
    seed: int


def endpoint_settings(given: Mapping[str, Any] | None) -> EndpointSettings:
    """Check the values of `--endpoint.NAME VALUE`.

    Raises:
        UserError: as for `read_settings`, or a limit in dollars without prices.
    """
    settings = read_settings(EndpointSettings, given)
    if settings.max_dollars is not None and None in (settings.input_price, settings.output_price):
        raise UserError(
            "--endpoint.max_dollars needs the prices: --endpoint.input_price and "
            "--endpoint.output_price, in dollars for a million tokens."
        )
    return settings


class Endpoint:
    """Asks an endpoint, several questions at once; replies that were paid for are kept."""

    def __init__(self, wording: Wording, settings: EndpointSettings, spent: Path) -> None:
        """Get ready; nothing is sent yet.

        Args:
            wording: what decides a reply.
            settings: where, how patiently, for how much.
            spent: the ledger's file.

        Raises:
            UserError: no key for an endpoint elsewhere, or a bad address or cache.
        """
        self.wording, self.settings = wording, settings
        self.client = open_client(settings)
        self.url = self.client.address.url
        self.cache: Cache = open_cache(settings.cache, settings.cache_gigabytes)
        self.ledger = Ledger(spent, settings.limits)
        self.note_reply: Callable[[JudgeQuestion, JudgeReply], None] | None = None
        """Told of each new reply as it comes, from several threads."""
        self._lock = threading.Lock()
        self._stopped = False

    def notice(self, images: int) -> str:
        """What has to be told before anything is sent; "" if nothing leaves this machine."""
        return self.client.notice(f"Up to {images} images with their prompts and responses")

    def __call__(self, questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        """Ask them, `concurrency` at once.

        Raises:
            UserError: a limit is reached, the key or the model is refused, or nothing but failures
                came for a while. What was replied before is kept.
        """
        try:
            return self.client.ask_all(self._reply, questions, finish_paid=True)
        except BaseException:
            self._stopped = True
            raise

    def _reply(self, question: JudgeQuestion) -> JudgeReply:
        pictures = [encoded_image(image) for image in question.prompt.images]
        request = self._request(question)
        said = json.dumps(request, sort_keys=True)
        draw = [question.draw] if question.draw else []
        key = digest(self.url, said, question.attempt, pictures, *draw)
        known = self.cache.get(KIND, key)
        if known is not None:
            return reply_of(**json.loads(bytes(known["reply"].tolist())), cost=Cost(replies=1))
        if self._stopped:
            return JudgeReply(problem="not asked")
        try:
            self.ledger.check()
            reply = self._send(question, request, pictures)
        except StoppedError:
            return JudgeReply(problem="not asked")
        except UserError:
            self._stopped = True
            self.client.stop()
            raise
        if reply.text and not reply.problem:
            kept = json.dumps({"text": reply.text, "cut": reply.cut}).encode()
            self.cache.put(KIND, key, {"reply": torch.tensor(list(kept), dtype=torch.uint8)})
        if self.note_reply is not None:
            self.note_reply(question, reply)
        return reply

    def _request(self, question: JudgeQuestion) -> dict[str, object]:
        wording = self.wording
        again = question.attempt > 0
        temperature = wording.retry_temperature if again else wording.temperature
        return {
            "model": wording.model,
            "text": text_of(question.prompt.messages),
            "max_completion_tokens": wording.max_new_tokens,
            "seed": wording.seed + question.attempt + ATTEMPTS * question.draw,
        } | ({} if temperature is None else {"temperature": temperature})

    def _send(
        self, question: JudgeQuestion, request: Mapping[str, object], pictures: Sequence[bytes]
    ) -> JudgeReply:
        options = {name: value for name, value in request.items() if name != "text"}
        content = [*map(image_block, pictures), {"type": "text", "text": request["text"]}]
        messages = [{"role": "user", "content": content}]
        try:
            completion = self.client.complete({"messages": messages, **options})
        except FailedError as failed:
            if failed.kind != "malformed":
                return JudgeReply(problem=failed.problem)
            return JudgeReply(fault=failed.problem, cost=self.ledger.add(question.prompt.id, 0, 0))
        return self._read(question.prompt.id, completion)

    def _read(self, id: str, completion: Completion) -> JudgeReply:
        usage = completion.usage
        if usage is None and self.settings.limits.any:
            raise UserError(
                f"{self.url} does not tell how many tokens it used, so a limit can't be kept. "
                "Leave out endpoint.max_dollars and endpoint.max_tokens."
            )
        cost = self.ledger.add(
            id, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0
        )
        text = self.client.redacted(completion.text).strip()
        cut = not text or completion.finish_reason in CUT_OFF
        return reply_of(text, cut, cost)
