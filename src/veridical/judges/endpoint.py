"""Any endpoint that speaks OpenAI's chat completions with images, as a judge.

vLLM, SGLang, Gemini and OpenAI say that they do. Time-outs, retries and what a reply may look like
are in `judges.client`; here are the options, concurrency, limits, the cache of replies, and how
images are sent.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from veridical.data.images import load_image
from veridical.data.messages import Message, text_of
from veridical.judges.client import Address, Client, FailedError, StoppedError, is_here
from veridical.judges.judging import Cost
from veridical.judges.ledger import Ledger, Limits
from veridical.judges.prompted import Question, Reply
from veridical.judges.replies import Completion
from veridical.runtime.cache import Cache, digest, open_cache
from veridical.runtime.errors import UserError

OPENAI = "https://api.openai.com/v1"
KIND = "replies"
PNG_LIMIT = 1_000_000
"""Bytes above which an image is sent as JPEG: what a photograph takes as PNG, many hosts refuse."""
CUT_OFF = ("length", "max_tokens", "content_filter")
"""How servers call it that a text did not end by itself."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KEY_WORD = re.compile(r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD)(_|$)")


@dataclass(frozen=True)
class EndpointSettings:
    """Where to ask, how patiently, and for how much.

    Attributes:
        url: with the version, such as http://localhost:8000/v1; if not set, the variable
            OPENAI_BASE_URL, else OpenAI's own.
        key_variable: the environment variable that holds the key; its name, never the key.
        concurrency: questions under way at once.
        retries: how often the client tries again after a lost connection, a time-out, or status
            408, 409, 429 or 5xx; waits grow from half a second to 8 seconds, or are as long as the
            server asks (`Retry-After`).
        timeout: seconds that one try may take altogether.
        max_wait: seconds that the server may ask to wait; if it asks for more, the run ends.
        input_price: dollars for a million tokens read.
        output_price: dollars for a million tokens written.
        max_dollars: stop when so much has been spent.
        max_tokens: stop when so many tokens have been read and written.
        cache: folder of replies; as `--cache` of `train dpo`. `none` keeps none.
        cache_gigabytes: what it may hold.
    """

    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 6
    timeout: float = 120.0
    max_wait: float = 600.0
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
        seed: sent along; later tries send the next ones. Endpoints may ignore it.
    """

    model: str
    max_new_tokens: int
    temperature: float | None
    retry_temperature: float | None
    seed: int


def endpoint_settings(
    given: Mapping[str, Any] | None, option: str = "endpoint"
) -> EndpointSettings:
    """Check what `--endpoint.NAME VALUE` said.

    Args:
        given: the values by name.
        option: what the option is called, for messages.

    Raises:
        UserError: an unknown name, or a value that makes no sense or may be a secret, which
            run.json would keep.
    """
    fields = {field.name: field for field in dataclasses.fields(EndpointSettings)}
    unknown = [name for name in given or {} if name not in fields]
    if unknown:
        raise UserError(f"--{option}.{unknown[0]} is unknown; there is: {', '.join(fields)}.")
    texts = ("url", "key_variable", "cache")
    for name, value in (given or {}).items():
        if name in texts and not (value is None or (isinstance(value, str) and value)):
            raise UserError(f"--{option}.{name} is {value!r}; give a text.")
        number = type(value) in (int, float) and math.isfinite(value)
        if name not in texts and value is not None and not (number and value >= 0):
            raise UserError(f"--{option}.{name} is {value!r}; give a number from 0 up.")
    settings = EndpointSettings(**{name: v for name, v in (given or {}).items() if v is not None})
    if settings.url:
        endpoint_url(settings, option)
    _require_name(settings.key_variable, option)
    for name in ("concurrency", "retries"):
        if type(getattr(settings, name)) is not int:
            raise UserError(f"--{option}.{name} has to be a whole number.")
    if settings.concurrency < 1 or settings.timeout <= 0:
        raise UserError(f"--{option}.concurrency and --{option}.timeout have to be above 0.")
    if settings.max_dollars is not None and None in (settings.input_price, settings.output_price):
        raise UserError(
            f"--{option}.max_dollars needs the prices: --{option}.input_price and "
            f"--{option}.output_price, in dollars for a million tokens."
        )
    return settings


def _require_name(variable: str, option: str) -> None:
    """Take a variable's name only: a key typed in its place would be written to run.json."""
    if variable in os.environ:
        return
    if not _VARIABLE.fullmatch(variable) or not _KEY_WORD.search(variable):
        raise UserError(
            f"--{option}.key_variable has to be the name of an environment variable that is set, "
            "such as OPENAI_API_KEY; the key itself stays in the environment."
        )


def endpoint_url(settings: EndpointSettings, option: str = "endpoint") -> str:
    """Where to ask.

    Raises:
        UserError: it is no address, or holds a password or key, which run.json would keep.
    """
    url = settings.url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        raise UserError(f"--{option}.url is no address (its host or port).") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--{option}.url has to begin with http:// or https:// and name a host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"--{option}.url holds a name, password or query. Keys are read from the environment "
            f"only: put it there and name the variable with --{option}.key_variable."
        )
    return url.rstrip("/")


