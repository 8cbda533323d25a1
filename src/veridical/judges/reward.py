"""A reward model as a judge: it gives each response one number."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.checks.prefix_sharing import Sharing, sharing
from veridical.data.messages import assistant_message
from veridical.judges.judging import Case, Cost, Judge, Verdict
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import Group, RefusedRowError
from veridical.models.reward_model import RewardModel, judged_group, own_adapter
from veridical.models.reward_scores import ReadGroup, read_groups

REWARD = "reward"
"""The aspect that holds a reward model's number; its unit is a log-odds."""


def reward_judge(reward_model: RewardModel, batch_size: int = 8) -> Judge:
    """A judge by reward: the difference of two rewards is the log-odds that the first is better.

    It rates the aspect `reward`. A case that cannot be rendered (a special token in a text, ...),
    or whose picture the model's processor refuses, is unscored and says why.

    Args:
        reward_model: from `load_reward_model` or `attach_reward_model`.
        batch_size: cases at once; it changes no reward by more than rounding.
    """
    shares: list[Sharing] = []

    def score(groups: Sequence[Group]) -> list[ReadGroup]:
        several = [group for group in groups if len(group.response_ids) > 1]
        if several and not shares:
            with own_adapter(reward_model):
                shares.append(sharing(reward_model.policy, several))
        share = bool(several) and shares[0].allowed
        return read_groups(reward_model, groups, batch_size, share)

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        rendered = [_render(reward_model, case) for case in cases]
        places = [place for place, one in enumerate(rendered) if isinstance(one, Group)]
        groups = [one for one in rendered if isinstance(one, Group)]
        scored, refused = leave_out_refused(
            [group.id for group in groups], lambda left: score([groups[n] for n in left])
        )
        for number, reason in refused.items():
            rendered[places[number]] = reason
        scores = iter(scored)
        return [
            _verdict(next(scores)) if isinstance(one, Group) else Verdict(problem=one)
            for one in rendered
        ]

    return judge


def _render(reward_model: RewardModel, case: Case) -> Group | str:
    """The case as it is read, or why it can't be."""
    try:
        return judged_group(
            reward_model.policy,
            reward_model.reading,
            case.prompt.id,
            tuple(case.prompt.images),
            case.prompt.messages,
            [[assistant_message(text)] for text in case.responses],
            case.prompt.facts,
        )
    except RefusedRowError as refused:
        return str(refused)


def _verdict(read: ReadGroup) -> Verdict:
    ratings = tuple({REWARD: reward} for reward in read.rewards)
    return Verdict(ratings, cost=Cost(input_tokens=read.tokens, replies=1))
