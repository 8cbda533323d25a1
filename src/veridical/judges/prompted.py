"""Judges that are asked in words: a question, a reply, and another try if it cannot be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from veridical.data.messages import text_of
from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.data.text.thoughts import answer_of
from veridical.judges.criterion import Criterion
from veridical.judges.judging import Case, Cost, Judge, PairwiseJudge, PairwiseVerdict, Verdict
from veridical.judges.prompts import UnreadableError, question_messages, read_marks
from veridical.judges.verdicts import read_choice

SHOWN = 160
"""Characters of a reply that could not be read that the list of unscored records shows."""
NOTHING = Response("")
Read = TypeVar("Read")


@dataclass(frozen=True)
class JudgeQuestion:
    """What a model is asked.

    Attributes:
        prompt: one user turn; its id keys the noise, together with the attempt.
        attempt: 0, and one more each time the reply could not be read.
        draw: 0, and one more for each earlier question with the same words and pictures, whose
            reply is to be another draw.
    """

    prompt: Prompt
    attempt: int = 0
    draw: int = 0


@dataclass(frozen=True)
class JudgeReply:
    """What a judging model said, or why it said nothing.

    Attributes:
        response: `length` if it ended because it was too long, or came incomplete.
        cost: of this reply.
        problem: why there is none, and asking again is of no use; "" if there is one.
        fault: why what came is not text at all, where asking again may help; "" if it is.
    """

    response: Response = NOTHING
    cost: Cost = field(default_factory=Cost)
    problem: str = ""
    fault: str = ""

    @property
    def text(self) -> str:
        """Of the response."""
        return self.response.text

    @property
    def cut(self) -> bool:
        """Whether the response is incomplete."""
        return self.response.stop_reason == "length"


def reply_of(text: str, cut: bool = False, cost: Cost | None = None) -> JudgeReply:
    """A reply of this text; `cut` if it is incomplete."""
    return JudgeReply(Response(text, stop_reason="length" if cut else "end"), cost or Cost())


class Asker(Protocol):
    """A reply to each question, in order."""

    def __call__(self, questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        """Ask them."""
        ...


@dataclass(frozen=True)
class Questioning:
    """How a model is asked.

    Attributes:
        criterion: what counts.
        attempts: how often at most, until a reply can be read.
        show_facts: whether it is told the records' facts.
    """

    criterion: Criterion
    attempts: int = 3
    show_facts: bool = False


@dataclass(frozen=True)
class ReplyOutcome(Generic[Read]):
    """What came of a question: what was read, or a problem.

    Attributes:
        value: what was read; None with a problem.
        cost: of all replies.
        problem: "" if something was read.
        failed: whether no text came at all, as of a server that is down; else the problem is that
            the text cannot be read.
    """

    value: Read | None
    cost: Cost
    problem: str
    failed: bool = False


def marking_judge(ask: Asker, asking: Questioning) -> Judge:
    """A judge that sees all responses of a case and gives marks, after its reasoning."""
    criterion = asking.criterion

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        def read(index: int, reply: JudgeReply) -> tuple[str, list[dict[str, float]]]:
            if reply.cut:
                # The marks stand last; a 1 may be the beginning of a 10.
                raise UnreadableError("it is cut off")
            return read_marks(reply.text, len(cases[index].responses), criterion.aspects)

        outcomes = ask_until_read(ask, _questions(cases, asking), read, asking.attempts)
        return [_verdict(outcome) for outcome in outcomes]

    return judge


def choosing_looker(ask: Asker, asking: Questioning) -> PairwiseJudge:
    """A looker that has the better of two responses named, then why."""
    names = asking.criterion.names

    def look(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        def read(index: int, reply: JudgeReply) -> tuple[int | None, str]:
            return read_choice(reply.text, names, reply.cut), reply.text

        outcomes = ask_until_read(ask, _questions(cases, asking), read, asking.attempts)
        return [
            PairwiseVerdict(*_choice(outcome.value), cost=outcome.cost, problem=outcome.problem)
            for outcome in outcomes
        ]

    return look


def ask_until_read(
    ask: Asker,
    questions: Sequence[JudgeQuestion],
    read: Callable[[int, JudgeReply], Read],
    attempts: int,
) -> list[ReplyOutcome[Read]]:
    """Ask, and ask those again whose reply cannot be read.

    Args:
        ask: who is asked.
        questions: what.
        read: a question's number and its reply to what it says; `UnreadableError` if unclear.
        attempts: how often at most.

    Returns:
        For each question what was read, or what the last reply's problem was: never both, never
        neither.
    """
    done: dict[int, ReplyOutcome[Read]] = {}
    costs = [Cost()] * len(questions)
    pending = list(range(len(questions)))
    for attempt in range(attempts):
        replies = ask([replace(questions[index], attempt=attempt) for index in pending])
        unread = []
        for index, reply in zip(pending, replies, strict=True):
            costs[index] += reply.cost
            if reply.problem:
                done[index] = ReplyOutcome(None, costs[index], reply.problem, failed=True)
                continue
            try:
                if reply.fault:
                    raise UnreadableError(reply.fault)
                said = replace(reply.response, text=answer_of(reply.text))
                answered = replace(reply, response=said)
                done[index] = ReplyOutcome(read(index, answered), costs[index], "")
            except UnreadableError as error:
                shown = " ".join(reply.text.split())[:SHOWN]
                problem = f"{attempt + 1} replies could not be read; the last: {error} ({shown!r})"
                done[index] = ReplyOutcome(None, costs[index], problem, failed=bool(reply.fault))
                unread.append(index)
        pending = unread
        if not pending:
            break
    return [done[index] for index in range(len(questions))]


def _questions(cases: Sequence[Case], asking: Questioning) -> list[JudgeQuestion]:
    questions = []
    for case in cases:
        messages = question_messages(case, asking.criterion, asking.show_facts)
        # Both orders of a case, and its pairs, share an id; their noise must not.
        shown = hashlib.sha256(text_of(messages).encode()).hexdigest()[:16]
        questions.append(
            JudgeQuestion(replace(case.prompt, id=f"{case.prompt.id}/{shown}", messages=messages))
        )
    return questions


def _choice(value: tuple[int | None, str] | None) -> tuple[int | None, None, str]:
    return (None, None, "") if value is None else (value[0], None, value[1])


def _verdict(outcome: ReplyOutcome[tuple[str, list[dict[str, float]]]]) -> Verdict:
    if outcome.value is None:
        return Verdict(cost=outcome.cost, problem=outcome.problem)
    reasoning, marks = outcome.value
    return Verdict(tuple(marks), (reasoning,), outcome.cost)
