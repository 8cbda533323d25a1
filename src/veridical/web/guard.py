"""What every request passes before a page sees it: who may ask, what may be sent, how much.

- Without a token only this machine's own names are served (another name in `Host` is how a page
  elsewhere would reach a server on this machine). With one, a request needs it: in the address
  once, then in a cookie that scripts can't read.
- What changes something is refused unless it comes from a page of this server, with its key. No
  header that others than the browser set (`X-Forwarded-Host`) decides that.
- A request has at most `MOST_BYTES`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**20
LONGEST_ADDRESS = 8000
COOKIE = "veridical"
KEY_HEADER = "x-veridical-key"
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        tokens: what each token stands for, such as an annotator's name; "" stands for everything.
            Without any, only this machine's own names are served.
        root_path: the beginning of every address behind a proxy, such as `/pairs`.
        key: what changes have to be sent with; in every page.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    root_path: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def who(self, token: str) -> str | None:
        """Whom a token stands for; None for a wrong one."""
        found = None
        for known, name in self.tokens.items():
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "replace")):
                found = name
        return found

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies of a machine are shared by all its ports."""
        names = "".join(sorted(self.tokens))
        return f"{COOKIE}-{hashlib.sha256(names.encode()).hexdigest()[:12]}"


class Guard:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Guard an application."""
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, and pass on the rest."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        root = self.access.root_path
        if root and (scope["path"] == root or scope["path"].startswith(f"{root}/")):
            rest = scope["path"][len(root) :] or "/"
            scope = {**scope, "path": rest, "raw_path": quote(rest).encode()}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        who, given = self._who(scope, headers)
        if who is None:
            text = "This page needs the token that `veridical` printed, in the address: ?token=..."
            await _answer(send, 401, text)
            return
        if given:
            await _answer(send, 303, "", self._entrance(scope, headers, given))
            return
        scope = {**scope, "state": {**scope.get("state", {}), "who": who}}
        await self.app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST_ADDRESS:
            return 414, "The address is too long."
        host = headers.get("host", "")
        if not self.access.tokens and not LOCAL.fullmatch(host):
            return 403, "This server answers to localhost only. Start it with --host for others."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            return 405, "There is nothing here for this method."
        if not headers.get("content-length", "").isdecimal():
            return 411, "What is sent must say its length."
        if int(headers["content-length"]) > MOST_BYTES:
            return 413, f"What is sent may have {MOST_BYTES:,} bytes."
        if self._is_foreign(headers):
            return 403, (
                "A page of another site may not change anything here. A proxy between has to pass "
                "`Host` on."
            )
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "What is sent must be JSON."
        if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self.access.key.encode()):
            return 403, "The page is of an earlier start of this server. Load it again."
        return None

    def _is_foreign(self, headers: Mapping[str, str]) -> bool:
        """Whether a page of another server asks for a change.

        A page can set neither `Sec-Fetch-Site` nor `Origin` nor `Referer`: the browser does. A
        request without any of them is not from a page. What a proxy adds (`X-Forwarded-Host`) is
        not read, since anybody can add it too.
        """
        site = headers.get("sec-fetch-site", "")
        if site not in ("", "same-origin"):
            return True
        if site and self.access.tokens:  # a proxy may have changed `Host`
            return False
        schemes = ("http", "https") if self.access.tokens else ("http",)
        ports = {"http": ":80", "https": ":443"}  # which browsers leave out of an origin
        host = headers.get("host", "")
        own = [f"{scheme}://{host.removesuffix(ports[scheme])}" for scheme in schemes]
        origin, referrer = headers.get("origin"), headers.get("referer")
        if origin is not None and origin not in own:
            return True
        return referrer is not None and not referrer.startswith(tuple(f"{one}/" for one in own))

    def _who(self, scope: Scope, headers: Mapping[str, str]) -> tuple[str | None, str]:
        """Who asks, and the token where the address has it."""
        if not self.access.tokens:
            return "", ""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        if given is not None:
            return self.access.who(given), given
        cookie = _cookie(headers.get("cookie", ""), self.access.cookie)
        return (None if cookie is None else self.access.who(cookie)), ""

    def _entrance(self, scope: Scope, headers: Mapping[str, str], token: str) -> dict[str, str]:
        """Headers that put the token into a cookie and out of the address."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Two slashes at the beginning would name another server.
        place = self.access.root_path + "/" + quote(scope["path"].lstrip("/\\"))
        secure = "; Secure" if headers.get("x-forwarded-proto") == "https" else ""
        return {
            "location": place + (f"?{rest}" if rest else ""),
            "set-cookie": f"{self.access.cookie}={token}; Path={self.access.root_path or '/'}; "
            f"Max-Age=2592000; HttpOnly; SameSite=Lax{secure}",
        }


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by name; one that is sent twice has both values, so that neither passes for it."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joint = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{joint}{value}" if name in found else value
    return found


def _cookie(header: str, name: str) -> str | None:
    """A cookie's value.

    Not by `http.cookies`, which reads nothing behind a cookie in another form, such as JSON, that
    another program of the same machine may have set.
    """
    for part in header.split(";"):
        own, _, value = part.strip().partition("=")
        if own == name:
            return value
    return None


def _limited(receive: Receive) -> Receive:
    """Ends what is longer than it said."""
    total = 0

    async def limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        return message if total <= MOST_BYTES else {"type": "http.disconnect"}

    return limited


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", [])}
            more = {"cache-control": "no-store", **HEADERS}
            message = {
                **message,
                "headers": [
                    *message.get("headers", []),
                    *(
                        (name.encode(), value.encode())
                        for name, value in more.items()
                        if name.encode() not in own
                    ),
                ],
            }
        await send(message)

    return sending


async def _answer(
    send: Send, status: int, text: str, headers: Mapping[str, str] | None = None
) -> None:
    body = text.encode()
    sent = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **HEADERS,
        **(headers or {}),
    }
    start = {"type": "http.response.start", "status": status}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    await send({**start, "headers": raw})
    await send({"type": "http.response.body", "body": body})
