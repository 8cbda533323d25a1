"""What a judge replied elsewhere, read from files instead of asking one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from veridical.eval.answers import read_json_rows
from veridical.judges.prompted import JudgeReply, reply_of
from veridical.runtime.errors import UserError

ID_FIELDS = ("question_id", "id", "ID")
REPLY_FIELDS = ("reply", "text", "content", "output")
"""What a reply is called in files of other programs, the plainest first."""


@dataclass(frozen=True)
class Given:
    """Replies made elsewhere.

    Attributes:
        replies: in the order of the judge's questions.
        first: which answer each judge saw first, where its row says so.
        ids: of all questions that the files have replies to.
    """

    replies: list[JudgeReply]
    first: list[int | None]
    ids: list[str]


def given_replies(paths: Sequence[Path], ids: Sequence[str], order_told: bool = False) -> Given:
    """Read replies made elsewhere.

    Args:
        paths: JSON Lines {"question_id", "reply"}, or a run's own `replies.jsonl`.
        ids: of the row that each of the judge's questions is about.
        order_told: whether each row must have `first`.

    Raises:
        UserError: a row is of another form, or there are not as many as questions.
    """
    waiting: dict[str, dict[int, tuple[JudgeReply, int | None]]] = defaultdict(dict)
    for path in paths:
        for number, row in enumerate(read_json_rows(path), start=1):
            own, place = row if isinstance(row, dict) else {}, f"{path}, row {number}"
            text = next((own[name] for name in REPLY_FIELDS if name in own), None)
            id = next((own[name] for name in ID_FIELDS if name in own), None)
            if id is None or not isinstance(text, str):
                raise UserError(f'{place}: a reply has {{"question_id": ..., "reply": "text"}}.')
            first = own.get("first")
            if order_told and (type(first) is not int or first not in (0, 1)):
                raise UserError(
                    f'{place}: needs "first", 0 or 1: which of the two answers was shown first. '
                    "This rule draws the order by chance, so a reply does not say it."
                )
            # In our own file an id has the question's number, and a later attempt comes later.
            ours = {"key", "attempt", "cut"} <= own.keys()
            row_id, _, asked = str(id).rpartition("/") if ours else (str(id), "", "")
            known = waiting[row_id]
            known[int(asked) if asked.isdecimal() else len(known)] = (
                reply_of(text, bool(ours and own["cut"])), first if order_told else None,
            )  # fmt: skip
    wanted = Counter(ids)
    wrong = [id for id, count in wanted.items() if sorted(waiting[id]) != list(range(count))]
    if wrong:
        id = wrong[0]
        raise UserError(
            f"--replies ({', '.join(map(str, paths))}) has {len(waiting[id])} replies to question "
            f"{id}, and {wanted[id]} are needed ({len(wrong)} such questions). Give one for each "
            "question to the judge."
        )
    in_order = {id: iter(sorted(own.items())) for id, own in waiting.items()}
    found = [next(in_order[id])[1] for id in ids]
    return Given([reply for reply, _ in found], [first for _, first in found], list(waiting))


def refuse_unknown(ids: Sequence[str], known: Set[str]) -> None:
    """Refuse replies to questions that nobody has.

    Raises:
        UserError: names the first of them.
    """
    unknown = [id for id in ids if id not in known]
    if unknown:
        raise UserError(
            f"--replies has replies to {len(unknown)} questions that are not judged here: "
            f"{', '.join(unknown[:5])}. Correct their ids, or take their rows out."
        )
