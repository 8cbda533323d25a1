"""Processes see shares of the same whole batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from veridical.train.loop.order import Batches, OrderedRow, RankSampler, made_ahead


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


def counted(made: list[int], count: int) -> Iterator[int]:
    for number in range(count):
        assert threading.current_thread() is not threading.main_thread()
        made.append(number)
        yield number


def test_batches_come_in_order_while_the_next_are_made() -> None:
    made: list[int] = []
    came = []
    for number in made_ahead(counted(made, 7), 2):
        came.append(number)
        assert len(made) <= number + 3
    assert came == made == list(range(7))


def test_what_is_not_asked_for_any_more_is_not_made() -> None:
    made: list[int] = []
    batches = made_ahead(counted(made, 100), 2)
    assert [next(batches), next(batches)] == [0, 1]
    batches.close()  # type: ignore[attr-defined]
    assert len(made) <= 4
    before = len(made)
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
    assert len(made) == before


def test_an_error_comes_where_its_batch_would() -> None:
    def broken() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("a picture")

    batches = made_ahead(broken(), 2)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(ValueError, match="a picture"):
        next(batches)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_loader_gives_the_same_batches_made_ahead(ahead: int) -> None:
    class Rows(torch.utils.data.Dataset[int]):
        def __getitem__(self, place: OrderedRow) -> int:
            return place.index

    def loader(ahead: int) -> Batches:
        sampler = RankSampler(11, 2, 5, 0, 1)
        return Batches(Rows(), sampler, lambda rows: {"rows": list(rows)}, ahead)

    for epoch_number in range(2):
        wanted, found = loader(0), loader(ahead)
        for one in (wanted, found):
            one.set_epoch(epoch_number)
        torch.manual_seed(1)
        plain = (list(wanted), torch.rand(1))
        torch.manual_seed(1)
        assert (list(found), torch.rand(1)) == plain
