"""Reasons are counted by kind: no fault hides behind the text of another."""

from __future__ import annotations

from veridical.runtime.kinds import by_kind


def counts(reasons: list[str]) -> list[tuple[int, str]]:
    return [(len(kind), kind[0]) for kind in by_kind(reasons, lambda one: ("field", one))]


def test_numbers_and_files_differ_within_a_kind() -> None:
    assert counts([f"images/{n}.png is not a file" for n in range(9)] + ["is cut at 7"]) == [
        (9, "images/0.png is not a file"),
        (1, "is cut at 7"),
    ]


def test_a_few_quoted_texts_are_kinds_of_their_own() -> None:
    end, image = "has the special token '</s>'", "has the special token '<image>'"
    assert counts([end, image, image]) == [(2, image), (1, end)]
    many = [f"has the special token '<{letter}>'" for letter in "abcd"]
    assert counts(many) == [(4, many[0])]


def test_the_mark_in_a_short_form_quotes_nothing() -> None:
    """Between the marks of "can't" and "isn't" stand two different faults."""
    assert len(counts(["it can't be read, it isn't there", "it can't be cut, it isn't one"])) == 2
