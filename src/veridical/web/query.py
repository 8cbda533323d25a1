"""What a page of rows shows, as its address says it: search, filters, order, page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from veridical.runtime.errors import UserError
from veridical.web.shown_rows import OWN_FIELDS

OPERATORS = {
    "~": "contains",
    "=": "is",
    "!=": "is not",
    ">": "is above",
    ">=": "is at least",
    "<": "is below",
    "<=": "is at most",
}
TRUTHS = {"true": "true", "yes": "true", "false": "false", "no": "false"}
"""What may be asked for where a field is true or false; pages show yes and no."""
MOST_FILTERS, LONGEST = 12, 400
_SIGNS = re.compile("[%~=!<>]")  # of operators, which names of fields may have too
_WRITTEN_SIGNS = re.compile("%(25|7E|3D|21|3C|3E)")
_FILTER = re.compile(r"(.+?)(!=|>=|<=|~|=|>|<)(.*)", re.DOTALL)
MARKED = {"": "all rows", "flagged": "flagged", "noted": "with a note", "unflagged": "not flagged"}


@dataclass(frozen=True)
class Filter:
    """One condition on a field."""

    field: str
    operator: str
    value: str

    def __str__(self) -> str:
        """As it stands in an address: signs of operators in the field's name as `%3E`."""
        field = _SIGNS.sub(lambda sign: f"%{ord(sign[0]):02X}", self.field)
        return f"{field}{self.operator}{self.value}"

    @property
    def words(self) -> str:
        """As it is shown."""
        return f"{self.field} {OPERATORS[self.operator]} {self.value or '(empty)'}"


@dataclass(frozen=True)
class Query:
    """What is shown and in which order.

    Attributes:
        search: a text that rows contain, in any letter case.
        filters: all have to hold.
        sort: a field; "" for the order of the file.
        down: whether from the largest to the smallest.
        marked: a key of `MARKED`.
        problems: whether only rows that commands would leave out.
        page: counted from 1.
    """

    search: str = ""
    filters: tuple[Filter, ...] = ()
    sort: str = ""
    down: bool = False
    marked: str = ""
    problems: bool = False
    page: int = 1

    def address(self, **changes: object) -> str:
        """The query as a part of an address, with some fields changed."""
        query = replace(self, **changes) if changes else self  # type: ignore[arg-type]
        pairs = [("q", query.search), *(("where", str(one)) for one in query.filters)]
        pairs += [("sort", query.sort), ("down", "1" if query.down else "")]
        pairs += [("marked", query.marked), ("problems", "1" if query.problems else "")]
        pairs += [("page", str(query.page) if query.page > 1 else "")]
        return urlencode([(name, value) for name, value in pairs if value])

    def without(self, one: Filter) -> str:
        """The address without one filter."""
        return self.address(filters=tuple(f for f in self.filters if f != one), page=1)


def read_query(values: Mapping[str, Sequence[str]]) -> Query:
    """The query of an address.

    Args:
        values: of its parameters, each of which may stand several times.

    Raises:
        UserError: a part of it makes no sense.
    """

    def one(name: str) -> str:
        found = (values.get(name) or [""])[-1]
        if len(found) > LONGEST:
            raise UserError(f"{name} may have {LONGEST} letters; this one has {len(found):,}.")
        return found

    filters = [read_filter(text) for text in values.get("where", []) if text]
    if one("value") or one("op") in ("=", "!="):
        asked = str(Filter(one("field"), one("op"), one("value")))
        filters += [read_filter(asked)] if one("field") else []
    if len(filters) > MOST_FILTERS:
        raise UserError(f"An address may have {MOST_FILTERS} filters; this one has {len(filters)}.")
    page = one("page") or "1"
    if not (page.isascii() and page.isdigit() and len(page) < 10 and int(page)):
        raise UserError(f"page={page[:40]} is not a page; give a number from 1.")
    if one("marked") not in MARKED:
        raise UserError(
            f"marked={one('marked')[:40]} is none of {', '.join(filter(None, MARKED))}."
        )
    for name in ("down", "problems"):
        if one(name) not in ("", "0", "1"):
            raise UserError(f"{name}={one(name)[:40]} is neither 0 nor 1.")
    return Query(
        one("q").strip(),
        tuple(dict.fromkeys(filters)),
        one("sort"),
        one("down") == "1",
        one("marked"),
        one("problems") == "1",
        int(page),
    )


def read_filter(text: str) -> Filter:
    """A filter such as `chosen_words>50`.

    Raises:
        UserError: it has no field or no operator.
    """
    match = _FILTER.fullmatch(text)
    if match is None or not match[1].strip():
        raise UserError(
            f"where={text[:80]} is not a filter. Write a field, one of {' '.join(OPERATORS)}, and "
            "a value."
        )
    if len(text) > LONGEST:
        raise UserError(f"A filter may have {LONGEST} letters; one has {len(text):,}.")
    field = _WRITTEN_SIGNS.sub(lambda sign: chr(int(sign[1], 16)), match[1].strip())
    return Filter(field, match[2], match[3].strip())


def conditions(query: Query, noted: Sequence[int]) -> tuple[str, str, list[object]]:
    """A query as SQL: the tables and conditions, the order, and the values.

    Values and names of fields are never a part of the SQL's text.
    """
    parts: list[str] = []
    values: list[object] = []
    if query.search:
        parts.append("instr(contents.text, ?) > 0")
        values.append(query.search.casefold())
    for one in query.filters:
        part, own = _condition(one)
        parts.append(part)
        values += own
    if query.problems:
        parts.append("rows.problem != ''")
    if query.marked:
        negated = "NOT " if query.marked == "unflagged" else ""
        parts.append(f"rows.number {negated}IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(list(noted)))
    joined = " JOIN contents ON contents.number = rows.number" if query.search else ""
    where = f"{joined} WHERE {' AND '.join(parts)}" if parts else joined
    order = "rows.number"
    if query.sort:
        column, own = column_of(query.sort)
        order = f"{column} IS NULL, {column} {'DESC' if query.down else 'ASC'}, rows.number"
        values += [*own, *own]
    elif query.down:
        order = "rows.number DESC"
    return where, order, values


def _condition(one: Filter) -> tuple[str, list[object]]:
    column, own = column_of(one.field)
    if one.operator == "~":
        return f"instr(fold({column}), ?) > 0", [*own, one.value.casefold()]
    if one.operator in ("=", "!="):
        test = f"CAST({column} AS TEXT) = ? OR {column} = CAST(? AS REAL)"
        values: list[object] = [*own, one.value, *own, one.value if is_number(one.value) else None]
        truth = TRUTHS.get(one.value.lower())
        if truth and own:
            test += " OR json_type(rows.fields, ?) = ?"
            values += [*own, truth]
        test = f"({test})"
        empty = f"coalesce({test}, 0)" if one.value else f"coalesce({column}, '') = ''"
        values = values if one.value else own
        return (f"NOT {empty}" if one.operator == "!=" else empty), values
    if not is_number(one.value):
        return f"CAST({column} AS TEXT) {one.operator} ?", [*own, one.value]
    return (
        f"typeof({column}) IN ('integer', 'real') AND {column} {one.operator} ?",
        [*own, *own, float(one.value)],
    )


def is_number(text: str) -> bool:
    """Whether a value is compared as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def column_of(name: str) -> tuple[str, list[object]]:
    """A field as SQL, with the values it takes."""
    if name == "row":
        return "rows.number", []
    if name in OWN_FIELDS:
        return f"rows.{name}", []
    quoted = name.replace('"', "")  # a path can't quote it
    return "json_extract(rows.fields, ?)", [f'$."{quoted}"']
