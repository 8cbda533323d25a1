"""Responses from a server that speaks OpenAI's chat completions (vLLM, SGLang, transformers serve).

Time-outs, retries and back-off are the `openai` client's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from veridical.errors import UserError
from veridical.judges.endpoint import endpoint_settings, endpoint_url, is_here, sent_messages
from veridical.messages import Message
from veridical.randomness import generator
from veridical.sampling import StopReason
from veridical.thoughts import answer_of

PREFIX = "endpoint:"
CUT_OFF = ("length", "max_tokens", "content_filter")
"""How servers call it that a text did not end by itself."""
OPTIONS = ("url", "key_variable", "concurrency", "retries", "timeout")


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
        self.model, self.address = model, endpoint_url(settings)
        self.concurrency, self.key_variable = settings.concurrency, settings.key_variable
        self.key = os.environ.get(self.key_variable, "")
        if not self.key and not is_here(self.address):
            raise UserError(
                f"The variable {self.key_variable} holds no key for {self.address}. Set it, or "
                "name another one with --endpoint.key_variable."
            )
        self.client = openai.OpenAI(
            api_key=self.key or "none",
            base_url=self.address,
            timeout=settings.timeout,
            max_retries=settings.retries,
        )

    def tell(self, images: int) -> None:
        """Say what leaves this machine, before anything does."""
        if not is_here(self.address):
            host = urlsplit(self.address)
            plain = " They are not encrypted on the way." if host.scheme == "http" else ""
            print(
                f"Up to {images} images with their prompts leave this machine, for "
                f"{host.hostname}.{plain}"
            )

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
        try:
            return list(pool.map(answer, asks))
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, ask: Ask, temperature: float, max_new_tokens: int, seed: int) -> Said:
        try:
            completion: Any = self.client.chat.completions.create(
                model=self.model,
                messages=sent_messages(ask.messages, ask.images),
                temperature=temperature,
                max_tokens=max_new_tokens,
                seed=seed,
            )
        except (
            openai.AuthenticationError,
            openai.PermissionDeniedError,
            openai.NotFoundError,
        ) as error:
            raise UserError(
                f"{self.address} refuses {self.model} with status {error.status_code}. Check the "
                f"address, the model's name there, and the key in {self.key_variable}."
            ) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return Said(refusal=f"the server refused it: {self._redacted(error)}")
        except openai.APIError as error:
            raise UserError(
                f"{self.address} does not answer ({self._redacted(error)}). Start again when it "
                "does: it goes on where it was."
            ) from error
        if not completion.choices:
            return Said(refusal="the server's answer has no choice")
        choice = completion.choices[0]
        cut = choice.finish_reason in CUT_OFF
        return Said(answer_of(choice.message.content or "").strip(), "length" if cut else "end")

    def _redacted(self, error: openai.APIError) -> str:
        """What the server said, without the key, which some quote."""
        said = str(error.message)
        return (said.replace(self.key, "(key)") if self.key else said)[:200]
