"""Several rated responses to one prompt.

VLFeedback's `completions` are a list of objects, or, as older Datasets hand them on, an object of
lists; its ratings are texts. VL-RewardBench has a list `response` with `human_ranking` (0 is
best). Rows of one response each, with a column for each rating, are put together before
(`sets.NamedSet.together`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from veridical.data.importers.rules import Fit, Rules
from veridical.data.record_kinds import Kind, PartError, RowError, response_name

SUMMARY = "several responses to a prompt, with ratings or a ranking"
RANKINGS = ("human_ranking", "ranking")

READS: tuple[str, ...] = ("completions", "response", "models", *RANKINGS)
"""Columns that the shape has by names of its own."""


def fits(row: Mapping[str, object]) -> Fit | None:
    """Why a row is of this shape."""
    if isinstance(row.get("completions"), list | Mapping):
        return Fit("it has completions", "sample")
    ranking = next((name for name in RANKINGS if row.get(name) is not None), None)
    if ranking is not None and isinstance(row.get("response"), list):
        return Fit(f"it has a list response and {ranking}", "preference")
    return None


def rows(
    row: Mapping[str, Any], rules: Rules, kind: Kind
) -> Iterator[dict[str, object] | RowError]:
    """A record of kind `sample`, or a pair where the responses are ranked.

    What is wrong with one response is yielded beside the record of the others.
    """
    del rules
    ranking = next((name for name in RANKINGS if row.get(name) is not None), None)
    if ranking is not None and isinstance(row.get("response"), list):
        yield _ranked(row, ranking)
        return
    if kind != "sample":
        raise RowError("completions", "become samples; `veridical build pairs` makes pairs of them")
    rest = {name: value for name, value in row.items() if name != "completions"}
    texts: list[str] = []
    ratings: list[dict[str, object]] = []
    models: list[object] = []
    for number, one in enumerate(_completions(row.get("completions"))):
        text = one.get("response")
        if not isinstance(text, str) or not text.strip():
            yield PartError("completions", f"response {number} is empty")
            continue
        name = response_name(len(texts))
        for aspect, value in _ratings(one.get("annotations")).items():
            rating = _number(value)
            if rating is None:
                yield PartError(
                    "ratings", f"response {number}, {aspect}: {value!r} is not a number"
                )
            else:
                ratings.append({"answer": name, "aspect": aspect, "value": rating})
        texts.append(text)
        models.append(one.get("model"))
    if not texts:
        raise RowError("completions", "no response has a text")
    rest.setdefault("models", ", ".join(str(model) for model in models if model))
    if any(models):
        rest["responses_by"] = [str(model) if model else None for model in models]
    yield rest | {"responses": texts, "ratings": ratings}


def _ranked(row: Mapping[str, Any], ranking: str) -> dict[str, object]:
    answers, ranks = row["response"], row[ranking]
    if not isinstance(ranks, list) or len(ranks) != len(answers) or len(answers) < 2:
        raise RowError(ranking, f"must rank the {len(answers)} responses")
    if any(_number(rank) is None or isinstance(rank, str) for rank in ranks):
        raise RowError(ranking, "must be of finite numbers")
    if ranks.count(min(ranks)) != 1:
        raise RowError(ranking, "has no single best response")
    order = sorted(range(len(answers)), key=lambda number: ranks[number])
    rest = {name: value for name, value in row.items() if name not in ("response", ranking)}
    models = row.get("models")
    if isinstance(models, list) and len(models) == len(answers):
        rest["models"] = ", ".join(str(models[number]) for number in order)
        rest |= {"chosen_by": models[order[0]], "rejected_by": models[order[1]]}
    pair = {"chosen": answers[order[0]], "rejected": answers[order[1]]}
    more = [answers[number] for number in order[2:]]
    return rest | pair | ({"more_rejected": more} if more else {})


def _completions(value: object) -> list[Mapping[str, object]]:
    if isinstance(value, Mapping):
        lists = list(value.values())
        if not all(isinstance(one, list) for one in lists):
            raise RowError("completions", "is an object, but not one of lists alone")
        if len(set(map(len, lists))) != 1:
            raise RowError("completions", "its lists are not all as long")
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*lists, strict=True)]
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise RowError("completions", "must be a list of objects, or an object of lists")
    return value


def _ratings(annotations: object) -> dict[str, object]:
    """Aspect to rating, of `{aspect: {"Rating": ...}}` or of `{aspect: rating}`."""
    if not isinstance(annotations, Mapping):
        return {}
    return {
        str(aspect): value.get("Rating") if isinstance(value, Mapping) else value
        for aspect, value in annotations.items()
    }


def _number(value: Any) -> float | None:
    """A finite number, or a text that is one; true, false and `1_0` are none."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
