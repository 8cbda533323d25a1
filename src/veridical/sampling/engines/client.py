"""The one client for servers that speak OpenAI's chat completions.

A try has one limit of time for everything (a server that sends a byte a second does not hold it),
and its reply a limit of size. Redirects are not followed. Loopback addresses are asked directly,
others through the proxy that the environment names. `Retry-After` is honored. A server that fails
alike from the start is left alone after a few questions, of which only one is under way at a time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from veridical.runtime.errors import UserError
from veridical.sampling.engines.address import (
    Address,
    FailedError,
    Kind,
    StoppedError,
    is_local_address,
    proxy_of,
    retry_after,
)
from veridical.sampling.engines.replies import (
    Completion,
    MalformedError,
    error_message,
    read_completion,
)

MOST_BYTES = 16 * 1024 * 1024
"""Of one reply; long answers with the ids of their tokens take a hundredth of it (our choice)."""
AT_START = 5
"""Questions that fail alike before anything succeeded, until the run ends (our choice)."""
FAILURES = 20
"""Questions that fail one after the other, until the server is taken to be down (our choice)."""
SHORTEST_KEY = 8
"""Characters from which a key is looked for in replies; a shorter one is a word by accident."""
TRIED_AGAIN = (408, 409, 429)
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0
"""Seconds between tries where the server names none."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Client:
    """Asks a server, from any number of threads."""

    def __init__(self, address: Address, malformed_again: bool = False) -> None:
        """Get ready; nothing is sent yet.

        Args:
            address: where and how patiently.
            malformed_again: whether to try again after a reply that is not a completion; not where
                such a reply may have been paid for and is counted.
        """
        self.address, self.malformed_again = address, malformed_again
        self.proxy = proxy_of(address.url)
        self._lock, self._first = threading.Lock(), threading.Lock()
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._http: httpx2.AsyncClient | None = None
        self._flying: set[concurrent.futures.Future[Any]] = set()
        self._not_before = 0.0
        self._succeeded = False
        self._failures: list[tuple[Kind, str]] = []

    def notice(self, what: str) -> str:
        """What has to be told before anything is sent; "" if nothing leaves this machine.

        Args:
            what: leaves, such as "Up to 3 images with their prompts".
        """
        if is_local_address(self.address.url):
            return ""
        parts = urlsplit(self.address.url)
        through = f", through the proxy {urlsplit(self.proxy).hostname}" if self.proxy else ""
        plain = " They are not encrypted on the way." if parts.scheme == "http" else ""
        return f"{what} leave this machine, for {parts.hostname}{through}.{plain}"

    def complete(self, body: Mapping[str, object]) -> Completion:
        """Ask for a chat completion.

        Raises:
            FailedError: there is none, after all tries.
            UserError: what concerns every question: the key, the model, the address, or a server
                that only fails.
            StoppedError: the run is over.
        """
        if self._succeeded:
            return self._counted(body)
        with self._first:
            # A wrong address should not get every record before the first reply shows it.
            if not self._succeeded:
                return self._counted(body)
        return self._counted(body)

    def ask_all(
        self, ask: Callable[[Item], Result], items: Iterable[Item], finish_paid: bool = False
    ) -> list[Result]:
        """Ask about every item, `concurrency` at once; the first error stops the others.

        Args:
            ask: one item to what was answered, by way of `complete`.
            items: what is asked about.
            finish_paid: after an error, wait for what is under way and paid for; otherwise, and
                where somebody wants to leave (Ctrl-C), give it up.

        Returns:
            What was answered, in the order of the items.

        Raises:
            Exception: the first error in time, not that of the first item, which may only have
                been stopped by it.
        """
        errors: list[BaseException] = []

        def watched(item: Item) -> Result:
            try:
                return ask(item)
            except BaseException as error:
                # Here, in the thread: until the caller sees the error, others would go on.
                errors.append(error)
                self.stop()
                raise

        pool = concurrent.futures.ThreadPoolExecutor(self.address.concurrency)
        self.start()
        try:
            return list(pool.map(watched, items))
        except BaseException as error:
            self.stop(now=not (finish_paid and isinstance(error, Exception)))
            pool.shutdown(cancel_futures=True)
            # A question that was only stopped may say so before the one that stopped it does.
            causes = [one for one in errors if not isinstance(one, StoppedError)] or errors
            if causes and isinstance(error, Exception):
                raise causes[0] from causes[0].__cause__
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def post(self, path: str, body: Mapping[str, object], again: bool = True) -> None:
        """Send something whose reply does not matter, as to load an adapter.

        Args:
            path: behind the address.
            body: what is sent.
            again: whether to try again after a failure that may pass.

        Raises:
            FailedError: the server refuses it, or does not answer.
            UserError: the key or the address is wrong.
        """
        self._tried(path, body, self.address.retries if again else 0)

    def stop(self, now: bool = False) -> None:
        """Ask nothing more, and wait for nothing; `now` gives up what is under way too."""
        self._stopped.set()
        with self._lock:
            flying = list(self._flying) if now else []
        for future in flying:
            future.cancel()

    def start(self) -> None:
        """Ask again after a stop."""
        self._stopped.clear()

    def redacted(self, text: str, least: int = SHORTEST_KEY) -> str:
        """A text without the key, which some servers quote."""
        key = self.address.key
        return text.replace(key, "(key)") if key and len(key) >= least else text

    def _counted(self, body: Mapping[str, object]) -> Completion:
        try:
            completion = self._completed(body)
        except FailedError as failed:
            self._count(failed)
            raise
        with self._lock:
            self._succeeded = True
            self._failures = []
        return completion

    def _count(self, failed: FailedError) -> None:
        with self._lock:
            if failed.kind == "refused" and self._succeeded:
                # A refused question says nothing of the next one.
                self._failures = []
                return
            self._failures.append((failed.kind, failed.problem))
            count, alike = len(self._failures), len({kind for kind, _ in self._failures}) == 1
            at_start = not self._succeeded and alike and count >= AT_START
            over = at_start or count >= FAILURES
            if over:
                # Here, under the lock: the other threads go on until the error has reached the end.
                self._stopped.set()
        if over:
            begins = f"The first {count}" if not self._succeeded else f"{count}"
            raise UserError(
                f"{begins} questions in a row failed at {self.address.url}; the last: "
                f"{failed.problem}. Check --{self.address.option}.url and what the model there "
                "takes, or start again later: it goes on where it was."
            ) from failed

    def _completed(self, body: Mapping[str, object]) -> Completion:
        for number in range(self.address.retries + 1):
            try:
                return read_completion(self._tried("chat/completions", body, self.address.retries))
            except MalformedError as error:
                if not self.malformed_again or number == self.address.retries:
                    raise FailedError(
                        "malformed", self.redacted(f"it answers with {error}", 1)
                    ) from None
                self._wait(_pause(number))
        raise AssertionError("there is always a try")

    def _tried(self, path: str, body: Mapping[str, object], retries: int) -> bytes:
        data = json.dumps(body).encode()
        for number in range(retries + 1):
            self._wait(self._not_before - time.monotonic())
            try:
                return self._sent(path, data)
            except FailedError as failed:
                if failed.wait is not None:
                    self._hold(failed)
                if failed.kind in ("refused", "malformed") or number == retries:
                    raise
                if failed.wait is None:
                    self._wait(_pause(number))
        raise AssertionError("there is always a try")

    def _hold(self, failed: FailedError) -> None:
        """Let nobody ask before the moment that the server named."""
        wait = failed.wait or 0.0
        if wait > self.address.max_wait:
            raise UserError(
                f"{self.address.url} asks to wait {wait:,.0f} s ({failed.problem}); "
                f"--{self.address.option}.max_wait allows {self.address.max_wait:g}. Start again "
                "then: it goes on where it was."
            )
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + wait)

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise StoppedError

    def _sent(self, path: str, data: bytes) -> bytes:
        """One try: the body of a reply with status 2xx."""
        status, headers, body = self._exchanged(f"{self.address.url}/{path}", data)
        if 200 <= status < 300:
            return body
        if 300 <= status < 400:
            place = str(headers.get("location", "nowhere"))
            host = urlsplit(place).hostname or urlsplit(self.address.url).hostname
            raise UserError(
                f"{self.address.url} redirects to {host}, and redirects are not followed: nothing "
                f"was sent there. Give the final address as --{self.address.option}.url."
            )
        said = self.redacted(error_message(body), 1)
        if status in (401, 403, 404):
            raise UserError(
                f"{self.address.url} refuses with status {status} ({said}). Check the address, the "
                f"model's name there, and the key in {self.address.key_variable}."
            )
        if status in TRIED_AGAIN or status >= 500:
            raise FailedError("busy", f"status {status}: {said}", retry_after(headers))
        raise FailedError("refused", f"the endpoint refused it: status {status}: {said}")

    def _exchanged(self, url: str, data: bytes) -> tuple[int, httpx2.Headers, bytes]:
        with self._lock:
            if self._stopped.is_set():
                raise StoppedError
            future = asyncio.run_coroutine_threadsafe(self._exchange(url, data), self._running())
            self._flying.add(future)
        try:
            return future.result()
        except TimeoutError:
            raise FailedError("timeout", f"no reply within {self.address.timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            said = self.redacted(str(error) or type(error).__name__, 1)[:200]
            raise FailedError("connection", f"the connection failed: {said}") from None
        except concurrent.futures.CancelledError:
            raise StoppedError from None
        finally:
            with self._lock:
                self._flying.discard(future)

    async def _exchange(self, url: str, data: bytes) -> tuple[int, httpx2.Headers, bytes]:
        if self._http is None:
            self._http = httpx2.AsyncClient(
                verify=httpx2.create_ssl_context(),
                proxy=self.proxy,
                trust_env=False,
                follow_redirects=False,
                timeout=None,
                limits=httpx2.Limits(max_connections=None),
            )
        headers = {
            "content-type": "application/json",
            "accept": "application/json",
            "accept-encoding": "identity",
            # On a connection that is used again, a reply that a server delivers twice would be
            # taken for the reply to the next question.
            "connection": "close",
            "user-agent": "veridical",
        }
        if self.address.key:
            headers["authorization"] = f"Bearer {self.address.key}"
        body = bytearray()
        async with (
            asyncio.timeout(self.address.timeout),
            self._http.stream("POST", url, content=data, headers=headers) as response,
        ):
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    problem = f"it answers with more than {MOST_BYTES >> 20} MiB"
                    raise FailedError("malformed", problem)
            return response.status_code, response.headers, bytes(body)

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, in a thread of its own: there, everything can be given up at any moment."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=self._loop.run_forever, name="veridical-client", daemon=True
            ).start()
        return self._loop


def _pause(number: int) -> float:
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0**number)
    # Spread out, so that questions that failed together don't come back together.
    return wait * (0.75 + 0.25 * (time.monotonic_ns() % 1009) / 1009)
