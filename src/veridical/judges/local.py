"""A vision-language model on this machine as a judge, by its words or by its log-probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from veridical.data.image_checks import require_images
from veridical.data.messages import assistant_message
from veridical.data.responses import Response
from veridical.judges.judging import Case, Cost, PairwiseJudge, PairwiseVerdict
from veridical.judges.prompted import Asker, JudgeQuestion, JudgeReply, Questioning
from veridical.judges.prompts import question_messages
from veridical.models.batching import row_batch
from veridical.models.finite import require_finite
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import Group, RefusedRowError, render_group
from veridical.runtime.errors import UserError
from veridical.sampling import Decoding, Request, respond


def local_asker(policy: Policy, decoding: Decoding, retry_temperature: float) -> Asker:
    """Ask a model on this machine.

    Args:
        policy: who is asked.
        decoding: how the first reply is made.
        retry_temperature: of later ones: at temperature 0 the same reply would come again.
    """

    def ask(questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        refused = {i: reason for i, q in enumerate(questions) if (reason := _refusal(policy, q))}
        places = [i for i in range(len(questions)) if i not in refused]
        asked = [questions[i] for i in places]
        requests = [
            Request(dataclasses.replace(q.prompt, id=f"{q.prompt.id}/try-{q.attempt}"))
            for q in asked
        ]
        again = any(question.attempt for question in asked)
        temperature = retry_temperature if again else decoding.temperature
        chosen = dataclasses.replace(decoding, temperature=temperature)

        def answer(left: list[int]) -> list[Response]:
            some = [requests[n] for n in left]
            return respond(policy, some, chosen, label="") if some else []

        said_by_left, late = leave_out_refused([request.prompt.id for request in requests], answer)
        refused |= {places[n]: reason for n, reason in late.items()}
        responses = iter(said_by_left)
        replies = []
        for index in range(len(questions)):
            if index in refused:
                replies.append(JudgeReply(problem=refused[index]))
                continue
            said = next(responses)
            cost = Cost(said.prompt_tokens, len(said.token_ids), replies=1)
            replies.append(JudgeReply(dataclasses.replace(said, text=said.text.strip()), cost))
        return replies

    return ask


def logprob_looker(policy: Policy, asking: Questioning, batch_size: int) -> PairwiseJudge:
    """A looker by the odds of the first token in which the two verdicts differ.

    The margin is log p("Response 1" | question) - log p("Response 2" | question): tokens that
    both share cancel, and what would follow the name does not count. Every pair gets a number, so
    nothing has to be parsed.

    Args:
        policy: who judges.
        asking: what counts.
        batch_size: cases at once.
    """

    def look(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        looks: list[PairwiseVerdict] = [PairwiseVerdict(problem="not looked at")] * len(cases)
        groups: list[tuple[int, Group]] = []
        for index, case in enumerate(cases):
            try:
                groups.append((index, verdict_group(policy, case, asking)))
            except RefusedRowError as problem:
                looks[index] = PairwiseVerdict(problem=str(problem))
        for start in range(0, len(groups), batch_size):
            chunk = groups[start : start + batch_size]
            read, refused = _verdict_margins(policy, [group for _, group in chunk])
            for place, reason in refused.items():
                looks[chunk[place][0]] = PairwiseVerdict(problem=reason)
            seen = [index for place, (index, _) in enumerate(chunk) if place not in refused]
            for index, (margin, tokens) in zip(seen, read, strict=True):
                better = None if margin == 0 else int(margin < 0)
                looks[index] = PairwiseVerdict(better, margin, cost=Cost(tokens, replies=1))
        return looks

    return look


def verdict_group(policy: Policy, case: Case, asking: Questioning) -> Group:
    """The question with both verdicts as answers, each cut after the token that tells them apart.

    Raises:
        RefusedRowError: the question cannot be rendered.
        UserError: the tokenizer does not tell the names apart.
    """
    messages = question_messages(case, asking.criterion, asking.show_facts)
    answers = [[assistant_message(name)] for name in asking.criterion.names]
    group = render_group(policy, case.prompt.id, case.prompt.images, messages, answers)
    one, other = (ids.tolist() for ids in group.response_ids)
    differing = [i for i, pair in enumerate(zip(one, other, strict=False)) if len(set(pair)) == 2]
    if not differing or differing[0] >= min(len(one), len(other)) - 1:
        names = " and ".join(asking.criterion.names)
        raise UserError(
            f"The tokenizer of {policy.name} does not tell {names} apart by a token of their own. "
            "Take a criterion with other `names`, or --by words."
        )
    end = differing[0] + 1
    return dataclasses.replace(
        group, response_ids=tuple(ids[:end] for ids in group.response_ids), cut=(True, True)
    )


def _verdict_margins(
    policy: Policy, groups: Sequence[Group]
) -> tuple[list[tuple[float, int]], dict[int, str]]:
    """Of the groups that the processor takes, margins and the tokens of their questions.

    And why it refuses others, by place.
    """

    def margins(left: list[int]) -> list[tuple[float, int]]:
        if not left:
            return []
        with torch.inference_mode():
            batch = row_batch(policy, [groups[n] for n in left])
            sums = response_logps(policy.model, batch).sums.cpu().double()
        require_finite(policy, sums, "log-probabilities of the verdicts")
        found: list[float] = (sums[:, 0] - sums[:, 1]).tolist()
        return list(zip(found, batch.prompt_tokens[:, 0].tolist(), strict=True))

    return leave_out_refused([group.id for group in groups], margins)


def _refusal(policy: Policy, question: JudgeQuestion) -> str:
    try:
        render_prompt(policy, question.prompt.messages)
        require_images(policy.processor, question.prompt.images)
    except RefusedRowError as problem:
        return str(problem)
    return ""
