"""Numbers beside what they count, in English."""

from __future__ import annotations

import pytest

from veridical.runtime.progress import are_in, counted, part_of


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [(1, 1, "1 of 1 row has"), (1, 2, "1 of 2 rows has"), (2, 3, "2 of 3 rows have")],
)
def test_a_part_of_all_agrees_with_its_verb(part: int, whole: int, said: str) -> None:
    assert part_of(part, whole, "rows", "has", "have") == said
    assert part_of(part, whole, "rows") == said.rpartition(" ")[0]


def test_one_thing_is_singular() -> None:
    assert [counted(n, "images") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [are_in(n, "pairs", "a") for n in (1, 2)] == ["1 pair is in a.", "2 pairs are in a."]
