"""Fresh responses while a model trains: their options, and what is refused on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.data.responses import Response
from veridical.models.load import starts_from_adapter
from veridical.models.model_argument import Model, name_of
from veridical.models.refused_rows import leave_out_refused
from veridical.runtime.errors import UserError
from veridical.runtime.progress import part_of
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.adapters import Engine, engine_settings
from veridical.sampling.engines.server import open_client
from veridical.sampling.truncation import check_truncation
from veridical.train.loop.left_out import LeftOut
from veridical.train.options import Training


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Fresh responses.

    Attributes:
        temperature: of sampling; 1 samples from the policy itself.
        top_p: leave out tokens beyond this share of the probability; 1 leaves none out.
        top_k: leave out all but so many tokens; 0 leaves none out.
        max_new_tokens: limit of one response, in tokens.
        min_new_tokens: tokens before a response may end.
        rollout_steps: optimizer steps that one round of sampling is for; with 1 every response is
            the current weights' own.
        rollout_batch: responses made at once; it changes none of them.
        engine: have a server sample that loads adapters, such as vLLM: url, name (of the adapters
            there), max_staleness (in steps), key_variable, concurrency, retries, timeout
            (seconds). For adapters on a base that the server has.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 128
    min_new_tokens: int = 0
    rollout_steps: int = 1
    rollout_batch: int = 64
    engine: dict[str, object] | None = None

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            UserError: names the option.
        """
        if self.temperature <= 0:
            raise UserError(
                f"--temperature is {self.temperature:g}; without noise all responses are the same. "
                "Set it above 0."
            )
        for name in ("max_new_tokens", "rollout_steps", "rollout_batch"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {getattr(self, name)}; give 1 or more.")
        check_truncation(self.decoding(0))
        engine_settings(self.engine or {})

    def decoding(self, seed: int) -> Decoding:
        """How tokens of fresh responses are chosen."""
        return Decoding(
            self.max_new_tokens, self.temperature, seed, self.rollout_batch, self.top_p,
            self.top_k, self.min_new_tokens,
        )  # fmt: skip

    def check_engine(self, model: Model, training: Training) -> None:
        """Refuse to have a server sample what it could not load, before anything is loaded.

        Raises:
            UserError: what is trained is not an adapter that a server takes, or an option of the
                server makes no sense.
        """
        if self.engine is None:
            return
        odd = training.tuning == "full" or training.train_projector or training.train_vision
        if odd or starts_from_adapter(name_of(model), training.init_adapter):
            raise UserError(
                "--engine takes adapters of the language model on the model's own weights. Set "
                "--tuning lora without --train-projector, and start from a whole model."
            )
        if training.lora_dora:
            raise UserError("--engine: servers load no DoRA adapters. Leave --lora-dora out.")
        open_client(engine_settings(self.engine), "engine")

    def open_engine(self, model: Model, training: Training, out: Path) -> Engine | None:
        """The server that samples, if there is one.

        Raises:
            UserError: as for `check_engine`.
        """
        self.check_engine(model, training)
        if self.engine is None:
            return None
        engine = Engine(self.engine, out / "engine")
        engine.tell()
        return engine


def refuse_here(training: Training, *refused: str) -> None:
    """Refuse options of training that mean nothing where rows are made on the way, and others.

    Raises:
        UserError: names the option.
    """
    if training.data_weights is not None:
        raise UserError(
            "--data-weights is not offered by this command, which would sample the same responses "
            "to a prompt that comes twice. Leave it out; --more-data is taken."
        )
    for name in ("dry_run", *refused):
        if getattr(training, name):
            raise UserError(
                f"--{name.replace('_', '-')} is not offered by this command, which samples "
                "its rows. Leave it off."
            )
    if training.group_by_length != "no":
        raise UserError(
            "--group-by-length is not offered by this command, whose rows have no length before "
            "they are sampled. Leave it out."
        )
    sharded = any(
        os.environ.get(name, "").lower() == "true"
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )
    if sharded:
        raise UserError(
            "Sampling needs the whole model in every process. Launch with plain data parallelism "
            "(torchrun, or accelerate without FSDP and DeepSpeed)."
        )


def sample_usable(
    left_out: LeftOut | None,
    asked: Sequence[Request],
    answer: Callable[[list[Request]], list[list[Response]]],
) -> tuple[list[list[Response]], list[int]]:
    """Responses to the requests whose images the processor takes.

    Args:
        left_out: takes the other prompts, of which nothing is sampled again.
        asked: their ids are those of prompts, with the step behind a slash.
        answer: samples.

    Returns:
        The responses, and the places of the requests that they answer.
    """
    if left_out is None:
        return answer(list(asked)), list(range(len(asked)))
    said, refused = leave_out_refused(
        [request.prompt.id for request in asked],
        lambda left: answer([asked[place] for place in left]),
    )
    for place, reason in refused.items():
        left_out.note(
            {(prompt_id_of(asked[place].prompt.id), len(asked[place].prompt.images)): reason}
        )
    return said, [place for place in range(len(asked)) if place not in refused]


def prompt_id_of(asked: str) -> str:
    """The id of the prompt that a request asks: the step that it is asked at follows a slash."""
    return asked.rpartition("/")[0]


def refuse_unscored(
    step: int,
    unscored: int,
    asked: int,
    problems: Sequence[str],
    most: float,
    held_out: bool = False,
) -> None:
    """Stop at a step of which too much has no verdict: nothing would be learned from it.

    Args:
        step: which, from 1.
        unscored: its prompts without a verdict, over all processes.
        asked: all its prompts.
        problems: why.
        most: `--max-bad-fraction`.
        held_out: whether these are the held-out prompts, which means are taken over.

    Raises:
        UserError: says how many, and the first reasons.
    """
    if unscored <= most * asked:
        return
    first = "; ".join(dict.fromkeys(problems[:3]))
    what, end = ("held-out prompts", "") if held_out else ("prompts", " to learn from")
    raise UserError(
        f"At step {step}, {part_of(unscored, asked, what, 'has', 'have')} no verdict{end}; more "
        f"than --max-bad-fraction {most:g} allows. {first}"
    )
