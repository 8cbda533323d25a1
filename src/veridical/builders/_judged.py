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
from veridical.judges.judging import Case, Cost
from veridical.judges.spec import JudgeSpec, Opened
from veridical.runtime.runs import Run


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


def identity(run: Run, spec: JudgeSpec, criterion: Criterion, opened: Opened) -> dict[str, Any]:
    """What decides the verdicts, besides the data and the command's own options."""
    where: dict[str, str] = {}
    if opened.policy is not None:
        where = model_identity(run, "judge", opened.policy, spec.model)
    elif opened.endpoint is not None:
        where = {"url": opened.endpoint.url}
    return {"judge": vars(spec), "criterion": criterion.sha256, **where}


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
