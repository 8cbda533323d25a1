"""What the responses of a step are worth, and whether truth agrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from veridical.data.responses import Response
from veridical.judges.judging import Case, Judge, Verdict
from veridical.judges.named import NONE, JudgeRuntime, Judging, open_marks, total_score, truth
from veridical.judges.symbolic import Symbolic, symbolic_reward
from veridical.models.reward_model import RewardModel
from veridical.runtime.errors import UserError
from veridical.train.prompts import TrainingPrompt


@dataclass(frozen=True)
class Scale:
    """Shifts and scales the judge's scores.

    Attributes:
        mean: taken off.
        deviation: divided by.
    """

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Rewarder:
    """Who rewards.

    Attributes:
        judge: the proxy that is optimized.
        watch: the exact judge where it is another one, to see whether both agree.
        symbolic: rewards beside the judge's.
        limit: tokens that a response may have.
        scale: of the judge's scores.
    """

    judge: Judge
    watch: Judge | None
    symbolic: Symbolic
    limit: int
    scale: Scale = Scale()


@dataclass(frozen=True)
class Rewarded:
    """The rewards of one prompt's responses.

    Attributes:
        rewards: what is optimized.
        scores: the judge's alone, before scaling.
        exact: the exact judge's, where it watches.
        problem: why there is none; "" if there is.
    """

    rewards: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    exact: tuple[float, ...] = ()
    problem: str = ""


def open_rewarder(
    judging: Judging,
    place: JudgeRuntime,
    symbolic: Symbolic,
    limit: int,
    reward_model: RewardModel | None = None,
) -> Rewarder:
    """Get the judges ready; truth watches wherever objects are known and something else judges."""
    judge = open_marks(judging, place, reward_model)
    watch = None
    if judging.objects is not None and judging.kind != "exact":
        watch = truth(judging.objects, judging.vocabulary)
    return Rewarder(judge, watch, symbolic, limit)


def reward(
    rewarder: Rewarder, prompts: Sequence[TrainingPrompt], rollouts: Sequence[Sequence[Response]]
) -> list[Rewarded]:
    """Reward the responses to each prompt.

    A prompt that the judge can't score has no rewards, and says why.
    """
    cases = [
        prompt.case([rollout.text for rollout in said])
        for prompt, said in zip(prompts, rollouts, strict=True)
    ]
    verdicts = judge_alike(rewarder.judge, cases)
    watched = (
        judge_alike(rewarder.watch, cases)
        if rewarder.watch
        else [Verdict(problem="no watch")] * len(cases)
    )
    return [
        _rewarded(rewarder, *row) for row in zip(prompts, rollouts, verdicts, watched, strict=True)
    ]


def judge_alike(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    """Verdicts in which equal texts have equal marks; the judge sees each text once a prompt.

    A judge that computes in half precision gives two equal texts of a batch different marks, and
    division by a group's deviation would make an advantage of that.

    Args:
        judge: who marks.
        cases: prompts with responses, of which several may be equal.
    """
    distinct = [list(dict.fromkeys(case.responses)) for case in cases]
    asked = [
        dataclasses.replace(case, responses=texts)
        for case, texts in zip(cases, distinct, strict=True)
    ]
    return [
        verdict
        if verdict.problem
        else dataclasses.replace(
            verdict,
            ratings=tuple(verdict.ratings[texts.index(text)] for text in case.responses),
        )
        for case, texts, verdict in zip(cases, distinct, judge(asked), strict=True)
    ]


def refuse_no_judge(judging: Judging, symbolic: Symbolic) -> None:
    """Refuse a run in which nothing can be earned, whatever the prompts.

    Raises:
        UserError: there is no judge and nothing rewards a response's answer or length.
    """
    if judging.kind == NONE and not _rewards_any(symbolic):
        raise UserError(
            "--judge none: nothing else rewards a response, so at most its end could be learned "
            "(--no-end-penalty). Set --answer-reward or --length-penalty, or name a judge."
        )


def _rewards_any(symbolic: Symbolic) -> bool:
    return bool(symbolic.answer_reward or symbolic.length_penalty or symbolic.overlong_penalty)


def refuse_no_reward(
    symbolic: Symbolic,
    prompts: Sequence[TrainingPrompt],
    held_out: Sequence[TrainingPrompt] = (),
) -> None:
    """Refuse to reward answers that nobody can give.

    Raises:
        UserError: answers are to be rewarded and no prompt says what is expected.
    """
    for some, what in ((prompts, "prompts"), (held_out, "held-out prompts")):
        if (
            symbolic.answer_reward
            and some
            and all(one.asked.expected_answer is None for one in some)
        ):
            raise UserError(
                f"--answer-reward is {symbolic.answer_reward:g}, and none of the {len(some)} "
                f"{what} has an `expected_answer`. Give the rows a column of that name (of "
                "--kind prompt also `answer`, `solution` or `ground_truth`), or leave the option "
                "at 0."
            )


def _rewarded(
    rewarder: Rewarder,
    prompt: TrainingPrompt,
    rollouts: Sequence[Response],
    verdict: Verdict,
    watched: Verdict,
) -> Rewarded:
    if verdict.problem:
        return Rewarded(problem=verdict.problem)
    scale = rewarder.scale
    scores = tuple(total_score(ratings) for ratings in verdict.ratings)
    rewards = tuple(
        (score - scale.mean) / scale.deviation
        + symbolic_reward(
            rewarder.symbolic,
            rollout.text,
            len(rollout.token_ids),
            rewarder.limit,
            rollout.stop_reason == "length",
            prompt.asked.expected_answer,
        )
        for score, rollout in zip(scores, rollouts, strict=True)
    )
    return Rewarded(rewards, scores, tuple(total_score(ratings) for ratings in watched.ratings))
