"""Samples from an engine elsewhere that holds the policy's weights (a vLLM server, say).

What such an engine says is only as good as what is known of it. So it has to give the token ids
that it sampled, and say which weights sampled them; weights that are too old are refused; and
log-probabilities are always computed here, by the policy with the pixels, never taken over.

The policy's adapter is handed over as a folder that the server loads under a name of its own
attempt and version (`POST /v1/load_lora_adapter`), and that name has to come back with every
answer. An adapter that is no longer asked for is unloaded, and its folder is deleted after that: a
server may read it again as long as it has the name.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veridical.data.responses import Response
from veridical.models.policy import Policy, end_token_ids
from veridical.models.prompt_texts import in_thought
from veridical.models.templates import resolved_variables
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import writing
from veridical.runtime.randomness import generator
from veridical.sampling.choice import never_sampled
from veridical.sampling.engines.address import FailedError
from veridical.sampling.engines.recomputing import recomputed
from veridical.sampling.engines.replies import Completion
from veridical.sampling.engines.server import (
    ServerSettings,
    open_client,
    read_settings,
    sent_messages,
)
from veridical.sampling.reader import Reader
from veridical.sampling.requests import Decoding, Request
from veridical.sampling.rollouts import roll_out

UNCHANGED: dict[str, object] = {
    "top_k": -1,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "stop": [],
    "bad_words": [],
}
"""Sampling settings that leave the policy's distribution as it is: a server takes what is not given
from the checkpoint's generation settings (Qwen2.5-VL's have a repetition penalty)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NEEDS = "Start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."


@dataclass(frozen=True)
class EngineReply:
    """What the engine said, checked.

    Attributes:
        response: tokens without a text and without log-probs; `length` if it has no end token: a
            limit, or whatever else the server stops for, cut it.
        prompt: the tokens that it answered to, if the server says.
    """

    response: Response
    prompt: list[int] | None = None


@dataclass(frozen=True)
class EngineSettings(ServerSettings):
    """Where the engine is, and what is taken from it.

    Attributes:
        name: what the adapters' names there begin with.
        max_staleness: by how many steps the weights that sampled may be older than asked for.
    """

    name: str = "veridical"
    max_staleness: int = 0


def engine_settings(given: Mapping[str, object]) -> EngineSettings:
    """Check the values of `--engine.NAME VALUE`.

    Raises:
        UserError: as for `read_settings`, or a name that can't name a folder.
    """
    settings = read_settings(EngineSettings, given, "engine")
    if not NAME.fullmatch(settings.name):
        raise UserError(
            f"--engine.name is {settings.name[:60]!r}; it names folders too. Give up to 64 "
            "letters, digits, points, hyphens or underscores, a letter or digit first."
        )
    return settings


