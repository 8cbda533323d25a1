"""Responses from a server that speaks OpenAI's chat completions (vLLM, SGLang, transformers serve).

Time-outs, retries and what a reply may look like are in `judges.client`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from veridical.data.messages import Message
from veridical.data.text.thoughts import answer_of
from veridical.judges.client import FailedError, StoppedError
from veridical.judges.endpoint import CUT_OFF, endpoint_settings, open_client, sent_messages
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator
from veridical.sampling import StopReason

PREFIX = "endpoint:"
OPTIONS = ("url", "key_variable", "concurrency", "retries", "timeout", "max_wait")


@dataclass(frozen=True)
class Ask:
    """One response that is wanted.

    Attributes:
        id: keys the seed; distinct for distinct draws.
        images: in the order of the prompt's image blocks.
        messages: the prompt.
    """

    id: str
    images: Sequence[Any]
    messages: Sequence[Message]


@dataclass(frozen=True)
class Said:
    """What the server answered, or why it would not."""

    text: str = ""
    stop_reason: StopReason = "end"
    refusal: str | None = None


class Server:
    """A model behind an address."""

    def __init__(self, model: str, given: Mapping[str, Any] | None) -> None:
        """Get ready; nothing is sent yet.

        Args:
            model: its name there.
            given: what `--endpoint.NAME VALUE` said; see `OPTIONS`.

        Raises:
            UserError: an option that makes no sense here, or no key for a server elsewhere.
        """
        other = [name for name in given or {} if name not in OPTIONS]
        if other:
            raise UserError(
                f"--endpoint.{other[0]} means nothing here; there is: {', '.join(OPTIONS)}."
            )
        settings = endpoint_settings(given)
        self.model, self.concurrency = model, settings.concurrency
        self.client = open_client(settings, malformed_again=True)
        self.address = self.client.address.url

    def tell(self, images: int) -> None:
        """Say what leaves this machine, before anything does."""
        notice = self.client.notice(f"Up to {images} images with their prompts")
        if notice:
            print(notice, flush=True)

    def respond(
        self, asks: Sequence[Ask], temperature: float, max_new_tokens: int, seed: int
    ) -> list[Said]:
        """Answer every request, in order, several at a time.

        Args:
            asks: what is wanted.
            temperature: of sampling.
            max_new_tokens: limit of one response, in tokens.
            seed: each request's own is drawn from it and its id; servers may ignore it.

        Raises:
            UserError: the server is gone, or refuses the key or the model.
        """

        def answer(ask: Ask) -> Said:
            own = int(generator(seed, "server", ask.id).integers(2**31))
            return self._answer(ask, temperature, max_new_tokens, own)

        pool = ThreadPoolExecutor(self.concurrency)
        self.client.start()
        try:
            return list(pool.map(answer, asks))
        except BaseException:
            self.client.stop(now=True)
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, ask: Ask, temperature: float, max_new_tokens: int, seed: int) -> Said:
        body = {
            "model": self.model,
            "messages": sent_messages(ask.messages, ask.images),
            "temperature": temperature,
            "max_tokens": max_new_tokens,
            "seed": seed,
        }
        try:
            completion = self.client.complete(body)
        except StoppedError:
            return Said(refusal="not asked")
        except FailedError as failed:
            if failed.kind in ("refused", "malformed"):
                return Said(refusal=failed.problem)
            raise UserError(
                f"{self.address} does not answer ({failed.problem}). Start again when it does: it "
                "goes on where it was."
            ) from failed
        cut = completion.finish_reason in CUT_OFF
        text = answer_of(self.client.redacted(completion.text)).strip()
        return Said(text, "length" if cut else "end")
