"""Records for judges, and the judge that `--judge` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.builders._models import model_identity
from veridical.builders._rated import RatedSample, rated_samples
from veridical.builders.options import Replies
from veridical.data.images import row_images
from veridical.data.messages import clean_messages, count_images
from veridical.data.prompts import Prompt
from veridical.data.records import RecordSet
from veridical.data.text.thoughts import answer_of
from veridical.judges.criterion import Criterion
from veridical.judges.endpoint import EndpointSettings, endpoint_settings
from veridical.judges.judging import Case, Cost
from veridical.judges.spec import JudgeSpec, Opened, open_judge
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import Loading
from veridical.runtime.runs import Run


@dataclass(frozen=True)
class AskedJudge:
    """A judge that is asked in words, before it is opened.

    Attributes:
        spec: which, and what decides its replies.
        settings: of an endpoint.
        batch_size: questions at once, of a local model.
        loading: how a local model is loaded.
    """

    spec: JudgeSpec
    settings: EndpointSettings
    batch_size: int
    loading: Loading

    def open(self, out: Path, samples: Sequence[JudgedSample]) -> Opened:
        """Load the model or get ready to ask the endpoint, and say what leaves the machine.

        Raises:
            UserError: neither can be had.
        """
        opened = open_judge(self.spec, self.settings, out, self.batch_size, self.loading)
        if opened.endpoint is not None:
            notice = opened.endpoint.notice(sum(len(one.case.prompt.images) for one in samples))
            if notice:
                print(notice, flush=True)
        return opened

    def identity(self, run: Run, criterion: Criterion, opened: Opened) -> JsonObject:
        """What decides the verdicts, besides the data and the command's own options."""
        where: dict[str, str] = {}
        if opened.policy is not None:
            where = model_identity(run, "judge", opened.policy, self.spec.model)
        elif opened.endpoint is not None:
            where = {"url": opened.endpoint.url}
        return {"judge": vars(self.spec), "criterion": criterion.sha256, **where}


def asked_judge(judge: str, kinds: Sequence[str], replies: Replies, loading: Loading) -> AskedJudge:
    """Check the options of a judge; nothing is loaded.

    Args:
        judge: the value of `--judge`.
        kinds: those that the command takes.
        replies: how it is asked.
        loading: how a local model is loaded.

    Raises:
        UserError: names the option.
    """
    spec = JudgeSpec(
        judge, replies.attempts, replies.temperature, replies.retry_temperature,
        replies.max_new_tokens, replies.facts, replies.seed, loading.template,
    )  # fmt: skip
    spec.check(kinds)
    return AskedJudge(spec, endpoint_settings(replies.endpoint), replies.batch_size, loading)


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
        return self.case.prompt.images


def judged_samples(records: RecordSet) -> list[JudgedSample]:
    """The records as cases; images are opened when they are needed."""
    pictures = records.rows.select_columns(["images"])
    files = pictures.with_format("arrow")
    found = []
    for index, sample in enumerate(rated_samples(records.rows)):
        prompt = clean_messages(sample.row["prompt"])
        images = row_images(pictures, index, count_images(prompt))
        paths = files[index]["images"][0].values.field("path").to_pylist()
        names = [Path(path or "").stem for path in paths]
        facts = sample.row.get("facts") or ()
        said = tuple(answer_of(text) for text in sample.texts)
        found.append(
            JudgedSample(sample, Case(Prompt(sample.id, images, prompt, facts), said, names))
        )
    return found


def cost_summary(costs: Sequence[Cost], questions: int, opened: Opened | None) -> JsonObject:
    """Tokens, dollars and replies of all verdicts, and what was paid in this folder altogether."""
    total = sum(costs, Cost())
    summary: JsonObject = {
        "questions": questions,
        **vars(total),
        "dollars": round(total.dollars, 6),
    }
    if opened is not None and opened.endpoint is not None:
        paid = opened.endpoint.ledger.total
        summary["paid_in_this_folder"] = {**vars(paid), "dollars": round(paid.dollars, 6)}
    return summary
