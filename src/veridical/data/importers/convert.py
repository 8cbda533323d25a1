"""Converting a row of a foreign set to rows that the reader of records checks."""

from __future__ import annotations

import ast
import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from veridical.data.column_names import as_known, known, squeezed
from veridical.data.importers.extras import COLUMN, unpacked
from veridical.data.importers.labels import read_label
from veridical.data.importers.rules import Rules
from veridical.data.importers.sets import NamedSet
from veridical.data.importers.shapes import SHAPES
from veridical.data.importers.sources import Place
from veridical.data.importers.templates import without_template
from veridical.data.importers.winners import AUTHORS
from veridical.data.record_kinds import TAG, Kind, LeftOutError, RowError
from veridical.data.record_names import (
    IMAGES,
    LABELED_BAD,
    RECORD_NAMES,
    image_column,
    is_labeled_bad,
    with_own_names,
)
from veridical.data.record_rows import known_fields
from veridical.data.text.units import joined
from veridical.runtime.files import JSON_ERRORS, parse_json

SHORT = 2000
"""Characters of a text that is kept in `source`."""
MARGINS = ("margin", "ls_factor")
"""Columns with how much better the chosen answer is; the second is MM-RLHF's."""
VIDEOS = ("video", "videos")
FACTORS = {
    "chosen_by": ("chosen_by", "chosen_model"),
    "rejected_by": ("rejected_by", "rejected_model"),
    "judge": ("judge", "judge_model"),
    "prompts": ("prompts",),
}
"""Factors that `build compose` knows, to the columns in which sets name them."""
BY_RESPONSE = "responses_by"
NAMES = known(
    RECORD_NAMES, *(shape.reads for shape in SHAPES.values()), *FACTORS.values(), MARGINS, VIDEOS,
    ("context", "severity", BY_RESPONSE),
)  # fmt: skip
"""Names that importers know, by how they are told apart."""
MAY_LACK = ("winner", *AUTHORS)
"""Columns that a row may lack, though others have them."""
_STAY = ("id", "image_id")
"""Columns that keep their own meaning when another is read from them."""


def convert(
    row: object, place: Place, one: NamedSet, rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """The rows of ours that a foreign row stands for, or why there is none.

    Args:
        row: as it lies in the file, or what was wrong with reading it.
        place: where it is.
        one: what the set was taken for.
        rules: to convert by, with those of `one` in them.
        kind: of the records.
    """
    if isinstance(row, RowError):
        yield row
        return
    if not isinstance(row, Mapping):
        yield RowError("row", f"not a JSON object but {type(row).__name__}")
        return
    if one.leave_out is not None and row.get(one.leave_out[0]):
        yield LeftOutError(*one.leave_out)
        return
    try:
        held = unpacked(row)
        whole = renamed({n: v for n, v in row.items() if n != COLUMN}, rules.columns or {})
        if kind == "conversation" and is_labeled_bad(whole):
            raise LeftOutError("label", LABELED_BAD)
        if any(whole.get(name) for name in VIDEOS) and not any(whole.get(name) for name in IMAGES):
            raise LeftOutError("video", "videos are not read")
        whole |= {name: _as_object(whole.get(name)) for name in one.printed}
        _take_ratings(whole, one)
        factors = _factors(whole, one)
        for made in SHAPES[one.shape].rows(whole, rules, kind):
            if isinstance(made, RowError):
                yield made
            else:
                yield finished(factors | made, held, place, one, rules, kind)
    except RowError as error:
        yield error


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, object]:
    """A row with columns under our names, however the file writes them (`Image path`).

    Args:
        row: as it lies in the file; a winner, and who wrote an answer, may be left out.
        columns: ours to theirs; a theirs of `a.b` is `b` within the object `a`, or within each
            object of a list, and null where `a` is.

    Raises:
        RowError: it has no such column, or one name twice.
    """
    values = {ours: _value(row, ours, theirs) for ours, theirs in columns.items()}
    moved = set(columns.values()) - set(_STAY)
    rest = {name: value for name, value in row.items() if name not in moved}
    given = {squeezed(ours) for ours in values}
    spelled = as_known({n: v for n, v in rest.items() if squeezed(str(n)) not in given}, NAMES)
    plain = {name: value for name, value in rest.items() if name not in spelled}
    return plain | {ours: rest[name] for name, ours in spelled.items()} | values