class Engine:
    """A server of OpenAI's chat completions that loads adapters."""

    def __init__(self, given: Mapping[str, object], folder: Path) -> None:
        """Get ready; nothing is sent yet.

        Args:
            given: what `--engine.NAME VALUE` said, see `EngineSettings`.
            folder: gets the adapters that are handed over; the server has to see it as well.

        Raises:
            UserError: an option that makes no sense, or no key for a server elsewhere.
        """
        settings = engine_settings(given)
        self.name, self.max_staleness = settings.name, settings.max_staleness
        self.folder = folder
        self.client = open_client(settings, "engine", malformed_again=True)
        self.address = self.client.address.url
        # A server may still have the names of another run, or of this one before it was killed.
        self.attempt = processes.from_first(lambda: secrets.token_hex(3))
        self.published: int | None = None
        self.told = self.told_of_leftovers = False

    def tell(self) -> None:
        """Say what leaves this machine, before anything does."""
        notice = self.client.notice("Images with their prompts")
        if notice:
            print(notice, flush=True)

    def publish(self, policy: Policy, version: int) -> None:
        """Hand the policy's adapter over as this version; all processes have to take part.

        Raises:
            UserError: the server does not load adapters.
        """
        if self.published == version:
            return
        if processes.is_first():
            if self.published is None:
                self._clean()
            adapter = self.folder / self._called(version)
            with writing(adapter, "Make room, and go on with --resume true."):
                policy.model.save_pretrained(str(adapter), selected_adapters=["default"])
            self._load(self._called(version), adapter)
            if self.published is not None:
                self._tell_of(self._forget(self._called(self.published)))
        processes.wait_for_all()
        self.published = version

    def close(self) -> None:
        """Unload the last version, and delete its folder; the run needs it no more."""
        if processes.is_first():
            for problem in self._clean():
                self._tell_of(problem)
        self.published = None

    def _tell_of(self, problem: str | None) -> None:
        """Say it once: it is the same at every step."""
        if problem is not None and not self.told_of_leftovers:
            print(f"An adapter that is no longer asked for is left: {problem}.")
            self.told_of_leftovers = True

    def _clean(self) -> list[str]:
        """Unload and delete every adapter in the folder; what the server said against it."""
        there = sorted(self.folder.glob("*-*")) if self.folder.is_dir() else []
        return [problem for one in there if (problem := self._forget(one.name)) is not None]

    def _forget(self, name: str) -> str | None:
        """Unload an adapter and delete its folder; what was in the way of either.

        It is asked once: a run need not wait for what nobody asks for any more.
        """
        problem = None
        try:
            self.client.post("unload_lora_adapter", {"lora_name": name}, again=False)
        except (FailedError, UserError) as failed:
            # It may have been started anew since, and so not have the name; anything else that is
            # wrong stops the next load or answer.
            problem = f"{self.address} does not unload it ({failed})"
        try:
            shutil.rmtree(self.folder / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = f"its folder can't be deleted ({error})"
        return problem

    def sample(
        self,
        policy: Policy,
        requests: Sequence[Request],
        decoding: Decoding,
        k: int,
        version: int,
    ) -> list[list[Response]]:
        """Answer every request k times, as `roll_out` does.

        Args:
            policy: computes the log-probs, and says what may not be sampled.
            requests: what is asked.
            decoding: temperature, limit and seed; an engine's noise is its own.
            k: responses to each.
            version: the step whose weights are wanted.

        Raises:
            UserError: answers without token ids or version, by weights that are too old, of tokens
                that may not be sampled, or to another prompt.
        """
        self.publish(policy, version)
        asked = [(request, number) for request in requests for number in range(k)]

        def answer(one: tuple[Request, int]) -> EngineReply:
            return self._answer(policy, one[0], one[1], decoding, version)

        answers = self.client.ask_all(answer, asked)
        requests_of_rows = [request for request, _ in asked]
        reader = Reader(policy.processor.tokenizer, requests_of_rows, in_thought(policy))
        read = (reader.read(row, one.response, False) for row, one in enumerate(answers))
        said = [replace(response, text=response.text.strip()) for response in read]
        rows = [said[start : start + k] for start in range(0, len(said), k)]
        prompts = [answer.prompt for answer in answers]
        if None in prompts and not self.told:
            print(f"Whether {self.address} reads the prompts read here is not checked: it does not "
                  "give their tokens.")  # fmt: skip
            self.told = True
        return recomputed(
            policy, requests, rows, decoding,
            [prompts[start : start + k] for start in range(0, len(said), k)], self.address,
        )  # fmt: skip

    def _answer(
        self, policy: Policy, request: Request, number: int, decoding: Decoding, version: int
    ) -> EngineReply:
        seed = int(
            generator(decoding.seed, "engine", f"{request.prompt.id}/{number}").integers(2**31)
        )
        body = {
            "model": self._called(version),
            "messages": sent_messages(request.prompt.messages, request.prompt.images),
            "temperature": decoding.temperature,
            "max_tokens": decoding.max_new_tokens,
            "seed": seed,
            "return_token_ids": True,
            **UNCHANGED,
            **truncation_options(decoding),
            **template_options(policy),
        }
        completion = self._completed(body, request)
        choice = completion.choices[0]
        ids = choice.token_ids
        if not ids:
            raise UserError(
                f"{self.address} gives no token ids, and text tokenized again would be another "
                "sample. Use a server that knows `return_token_ids` (vLLM 0.10.2 or later)."
            )
        # Servers have many reasons to stop; whether an answer is whole, only its end token tells.
        cut = ids[-1] not in end_token_ids(policy)
        if cut and choice.finish_reason == "stop":
            raise UserError(
                f"What {self.address} answered to row {request.prompt.id} stopped by itself "
                "without an end token; it can't be used. Serve the model without stop strings of "
                "its own."
            )
        stamp = self._version(completion.model, version)
        found = Response("", tuple(ids), (), "length" if cut else "end", stamp)
        _require_sane(policy, found, request, self.address)
        return EngineReply(found, completion.prompt_token_ids)

    def _completed(self, body: Mapping[str, object], request: Request) -> Completion:
        try:
            return self.client.complete(body)
        except FailedError as error:
            raise UserError(
                f"{self.address} does not answer row {request.prompt.id}: {error}. Go on with "
                "--resume true when it does."
            ) from error

    def _version(self, stamp: object, wanted: int) -> int:
        prefix, _, number = str(stamp).rpartition("-")
        if prefix != f"{self.name}-{self.attempt}" or not number.isdigit():
            raise UserError(
                f"{self.address} does not say which weights answered (it says {str(stamp)[:60]!r}, "
                f"not {self._called(wanted)!r})."
            )
        if wanted - int(number) > self.max_staleness:
            raise UserError(
                f"{self.address} answered with the weights of step {number} at step {wanted}; "
                f"--engine.max_staleness allows {self.max_staleness}."
            )
        return int(number)

    def _called(self, version: int) -> str:
        return f"{self.name}-{self.attempt}-{version}"

    def _load(self, name: str, adapter: Path) -> None:
        """Have the server load an adapter.

        Raises:
            UserError: it does not.
        """
        content = {"lora_name": name, "lora_path": str(adapter.resolve())}
        try:
            self.client.post("load_lora_adapter", content)
        except FailedError as failed:
            # The name is this attempt's alone, so it was a try of ours whose reply was lost or came
            # too late.
            if failed.kind == "refused" and "already" in failed.problem:
                return
            raise UserError(
                f"{self.address}/load_lora_adapter fails: {failed.problem}. {NEEDS} It has to see "
                f"{self.folder} too."
            ) from failed


def sample(
    engine: Engine | None,
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    k: int,
    version: int,
) -> list[list[Response]]:
    """Answer every request k times, elsewhere if there is an engine, else here."""
    if engine is None:
        return roll_out(policy, requests, decoding, k, version)
    return engine.sample(policy, requests, decoding, k, version)


def truncation_options(decoding: Decoding) -> dict[str, object]:
    """What a server has to be told of tokens that are left out."""
    return {
        "top_p": decoding.top_p, "top_k": decoding.top_k or -1,
        "min_tokens": decoding.min_new_tokens,
    }  # fmt: skip


def template_options(policy: Policy) -> dict[str, object]:
    """What a server has to give its chat template, to read the prompt that is read here."""
    variables = resolved_variables(policy.processor, policy.template)
    return {"chat_template_kwargs": variables} if variables else {}


def _require_sane(policy: Policy, answer: Response, request: Request, address: str) -> None:
    ends, banned = end_token_ids(policy), set(never_sampled(policy))
    ids = answer.token_ids
    wrong = ""
    if banned & set(ids):
        wrong = "holds image, padding or begin tokens"
    elif ends & set(ids[:-1]):
        wrong = "goes on after its end token"
    if wrong:
        raise UserError(
            f"What {address} answered to row {request.prompt.id} {wrong}; it can't be used."
        )
