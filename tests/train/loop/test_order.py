"""Processes see shares of the same whole batches."""

from __future__ import annotations

import pytest

from veridical.train.loop.order import OrderedRow, RankSampler


def epoch(
    rows: int, size: int, seed: int | None, process: int, processes: int
) -> list[list[OrderedRow]]:
    return list(RankSampler(rows, size, seed, process, processes))


@pytest.mark.parametrize(
    ("rows", "size", "processes"), [(18, 2, 2), (7, 3, 2), (5, 1, 4), (9, 4, 1)]
)
def test_shares_of_all_processes_are_the_batches_of_one(
    rows: int, size: int, processes: int
) -> None:
    whole = epoch(rows, size * processes, 3, 0, 1)
    shares = [epoch(rows, size, 3, process, processes) for process in range(processes)]
    # Everybody takes the same number of steps, or some would wait for ever.
    assert {len(share) for share in shares} == {len(whole)}
    for step, batch in enumerate(whole):
        seen = [place for share in shares for place in share[step] if place.counts]
        assert seen == batch
    assert sorted(place.index for batch in whole for place in batch) == list(range(rows))


def test_a_process_without_rows_repeats_one_that_does_not_count() -> None:
    # 5 rows in whole batches of 2 x 2: the last holds one row, which is the first process's.
    assert epoch(5, 2, None, 0, 2) == [[OrderedRow(0), OrderedRow(1)], [OrderedRow(4)]]
    assert epoch(5, 2, None, 1, 2) == [
        [OrderedRow(2), OrderedRow(3)],
        [OrderedRow(4, counts=False)],
    ]


def test_the_order_is_the_seeds_and_the_epochs() -> None:
    sampler = RankSampler(30, 30, 1, 0, 1)
    first, again = next(iter(sampler)), next(iter(sampler))
    sampler.set_epoch(1)
    assert first == again
    assert next(iter(sampler)) != first
    assert epoch(30, 30, 2, 0, 1)[0] != first
