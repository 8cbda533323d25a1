"""Answers that get a rejected counterpart, whatever kind of record they are from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from veridical.builders._rows import Skipped, usual_reason, write_skipped
from veridical.data.images import row_images
from veridical.data.messages import (
    Message,
    assistant_message,
    clean_messages,
    count_images,
    text_of,
)
from veridical.data.record_types import NewRow
from veridical.data.records import RecordSet, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.progress import counted

AnswerKind = Literal["conversation", "preference", "sample"]


@dataclass(frozen=True)
class ChosenAnswer:
    """An answer that is to be the chosen one of a pair.

    Attributes:
        id: of the pair: the record's, or for one of several responses `<record>/<number>`.
        record: the record's id.
        index: of the record among the usable ones.
        images: in the order of the prompt's image blocks, opened when they are needed.
        image_names: names of their files, without suffix; "" where there is none.
        prompt: everything before the answer.
        message: the answer itself.
        repeated: whether an earlier response of the record has the same text.
    """

    id: str
    record: str
    index: int
    images: Sequence[Any]
    image_names: tuple[str, ...]
    prompt: Sequence[Message]
    message: Message
    repeated: bool = False

    @property
    def text(self) -> str:
        """The answer, without white space around it."""
        return text_of(self.message).strip()

    @property
    def question(self) -> str:
        """The text of the turn that is answered."""
        return text_of(self.prompt[-1]).strip() if self.prompt else ""


def read_answers(rows: Dataset, kind: AnswerKind) -> list[ChosenAnswer]:
    """The answers of some records.

    Args:
        rows: of a `RecordSet`.
        kind: of a `conversation` its last answer, of a `preference` the chosen one, of a `sample`
            every response.
    """
    pictures = rows.select_columns(["images"])
    texts, files = rows.remove_columns(["images"]), pictures.with_format("arrow")
    answers = []
    for index in range(len(rows)):
        row = texts[index]
        prompt, messages = _turns(row, kind)
        paths = files[index]["images"][0].values.field("path").to_pylist()
        names = tuple(Path(path or "").stem for path in paths)
        images = row_images(pictures, index, count_images(prompt))
        several = kind == "sample"
        said = [text_of(message).strip() for message in messages]
        answers += [
            ChosenAnswer(
                f"{row['id']}/{number}" if several else row["id"],
                row["id"], index, images, names, prompt, message,
                said[number] in said[:number],
            )
            for number, message in enumerate(messages)
        ]  # fmt: skip
    return answers


def write_pairs(
    out: Path,
    records: RecordSet,
    answers: Sequence[ChosenAnswer],
    results: Sequence[Mapping[str, Any]],
    field: str,
) -> tuple[int, int]:
    """Write `pairs.parquet` and `skipped.jsonl`.

    Args:
        out: the run's folder.
        records: where the answers are from.
        answers: every one.
        results: for each either "rejected" and "source", or "reason".
        field: of the records, that reasons are about.

    Returns:
        How many pairs, and how many records are listed in `skipped.jsonl`.

    Raises:
        UserError: not one pair came out.
    """
    left_out = [
        Skipped(answer.record, field, result["reason"])
        for answer, result in zip(answers, results, strict=True)
        if "reason" in result
    ]
    skipped = write_skipped(out, records, left_out, "pair")
    kept = [pair for pair in zip(answers, results, strict=True) if "rejected" in pair[1]]
    if not kept:
        raise UserError(
            f"Not one pair came out of {counted(len(answers), 'answers')}"
            f"{usual_reason(left_out, out)}"
        )
    write_records(_pairs(kept, records.rows), out / "pairs.parquet", "preference")
    return len(kept), skipped


def _turns(row: Mapping[str, Any], kind: AnswerKind) -> tuple[list[Message], list[Message]]:
    """The prompt, and the messages that answer it."""
    if kind == "conversation":
        messages = clean_messages(row["messages"])
        return messages[:-1], messages[-1:]
    answers = [row["chosen"]] if kind == "preference" else row["responses"]
    return clean_messages(row["prompt"]), [clean_messages(answer)[0] for answer in answers]


def _pairs(
    kept: Sequence[tuple[ChosenAnswer, Mapping[str, Any]]], rows: Dataset
) -> Iterator[NewRow]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    for answer, result in kept:
        row = raw[answer.index].to_pylist()[0]
        # Where the rejected answer goes on from the chosen one's beginning, only the rest differs.
        beginning = result["source"].get("beginning", "")
        given = text_of([answer.message]).lstrip().startswith(beginning)
        source = dict(result["source"]) | ({"from": row["source"]} if row.get("source") else {})
        yield {
            "id": answer.id,
            "images": row["images"],
            "prompt": answer.prompt,
            "chosen": [answer.message],
            "rejected": [assistant_message(result["rejected"])],
            "facts": row.get("facts"),
            "expected_answer": row.get("expected_answer"),
            "answer_prefix": beginning if beginning and given else None,
            "source": json.dumps(source, ensure_ascii=False),
        }
