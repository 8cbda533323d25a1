"""Articles and plurals."""

from __future__ import annotations

import pytest

from veridical.data.text.english import article, is_plural, plural


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("apple", "an"), ("car", "a"), ("hour", "an"), ("unicorn", "a"), ("Umbrella", "an")],
)
def test_the_article_follows_the_sound(noun: str, expected: str) -> None:
    assert article(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("wine glass", "wine glasses"),
        ("knife", "knives"),
        ("person", "people"),
        ("bench", "benches"),
        ("skis", "skis"),
        ("scissors", "scissors"),
    ],
)
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        *[
            (noun, True)
            for noun in ("buses", "men", "bananas", "Wine glasses", "skis", "mice", "benches")
        ],
        *[(noun, False) for noun in ("bus", "wine glass", "man", "tennis", "mouse", "dress")],
    ],
)
def test_number(noun: str, expected: bool) -> None:
    assert is_plural(noun) is expected
