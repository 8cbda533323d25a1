"""POPE's answers made elsewhere, matched with their questions."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.data.object_questions import ObjectQuestion
from veridical.eval.answers import read_answer_rows, refuse_many
from veridical.eval.asks import SkippedQuestion
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import part_of


def read_given_answers(path: Path) -> list[JsonObject]:
    """Answers made elsewhere, of which a margin is a number and a prompt a text.

    Raises:
        UserError: one is something else, or a row lacks its id or its answer.
    """
    rows = read_answer_rows(path, "question_id")
    for row in rows:
        margin, prompt = row.get("margin", 0.0), row.get("prompt")
        if isinstance(margin, bool) or not (
            isinstance(margin, int | float) and abs(margin) < math.inf
        ):
            what, wanted = f"margin {margin!r:.40}", "a finite number, log p(Yes) - log p(No)"
        elif prompt is not None and not isinstance(prompt, str):
            what, wanted = f"prompt {prompt!r:.40}", "a text"
        else:
            continue
        raise UserError(
            f"{path}: the answer with question_id {row['question_id']} has the {what}; it has to "
            f"be {wanted}. Correct the field or leave it out of all answers."
        )
    return rows


def answered_questions(
    questions: Sequence[ObjectQuestion], answers: Sequence[Mapping[str, Any]], most: float
) -> tuple[list[ObjectQuestion], list[SkippedQuestion]]:
    """The questions that have an answer, and rows of `skipped.jsonl` for the others.

    A question whose id others have too, in splits that the answers don't name, is taken for one
    that has an answer: `match_answers` says what is wrong.

    Args:
        questions: all.
        answers: made elsewhere.
        most: share of questions that may have none.

    Raises:
        UserError: more have none.
    """
    with_split = all("split" in row for row in answers)
    said = {(str(row.get("split")) if with_split else "", row["question_id"]) for row in answers}
    keys = [(one.split if with_split else "", one.question_id) for one in questions]
    asked = Counter(keys)
    lack = [asked[key] == 1 and key not in said for key in keys]
    skipped: list[SkippedQuestion] = [
        {"id": one.question_id, "field": one.image, "reason": "no answer"}
        for one, lacks in zip(questions, lack, strict=True)
        if lacks
    ]
    refuse_many(len(skipped), len(questions), "questions", skipped, most)
    return [one for one, lacks in zip(questions, lack, strict=True) if not lacks], skipped


def match_answers(
    questions: Sequence[ObjectQuestion], answers: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The answer of each question.

    Matched by `question_id`, and by `split` where the answers have one. Official files use the
    same ids in every split: the second answer with an id then belongs to the second question with
    it, and so on, in the order in which files and rows were given.

    Raises:
        UserError: questions without an answer, answers without a question, a `split` in some
            answers only, or an answer whose own `question` or `image` is another.
    """
    splits = sum("split" in row for row in answers)
    if 0 < splits < len(answers):
        first = next(row["question_id"] for row in answers if "split" not in row)
        raise UserError(
            f"{part_of(splits, len(answers), 'answers', 'has', 'have')} a `split`, and the "
            f"others, such as {first}, lack it. Give it to all of them or to none."
        )
    with_split = splits > 0

    def key(split: str, question_id: str) -> tuple[str, str]:
        return (split if with_split else "", question_id)

    waiting: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in answers:
        waiting[key(str(row.get("split")), row["question_id"])].append(row)
    asked = Counter(key(question.split, question.question_id) for question in questions)
    wrong = [name for name in sorted(asked | waiting.keys()) if asked[name] != len(waiting[name])]
    if wrong:
        some = ", ".join(
            f"{name[1]} ({asked[name]} asked, {len(waiting[name])} answered)" for name in wrong[:3]
        )
        raise UserError(
            f"{len(wrong)} question ids have not exactly one answer a question: {some}. Give every "
            "questions file and an answer to every question, files in the same order."
        )
    taken: Counter[tuple[str, str]] = Counter()
    matched = []
    for question in questions:
        name = key(question.split, question.question_id)
        matched.append(waiting[name][taken[name]])
        taken[name] += 1
        _refuse_other(question, matched[-1])
    return matched


def _refuse_other(question: ObjectQuestion, answer: Mapping[str, object]) -> None:
    """Refuse an answer that says itself that it is one to another question."""
    asked = {"question": question.text, "image": Path(question.image).stem}
    for field, wanted in asked.items():
        own = answer.get(field)
        said = Path(str(own)).stem if field == "image" else str(own).strip()
        if own is not None and said.casefold() != wanted.strip().casefold():
            shown = question.image if field == "image" else question.text
            raise UserError(
                f"The answer with question_id {question.question_id} is to the {field} {own!r}, "
                f"but the question with that id has {shown!r} ({question.split}). Give --answers "
                "in the same order as --questions, or a `split` in each answer."
            )
