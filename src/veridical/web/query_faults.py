"""What of an address can't be applied: otherwise it would look as if no row were found."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping

from veridical.web.query import OPERATORS, TRUTHS, Filter, Query, is_number
from veridical.web.shown_rows import OWN_FIELDS

PARAMETERS = ("q", "where", "sort", "down", "marked", "problems", "page", "field", "op", "value")
MOST_NAMED = 20
MOST_OTHERS = 5
ORDERS = (">", ">=", "<", "<=")


def query_faults(
    query: Query,
    fields: Mapping[str, str],
    has_field: Callable[[str], bool],
    others: Collection[str],
) -> list[str]:
    """Why filters, the order or other parts of an address do nothing, in sentences.

    Args:
        query: of the address.
        fields: that rows have, each a `number`, a `text` or `mixed`.
        has_field: whether a row has a field that is not among these.
        others: parameters of the address.
    """
    unknown = [name for name in others if name not in PARAMETERS]
    found = [
        f"{name[:80]} is not part of an address and does nothing.{_near(name, PARAMETERS)}"
        for name in unknown[:MOST_OTHERS]
    ]
    for one in query.filters:
        if has_field(one.field):
            found += _values(one, fields.get(one.field, "mixed"))
        else:
            found.append(
                f"The filter {str(one)[:120]} can't be applied: no row has a field "
                f"{one.field[:80]}.{_fields(one.field, fields)}"
            )
    if query.sort and not has_field(query.sort):
        found.append(
            f"No row has the field {query.sort[:80]}, so they are not sorted by it."
            f"{_fields(query.sort, fields)}"
        )
    return found


def _values(one: Filter, kind: str) -> Iterator[str]:
    """What is wrong with a value that is compared with a field of some kind."""
    if not one.value or one.operator == "~":
        return
    number = is_number(one.value)
    if kind == "number" and not number:
        if one.operator in ORDERS or one.value.lower() not in TRUTHS:
            yield (
                f"The filter {str(one)[:120]} can't be applied: {one.field} is a number, and "
                f"{one.value[:80]} is not."
            )
    elif kind == "text" and number and one.operator in ORDERS:
        yield (
            f"The filter {str(one)[:120]} can't be applied: {one.field} is a text, of which none "
            f"{OPERATORS[one.operator]} a number. Use =, != or ~."
        )


def _fields(name: str, fields: Mapping[str, str]) -> str:
    known = [*fields, *(own for own in OWN_FIELDS if own not in fields)]
    more = f" and {len(known) - MOST_NAMED} more" if len(known) > MOST_NAMED else ""
    return f"{_near(name, known)} The fields are {', '.join(known[:MOST_NAMED])}{more}."


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:200], list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
