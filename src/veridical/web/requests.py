"""What a request's body holds, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from veridical.runtime.errors import UserError
from veridical.runtime.files import JSON_ERRORS, parse_json

if TYPE_CHECKING:
    from starlette.requests import Request


async def sent(request: Request) -> Mapping[str, object]:
    """The JSON object that was sent.

    Raises:
        UserError: it is none.
    """
    try:
        content = parse_json((await _body(request)).decode())
    except JSON_ERRORS as error:
        raise UserError(f"What was sent is not JSON: {str(error)[:200]}.") from error
    if not isinstance(content, Mapping):
        raise UserError("What was sent is not a JSON object.")
    return content


async def _body(request: Request) -> bytes:
    from starlette.requests import ClientDisconnect

    try:
        return await request.body()
    except ClientDisconnect as error:  # or it was longer than it said
        raise UserError("What was sent is not whole.") from error


def text_in(content: Mapping[str, object], name: str, longest: int) -> str:
    """A text of it.

    Raises:
        UserError: it is missing, none or too long.
    """
    value = content.get(name)
    if not isinstance(value, str) or len(value) > longest:
        raise UserError(f"{name} must be a text of at most {longest:,} letters.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name} is not whole Unicode text.") from error
    return value
