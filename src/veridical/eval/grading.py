"""Answers that a model judges in words: it is asked, or its replies are read from a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from veridical.data.prompts import Prompt
from veridical.eval.given_replies import given_replies, refuse_unknown
from veridical.eval.judge_repeats import number_in, repeats_of
from veridical.eval.judge_spent import noting_asker, spent
from veridical.eval.kept_replies import KeepingAsker
from veridical.judges.judging import Cost
from veridical.judges.kinds import check_kind
from veridical.judges.prompted import (
    Asker,
    JudgeQuestion,
    JudgeReply,
    ReplyOutcome,
    ask_until_read,
)
from veridical.judges.prompts import UnreadableError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import track

if TYPE_CHECKING:
    from veridical.eval.evaluation import Evaluation
    from veridical.judges.ledger import Ledger
    from veridical.judges.spec import JudgeSpec
    from veridical.runtime.runs import Run

Row: TypeAlias = Mapping[str, Any]
Options = TypeVar("Options")
KINDS = ("local", "endpoint")
REPLIES = "replies.jsonl"
CHUNK = 64
RETRY_TEMPERATURE = 0.7
"""Of replies that are asked for again, as in `build rank`."""


@dataclass(frozen=True, kw_only=True)
class Grading:
    """Who judges the answers, where a benchmark has them judged.

    Attributes:
        judge: `local:MODEL`, or `endpoint:MODEL` (its name at an OpenAI-compatible endpoint).
        replies: what a judge replied elsewhere, instead of asking one: JSON Lines {"question_id",
            "reply"}, one or more files; several replies to one question in the order of asking. Or
            the `replies.jsonl` of another run's folder.
        attempts: how often the judge is asked at most, until its reply can be read.
        judge_tokens: limit of one reply, in tokens; the benchmark's own if not set.
        judge_repeats: how often the judge is asked the very same question. Scores are made of the
            first replies; with 2 or more, how far the others differ is in `scores.json`
            (judge_again/...). Replies made elsewhere come in the order of asking: all questions
            about an answer, then all of them again.
        judge_template: of `local:MODEL`: KEY=VALUE, given to its chat template, such as
            enable_thinking=true.
        endpoint: of `endpoint:MODEL`: url, key_variable, concurrency, retries, timeout (seconds),
            input_price and output_price (dollars for a million tokens), max_dollars, max_tokens,
            cache, cache_gigabytes.
        dry_run: only say how many questions and tokens the judge would be asked, and its price
            where `endpoint` has prices; nobody is asked and nothing is written.
    """

    judge: str | None = None
    replies: list[Path] | None = None
    attempts: int = 3
    judge_tokens: int | None = None
    judge_repeats: int = 1
    judge_template: dict[str, object] | None = None
    endpoint: dict[str, object] | None = None
    dry_run: bool = False

    @property
    def given(self) -> bool:
        """Whether there is a judge, or what one replied."""
        return self.judge is not None or self.replies is not None


NOBODY = Grading()
"""No judge."""


@dataclass(frozen=True)
class Asked:
    """What a judge is asked about an answer.

    Attributes:
        text: the whole question.
        images: files that it sees.
    """

    text: str
    images: Sequence[Path] = ()


@dataclass(frozen=True)
class Grader(Generic[Options]):
    """How a benchmark has answers judged by a model that replies in words.

    Attributes:
        ask: what the judge is asked about a row, in order; nothing where it needs no judge.
        read: what a reply to the n-th question about a row says, as JSON's types;
            `UnreadableError` where it says nothing.
        max_new_tokens: limit of one reply, in tokens, where none is given.
        template: the words of the judge's questions; `scores.json` has their hash.
        needed: whether the benchmark can't do without a judge.
        unused: whether these options leave no use for one.
        temperature: of the first reply.
        may_be_cut: whether a reply that ended because it was too long can still be read.
        number: what a reply to the n-th question says, as a number; None where it can be none.
        order_told: whether replies made elsewhere must say which answer was shown `first`, 0 or 1,
            because the order of ours is drawn by seed.
    """

    ask: Callable[[Options, Evaluation, Row], Sequence[Asked]]
    read: Callable[[Options, Row, int, str], Any]
    max_new_tokens: int
    template: Callable[[Options], str]
    needed: Callable[[Options], bool] = lambda options: True
    unused: Callable[[Options], bool] = lambda options: False
    temperature: Callable[[Options], float] = lambda options: 0.0
    may_be_cut: Callable[[Options], bool] = lambda options: False
    number: Callable[[Any, int], float | None] = number_in
    order_told: Callable[[Options], bool] = lambda options: False


@dataclass(frozen=True)
class Graded:
    """Rows with what was replied about them.

    Attributes:
        rows: each with `judged`, a list of {"reply", "read", "problem"}, one for each question;
            `failed` is true where the judge said nothing at all.
        about: entries of `scores.json`: who judged, by which words.
        results: entries of `run.json`: what it cost.
        lines: what is said of the judge.
    """

    rows: Sequence[Row]
    about: Mapping[str, str | float]
    results: Mapping[str, float]
    lines: Sequence[str] = ()


def check_grading(grading: Grading, grader: Grader[Any] | None, options: object) -> None:
    """Refuse a judge that can't be one, or that is missing, before anything is read or loaded.

    Raises:
        UserError: names the option.
    """
    if grader is None:
        return
    if grading.judge is not None and grading.replies is not None:
        raise UserError("Give either --judge, or the --replies of one: both were given.")
    if grader.needed(options) and not grading.given:
        raise UserError(
            "The answers are judged by a model. Name it with --judge local:MODEL or --judge "
            "endpoint:MODEL, or give what one replied elsewhere with --replies."
        )
    if grading.judge is not None:
        from veridical.judges.endpoint import endpoint_settings

        check_kind(grading.judge, KINDS)
        kind = grading.judge.partition(":")[0]
        if grading.endpoint and kind != "endpoint":
            raise UserError(f"--endpoint is for --judge endpoint:MODEL, not {grading.judge}.")
        if grading.judge_template and kind != "local":
            raise UserError(f"--judge-template is for --judge local:MODEL, not {grading.judge}.")
        endpoint_settings(grading.endpoint)
    elif grading.endpoint or grading.judge_template:
        raise UserError("--endpoint and --judge-template describe a --judge, which is not given.")


def grade(
    grader: Grader[Any],
    options: object,
    evaluation: Evaluation,
    rows: Sequence[Row],
    run: Run,
) -> Graded:
    """Ask the judge about every row, or read what it replied elsewhere.

    Replies are kept in `replies.jsonl` of the run's folder as they come, so that an interrupted
    run continues and none is paid twice.

    Args:
        grader: how.
        options: the benchmark's own.
        evaluation: whose answers are judged, by whom.
        rows: of answers.
        run: is told which model judges.

    Raises:
        UserError: the judge cannot be had, or replies made elsewhere do not fit the questions.
    """
    grading = evaluation.grading
    if not grading.given:
        return Graded(rows, {}, {})
    once = [list(grader.ask(options, evaluation, row)) for row in rows]
    asked = [own * grading.judge_repeats for own in once]
    places = [(n, k) for n, own in enumerate(asked) for k in range(len(own))]
    questions = [_question(rows[n], k, asked[n]) for n, k in places]

    def read(start: int) -> Callable[[int, JudgeReply], tuple[str, Any]]:
        def read_one(index: int, reply: JudgeReply) -> tuple[str, Any]:
            n, k = places[start + index]
            if reply.cut and not grader.may_be_cut(options):
                raise UnreadableError("it is cut off")
            return reply.text, grader.read(options, rows[n], k % len(once[n]), reply.text)

        return read_one

    words = hashlib.sha256(grader.template(options).encode()).hexdigest()
    about: dict[str, str | float] = {"judge_words_sha256": words}
    outcomes: list[ReplyOutcome[tuple[str, Any]]] = []
    orders: list[int | None] = []
    results: dict[str, float] = {}
    lines: list[str] = []
    if grading.replies is not None:
        about["judge"] = "replies made elsewhere"
        told = grader.order_told(options)
        given = given_replies(grading.replies, [rows[n]["question_id"] for n, _ in places], told)
        if evaluation.subject.limit is None:
            refuse_unknown(given.ids, {row["question_id"] for row in rows})
        replies, orders = given.replies, given.first
        outcomes = ask_until_read(lambda _: replies, questions, read(0), 1) if questions else []
    elif questions:
        about["judge"] = grading.judge or ""
        asker, ledger = _open(grader, options, evaluation, questions, run)
        for start in track(range(0, len(questions), CHUNK), f"judged, {CHUNK} at a time"):
            some = questions[start : start + CHUNK]
            outcomes += ask_until_read(asker, some, read(start), grading.attempts)
        results, lines = spent(sum((outcome.cost for outcome in outcomes), Cost()), ledger)
    judged: list[list[JsonObject]] = [[] for _ in rows]
    for (n, _), outcome, first in zip(
        places, outcomes, orders or [None] * len(places), strict=True
    ):
        reply, value = outcome.value or ("", None)
        more = ({} if first is None else {"first": first}) | (
            {"failed": True} if outcome.failed else {}
        )
        judged[n].append({"reply": reply, "read": value, "problem": outcome.problem, **more})
    repeats = repeats_of(grader.number, judged, [len(own) for own in once])
    marked = [
        {**row, "judged": own[: len(first)]}
        for row, own, first in zip(rows, judged, once, strict=True)
    ]
    unread = sum(bool(one["problem"]) for row in marked for one in row["judged"])
    return Graded(
        marked,
        about | repeats.as_about(),
        {**results, "judge_unread": unread},
        [*repeats.lines, *lines],
    )


def _question(row: Row, number: int, asked: Sequence[Asked]) -> JudgeQuestion:
    from veridical.data.messages import user_message

    one = asked[number]
    message = user_message(one.text, len(one.images))
    prompt = Prompt(f"{row['question_id']}/{number}", list(one.images), [message])
    return JudgeQuestion(prompt, draw=asked[:number].count(one))


def _open(
    grader: Grader[Any],
    options: object,
    evaluation: Evaluation,
    questions: Sequence[JudgeQuestion],
    run: Run,
) -> tuple[Asker, Ledger]:
    """The judge, whose replies are kept in the run's folder, and what they cost."""
    from veridical.judges.endpoint import endpoint_settings
    from veridical.judges.ledger import Ledger, Limits
    from veridical.judges.spec import SPENT, JudgeSpec, open_judge

    grading, asking = evaluation.grading, evaluation.asking
    spec = JudgeSpec(
        grading.judge or "", grading.attempts, grader.temperature(options), RETRY_TEMPERATURE,
        grading.judge_tokens or grader.max_new_tokens, False, asking.seed, grading.judge_template,
    )  # fmt: skip
    spec.check(KINDS)
    settings = endpoint_settings(grading.endpoint)
    size = asking.batch_size
    opened = open_judge(spec, settings, evaluation.out, size, asking.loading)
    where = ""
    if opened.policy is not None:
        from veridical.models.cache_keys import model_fingerprint

        found = model_fingerprint(opened.policy)
        run.note_model("judge", spec.model, found)
        where = found.key
    elif opened.endpoint is not None:
        where = opened.endpoint.url
        notice = opened.endpoint.notice(sum(len(question.prompt.images) for question in questions))
        if notice:
            print(notice, flush=True)
    if opened.endpoint is not None:
        ledger, ask = opened.endpoint.ledger, opened.ask
    else:
        ledger = Ledger(evaluation.out / SPENT, Limits())
        ask = noting_asker(opened.ask, ledger)
    keeping = KeepingAsker(ask, evaluation.out / REPLIES, _identity(spec, where))
    if opened.endpoint is not None:
        # What was paid is kept at once: a killed run loses what is under way, and no more.
        opened.endpoint.note_reply = keeping.keep
    return keeping, ledger


