"""Records for judges, and the judge that `--judge` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.builders._parts import model_identity
from veridical.builders._rated import RatedSample, rated_samples
from veridical.data.images import row_images
from veridical.data.messages import clean_messages, count_images
from veridical.data.records import RecordSet
from veridical.data.text.thoughts import answer_of
from veridical.judges.criterion import Criterion
from veridical.judges.endpoint import Endpoint, EndpointSettings, Wording
from veridical.judges.judging import Case, Cost
from veridical.judges.local import local_asker
from veridical.judges.prompted import Asker
from veridical.models.load import DtypeName, load_policy
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import model_folders
from veridical.runtime.runs import Run
from veridical.sampling import Decoding

SPENT = "spent.jsonl"


@dataclass(frozen=True)
class Wanted:
    """Which judge, and what decides its replies.

    Attributes:
        judge: `local:MODEL` or `endpoint:MODEL`.
        attempts: how often at most, until a reply can be read.
        temperature: of the first reply; None leaves it to an endpoint.
        retry_temperature: of later ones.
        max_new_tokens: limit of one reply.
        facts: whether the judge is told the records' facts.
        seed: of the order of responses, and of sampling.
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
    def model(self) -> str:
        """The model's name."""
        return self.judge.partition(":")[2]

    @property
    def folders(self) -> list[Path]:
        """The folder that a model on this machine is loaded from, if it is one."""
        return model_folders(self.model) if self.is_local else []

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine, through Transformers."""
        return self.judge.startswith("local:")


@dataclass(frozen=True)
class Opened:
    """A judge that is ready.

    Attributes:
        ask: asks it.
        policy: the model on this machine, or None.
        endpoint: what asks elsewhere, or None.
    """

    ask: Asker
    policy: Policy | None = None
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class JudgedSample:
    """A record with what a judge sees of it."""

    sample: RatedSample
    case: Case

    @property
    def id(self) -> str:
        """The record's id."""
        return self.sample.id

    @property
    def images(self) -> Sequence[Any]:
        """The record's images."""
        return self.case.images


def check_wanted(wanted: Wanted, kinds: Sequence[str]) -> None:
    """Refuse what makes no sense, before anything is loaded.

    Raises:
        UserError: names the option.
    """
    kind, _, model = wanted.judge.partition(":")
    if kind not in kinds or (kind == "exact") == bool(model):
        shown = ", ".join(one if one == "exact" else f"{one}:MODEL" for one in kinds)
        raise UserError(f"--judge {wanted.judge} is none of {shown}.")
    for name, value in (("attempts", wanted.attempts), ("max-new-tokens", wanted.max_new_tokens)):
        if value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more.")
    if wanted.template and not wanted.is_local:
        raise UserError(f"--template is for --judge local:MODEL, which {wanted.judge} is not.")
    if (wanted.temperature or 0) < 0 or wanted.retry_temperature < 0:
        raise UserError("--temperature and --retry-temperature can't be below 0.")
    if wanted.is_local and wanted.temperature is None:
        raise UserError("--temperature has to be a number for a judge on this machine.")
    if wanted.is_local and wanted.attempts > 1 and wanted.retry_temperature == 0:
        raise UserError(
            "--retry-temperature 0 gives the same reply again. Set it above 0, or --attempts 1."
        )


def open_judge(
    wanted: Wanted,
    settings: EndpointSettings,
    out: Path,
    batch_size: int,
    dtype: DtypeName,
    device: str,
) -> Opened:
    """Load the model, or get ready to ask the endpoint.

    Raises:
        UserError: neither can be had.
    """
    if wanted.is_local:
        policy = load_policy(wanted.model, dtype, device, template=wanted.template)
        decoding = Decoding(
            wanted.max_new_tokens, wanted.temperature or 0.0, wanted.seed, batch_size
        )
        return Opened(local_asker(policy, decoding, wanted.retry_temperature), policy=policy)
    wording = Wording(
        wanted.model,
        wanted.max_new_tokens,
        wanted.temperature,
        wanted.retry_temperature,
        wanted.seed,
    )
    endpoint = Endpoint(wording, settings, out / SPENT)
    return Opened(endpoint, endpoint=endpoint)


def identity(run: Run, wanted: Wanted, criterion: Criterion, opened: Opened) -> dict[str, Any]:
    """What decides the verdicts, besides the data and the command's own options."""
    where: dict[str, str] = {}
    if opened.policy is not None:
        where = model_identity(run, "judge", opened.policy, wanted.model)
    elif opened.endpoint is not None:
        where = {"url": opened.endpoint.url}
    return {"wanted": vars(wanted), "criterion": criterion.sha256, **where}


def judged_samples(records: RecordSet, limit: int | None) -> list[JudgedSample]:
    """The records as cases; images are opened when they are needed."""
    pictures = records.rows.select_columns(["images"])
    found = []
    for index, sample in enumerate(rated_samples(records.rows)):
        if limit is not None and index >= limit:
            break
        prompt = clean_messages(sample.row["prompt"])
        images = row_images(pictures, index, count_images(prompt))
        names = [Path(image["path"] or "").stem for image in sample.row["images"]]
        facts = sample.row.get("facts") or ()
        said = tuple(answer_of(text) for text in sample.texts)
        found.append(JudgedSample(sample, Case(sample.id, prompt, said, images, names, facts)))
    return found


def tell(opened: Opened, samples: Sequence[JudgedSample]) -> None:
    """Say what leaves the machine, before it does."""
    if opened.endpoint is None:
        return
    notice = opened.endpoint.notice(sum(len(sample.case.images) for sample in samples))
    if notice:
        print(notice, flush=True)


def cost_summary(rows: Sequence[Mapping[str, Any]], questions: int, opened: Opened | None) -> Any:
    """Tokens, dollars and replies of all verdicts, and what was paid in this folder altogether."""
    total = sum((Cost(**row) for row in rows), Cost())
    summary: dict[str, Any] = {
        "questions": questions,
        **vars(total),
        "dollars": round(total.dollars, 6),
    }
    if opened is not None and opened.endpoint is not None:
        paid = opened.endpoint.ledger.total
        summary["paid_in_this_folder"] = {**vars(paid), "dollars": round(paid.dollars, 6)}
        summary["from_cache"] = opened.endpoint.from_cache
    return summary
