"""Labels in the JSON of Label Studio and of Argilla, out and in.

Label Studio: tasks with `data` and `annotations`, as its own JSON export has them, and the labeling
interface as XML. Argilla 2: records as `Record.to_dict` writes them, with `fields` and `responses`.
In both, answers are called A and B: A is the comparison's first one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from veridical.data.pixels import ImageError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_text_atomic, write_texts_atomic
from veridical.runtime.progress import counted
from veridical.web.label_plan import Comparison
from veridical.web.label_state import BETTER, WORSE, Judgment, possible_seconds, read_spans
from veridical.web.label_store import LabelStore
from veridical.web.pictures import encoded
from veridical.web.sets import ViewedSet

LETTERS = {"first": "A", "second": "B"}
SIDES = {letter: side for side, letter in LETTERS.items()}
CHOICES = {"A": "A", "B": "B", "same": "The same", "unsure": "Can't tell", "broken": "Broken"}
OTHERS = "other_responses"
"""Responses of annotators whose names are not UUIDs: Argilla would refuse them among its own."""
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="Answer A"/>
  <Text name="answer_a" value="$answer_a"/>
  <Header value="Answer B"/>
  <Text name="answer_b" value="$answer_b"/>
  <Header value="Which answer hallucinates more?"/>
  <Choices name="worse" toName="answer_a" required="true">
    <Choice value="A"/><Choice value="B"/><Choice value="The same"/>
    <Choice value="Can't tell"/><Choice value="Broken"/>
  </Choices>
  <Header value="If it is the same: which is more helpful?"/>
  <Choices name="better" toName="answer_a">
    <Choice value="A"/><Choice value="B"/><Choice value="The same"/><Choice value="Can't tell"/>
  </Choices>
  <Labels name="wrong_a" toName="answer_a"><Label value="Wrong"/></Labels>
  <Labels name="wrong_b" toName="answer_b"><Label value="Wrong"/></Labels>
</View>
"""


def write_tool(
    store: LabelStore, images: Callable[[Comparison], ViewedSet], out: Path, form: str
) -> str:
    """Write every comparison, with what was said up to now, for one of the two tools.

    Images are within the file, as neither tool can open ours.

    Args:
        store: the labels.
        images: gives the set that has a comparison's images.
        out: the folder.
        form: `label-studio` or `argilla`.
    """
    path, make = out / f"{form}.json", _studio_task if form == "label-studio" else _argilla_record
    count = 0

    def texts() -> Iterator[str]:
        nonlocal count
        for one in store.comparisons():
            made = make(store, one, _image(images(one), one))
            yield (",\n" if count else "[\n") + json.dumps(made, ensure_ascii=False)
            count += 1
        yield "\n]\n"

    write_texts_atomic(path, texts())
    if form == "label-studio":
        write_text_atomic(out / "label-studio.xml", CONFIG)
        return f"{counted(count, 'tasks')} in {path}, the interface in {out}/label-studio.xml"
    return f"{counted(count, 'records')} in {path}"


def _image(viewed: ViewedSet, one: Comparison) -> str:
    """A comparison's first image as a data URI; "" where it can't be read."""
    if not one.row.images:
        return ""
    try:
        content, kind = encoded(viewed.image(one.row, one.row.images[0]), "large")
    except ImageError:
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _fields(one: Comparison, image: str) -> dict[str, str]:
    return {
        "image": image,
        "prompt": "\n".join(turn.text for turn in one.row.prompt),
        "answer_a": one.text("first"),
        "answer_b": one.text("second"),
    }


def _said(store: LabelStore, task: int) -> Iterator[tuple[str, Judgment]]:
    for name, own in store.known.items():
        if task in own and own[task].worse:
            yield name, own[task]


def _choice(value: str) -> str:
    return CHOICES[LETTERS.get(value, value)]


def _studio_task(store: LabelStore, one: Comparison, image: str) -> dict[str, object]:
    annotations = []
    for name, judgment in _said(store, one.task):
        result: list[dict[str, object]] = []
        for step in ("worse", "better"):
            value = getattr(judgment, step)
            if value:
                result.append({"from_name": step, "to_name": "answer_a", "type": "choices",
                               "value": {"choices": [_choice(value)]}})  # fmt: skip
        for side, spans in (("first", judgment.first_spans), ("second", judgment.second_spans)):
            letter = LETTERS[side].lower()
            result += [
                {"from_name": f"wrong_{letter}", "to_name": f"answer_{letter}", "type": "labels",
                 "value": {"start": start, "end": end, "text": one.text(side)[start:end],
                           "labels": ["Wrong"]}}
                for start, end in spans
            ]  # fmt: skip
        for number, own in enumerate(result, start=1):
            own["id"] = f"{one.task}-{name}-{number}"
        annotations.append({**_by(name), "created_at": judgment.at,
                            "lead_time": judgment.seconds, "result": result})  # fmt: skip
    return {"id": one.task, "data": {"id": one.row.id, "task": one.task, **_fields(one, image)},
            "annotations": annotations}  # fmt: skip


def _by(name: str) -> dict[str, object]:
    """Who made an annotation: Label Studio refuses a file with a user it does not have.

    It knows users by number or e-mail address. Others are named in a field that it passes over.
    """
    return {"completed_by": int(name)} if name.isdecimal() else {"annotator": name}