def _value(row: Mapping[str, Any], ours: str, theirs: str) -> Any:
    try:
        return looked_up(row, ours, theirs)
    except RowError:
        if ours in MAY_LACK:
            return None
        raise


def looked_up(row: Mapping[str, Any], ours: str, theirs: str) -> Any:
    """The value of a column, or at a place such as `a.b` in one that holds an object.

    Raises:
        RowError: there is none; it is of the field `ours`.
    """
    if theirs in row:
        return row[theirs]
    try:
        return _within(row, theirs.split("."))
    except KeyError:
        raise RowError(ours, f"the row has no column {theirs}") from None


def _within(value: Any, parts: Sequence[str]) -> Any:
    """What is at a place in objects within objects; of a list of objects, that of each.

    Raises:
        KeyError: there is no such place.
    """
    if not parts or value is None:
        return value  # an object that is null has nothing in it
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, list) and value:
        return [_within(one, parts) for one in value]
    if not isinstance(value, Mapping):
        raise KeyError(parts[0])
    return _within(value[parts[0]], parts[1:])


def _parsed(text: str) -> object:
    try:
        return parse_json(text)
    except JSON_ERRORS:
        return None


def finished(
    made: dict[str, object],
    held: Mapping[str, object] | None,
    place: Place,
    one: NamedSet,
    rules: Rules,
    kind: Kind,
) -> dict[str, object]:
    """A row of ours with the rules applied, and a `source` where it was not a record before.

    Args:
        made: the row.
        held: what an export kept beside it; None where it is not an export.
        place: where the foreign row is.
        one: what the set was taken for.
        rules: to apply.
        kind: of the record.

    Raises:
        RowError: a rule can't be applied to it.
    """
    _begin_answers(made, rules)
    _rate_severity(made, rules)
    _scale_beta(made, rules)
    named, used = with_own_names(made, kind, exact=True)
    row = {name: value for name, value in named.items() if name not in used}
    if kind == "unpaired":
        row["label"] = read_label(row.get("label"))
    if rules.turn_marks is not None:
        row["prompt"] = without_template(row.get("prompt"), rules.turn_marks)
    _locate(row, rules)
    if row["images"] and rules.placeholder == "after":
        _place_after(row)
    own = held is not None or "source" in made
    if row.get("expected_answer") == "" and "source" not in made:
        del row["expected_answer"]  # other tools have no other way to say that there is none
    row = {name: value for name, value in row.items() if value is not None} | dict(held or {})
    if own:
        return {name: value for name, value in row.items() if name in known_fields(kind)}
    told: dict[str, object] = {"set": one.name, "file": place.file, "row": place.row}
    told |= {name: row.pop(name) for name in (*FACTORS, BY_RESPONSE) if name in row}
    extra = {
        name: value
        for name, value in row.items()
        if name not in known_fields(kind) and _is_short(value) and not image_column(name, value)
    }
    told |= {"columns": extra} if extra else {}
    kept = {name: value for name, value in row.items() if name not in extra}
    return kept | {"source": json.dumps(told, ensure_ascii=False, sort_keys=True)}


def _as_object(value: object) -> object:
    """The object that a text is the Python representation of; anything else unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def _factors(row: dict[str, object], one: NamedSet) -> dict[str, object]:
    """Where the prompt and the answers are from and who judged them, as far as that is known."""
    found: dict[str, object] = dict(one.factors)
    for factor, column in one.factor_columns.items():
        with contextlib.suppress(RowError):
            found[factor] = looked_up(row, factor, column)
    for factor, names in FACTORS.items():
        name = next((name for name in names if isinstance(row.get(name), str)), None)
        if name is not None:
            found[factor] = row.pop(name)
    return {factor: value for factor, value in found.items() if isinstance(value, str) and value}


def _take_ratings(row: dict[str, object], one: NamedSet) -> None:
    """Put a pair's columns of ratings into `ratings`; groups have done so with theirs."""
    if one.together:
        return
    ratings = [
        {"answer": answer, "aspect": aspect, "value": row.pop(column)}
        for column, (answer, aspect) in one.ratings.items()
        if row.get(column) is not None
    ]
    if ratings:
        row["ratings"] = [*_listed(row, "ratings"), *ratings]


