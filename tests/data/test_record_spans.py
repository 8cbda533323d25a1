"""Weights of parts of answers follow their text."""

from __future__ import annotations

from veridical.data.record_spans import SpanWeight, after_strip, places_of


def span(start: int | None, end: int | None, answer: str = "chosen") -> SpanWeight:
    return {"answer": answer, "start": start, "end": end, "weight": 2.0}


def test_spans_move_with_a_text_that_loses_its_ends() -> None:
    """From "__A dog.</s>", _ a space, to "A dog.": 2 characters go before it, 4 behind it."""
    spans = [span(4, 7), span(0, 3), span(None, 12), span(8, 12), span(4, 7, "rejected")]
    moved = after_strip(spans, "chosen", "  A dog.</s>", "A dog.")
    # "dog" was at 4 to 7 and is at 2 to 5; the white space before "A" is gone; "</s>" had a span.
    assert moved == [span(2, 5), span(0, 1), span(None, 6), span(4, 7, "rejected")]
    assert places_of(moved, "chosen", 6) == [(2, 5, 2.0), (0, 1, 2.0), (0, 6, 2.0)]
