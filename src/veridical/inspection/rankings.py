"""Rows of two responses and a ranking, as benchmarks of reward models publish them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RESPONSES = ("response", "responses", "answers", "outputs")
RANKINGS = ("human_ranking", "ranking", "ranks", "rank")


def with_ranking(row: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool | None]:
    """A row with `chosen` and `rejected` in place of two responses and their ranks.

    Ranks begin at 0 or 1, and the lower one is better ([0, 1]: the first). What else the row says
    of the two, as a list of two, is put into the same order.

    Returns:
        The row, and whether the first response is the chosen one; the row itself and None where it
        has another form.
    """
    responses = next((name for name in RESPONSES if _is_pair(row.get(name), str)), None)
    ranking = next((name for name in RANKINGS if _is_pair(row.get(name), int)), None)
    if row.get("chosen") is not None or responses is None or ranking is None:
        return row, None
    first, second = row[ranking]
    if first == second:
        return row, None
    order = (0, 1) if first < second else (1, 0)
    rest = {name: value for name, value in row.items() if name not in (responses, ranking)}
    for name, value in rest.items():
        if _is_pair(value, (str, int, float)):
            rest[name] = [value[place] for place in order]
    chosen, rejected = (row[responses][place] for place in order)
    return {**rest, "chosen": chosen, "rejected": rejected}, order == (0, 1)


def _is_pair(value: object, of: type | tuple[type, ...]) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != 2:
        return False
    return all(isinstance(item, of) and not isinstance(item, bool) for item in value)
