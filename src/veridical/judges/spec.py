"""Which judge is asked, from one text such as `local:MODEL`, and the one place that opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.judges.endpoint import Endpoint, EndpointSettings, Wording
from veridical.judges.kinds import check_kind
from veridical.judges.local import local_asker
from veridical.judges.prompted import Asker
from veridical.models.load import load_placed
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import model_folders
from veridical.runtime.options import Placement
from veridical.sampling import Decoding

SPENT = "spent.jsonl"


@dataclass(frozen=True)
class JudgeSpec:
    """Which judge, and what decides its replies.

    Attributes:
        judge: one of `SHAPES`.
        attempts: how often a model is asked at most, until a reply can be read.
        temperature: of the first reply; None leaves it to an endpoint.
        retry_temperature: of later ones.
        max_new_tokens: limit of one reply, in tokens.
        facts: whether the judge sees the records' facts.
        seed: of the order of responses, and of sampling.
        template: given to a local model's chat template.
    """

    judge: str
    attempts: int
    temperature: float | None
    retry_temperature: float
    max_new_tokens: int
    facts: bool
    seed: int
    template: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Which kind of judge."""
        return self.judge.partition(":")[0]

    @property
    def model(self) -> str:
        """The model or folder behind the colon."""
        return self.judge.partition(":")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is a model on this machine, through Transformers, that replies in words."""
        return self.kind == "local"

    @property
    def folders(self) -> list[Path]:
        """The folder that a model on this machine is loaded from, if it is one."""
        return model_folders(self.model) if self.kind in ("local", "reward") else []

    def check(self, kinds: Sequence[str]) -> None:
        """Refuse what makes no sense, before anything is loaded.

        Raises:
            UserError: names the option.
        """
        check_kind(self.judge, kinds)
        for name, value in (("attempts", self.attempts), ("max-new-tokens", self.max_new_tokens)):
            if value < 1:
                raise UserError(f"--{name} is {value}; give 1 or more.")
        if self.template and not self.is_local:
            raise UserError(f"--template is for --judge local:MODEL, which {self.judge} is not.")
        if (self.temperature or 0) < 0 or self.retry_temperature < 0:
            raise UserError("--temperature and --retry-temperature can't be below 0.")
        if self.is_local and self.temperature is None:
            raise UserError("--temperature has to be a number for a judge on this machine.")
        if self.is_local and self.attempts > 1 and self.retry_temperature == 0:
            raise UserError(
                "--retry-temperature 0 gives the same reply again. Set it above 0, or --attempts 1."
            )


@dataclass(frozen=True)
class Opened:
    """A judge that is ready to be asked.

    Attributes:
        ask: asks it.
        policy: the model on this machine, or None.
        endpoint: what asks elsewhere, or None.
    """

    ask: Asker
    policy: Policy | None = None
    endpoint: Endpoint | None = None


def open_judge(
    spec: JudgeSpec,
    settings: EndpointSettings,
    out: Path,
    batch_size: int,
    placement: Placement,
) -> Opened:
    """Load the model that replies in words, or get ready to ask the endpoint.

    Args:
        spec: of kind `local` or `endpoint`.
        settings: of an endpoint.
        out: the run's folder, for an endpoint's ledger.
        batch_size: questions at once, of a model on this machine.
        placement: where and in what numbers that model computes.

    Raises:
        UserError: neither can be had.
    """
    if spec.is_local:
        policy = load_placed(spec.model, placement, spec.template)
        decoding = Decoding(spec.max_new_tokens, spec.temperature or 0.0, spec.seed, batch_size)
        return Opened(local_asker(policy, decoding, spec.retry_temperature), policy=policy)
    wording = Wording(
        spec.model, spec.max_new_tokens, spec.temperature, spec.retry_temperature, spec.seed
    )
    endpoint = Endpoint(wording, settings, out / SPENT)
    return Opened(endpoint, endpoint=endpoint)
