"""Questions of VQA-v2 and A-OKVQA about an image, as one conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from veridical.builders.instructing.found import Gathered, ImageFolder, Talk, no_image
from veridical.builders.instructing.prompts import Prompts
from veridical.data.record_files import stream_json_list
from veridical.runtime.errors import UserError

LETTERS = "ABCD"


def vqa_talks(
    questions: Path, annotations: Path, images: ImageFolder, prompts: Prompts
) -> Gathered:
    """The yes/no questions of VQA-v2 about each image, as one conversation.

    Args:
        questions: `{"questions": [{"question_id", "image_id", "question"}]}`.
        annotations: `{"annotations": [{"question_id", "answer_type", "multiple_choice_answer"}]}`.
        images: COCO's.
        prompts: what is asked.
    """
    answers, twice = _answers(annotations)
    found, turns = Gathered(), dict[int, list[tuple[int, str, str]]]()
    for row in _listed(questions, "questions"):
        number = row.get("question_id") if _is_row(row) else None
        answer = answers.get(number) if isinstance(number, int) else None
        sort, said = answer or (None, None)
        if answer is not None and sort != "yes/no":
            found.other[str(sort)] = found.other.get(str(sort), 0) + 1
            continue
        found.rows += 1
        if isinstance(number, int) and number in twice:
            reason = "two annotations with this id differ"
            found.skip(number, annotations, "question_id", reason)
        elif not isinstance(number, int) or not _is_text(row.get("question")):
            found.skip(number, questions, "question", "there is no question_id or no question")
        elif said not in ("yes", "no"):
            reason = f"the answer is {said!r}" if answer else "no annotation has this id"
            found.skip(number, annotations, "multiple_choice_answer", reason)
        elif not isinstance(row.get("image_id"), int) or images.of(row["image_id"]) is None:
            found.skip(number, questions, "image_id", no_image(row.get("image_id"), images))
        else:
            turn = (number, str(row["question"]).strip(), said.capitalize())
            turns.setdefault(row["image_id"], []).append(turn)
    for image_id, own in sorted(turns.items()):
        file = images.of(image_id)
        assert file is not None  # it was found above
        asked = [
            (prompts.ask("vqa", f"vqa/{image_id}", question=question), answer)
            for _, question, answer in sorted(own)
        ]
        found.talks.append(Talk(f"vqa/{image_id}", file, tuple(asked), "VQA-v2"))
    return found


def _answers(annotations: Path) -> tuple[dict[int, tuple[object, object]], set[int]]:
    """Kind of answer and answer by question, and the questions that have two different ones."""
    answers, twice = dict[int, tuple[object, object]](), set[int]()
    for row in _listed(annotations, "annotations"):
        number = row.get("question_id") if _is_row(row) else None
        if isinstance(number, int):
            said = row.get("answer_type"), row.get("multiple_choice_answer")
            if answers.setdefault(number, said) != said:
                twice.add(number)
    return answers, twice


def aokvqa_talks(path: Path, images: ImageFolder, prompts: Prompts) -> Gathered:
    """The multiple-choice questions of A-OKVQA about each image, as one conversation.

    Args:
        path: `[{"image_id", "question_id", "question", "choices", "correct_choice_idx"}]`.
        images: COCO's.
        prompts: what is asked.
    """
    found, turns = Gathered(), dict[int, list[tuple[str, str]]]()
    for row in _listed(path, None):
        found.rows += 1
        number = row.get("question_id") if _is_row(row) else None
        problem = _aokvqa_problem(row, images)
        if problem is not None:
            found.skip(number, path, *problem)
            continue
        options = [f"{letter}. {one}" for letter, one in zip(LETTERS, row["choices"], strict=True)]
        image_id = row["image_id"]
        asked = prompts.ask(
            "aokvqa",
            f"aokvqa/{image_id}",
            question=row["question"].strip(),
            options="\n".join(options),
        )
        turns.setdefault(image_id, []).append((asked, options[row["correct_choice_idx"]]))
    for image_id, own in sorted(turns.items()):
        file = images.of(image_id)
        assert file is not None  # it was found above
        found.talks.append(Talk(f"aokvqa/{image_id}", file, tuple(own), "A-OKVQA"))
    return found


def _aokvqa_problem(row: Any, images: ImageFolder) -> tuple[str, str] | None:
    if not _is_row(row) or not _is_text(row.get("question")):
        return "question", "there is no question"
    choices, right = row.get("choices"), row.get("correct_choice_idx")
    if (
        not isinstance(choices, list)
        or len(choices) != len(LETTERS)
        or not all(map(_is_text, choices))
    ):
        return "choices", f"they must be {len(LETTERS)} texts"
    if not isinstance(right, int) or not 0 <= right < len(LETTERS):
        return "correct_choice_idx", "it is not given (as in a test split)"
    if not isinstance(row.get("image_id"), int) or images.of(row["image_id"]) is None:
        return "image_id", no_image(row.get("image_id"), images)
    return None


def _listed(path: Path, key: str | None) -> Iterator[Any]:
    rows = stream_json_list(path, key or "")
    first = next(rows, None)
    if first is None:
        form = f'a JSON object with a list "{key}"' if key else "a JSON list"
        raise UserError(f"{path} must be {form} of rows.")
    yield first
    yield from rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
