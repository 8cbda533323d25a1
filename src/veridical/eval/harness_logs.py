"""The sample logs of lmms-eval and VLMEvalKit, as rows of answers."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.json_types import JsonObject

IDS = ("question_id", "questionId", "id", "index", "image_id")
"""What a question's id is called in the rows of either, after the name that is asked for."""


def is_lmms_log(rows: Sequence[Any]) -> bool:
    """Whether rows are lmms-eval's samples: each with a document and responses."""
    return bool(rows) and all(
        isinstance(row, Mapping) and "doc_id" in row and ("resps" in row or "filtered_resps" in row)
        for row in rows
    )


def of_lmms_log(rows: Sequence[Mapping[str, Any]], id_field: str, path: Path) -> list[JsonObject]:
    """lmms-eval's samples as rows with an id and an `answer`.

    The model's own words are taken, not what a filter made of them. A question of POPE keeps its
    `question` and, as `split`, its category, because its ids repeat.

    Raises:
        UserError: a sample has no response, or several, or does not say which question it is.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        doc = _document(row, id_field, f"{path}, row {number}")
        said = _texts(row["resps"] if "resps" in row else row["filtered_resps"])
        if len(said) != 1:
            raise UserError(
                f"{path}, row {number}: a sample needs one response, and has {len(said)}. Log the "
                "samples of a task that generates one answer."
            )
        about = {name: doc[name] for name in ("question",) if isinstance(doc.get(name), str)}
        if isinstance(doc.get("category"), str) and "question_id" in doc:
            about["split"] = doc["category"]
        found.append({**about, id_field: _id(doc, id_field), "answer": said[0]})
    return found


def _document(row: Mapping[str, Any], id_field: str, place: str) -> Mapping[str, Any]:
    """A sample's question: its document or, where that tells no id, what a metric says of it.

    `doc_id` is a place in the data set, which is not a question's id: POPE's begin at 1.

    Raises:
        UserError: neither is there.
    """
    names = (id_field, *IDS)
    told = (one for one in (row.get("doc"), *row.values()) if isinstance(one, Mapping))
    doc = next((one for one in told if any(one.get(name) is not None for name in names)), None)
    if doc is None:
        has_doc = isinstance(row.get("doc"), Mapping)
        why = "`doc` has no id" if has_doc else "the sample has no `doc`"
        raise UserError(
            f"{place}: {why}, and no metric of it tells one. It does not say which question was "
            "answered. Log the samples with documents that have an id "
            f"({', '.join(dict.fromkeys(names))})."
        )
    return doc


def is_vlmevalkit(rows: Sequence[Any]) -> bool:
    """Whether rows are VLMEvalKit's predictions: each with an index, a question and a prediction.

    Their `answer` is the right one.
    """
    return bool(rows) and all(
        isinstance(row, Mapping) and {"index", "question", "prediction"} <= row.keys()
        for row in rows
    )


def of_vlmevalkit(rows: Sequence[Mapping[str, Any]], id_field: str, path: Path) -> list[JsonObject]:
    """VLMEvalKit's predictions as rows with an id and an `answer`.

    Raises:
        UserError: a prediction is not text.
    """
    found: list[JsonObject] = []
    for number, row in enumerate(rows, start=1):
        said = row["prediction"]
        if not isinstance(said, str):
            raise UserError(f"{path}, row {number}: prediction must be a text, not {said!r:.40}.")
        id = _id(row, id_field)
        found.append({"question": str(row["question"]), id_field: id, "answer": said})
    return found


def read_tsv(path: Path) -> list[dict[str, str]]:
    """The rows of a TSV, as VLMEvalKit writes it with PRED_FORMAT=tsv.

    Raises:
        UserError: it is none.
    """
    return read_separated(path, "\t")


def read_separated(path: Path, delimiter: str) -> list[dict[str, str]]:
    """The rows of a TSV or CSV, by the names in its first line.

    Raises:
        UserError: it is none.
    """
    kind = "TSV" if delimiter == "\t" else "CSV"
    csv.field_size_limit(sys.maxsize)
    text = io.StringIO(read_text(path), newline="")
    try:
        rows = list(csv.DictReader(text, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is no {kind}: {error}.") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} is no {kind}: a row has more or fewer cells than the first line.")
    return rows


def refuse_excel(path: Path) -> None:
    """Refuse VLMEvalKit's usual output, a workbook.

    Raises:
        UserError: it is one.
    """
    if path.suffix.lower() in (".xlsx", ".xls"):
        raise UserError(
            f"{path} is a workbook. Let VLMEvalKit write TSV (PRED_FORMAT=tsv) or save it as TSV."
        )


def _id(row: Mapping[str, Any], id_field: str) -> str:
    """The first id that a row has; "None", which no question is called, if it has none."""
    names = (id_field, *IDS)
    return str(next((row[name] for name in names if row.get(name) is not None), None)).strip()


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for one in value for text in _texts(one)] if isinstance(value, list) else []
