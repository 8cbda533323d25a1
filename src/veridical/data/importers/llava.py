"""LLaVA's `conversations` of `from` and `value`, alone or with a second answer.

POVID has a whole second conversation in `rejected_conversations`. LLaVA-RLHF's human preferences
have `output_1`, `output_2` and `preference` (1 or 2), which replace the last answer: that one is
LLaVA-Instruct's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import TAG, Kind, RowError
from veridical.data.record_names import ROLES

SUMMARY = "`conversations`, alone, with `rejected_conversations`, or with two outputs"
_OUTPUTS = (("output_1", "output_2"), ("answer_1", "answer_2"))
_WITH_EXPECTED = range(2, 8)
"""LLaVA-RLHF's `caption_type` of questions whose answer is a letter (2 to 5), or yes or no (6 and
7). Types 6 and 7 are each other's opposites in the released file, so the answer is the record's."""

READS: tuple[str, ...] = (
    "conversations",
    "rejected_conversations",
    "preference",
    "caption_type",
    *chain(*_OUTPUTS),
)
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    if not _are_turns(row.get("conversations")):
        return None
    if row.get("rejected_conversations") is not None:
        return Fit("it has conversations and rejected_conversations", "preference")
    outputs = _outputs(row)
    if outputs is not None:
        told = ", ".join(["conversations", *outputs])
        if row.get("preference") is not None:
            return Fit(f"it has {told} and preference", "preference")
        return Fit(f"it has {told}, and nothing says which is better", "sample")
    if row.get("chosen") is not None or row.get("rejected") is not None:
        return None
    return Fit("it has conversations of `from` and `value`", "conversation")


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """One record."""
    del rules
    turns = _turns(row.get("conversations"), "conversations")
    rest = {name: value for name, value in row.items() if name != "conversations"}
    outputs = _outputs(row)
    if kind == "prompt":
        yield rest | _question(row, turns)
    elif row.get("rejected_conversations") is not None:
        rest.pop("rejected_conversations")
        yield rest | _pair_of_conversations(turns, row["rejected_conversations"])
    elif outputs is not None:
        for name in outputs:
            rest.pop(name)
        yield rest | _two_outputs(row, turns, outputs, kind)
    else:
        yield dict(row)


def _question(row: Mapping[str, Any], turns: list[Any]) -> dict[str, object]:
    """The first question, with the first answer as the expected one where it is a short one."""
    first = next((n for n, turn in enumerate(turns) if _role(turn) == "user"), None)
    if first is None:
        raise RowError("conversations", "has no question")
    found: dict[str, object] = {"prompt": turns[: first + 1]}
    if row.get("caption_type") in _WITH_EXPECTED and len(turns) > first + 1:
        found["expected_answer"] = turns[first + 1]["value"]
    return found


def _pair_of_conversations(turns: list[Any], rejected: Any) -> dict[str, object]:
    rejected = _turns(rejected, "rejected_conversations")
    if [_bare(turn) for turn in turns[:-1]] != [_bare(turn) for turn in rejected[:-1]]:
        raise RowError("rejected_conversations", "differs from conversations before its last turn")
    return {"prompt": turns[:-1], "chosen": [turns[-1]], "rejected": [rejected[-1]]}


def _two_outputs(
    row: Mapping[str, Any], turns: list[Any], outputs: tuple[str, str], kind: Kind
) -> dict[str, object]:
    prompt = turns[:-1] if _role(turns[-1]) == "assistant" else turns
    answers = [_text(row[name], name) for name in outputs]
    if kind == "sample":
        return {"prompt": prompt, "responses": answers}
    preference = row.get("preference")
    if preference not in (1, 2, "1", "2") or isinstance(preference, bool):
        raise RowError("preference", f"is {preference!r}, neither 1 nor 2")
    better = int(preference) - 1
    return {"prompt": prompt, "chosen": answers[better], "rejected": answers[1 - better]}


def _outputs(row: Mapping[str, object]) -> tuple[str, str] | None:
    return next((two for two in _OUTPUTS if all(row.get(name) is not None for name in two)), None)


def _turns(value: Any, field: str) -> list[Any]:
    if not _are_turns(value):
        raise RowError(field, "must be a list of turns of from and value")
    return list(value)


def _text(value: object, field: str) -> str:
    text = value.get("value") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise RowError(field, "is neither text nor a turn with text")
    return text


def _role(turn: Mapping[str, object]) -> str | None:
    return ROLES.get(str(turn["from"]))


def _bare(turn: Mapping[str, object]) -> tuple[str | None, str]:
    """A turn without its image tag."""
    return _role(turn), str(turn["value"]).replace(TAG, "").strip()


def _are_turns(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and {"from", "value"} <= turn.keys() for turn in value)
    )