def _begin_answers(row: dict[str, object], rules: Rules) -> None:
    """Put a given beginning before both answers."""
    if rules.context is None:
        return  # it may be anything
    beginning = row.pop("context", None)
    if rules.context == "drop" or not beginning:
        return
    for name in ("chosen", "rejected"):
        answer = row.get(name)
        if not isinstance(answer, str) or not isinstance(beginning, str):
            raise RowError("context", f"can't begin {name}, as one of them is not text")
        row[name] = joined(beginning, answer).lstrip()
    if rules.context == "prefix" and isinstance(beginning, str):
        row["answer_prefix"] = beginning.strip()


def _rate_severity(row: dict[str, object], rules: Rules) -> None:
    severity = row.pop("severity", None)
    if severity is None or rules.severity == "drop":
        return
    if rules.severity == "weight":
        weight = {"answer": "rejected", "weight": severity}
        row["span_weights"] = [*_listed(row, "span_weights"), weight]
        return
    rating = {"answer": "rejected", "aspect": "severity", "value": severity}
    row["ratings"] = [*_listed(row, "ratings"), rating]


def _listed(row: Mapping[str, object], name: str) -> list[object]:
    """What a row has in a list already, to which more is added.

    Raises:
        RowError: it has something else there.
    """
    found = row.get(name) or []
    if not isinstance(found, list):
        raise RowError(name, "must be a list")
    return found


def _scale_beta(row: dict[str, object], rules: Rules) -> None:
    """Make a factor on beta of a margin between the answers."""
    if rules.margin_weight is None:
        return
    name = next((name for name in MARGINS if row.get(name) is not None), None)
    if name is None:
        return  # as a row without a factor
    margin = row.pop(name)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise RowError(name, f"is {str(margin)[:40]!r}, no number")
    if row.get("beta_factor") is not None:
        raise RowError("beta_factor", f"is given beside {name}; leave --margin-weight out")
    factor = 1 + rules.margin_weight * margin
    if not (math.isfinite(factor) and factor > 0):
        raise RowError(name, f"gives a beta factor of {factor:g}, which must be above 0")
    row["beta_factor"] = factor


def _locate(row: dict[str, object], rules: Rules) -> None:
    """Put the images' references into `images`, as the rules have them."""
    found = row.get("images") if row.get("images") is not None else row.get("image")
    row.pop("image", None)
    values = found if isinstance(found, list) else [] if found in (None, "") else [found]
    if rules.images != "drop":
        row["images"] = [rules.locate(value) for value in values]
        return
    row["images"] = []
    for field in ("prompt", "messages", "conversations"):
        row[field] = _without_tags(row.get(field))


def _without_tags(value: object) -> object:
    if isinstance(value, str):
        return value.replace(f"{TAG}\n", "").replace(f"\n{TAG}", "").replace(TAG, "")
    if isinstance(value, list):
        return [_without_tags(one) for one in value if not _is_image(one)]
    if isinstance(value, Mapping):
        texts = ("content", "value", "text")
        return {name: _without_tags(one) if name in texts else one for name, one in value.items()}
    return value


def _place_after(row: dict[str, object]) -> None:
    """Put the images behind the first question, where no question says where they are."""
    field = next((name for name in ("prompt", "messages", "conversations") if row.get(name)), "")
    if isinstance(row.get(field), str):
        row[field] = [{"role": "user", "content": row[field]}]
    messages = row.get(field)
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        return  # the reader says what is wrong with it
    questions = [
        (number, message, "content" if "content" in message else "value")
        for number, message in enumerate(messages)
        if message.get("role", message.get("from")) in ("user", "human")
    ]
    if not questions or any(_places_images(message.get(name)) for _, message, name in questions):
        return
    number, message, name = questions[0]
    content, images = message.get(name), len(_listed(row, "images"))
    if isinstance(content, str):
        content = f"{content}\n{TAG * images}"
    elif isinstance(content, list):
        content = [*content, *[{"type": "image"}] * images]
    row[field] = [*messages[:number], {**message, name: content}, *messages[number + 1 :]]


def _places_images(content: object) -> bool:
    """Whether what a turn says has the place of an image in it."""
    if isinstance(content, list):
        return any(_is_image(one) or _places_images(one) for one in content)
    if isinstance(content, Mapping):
        return _places_images(content.get("text"))
    return isinstance(content, str) and TAG in content


def _is_image(block: object) -> bool:
    """Whether a part of a turn is an image's place, with nothing else in it."""
    if not isinstance(block, Mapping) or block.get("type") != "image":
        return False
    return all(value is None for name, value in block.items() if name != "type")


def _is_short(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= SHORT
    return isinstance(value, bool | int | float)
