"""A server that speaks OpenAI's chat completions: its options, its client, and how it is asked.

vLLM, SGLang, Gemini and OpenAI say that they do. Whoever asks one (a judge, a builder, the rollouts
of training) opens it here; time-outs, retries and what a reply may look like are in `client.py`.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from veridical.data.images import load_image
from veridical.data.messages import Message
from veridical.runtime.errors import UserError
from veridical.sampling.engines.address import Address, is_local_address
from veridical.sampling.engines.client import Client

OPENAI = "https://api.openai.com/v1"
PNG_LIMIT = 1_000_000
"""Bytes above which an image is sent as JPEG: what a photograph takes as PNG, many hosts refuse."""
CUT_OFF = ("length", "max_tokens", "content_filter")
"""Finish reasons of a text that did not end by itself."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_KEY_WORD = re.compile(r"(^|_)(API)?(KEY|TOKEN|SECRET|PASSWORD)(_|$)")


@dataclass(frozen=True)
class ServerSettings:
    """Where to ask, and how patiently.

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
    """

    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 6
    timeout: float = 120.0
    max_wait: float = 600.0


Settings = TypeVar("Settings", bound=ServerSettings)


def read_settings(
    kind: type[Settings], given: Mapping[str, Any] | None, option: str = "endpoint"
) -> Settings:
    """Check the values of `--endpoint.NAME VALUE`.

    Args:
        kind: the settings that there are; a field of type `int` takes whole numbers only.
        given: the values by name.
        option: what the option is called, for messages.

    Raises:
        UserError: an unknown name, or a value that makes no sense or may be a secret, which
            run.json would keep.
    """
    types = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    unknown = [name for name in given or {} if name not in types]
    if unknown:
        raise UserError(f"--{option}.{unknown[0]} is unknown; there is: {', '.join(types)}.")
    set_ones = {name: value for name, value in (given or {}).items() if value is not None}
    for name, value in set_ones.items():
        _check_value(f"--{option}.{name}", value, types[name])
    settings = kind(**set_ones)
    if settings.url:
        server_url(settings, option)
    _require_name(settings.key_variable, option)
    if settings.concurrency < 1 or settings.timeout <= 0:
        raise UserError(f"--{option}.concurrency and --{option}.timeout have to be above 0.")
    return settings


def _check_value(option: str, value: Any, wanted: str) -> None:
    if wanted.startswith("str"):
        if not isinstance(value, str) or not value:
            raise UserError(f"{option} is {value!r}; give a text.")
    elif wanted == "int":
        if type(value) is not int or value < 0:
            raise UserError(f"{option} is {value!r}; give a whole number from 0 up.")
    elif type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{option} is {value!r}; give a number from 0 up.")


def _require_name(variable: str, option: str) -> None:
    """Take a variable's name only: a key typed in its place would be written to run.json."""
    if variable in os.environ:
        return
    if not _VARIABLE.fullmatch(variable) or not _KEY_WORD.search(variable):
        raise UserError(
            f"--{option}.key_variable has to be the name of an environment variable that is set, "
            "such as OPENAI_API_KEY; the key itself stays in the environment."
        )


def server_url(settings: ServerSettings, option: str = "endpoint") -> str:
    """Where to ask.

    Raises:
        UserError: it is not an address, or holds a password or key, which run.json would keep.
    """
    url = settings.url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises where it is not a number
    except ValueError:
        raise UserError(f"--{option}.url is not an address (its host or port).") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--{option}.url has to begin with http:// or https:// and name a host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"--{option}.url holds a name, password or query. Keys are read from the environment "
            f"only: put it there and name the variable with --{option}.key_variable."
        )
    return url.rstrip("/")


def open_client(
    settings: ServerSettings, option: str = "endpoint", malformed_again: bool = False
) -> Client:
    """The client that the settings ask for.

    Args:
        settings: where and how patiently.
        option: what the option is called, for messages.
        malformed_again: as for `Client`.

    Raises:
        UserError: no key for a server elsewhere, or a bad address.
    """
    url, variable = server_url(settings, option), settings.key_variable
    key = os.environ.get(variable, "").strip()
    if not key and not is_local_address(url):
        raise UserError(
            f"The variable {variable} holds no key for {url}. Set it, or name another one with "
            f"--{option}.key_variable."
        )
    if not key.isascii() or not key.isprintable():
        raise UserError(f"The variable {variable} holds characters that no key has.")
    address = Address(
        url, key, settings.concurrency, settings.retries, settings.timeout, settings.max_wait,
        option, variable,
    )  # fmt: skip
    return Client(address, malformed_again)


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


def sent_messages(messages: Sequence[Message], images: Sequence[object]) -> list[object]:
    """Messages as the protocol has them: images as data, in their places."""
    left = iter(images)

    def block(given: Mapping[str, object]) -> dict[str, object]:
        if given["type"] == "image":
            return image_block(encoded_image(next(left)))
        return {"type": "text", "text": given["text"]}

    sent: list[object] = []
    for message in messages:
        blocks = [block(given) for given in message["content"]]
        only_text = len(blocks) == 1 and blocks[0]["type"] == "text"
        content = blocks[0]["text"] if only_text else blocks
        sent.append({"role": message["role"], "content": content})
    return sent


def image_block(data: bytes) -> dict[str, object]:
    """A part of a message that holds an image's file."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
