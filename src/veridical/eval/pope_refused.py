"""POPE's questions about images that the model's processor refuses when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.data.object_questions import Question
from veridical.eval.answers import refuse_many


def refused_rows(
    questions: Sequence[Question], answers: Sequence[Mapping[str, Any]], by_image: bool
) -> list[dict[str, str]]:
    """Rows of `skipped.jsonl` for the answers that say `refused`.

    Args:
        questions: what was asked.
        answers: a row for each of them.
        by_image: a row for each image, as for questions that were built; else for each question.
    """
    late = [
        (question, row["refused"])
        for question, row in zip(questions, answers, strict=True)
        if "refused" in row
    ]
    if by_image:
        reasons = {Path(question.image).stem: reason for question, reason in late}
        return [{"id": id, "field": "image", "reason": why} for id, why in reasons.items()]
    return [{"id": q.question_id, "field": q.image, "reason": why} for q, why in late]


def refuse_late(
    late: Sequence[Mapping[str, str]],
    questions: Sequence[Question],
    skipped: Sequence[Mapping[str, str]],
    by_image: bool,
    most: float,
) -> None:
    """Stop when these and those left out before are too many.

    Args:
        late: as `refused_rows` gives them.
        questions: what was asked.
        skipped: what was left out before asking.
        by_image: as for `refused_rows`.
        most: the share that may be left out.

    Raises:
        UserError: they are more than that.
    """
    if not late:
        return
    if not by_image:
        rows = [*skipped, *late]
        refuse_many(len(rows), len(skipped) + len(questions), "questions", rows, most)
        return
    # An image about which nothing can be asked is usable.
    rows = [*(row for row in skipped if row["field"] == "image"), *late]
    asked = len({question.image_id for question in questions})
    refuse_many(len(rows), len(skipped) + asked, "images", rows, most)
