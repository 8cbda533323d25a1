"""Where a server is, how it is reached, and what goes wrong there."""

from __future__ import annotations

import email.utils
import ipaddress
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

Kind = Literal["refused", "busy", "timeout", "connection", "malformed"]


@dataclass(frozen=True)
class Address:
    """Where to ask, and how patiently.

    Attributes:
        url: with the version, such as http://localhost:8000/v1.
        key: sent as bearer; "" for none.
        concurrency: questions under way at once.
        retries: further tries after a failure that may pass.
        timeout: seconds that one try may take, from the connection to the last byte.
        max_wait: seconds that the server may ask to wait (`Retry-After`).
        option: `endpoint` or `engine`, for messages.
        key_variable: where the key is from, for messages.
    """

    url: str
    key: str
    concurrency: int
    retries: int
    timeout: float
    max_wait: float
    option: str
    key_variable: str


class FailedError(Exception):
    """A question without an answer."""

    def __init__(self, kind: Kind, problem: str, wait: float | None = None) -> None:
        """Say which kind it is, what happened, and for how many seconds the server asks to wait."""
        super().__init__(problem)
        self.kind, self.problem, self.wait = kind, problem, wait


class StoppedError(Exception):
    """The run is over; the question was not asked."""


def is_local_address(url: str) -> bool:
    """Whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address; never one for this machine itself."""
    parts = urlsplit(url)
    if is_local_address(url) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = getproxies()
    found = named.get(parts.scheme) or named.get("all")
    return f"http://{found}" if found and "://" not in found else found or None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a server asks to wait: `retry-after-ms`, or seconds or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        moment = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - time.time())
