"""Names that lead to a hub: told apart from paths, and given up at once when no hub is there."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from veridical.runtime.errors import UserError

LOOK_UP_SECONDS = 5.0


def check_hub_name(name: str) -> None:
    """Before a model is looked for on the hub: is `name` one, and can the hub be reached?

    Without a network the hub's client tries again for minutes before it gives up. When the
    hub's address cannot be found, the client is told to look into its cache alone.

    Raises:
        UserError: `name` is a path, and nothing is there.
    """
    if looks_like_path(name):
        raise UserError(f"{name} does not exist. Check the path, or give a hub name (owner/model).")
    host = hub_host()
    if host and not constants.HF_HUB_OFFLINE and not can_look_up(host):
        constants.HF_HUB_OFFLINE = True


def hub_host() -> str:
    """The name of the machine that the hub's address leads to."""
    return urlsplit(constants.ENDPOINT).hostname or ""


def looks_like_path(name: str) -> bool:
    """Whether `name` is no `model` or `owner/model`, or would lie in a folder that exists."""
    if name.startswith(("/", ".", "~")) or name.endswith("/") or name.count("/") > 1:
        return True
    return "\\" in name or ("/" in name and Path(name).parent.is_dir())


def can_look_up(host: str, seconds: float = LOOK_UP_SECONDS) -> bool:
    """Whether the host's address can be found within `seconds`."""
    found = threading.Event()

    def look_up() -> None:
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, 443)
            found.set()

    # A look-up cannot be interrupted; a daemon does not keep the process waiting for it.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(seconds)
    return found.is_set()
