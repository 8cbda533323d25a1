"""What an endpoint that speaks OpenAI's chat completions may answer: one strict type.

Everything that comes from a server passes here: it is JSON of this form, with text that can be
written to files, or it is a `MalformedError` that says what came instead.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SHOWN = 200
"""Characters of a server's own words that a message shows."""
Count = Annotated[int, Field(ge=0, le=10**12)]
_SURROGATE = re.compile("[\ud800-\udfff]")


class MalformedError(ValueError):
    """What came instead of a chat completion, as half a sentence."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Usage(_Strict):
    """The tokens of a reply."""

    prompt_tokens: Count
    completion_tokens: Count = 0


class ReplyMessage(_Strict):
    """What was said; nothing where there is only a refusal or a call of a tool."""

    content: str | None = None


class ReplyChoice(_Strict):
    """One answer; the ids of its tokens where the server gives them."""

    message: ReplyMessage
    finish_reason: str | None = None
    token_ids: list[int] | None = None


class Completion(_Strict):
    """A chat completion."""

    choices: Annotated[list[ReplyChoice], Field(min_length=1)]
    usage: Usage | None = None
    model: str | None = None
    prompt_token_ids: list[int] | None = None

    @property
    def text(self) -> str:
        """The first answer, as text that can be encoded; "" if there is none."""
        return encodable(self.choices[0].message.content or "")

    @property
    def finish_reason(self) -> str | None:
        """Why the first answer ended."""
        return self.choices[0].finish_reason


def read_completion(body: bytes) -> Completion:
    """A completion from the bytes of a reply.

    Raises:
        MalformedError: they are something else.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedError(_instead(body)) from None
    try:
        return Completion.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise MalformedError(f"JSON of another form ({place}: {first['msg']})") from None
    except RecursionError:
        raise MalformedError("JSON that is nested too deep") from None


def error_message(body: bytes) -> str:
    """What a server says of a failure: its `error.message` where it has one, else its text."""
    said: Any = None
    try:
        content = json.loads(body)
        said = content.get("error", content) if isinstance(content, dict) else content
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, RecursionError):
        pass
    text = said if isinstance(said, str) else body.decode("utf-8", "replace")
    return " ".join(encodable(text).split())[:SHOWN]


def encodable(text: str) -> str:
    """A text with a mark of replacement in place of each half of a surrogate pair."""
    return _SURROGATE.sub("\ufffd", text)


def _instead(body: bytes) -> str:
    start = body.lstrip()[:64].lower()
    if not start:
        return "nothing"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page"
    if start.startswith((b"data:", b"event:", b":")):
        return "a stream of events (SSE)"
    return f"no JSON ({error_message(body)[:60]!r})"
