"""The model that `build corrupt --by` names: checked, opened, asked, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.builders._answers import ChosenAnswer
from veridical.builders._models import model_identity
from veridical.builders.corrupting.asked import MistakeWording, corrupt_by_asking
from veridical.judges.endpoint import EndpointSettings, endpoint_settings
from veridical.judges.judging import Cost
from veridical.judges.spec import JudgeSpec, Opened, open_judge
from veridical.runtime.options import Loading
from veridical.runtime.runs import Run

Work = Callable[[Sequence[ChosenAnswer]], list[dict[str, Any]]]


@dataclass(frozen=True)
class MistakeModel:
    """A model that is asked for mistakes, before it is opened.

    Attributes:
        by: as the user named it.
        spec: which, and what decides its replies.
        wording: how it is asked.
        settings: of an endpoint.
        loading: how a local model is loaded.
    """

    by: str
    spec: JudgeSpec
    wording: MistakeWording
    settings: EndpointSettings
    loading: Loading

    def open(self, run: Run, answers: int) -> tuple[Work, dict[str, object]]:
        """Load the model or get ready to ask the endpoint, and say what leaves the machine.

        Args:
            run: the build's.
            answers: how many there are, for the notice.

        Returns:
            What corrupts a chunk of answers, and what decides the result.

        Raises:
            UserError: the model can't be had.
        """
        opened = open_judge(
            self.spec, self.settings, run.folder, self.wording.batch_size, self.loading,
        )  # fmt: skip
        if opened.endpoint is not None:
            notice = opened.endpoint.client.notice(f"Up to {answers} answers with their questions")
            if notice:
                print(notice, flush=True)
        return _work(opened, self.wording, self.by), _identity(run, self.spec, opened, self.wording)

    def cost(self, results: Sequence[Mapping[str, Any]]) -> dict[str, object]:
        """What all replies cost, for the summary."""
        total = sum((Cost(**row["cost"]) for row in results), Cost())
        return {"cost": {**vars(total), "dollars": round(total.dollars, 6)}}


def mistake_model(by: str, wording: MistakeWording, loading: Loading, seed: int) -> MistakeModel:
    """Check how a model is asked.

    Raises:
        UserError: an option makes no sense.
    """
    wording.check()
    spec = JudgeSpec(
        by, wording.attempts, wording.temperature, wording.retry_temperature,
        wording.max_new_tokens, False, seed, loading.template,
    )  # fmt: skip
    spec.check(("local", "endpoint"))
    return MistakeModel(by, spec, wording, endpoint_settings(wording.endpoint), loading)


def _work(opened: Opened, wording: MistakeWording, by: str) -> Work:
    source = {"builder": "corrupt", "by": by, "prompt_sha256": wording.sha256}

    def work(chunk: Sequence[ChosenAnswer]) -> list[dict[str, Any]]:
        outcomes = corrupt_by_asking(opened.ask, chunk, wording)
        return [
            {"id": answer.id, "cost": vars(outcome.cost)}
            | (
                {"reason": outcome.problem}
                if outcome.value is None
                else {"rejected": outcome.value, "source": source}
            )
            for answer, outcome in zip(chunk, outcomes, strict=True)
        ]

    return work


def _identity(
    run: Run, spec: JudgeSpec, opened: Opened, wording: MistakeWording
) -> dict[str, object]:
    where: dict[str, str] = {}
    if opened.policy is not None:
        where = model_identity(run, "by", opened.policy, spec.model)
    elif opened.endpoint is not None:
        where = {"url": opened.endpoint.url}
    return {"by": vars(spec), "prompt": wording.sha256, "longest": wording.longest, **where}