def _identity(spec: JudgeSpec, where: str) -> list[Any]:
    return [{**vars(spec), "attempts": None}, where]


def judge_words(path: Path | None, own: str, names: Sequence[str]) -> str:
    """The words of a judge's question, from a file or our own.

    Args:
        path: a text file with names in braces, such as {answer}.
        own: our words.
        names: what has to be in them.

    Raises:
        UserError: the file lacks a name.
    """
    text = own if path is None else read_text(path)
    missing = [name for name in names if f"{{{name}}}" not in text]
    if missing:
        raise UserError(
            f"{path} must have {', '.join(f'{{{name}}}' for name in missing)} in it, which stands "
            "for what the judge is shown."
        )
    return text


def filled(words: str, values: Mapping[str, str]) -> str:
    """Words with values for the names in braces; braces in the values stay as they are."""
    names = "|".join(map(re.escape, values))
    return re.sub(rf"\{{({names})\}}", lambda found: values[found[1]], words)


def has_failed(row: Row) -> bool:
    """Whether the judge could not be asked about a row, so that no rule has a reply to score."""
    return any(one.get("failed", False) for one in row["judged"])


def values_of(row: Row) -> list[Any]:
    """What the judge's replies about a row say, in order; None where one could not be read."""
    return [one["read"] for one in row.get("judged", ())]
