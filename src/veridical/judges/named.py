"""The judge that `--judge` names: any of this package's, as marks or as comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.data.object_lists import name_objects, read_objects
from veridical.data.vocabulary import read_vocabulary
from veridical.judges.attributes import EXACT
from veridical.judges.chair import CHAIR, ChairWeights, chair_judge
from veridical.judges.criterion import Criterion, Form, read_criterion
from veridical.judges.endpoint import endpoint_settings
from veridical.judges.exact import exact_judge
from veridical.judges.judging import Case, Judge, PairwiseJudge, PairwiseVerdict, Verdict
from veridical.judges.kinds import BY_OBJECTS, SHAPES, check_kind
from veridical.judges.prompted import Asker, Questioning, choosing_looker, marking_judge
from veridical.judges.reward import REWARD, reward_judge
from veridical.judges.spec import JudgeSpec, open_judge
from veridical.models.policy import Policy
from veridical.models.reward_model import RewardModel, load_reward_model, require_head
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.options import Placement
from veridical.sampling.engines.server import open_client

QUALITY = ("Helpfulness", "Correctness", "Coherence")
"""The marks that are added up where a criterion has them (Li et al. 2024)."""
FITTING: Mapping[Form, str] = {"marks": "five", "choice": "honesty"}
"""The criterion of each form that is taken where none is named."""
IN_WORDS = ("criteria", "judge_facts", "attempts", "judge_tokens")
"""Options of judges that are asked in words."""
NONE = "none"
"""No judge: symbolic rewards alone decide."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The judge of fresh responses.

    Attributes:
        judge: `exact` or `chair` (they need --objects), `reward:FOLDER` (what `train reward`
            wrote), `local:MODEL`, `endpoint:MODEL` (its name at an OpenAI-compatible endpoint), or
            `none` where symbolic rewards alone decide.
        objects: JSON {image_id: [names of the objects in the image]}, for `exact` and `chair`.
        vocabulary: for `exact` and `chair`: JSON {name: [words]}; a short list of our own for
            COCO's 80 classes if not set.
        criteria: what a model that judges goes by: `honesty` (comparisons), `five` (marks), or a
            Markdown file of your own; one that fits the command if not set.
        judge_facts: tell a model that judges the records' `facts`; a reward model reads them where
            it was trained so.
        attempts: how often it is asked at most, until its reply can be read.
        judge_tokens: limit of one reply, in tokens.
        judge_template: of `local:MODEL`: KEY=VALUE, given to its chat template, such as
            enable_thinking=true. A reward model has what it was trained with.
        endpoint: of `endpoint:MODEL`: url, key_variable, concurrency, retries, timeout (seconds),
            input_price and output_price (dollars for a million tokens), max_dollars, max_tokens,
            cache, cache_gigabytes.
    """

    judge: str = "exact"
    objects: Path | None = None
    vocabulary: Path | None = None
    criteria: str | None = None
    judge_facts: bool = False
    attempts: int = 3
    judge_tokens: int = 256
    judge_template: dict[str, object] | None = None
    endpoint: dict[str, object] | None = None

    @property
    def kind(self) -> str:
        """Which sort of judge."""
        return self.judge.partition(":")[0]

    @property
    def named(self) -> str:
        """The model or folder behind the colon."""
        return self.judge.partition(":")[2]

    @property
    def inputs(self) -> dict[str, Path | None]:
        """The files that its verdicts depend on, by option."""
        return {"objects": self.objects, "vocabulary": self.vocabulary}

    @property
    def models(self) -> dict[str, str]:
        """The model that judges on this machine, by option."""
        return {"judge": self.named} if self.kind in ("local", "reward") else {}

    def check(self, form: Form = "marks") -> None:
        """Refuse what makes no sense, before anything is loaded.

        Args:
            form: how a model that judges in words is to answer.

        Raises:
            UserError: names the option.
        """
        if self.judge != NONE:
            check_kind(self.judge, tuple(SHAPES))
        if self.kind in BY_OBJECTS and self.objects is None:
            raise UserError(f"--judge {self.kind} needs --objects: which objects each image holds.")
        if self.kind == "reward" and not Path(self.named).is_dir():
            raise UserError(f"--judge {self.judge}: there is no such folder.")
        if self.kind == "reward":
            require_head(Path(self.named))
        for name in ("objects", "vocabulary"):
            path: Path | None = getattr(self, name)
            if path is not None:
                require_file(path, f"--{name}")
        if self.objects is not None:
            truth(
                self.objects, self.vocabulary
            )  # a fault in them is found before a model is loaded
        for name in ("attempts", "judge_tokens"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {getattr(self, name)}; give 1 or more.")
        if self.judge_template and self.kind != "local":
            raise UserError(f"--judge-template is for --judge local:MODEL, not {self.judge}.")
        if self.endpoint and self.kind != "endpoint":
            raise UserError(f"--endpoint is for --judge endpoint:MODEL, not {self.judge}.")
        self._refuse_unread()
        settings = endpoint_settings(self.endpoint)
        if self.kind in ("local", "endpoint"):
            self.criterion(form)
        if self.kind == "endpoint":
            open_client(settings)

    def _refuse_unread(self) -> None:
        """Refuse what this judge would not look at.

        Raises:
            UserError: names the option.
        """
        told = () if self.kind in ("local", "endpoint") else IN_WORDS
        for name in told:
            if getattr(self, name) != getattr(Judging, name):
                raise UserError(
                    f"--{name.replace('_', '-')} is for a judge that is asked in words "
                    f"(local:MODEL, endpoint:MODEL), not {self.judge}. Leave it out."
                )
        if self.vocabulary is not None and self.objects is None:
            raise UserError(
                "--vocabulary has the words for --objects, which are not given. Give both, or "
                "leave it out."
            )

    def criterion(self, form: Form) -> Criterion:
        """What a model that judges goes by.

        Raises:
            UserError: `--criteria` is not a criterion of this form.
        """
        return read_criterion(self.criteria or FITTING[form], form)


@dataclass(frozen=True)
class JudgeRuntime:
    """Where a judge works.

    Attributes:
        out: the run's folder, for an endpoint's ledger.
        batch_size: cases at once, of a model on this machine.
        placement: where and in what numbers that model computes.
        seed: of its noise.
        on_model: is given a judge that is a model on this machine, once it is loaded.
    """

    out: Path
    batch_size: int = 8
    placement: Placement = Placement()
    seed: int = 0
    on_model: Callable[[Policy], None] = lambda _: None


def open_marks(
    judging: Judging, place: JudgeRuntime, reward_model: RewardModel | None = None
) -> Judge:
    """The judge, giving each response marks of which `total_score` makes one number.

    Args:
        judging: which.
        place: where it works.
        reward_model: what `reward:FOLDER` names, where it is loaded already.
    """
    if judging.judge == NONE:
        return indifferent
    if judging.kind == "exact":
        return truth(judging.objects or Path(), judging.vocabulary)
    if judging.kind == "chair":
        return by_chair(judging.objects or Path(), judging.vocabulary)
    if judging.kind == "reward":
        how = place.placement
        model = reward_model or load_reward_model(
            Path(judging.named), how.dtype, how.device, how.attention
        )
        place.on_model(model.policy)
        return reward_judge(model, place.batch_size)
    asking = Questioning(judging.criterion("marks"), judging.attempts, judging.judge_facts)
    return marking_judge(_asker(judging, place), asking)


def open_comparison(judging: Judging, place: JudgeRuntime) -> PairwiseJudge:
    """The judge, comparing two responses; of one that gives marks, their difference decides."""
    if judging.kind in (*BY_OBJECTS, "reward"):
        return score_looker(open_marks(judging, place))
    asking = Questioning(judging.criterion("choice"), judging.attempts, judging.judge_facts)
    return choosing_looker(_asker(judging, place), asking)


def truth(objects: Path, vocabulary: Path | None) -> Judge:
    """The exact judge, from files."""
    words = read_vocabulary(vocabulary)
    return exact_judge(name_objects(read_objects(objects), words), words, (0, 0, 0, 0))


def by_chair(
    objects: Path, vocabulary: Path | None, weights: ChairWeights = ChairWeights()
) -> Judge:
    """The judge `chair`, from files."""
    words = read_vocabulary(vocabulary)
    return chair_judge(name_objects(read_objects(objects), words), words, weights)


def indifferent(cases: Sequence[Case]) -> list[Verdict]:
    """No judge: every response is worth 0."""
    return [Verdict(tuple({NONE: 0.0} for _ in case.responses)) for case in cases]


def total_score(ratings: Mapping[str, float]) -> float:
    """One number of a response's marks: the judge's own score if there is one, else their sum.

    Of the five attributes only Helpfulness, Correctness and Coherence are added up.
    """
    for aspect in (EXACT, REWARD, CHAIR):
        if aspect in ratings:
            return ratings[aspect]
    counted = [aspect for aspect in QUALITY if aspect in ratings] or list(ratings)
    return sum(ratings[aspect] for aspect in counted)


def score_looker(judge: Judge) -> PairwiseJudge:
    """Compare by a judge's marks; the margin is the difference of the two scores."""

    def look(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        looks = []
        for verdict in judge(cases):
            if verdict.problem:
                looks.append(PairwiseVerdict(problem=verdict.problem, cost=verdict.cost))
                continue
            one, other = (total_score(ratings) for ratings in verdict.ratings)
            better = None if one == other else int(one < other)
            reason = " | ".join(verdict.reasons)
            looks.append(PairwiseVerdict(better, one - other, reason, verdict.cost))
        return looks

    return look


def _asker(judging: Judging, place: JudgeRuntime) -> Asker:
    spec = JudgeSpec(
        judging.judge, judging.attempts, 0.0, RETRY_TEMPERATURE, judging.judge_tokens,
        judging.judge_facts, place.seed, judging.judge_template,
    )  # fmt: skip
    settings = endpoint_settings(judging.endpoint)
    opened = open_judge(spec, settings, place.out, place.batch_size, place.placement)
    if opened.policy is not None:
        place.on_model(opened.policy)
    return opened.ask


RETRY_TEMPERATURE = 0.7
"""Of replies that are asked for again, as in `build rank`."""
