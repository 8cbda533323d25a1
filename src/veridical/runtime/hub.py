"""Names of models on a hub: told apart from paths; without a network the cache alone is read."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from veridical.runtime.errors import UserError


def check_hub_name(name: str) -> None:
    """Check that `name` can be a hub's, and look into the cache alone if there is no network.

    Without a network the hub's client tries each file again for half a minute: 142 s for a model.

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


def can_look_up(host: str) -> bool:
    """Whether the host's address can be found; without a network that takes a few seconds."""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
