"""Processes see shares of the same whole batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from veridical.train.loop.order import (
    Batches,
    Grouping,
    GroupingName,
    OrderedRow,
    RankSampler,
    made_ahead,
)


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


LENGTHS = [
    int(length)
    for length in torch.randint(10, 900, (203,), generator=torch.Generator().manual_seed(0))
]


def grouped(
    asked: GroupingName, process: int = 0, processes: int = 1, seed: int = 3
) -> RankSampler:
    grouping = Grouping.of(asked, LENGTHS, accumulation=4) if asked != "no" else None
    return RankSampler(len(LENGTHS), 8 // processes, seed, process, processes, grouping)


def padding(sampler: RankSampler) -> int:
    """Tokens of an epoch's batches that are no row's."""
    batches = [[LENGTHS[row.index] for row in batch] for batch in sampler]
    return sum(len(batch) * max(batch) - sum(batch) for batch in batches)


@pytest.mark.parametrize("asked", ["step", "epoch"])
def test_grouping_pads_less_and_leaves_out_no_row(asked: GroupingName) -> None:
    usual, sampler = grouped("no"), grouped(asked)
    assert len(sampler) == len(usual) == 26
    assert sorted(sampler.order(0)) == list(range(203))
    assert padding(sampler) < (0.55 if asked == "step" else 0.1) * padding(usual)
    assert sampler.order(0) == grouped(asked).order(0)
    assert sampler.order(0) != sampler.order(1)
    assert sampler.order(0) != grouped(asked, seed=4).order(0)


def test_grouping_in_a_step_leaves_each_step_its_rows() -> None:
    usual, sampler = grouped("no"), grouped("step")
    for step in range(14):  # 26 batches are 7 steps of an epoch: 3 rows are left for the last
        assert sorted(sampler.rows_of_step(step, 4)) == sorted(usual.rows_of_step(step, 4))
    assert sampler.order(0) != usual.order(0)


@pytest.mark.parametrize("asked", ["step", "epoch"])
def test_processes_share_the_grouped_batches_of_one(asked: GroupingName) -> None:
    whole = list(grouped(asked))
    shares = [list(grouped(asked, process, 4)) for process in range(4)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, batch in enumerate(whole):
        assert [row for share in shares for row in share[step] if row.counts] == batch


def test_grouped_batches_of_an_epoch_come_in_random_order() -> None:
    longest = [max(LENGTHS[row.index] for row in batch) for batch in grouped("epoch")]
    assert longest != sorted(longest, reverse=True)
    assert len(list(grouped("epoch"))[-1]) == 3  # what is left over stays last


def test_held_out_rows_are_sorted_as_one() -> None:
    sampler = RankSampler(5, 2, None, 0, 1, Grouping([3, 9, 1, 9, 4], None))
    assert sampler.order(0) == [1, 3, 4, 0, 2]
