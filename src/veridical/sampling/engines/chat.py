"""Responses from a server that speaks OpenAI's chat completions (vLLM, SGLang, ...)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veridical.data.responses import Response
from veridical.data.text.thoughts import answer_of
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator
from veridical.sampling.engines.address import FailedError, StoppedError
from veridical.sampling.engines.server import (
    CUT_OFF,
    ServerSettings,
    open_client,
    read_settings,
    sent_messages,
)
from veridical.sampling.requests import Request

PREFIX = "endpoint:"


@dataclass(frozen=True)
class Refusal:
    """Why the server did not answer a request."""

    reason: str


class Server:
    """A model behind an address."""

    def __init__(self, model: str, given: Mapping[str, object] | None) -> None:
        """Get ready; nothing is sent yet.

        Args:
            model: its name there.
            given: what `--endpoint.NAME VALUE` said; see `ServerSettings`.

        Raises:
            UserError: an option that makes no sense here, or no key for a server elsewhere.
        """
        settings = read_settings(ServerSettings, given)
        self.model = model
        self.client = open_client(settings, malformed_again=True)
        self.address = self.client.address.url

    def tell(self, images: int) -> None:
        """Say what leaves this machine, before anything does."""
        notice = self.client.notice(f"Up to {images} images with their prompts")
        if notice:
            print(notice, flush=True)

    def respond(
        self, requests: Sequence[Request], temperature: float, max_new_tokens: int, seed: int
    ) -> list[Response | Refusal]:
        """Answer every request, in order, several at a time.

        Args:
            requests: what is asked; without a prefix.
            temperature: of sampling.
            max_new_tokens: limit of one response, in tokens.
            seed: each request's own is drawn from it and its id; servers may ignore it.

        Raises:
            UserError: the server is gone, or refuses the key or the model.
        """

        def answer(request: Request) -> Response | Refusal:
            own = int(generator(seed, "server", request.prompt.id).integers(2**31))
            return self._answer(request, temperature, max_new_tokens, own)

        return self.client.ask_all(answer, requests)

    def _answer(
        self, request: Request, temperature: float, max_new_tokens: int, seed: int
    ) -> Response | Refusal:
        body = {
            "model": self.model,
            "messages": sent_messages(request.prompt.messages, request.prompt.images),
            "temperature": temperature,
            "max_tokens": max_new_tokens,
            "seed": seed,
        }
        try:
            completion = self.client.complete(body)
        except StoppedError:
            return Refusal("not asked")
        except FailedError as failed:
            if failed.kind in ("refused", "malformed"):
                return Refusal(failed.problem)
            raise UserError(
                f"{self.address} does not answer ({failed.problem}). Start again when it does: it "
                "goes on where it was."
            ) from failed
        cut = completion.finish_reason in CUT_OFF
        text = answer_of(self.client.redacted(completion.text)).strip()
        return Response(text, stop_reason="length" if cut else "end")
