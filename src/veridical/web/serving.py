"""Where a page is served: options, the address, and the server itself."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from veridical.runtime.errors import UserError
from veridical.runtime.pages import VIEW_PORT
from veridical.runtime.ranges import Range

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Where the page is served.

    Attributes:
        host: address to listen on; anything but this machine's own demands a token.
        port: of it; 0 takes a free one.
        root_path: beginning of the address behind a proxy, such as /pairs; demands a token too.
        token: the token, at least 16 letters and digits; made and printed if not set.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Range(0, 65535)] = VIEW_PORT
    root_path: str = ""
    token: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether others than this machine's users may reach it."""
        return self.host not in LOOPBACK or bool(self.root_path)

    def check(self) -> None:
        """Refuse what can't be served.

        Raises:
            UserError: names the option.
        """
        if self.root_path and not _PREFIX.fullmatch(self.root_path):
            raise UserError(
                f"--root-path {self.root_path!r} must begin with a slash and not end in one, such "
                "as /pairs."
            )
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise UserError("--token must be 16 to 200 letters, digits, - or _.")

    def chosen_token(self) -> str | None:
        """The token that is demanded; None on this machine alone."""
        if self.token is None and not self.is_open:
            return None
        return self.token or secrets.token_urlsafe(24)


def open_port(serving: Serving) -> socket.socket:
    """Listen on the address, before anything else is done.

    Raises:
        UserError: it can't be had.
    """
    try:
        found = socket.getaddrinfo(serving.host, serving.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(64)
    except (OSError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host {serving.host[:80]} --port {serving.port}: {reason}. Name another, or "
            "--port 0 for a free one."
        ) from error
    return listening


def address_of(serving: Serving, listening: socket.socket) -> str:
    """The page's address as it is printed."""
    host = serving.host
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    with contextlib.suppress(ValueError):  # a name
        host = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    return f"http://{host}:{listening.getsockname()[1]}{serving.root_path}/"


def print_addresses(what: str, address: str, tokens: Mapping[str, str], root_path: str) -> None:
    """Say where the page is, for everybody who has a token."""
    if not tokens:
        print(f"{what}: {address}", flush=True)
    for token, name in tokens.items():
        print(f"{what}{f' for {name}' if name else ''}: {address}?token={token}", flush=True)
    if root_path:
        here = address.removesuffix(f"{root_path}/")
        print(f"From outside, the proxy's address stands in the place of {here}.", flush=True)
    print("Stop with Ctrl-C.", flush=True)


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve until the process is told to stop."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        limit_concurrency=200,
    )
    uvicorn.Server(config).run(sockets=[listening])
