"""Several files of rows: shares, ids, held-out rows, and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.train.loop.mixing import check_weights, mixed
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.training_set import distinct, images_first, proof_rows, weighted
from veridical.train.options import Training
from veridical.train.sft import train_sft

TRAINING = Training(
    learning_rate=1e-3, max_steps=2, batch_size=4, accumulation=1, held_out=0.0, evaluations=1,
    lora_rank=4, lora_alpha=8,
)  # fmt: skip


def test_shares_are_as_asked_and_no_row_is_lost() -> None:
    files = [0] * 70 + [1] * 10
    found = mixed(files, [0.7, 0.3], 0)
    # 70 rows are 0.7 of 100, so the other file gives 30: each of its rows three times.
    assert Counter(files[place] for place in found) == {0: 70, 1: 30}
    assert set(Counter(found).values()) == {1, 3}
    odd = Counter(mixed(files, [0.7, 0.15], 0))
    assert sum(odd[place] for place in range(70, 80)) == 15
    assert {odd[place] for place in range(70, 80)} == {1, 2}
    assert mixed(files, [7, 1.5], 0) == mixed(files, [0.7, 0.15], 0)
    assert mixed(files, [7, 1.5], 1) != mixed(files, [7, 1.5], 0)
    assert len(set(mixed([0, 1, 1, 1], [1, 1], 3))) == 4


def test_weights_that_say_nothing_are_refused() -> None:
    for weights, files in (([0.5], 2), ([1.0], 1), ([0.5, 0.0], 2), ([1.0, float("nan")], 2)):
        with pytest.raises(UserError, match="--data-weights"):
            check_weights(weights, files)
    with pytest.raises(UserError, match=r"file 2 \(--data, then --more-data\) has no rows left"):
        mixed([0, 0], [1, 1], 0)


def test_files_are_read_one_after_the_other_and_ids_stay_apart(
    policy: Policy,
    tmp_path: Path,
    write: Callable[[Path, int], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = write(tmp_path / "one.parquet", 6)
    other = write(tmp_path / "other.parquet", 3)
    training = replace(TRAINING, more_data=[other], data_weights=[1.0, 1.0])
    rows = read_training_rows(policy, one, "preference", ("chosen", "rejected"), training)
    ids = [f"pair-{i}" for i in range(6)] + [f"pair-{i}@2" for i in range(3)]
    assert [group.id for group in rows.groups] == ids
    assert rows.total == 9
    train = weighted(rows, rows.groups, training)
    assert Counter(group.id for group in train) == {
        name: 2 if name.endswith("@2") else 1 for name in ids
    }
    told = capsys.readouterr().out
    assert f"file 2 ({other}): 3 rows to train on, 6 an epoch (50.0%)" in told
    assert f"file 1 ({one}): " in told


def test_rows_that_come_several_times_are_looked_at_once(
    policy: Policy, tmp_path: Path, write: Callable[[Path, int], Path]
) -> None:
    one = write(tmp_path / "one.parquet", 1)
    other = write(tmp_path / "other.parquet", 6)
    training = replace(TRAINING, more_data=[other], data_weights=[1.0, 1.0])
    rows = read_training_rows(policy, one, "preference", ("chosen", "rejected"), training)
    train = weighted(rows, rows.groups, training)
    assert [group.id for group in train[:4]] == ["pair-0"] * 4
    wanted = ["pair-0", "pair-0@2", "pair-1", "pair-2"]
    assert [group.id for group in images_first(train)][:4] == wanted
    assert [train[place].id for place in proof_rows(train)] == wanted
    assert [group.id for group in distinct(train)] == [group.id for group in rows.groups]


def test_a_run_takes_them_and_resumes_with_the_same_alone(
    saved: str, tmp_path: Path, write: Callable[[Path, int], Path]
) -> None:
    one = write(tmp_path / "one.parquet", 8)
    other = write(tmp_path / "other.parquet", 2)
    training = replace(TRAINING, more_data=[other], data_weights=[0.5, 0.5], held_out=0.2)
    out = tmp_path / "out"
    train_sft(saved, one, out, "preference", training=training)
    record = read_json(out / "run.json")
    # One row of the first file is held out; each of the others counts once, however often it comes.
    assert record["results"]["rows"] == 9
    assert {"data", "more_data_0"} <= record["inputs"].keys()
    with pytest.raises(UserError, match=r"--data-weights \[0.5, 0.5\], not \[0.9, 0.1\]"):
        changed = replace(training, resume=True, data_weights=[0.9, 0.1])
        train_sft(saved, one, out, "preference", training=changed)
    with pytest.raises(UserError, match=r"two\.parquet was given before"):
        twice = tmp_path / "two.parquet"
        twice.symlink_to(other)
        doubled = replace(training, more_data=[other, twice], data_weights=None)
        train_sft(saved, one, out, "preference", training=doubled)
    write(other, 3)
    with pytest.raises(UserError, match=r"another content of --more-data \("):
        train_sft(saved, one, out, "preference", training=replace(training, resume=True))