def open_client(
    settings: EndpointSettings, option: str = "endpoint", malformed_again: bool = False
) -> Client:
    """The client that the settings ask for.

    Args:
        settings: where and how patiently.
        option: what the option is called, for messages.
        malformed_again: as for `Client`.

    Raises:
        UserError: no key for an endpoint elsewhere, or a bad address.
    """
    url, variable = endpoint_url(settings, option), settings.key_variable
    key = os.environ.get(variable, "").strip()
    if not key and not is_here(url):
        raise UserError(
            f"The variable {variable} holds no key for {url}. Set it, or name another one with "
            f"--{option}.key_variable."
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"The variable {variable} holds characters that no key has.")
    address = Address(
        url, key, settings.retries, settings.timeout, settings.max_wait, option, variable
    )
    return Client(address, malformed_again)


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
        self.from_cache = 0
        self._lock = threading.Lock()
        self._stopped = False

    def notice(self, images: int) -> str:
        """What has to be told before anything is sent; "" if nothing leaves this machine."""
        return self.client.notice(f"Up to {images} images with their prompts and responses")

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Ask them, `concurrency` at once.

        Raises:
            UserError: a limit is reached, the key or the model is refused, or nothing but failures
                came for a while. What was replied before is kept.
        """
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            return list(pool.map(self._reply, questions))
        except BaseException as error:
            self._stopped = True
            # What is under way is paid for: unless somebody wants to leave, it is waited for.
            self.client.stop(now=not isinstance(error, Exception))
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _reply(self, question: Question) -> Reply:
        pictures = [encoded_image(image) for image in question.images]
        request = self._request(question)
        key = digest(self.url, json.dumps(request, sort_keys=True), question.attempt, pictures)
        known = self.cache.get(KIND, key)
        if known is not None:
            with self._lock:
                self.from_cache += 1
            return Reply(**json.loads(bytes(known["reply"].tolist())), cost=Cost(replies=1))
        if self._stopped:
            return Reply(problem="not asked")
        try:
            self.ledger.check()
            reply = self._send(question, request, pictures)
        except StoppedError:
            return Reply(problem="not asked")
        except UserError:
            self._stopped = True
            self.client.stop()
            raise
        if reply.text and not reply.problem:
            kept = json.dumps({"text": reply.text, "cut": reply.cut}).encode()
            self.cache.put(KIND, key, {"reply": torch.tensor(list(kept), dtype=torch.uint8)})
        return reply

    def _request(self, question: Question) -> dict[str, Any]:
        wording = self.wording
        again = question.attempt > 0
        temperature = wording.retry_temperature if again else wording.temperature
        return {
            "model": wording.model,
            "text": text_of(question.messages),
            "max_completion_tokens": wording.max_new_tokens,
            "seed": wording.seed + question.attempt,
        } | ({} if temperature is None else {"temperature": temperature})

    def _send(
        self, question: Question, request: Mapping[str, Any], pictures: Sequence[bytes]
    ) -> Reply:
        options = {name: value for name, value in request.items() if name != "text"}
        content = [*map(_image_block, pictures), {"type": "text", "text": request["text"]}]
        messages = [{"role": "user", "content": content}]
        try:
            completion = self.client.complete({"messages": messages, **options})
        except FailedError as failed:
            if failed.kind != "malformed":
                return Reply(problem=failed.problem)
            return Reply(fault=failed.problem, cost=self.ledger.add(question.id, 0, 0))
        return self._read(question.id, completion)

    def _read(self, id: str, completion: Completion) -> Reply:
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
        return Reply(text, not text or completion.finish_reason in CUT_OFF, cost)


def encoded_image(image: Any) -> bytes:
    """An image's file as it is sent: upright RGB without metadata such as where it was taken."""
    picture = load_image(image)
    picture.info.clear()
    memory = io.BytesIO()
    picture.save(memory, format="PNG")
    if memory.tell() > PNG_LIMIT:
        memory = io.BytesIO()
        picture.save(memory, format="JPEG", quality=95)
    return memory.getvalue()


def sent_messages(messages: Sequence[Message], images: Sequence[Any]) -> list[Any]:
    """Messages as the protocol has them: images as data, in their places."""
    left = iter(images)

    def block(given: Mapping[str, Any]) -> dict[str, Any]:
        if given["type"] == "image":
            return _image_block(encoded_image(next(left)))
        return {"type": "text", "text": given["text"]}

    sent: list[Any] = []
    for message in messages:
        blocks = [block(given) for given in message["content"]]
        only_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        content = blocks[0]["text"] if only_text else blocks
        sent.append({"role": message["role"], "content": content})
    return sent


def _image_block(data: bytes) -> dict[str, Any]:
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
