"""Any endpoint that speaks OpenAI's chat completions with images, as a judge.

vLLM, SGLang, Gemini and OpenAI say that they do. Retries with back-off and time-outs are the
`openai` client's own; here are concurrency, limits, the cache of replies, and what is told
before images leave the machine.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import ipaddress
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import torch

from veridical.cache import Cache, digest, open_cache
from veridical.errors import UserError
from veridical.images import load_image
from veridical.judges.judging import Cost
from veridical.judges.ledger import Ledger, Limits
from veridical.judges.prompted import Question, Reply
from veridical.messages import Message, text_of

OPENAI = "https://api.openai.com/v1"
KIND = "replies"
PNG_LIMIT = 1_000_000
"""Bytes above which an image is sent as JPEG: what a photograph takes as PNG, many hosts refuse."""
SHORTEST_KEY = 8
"""Characters from which a key is looked for in replies; a shorter one is a word by accident."""
FAILURES = 20
"""Questions that fail one after the other, until the endpoint is taken to be down (our choice)."""


@dataclass(frozen=True)
class EndpointSettings:
    """Where to ask, how patiently, and for how much.

    Attributes:
        url: with the version, such as http://localhost:8000/v1; if not set, the variable
            OPENAI_BASE_URL, else OpenAI's own.
        key_variable: the environment variable that holds the key.
        concurrency: questions under way at once.
        retries: how often the client tries again after a lost connection, a time-out, or status
            408, 409, 429 or 5xx; waits grow from half a second to 8 seconds.
        timeout: seconds without an answer after which a try is given up.
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


def endpoint_settings(given: Mapping[str, Any] | None) -> EndpointSettings:
    """Check what `--endpoint.NAME VALUE` said.

    Raises:
        UserError: an unknown name, or a value that makes no sense.
    """
    fields = {field.name: field for field in dataclasses.fields(EndpointSettings)}
    unknown = [name for name in given or {} if name not in fields]
    if unknown:
        raise UserError(f"--endpoint.{unknown[0]} is unknown; there is: {', '.join(fields)}.")
    texts = ("url", "key_variable", "cache")
    for name, value in (given or {}).items():
        if name in texts and not (value is None or (isinstance(value, str) and value)):
            raise UserError(f"--endpoint.{name} is {value!r}; give a text.")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in texts and value is not None and not (number and value >= 0):
            raise UserError(f"--endpoint.{name} is {value!r}; give a number from 0 up.")
    settings = EndpointSettings(**{name: v for name, v in (given or {}).items() if v is not None})
    for name in ("concurrency", "retries"):
        if type(getattr(settings, name)) is not int:
            raise UserError(f"--endpoint.{name} has to be a whole number.")
    if settings.concurrency < 1 or settings.timeout <= 0:
        raise UserError("--endpoint.concurrency and --endpoint.timeout have to be above 0.")
    if settings.max_dollars is not None and None in (settings.input_price, settings.output_price):
        raise UserError(
            "--endpoint.max_dollars needs the prices: --endpoint.input_price and "
            "--endpoint.output_price, in dollars for a million tokens."
        )
    return settings


def endpoint_url(settings: EndpointSettings) -> str:
    """Where to ask.

    Raises:
        UserError: it is no address, or holds a password or key, which run.json would keep.
    """
    url = settings.url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("--endpoint.url has to begin with http:// or https:// and name a host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "--endpoint.url holds a name, password or query. Keys are read from the environment "
            "only: put it there and name the variable with --endpoint.key_variable."
        )
    return url.rstrip("/")


def is_here(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
        self.wording, self.settings, self.url = wording, settings, endpoint_url(settings)
        self.key = os.environ.get(settings.key_variable, "")
        if not self.key and not is_here(self.url):
            raise UserError(
                f"The variable {settings.key_variable} holds no key for {self.url}. Set it, or "
                "name another one with --endpoint.key_variable."
            )
        self.cache: Cache = open_cache(settings.cache, settings.cache_gigabytes)
        self.ledger = Ledger(spent, settings.limits)
        self.client = openai.OpenAI(
            api_key=self.key or "none",
            base_url=self.url,
            timeout=settings.timeout,
            max_retries=settings.retries,
            # On a connection that is used again, a reply that a server delivers twice would be
            # taken for the reply to the next question.
            default_headers={"Connection": "close"},
        )
        self.from_cache = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._stopped = False

    def notice(self, images: int) -> str:
        """What has to be told before anything is sent; "" if nothing leaves this machine."""
        if is_here(self.url):
            return ""
        parts = urlsplit(self.url)
        plain = " They are not encrypted on the way." if parts.scheme == "http" else ""
        return (
            f"Up to {images} images with their prompts and responses leave this machine, for "
            f"{parts.hostname}.{plain}"
        )

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Ask them, `concurrency` at once.

        Raises:
            UserError: a limit is reached, the key or the model is refused, or nothing but failures
                came for a while. What was replied before is kept.
        """
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            return list(pool.map(self._reply, questions))
        except BaseException:
            self._stopped = True
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
        except UserError:
            self._stopped = True
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
            completion: Any = self.client.chat.completions.create(messages=messages, **options)
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise UserError(
                f"{self.url} refuses {self.wording.model} with status {error.status_code}. Check "
                f"the address, the model's name, and the key in {self.settings.key_variable}."
            ) from None
        except openai.APIStatusError as error:
            return self._failed(f"the endpoint refused it: {self._redacted(error.message)}", error)
        except openai.APITimeoutError as error:
            return self._failed(f"no reply within {self.settings.timeout:g} s", error)
        except openai.APIConnectionError as error:
            return self._failed(f"the connection failed: {self._redacted(error.message)}", error)
        except (openai.APIError, ValueError):
            completion = None  # a body that is no JSON, or JSON of another kind
        with self._lock:
            self._failures = 0
        return self._read(question.id, completion)

    def _read(self, id: str, completion: Any) -> Reply:
        usage = getattr(completion, "usage", None)
        if usage is None and completion is not None and self.settings.limits.any:
            raise UserError(
                f"{self.url} does not tell how many tokens it used, so a limit can't be kept. "
                "Leave out endpoint.max_dollars and endpoint.max_tokens."
            )
        cost = self.ledger.add(
            id,
            getattr(usage, "prompt_tokens", None) or 0,
            getattr(usage, "completion_tokens", None) or 0,
        )
        choices = getattr(completion, "choices", None) or []
        message = getattr(choices[0], "message", None) if choices else None
        text = getattr(message, "content", None)
        if not isinstance(text, str) or not text.strip():
            return Reply(cut=True, cost=cost)
        cut = getattr(choices[0], "finish_reason", None) == "length"
        return Reply(self._redacted(text.strip()), cut, cost)

    def _failed(self, problem: str, error: openai.APIError) -> Reply:
        with self._lock:
            # A refused question (status 4xx) says nothing of the next one.
            status = getattr(error, "status_code", None)
            lasting = status is None or status == 429 or status >= 500
            self._failures = self._failures + 1 if lasting else 0
            if self._failures >= FAILURES:
                raise UserError(
                    f"{FAILURES} questions in a row failed at {self.url}; the last: {problem}. "
                    "Start again later: it goes on where it was."
                ) from error
        return Reply(problem=problem, cost=Cost())

    def _redacted(self, text: str) -> str:
        """A text without the key, which some servers quote."""
        return text.replace(self.key, "(key)") if len(self.key) >= SHORTEST_KEY else text


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