def _argilla_record(store: LabelStore, one: Comparison, image: str) -> dict[str, object]:
    responses: dict[str, list[dict[str, str]]] = {}
    others: dict[str, list[dict[str, str]]] = {}
    for name, judgment in _said(store, one.task):
        for step in ("worse", "better"):
            value = getattr(judgment, step)
            if value:
                said = {"value": LETTERS.get(value, value), "user_id": name}
                (responses if _is_uuid(name) else others).setdefault(step, []).append(said)
    return {"id": str(one.task), "fields": _fields(one, image), "metadata": {"id": one.row.id},
            "suggestions": {}, "responses": responses, OTHERS: others, "vectors": {}}  # fmt: skip


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def import_file(store: LabelStore, path: Path) -> str:
    """Store what a file of either tool says; taking it in again adds nothing.

    Raises:
        UserError: it is of neither, or names what this labeling has not.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise UserError(f"{path} must be a JSON list of Label Studio's tasks or Argilla's records.")
    given = [event for row in content for event in _events(row, path)]
    texts = {one.task: (one.text("first"), one.text("second")) for one in store.comparisons()}
    for task, name, step, value, answers, _, _ in given:
        if name not in store.dealt or task not in store.dealt[name]:
            raise UserError(
                f"{path}: comparison {task} was not given to {name!r}. Name the annotators with "
                "--annotators as the tool does, with --overlap 1 if everybody saw everything."
            )
        if answers != texts[task]:
            raise UserError(f"{path}: comparison {task} has other answers than this labeling.")
        if step == "marks":
            _check_marks(path, task, value, answers)
    stored = 0
    for task, name, step, value, _, seconds, at in given:
        text = json.dumps([task, name, step, value, at])
        key = f"import-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        stored += store.add(key, name, task, step, value, possible_seconds(seconds), at or None)
    return f"{counted(stored, 'answers')} of {counted(len(given), 'answers')} in {path} are new."


def _check_marks(path: Path, task: int, value: str, answers: tuple[str, str]) -> None:
    """Refuse marks that are not stretches of the answers: once stored, nobody could read the log.

    Raises:
        UserError: names the comparison.
    """
    try:
        spans = read_spans(json.loads(value))
    except ValueError as error:
        raise UserError(f"{path}, comparison {task}: {error}.") from error
    for side, text in zip(LETTERS, answers, strict=True):
        if spans[side] and spans[side][-1][1] > len(text):
            raise UserError(f"{path}, comparison {task}: a mark ends behind its answer.")


Given = tuple[int, str, str, str, tuple[str, str], float, str]


def _events(row: Mapping[str, Any], path: Path) -> Iterator[Given]:
    """Comparison, annotator, step, value, both answers, seconds and time of each answer."""
    try:
        if "fields" in row:
            yield from _from_argilla(row)
        else:
            yield from _from_studio(row)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"{path} is of neither tool: a row lacks or has otherwise {error}. Export tasks or "
            "records that `--export` wrote."
        ) from error


def _from_studio(row: Mapping[str, Any]) -> Iterator[Given]:
    data = row["data"]
    task, answers = int(data["task"]), (str(data["answer_a"]), str(data["answer_b"]))
    for annotation in row["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        who = annotation.get("annotator") or annotation["completed_by"]
        name = str(who.get("email") if isinstance(who, Mapping) else who).partition("@")[0]
        seconds = float(annotation.get("lead_time") or 0)
        about = answers, seconds, str(annotation.get("created_at") or "")
        marks: dict[str, list[list[int]]] = {"first": [], "second": []}
        steps: dict[str, str] = {}
        for result in annotation["result"]:
            kind = str(result.get("from_name"))  # relations have none
            if kind in ("wrong_a", "wrong_b"):
                side = SIDES[kind[-1].upper()]
                marks[side].append(_mark(result["value"], answers[side == "second"]))
            elif kind in ("worse", "better") and result["value"]["choices"]:
                steps[kind] = _side_of(str(result["value"]["choices"][0]), kind)
        if any(marks.values()):
            yield task, name, "marks", json.dumps(marks), about[0], 0.0, about[2]
        for step in ("worse", "better"):
            if step in steps and (step == "worse" or steps.get("worse") == "same"):
                spent = about[1] if step == "worse" else 0.0
                yield task, name, step, steps[step], about[0], spent, about[2]


def _from_argilla(row: Mapping[str, Any]) -> Iterator[Given]:
    fields = row["fields"]
    answers = str(fields["answer_a"]), str(fields["answer_b"])
    task = int(row["id"])
    worse = {}
    for step in ("worse", "better"):
        for response in [*row["responses"].get(step, []), *row.get(OTHERS, {}).get(step, [])]:
            if response.get("status", "submitted") != "submitted":
                continue
            name, value = str(response["user_id"]), _side_of(str(response["value"]), step)
            if step == "worse":
                worse[name] = value
            elif worse.get(name) != "same":
                continue
            yield task, name, step, value, answers, 0.0, ""


def _mark(value: Mapping[str, Any], answer: str) -> list[int]:
    """The stretch of an answer that Label Studio gives, and where it says so the words of.

    Raises:
        ValueError: the words are others.
    """
    start, end = int(value["start"]), int(value["end"])
    if str(value.get("text", answer[start:end])).strip() != answer[start:end].strip():
        raise ValueError(f"the marked words {value['text']!r}, which are not at {start} to {end}")
    return [start, end]


def _side_of(said: str, step: str) -> str:
    """What a tool's choice stands for.

    Raises:
        ValueError: it is none of the choices.
    """
    letter = next((own for own, shown in CHOICES.items() if said in (own, shown)), said)
    value = SIDES.get(letter, letter)
    if value not in (WORSE if step == "worse" else BETTER):
        raise ValueError(f"the choice {said!r}")
    return value
