"""The mean and deviation of a judge's scores before anything is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev

from veridical.judges.judging import Case, Judge
from veridical.judges.named import total_score
from veridical.models.policy import Policy
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.progress import counted
from veridical.sampling import Decoding, Request
from veridical.sampling.rollouts import roll_out
from veridical.train.loop.left_out import LeftOut
from veridical.train.prompts import TrainingPrompt
from veridical.train.responses import sample_usable
from veridical.train.rl.rewarding import Scale

SCALE = "rewards.json"
SCALED_ON = 256
"""Prompts whose scores say what the judge's mean and deviation are, at most (our choice)."""


def find_scale(
    out: Path,
    resume: bool,
    policy: Policy,
    prompts: Sequence[TrainingPrompt],
    judge: Judge,
    decoding: Decoding,
    left_out: LeftOut,
) -> Scale:
    """The judge's mean and deviation, computed once and kept for a run that is resumed.

    All processes have to take part.

    Args:
        out: the run's folder.
        resume: read what the run kept, if it has.
        policy: the start.
        prompts: what is learned from.
        judge: whose scores they are.
        decoding: of the start's responses.
        left_out: takes the prompts whose images the processor refuses.

    Raises:
        UserError: as for `scale_of`.
    """
    path = out / SCALE

    def find() -> dict[str, float]:
        if path.is_file() and resume:
            known: dict[str, float] = read_json(path)
            return known
        found = dataclasses.asdict(scale_of(policy, prompts, judge, decoding, left_out))
        write_json(path, found)
        return found

    scale = Scale(**processes.from_first(find))
    left_out.share()
    return scale


def scale_of(
    policy: Policy,
    prompts: Sequence[TrainingPrompt],
    judge: Judge,
    decoding: Decoding,
    left_out: LeftOut | None = None,
) -> Scale:
    """What the judge gives on average, and how much that varies, before anything is learned.

    Over the answers that the prompts' records hold, where these are pairs (Amirloo et al. 2024
    take the alignment set); else over a response of the start to each prompt.

    Raises:
        UserError: all are worth the same, or none can be scored.
    """
    few = [
        prompt for prompt in prompts if left_out is None or not left_out.has_prompt(prompt.asked.id)
    ][:SCALED_ON]
    if all(prompt.pair is not None and prompt.texts for prompt in few):
        cases = [prompt.case(prompt.texts) for prompt in few]
    else:
        policy.model.eval()
        asked = [Request(dataclasses.replace(one.asked, id=f"{one.asked.id}/scale")) for one in few]
        said, kept = sample_usable(left_out, asked, lambda own: roll_out(policy, own, decoding))
        cases = [
            few[place].case([response.text for response in responses])
            for place, responses in zip(kept, said, strict=True)
        ]
    scores = scores_of(judge, cases)
    if len(set(scores)) < 2:
        raise UserError(
            f"The judge gives the same score to all of {counted(len(scores), 'answers')}, so its "
            "scores can't be standardized (the default of `train rloo`). Set --standardize false, "
            "or take other prompts, a higher --temperature or another judge."
        )
    return Scale(fmean(scores), pstdev(scores))


def scores_of(judge: Judge, cases: Sequence[Case]) -> list[float]:
    """The scores of every response of every case that can be scored.

    Raises:
        UserError: none can be; says why the first can't.
    """
    verdicts = judge(cases)
    problems = [verdict.problem for verdict in verdicts if verdict.problem]
    if problems and len(problems) == len(verdicts):
        raise UserError(
            f"The judge can score no prompt of the first {len(problems)} ({cases[0].prompt.id}: "
            f"{problems[0]}), so nothing can be learned from it."
        )
    return [total_score(ratings) for verdict in verdicts for ratings in verdict.ratings]
