"""What rounding a saved model costs is measured, printed and written down."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tuning import FULL, tuned

from veridical.checks.controls import rms
from veridical.data.records import assistant_message, user_message, write_records
from veridical.data.steering import ATTRIBUTES
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models import merging, precision
from veridical.models.adapters import merge_adapter
from veridical.models.load import load_policy
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.runs import Run
from veridical.train.dpo import train_dpo
from veridical.train.loop import rounding, saving
from veridical.train.loop.rounding import after_training, describe
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.training_set import PROOF_ROWS, images_first
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

HALVES = ["bfloat16", "float16"]
AFTER = after_training("bfloat16", adapter=True)
COMMON = Training(
    learning_rate=1e-4, max_steps=3, batch_size=4, accumulation=1, held_out=0.0, lora_rank=4,
    lora_alpha=8, evaluations=1,
)  # fmt: skip


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    cast_weights(policy.model, torch.float32).save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    words = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {words[i % 6]}.")],
            "rejected": [assistant_message(f"There is a {words[(i + 1) % 6]} on the left.")],
        }
        for i in range(8)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


def dtypes(folder: Path) -> set[torch.dtype]:
    return {weight.dtype for weight in load_file(folder / "model.safetensors").values()}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("projector", [False, True])
def test_a_run_says_what_rounding_cost_and_little_is_lost(
    saved: str, pairs: Path, tmp_path: Path, dtype: Any, projector: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    training = replace(COMMON, dtype=dtype, train_projector=projector)
    train_dpo(saved, pairs, out, training=training)
    found = read_json(out / "rounding.json")
    assert found["dtype"] == dtype and found["computed_in_float32"]
    assert found["answers"] == 8
    assert 0 < found["lost"] < 0.1 * found["moved"]
    assert f"model/ is rounded to {dtype}" in capsys.readouterr().out
    assert dtypes(out / "model") == {getattr(torch, dtype)}
    if projector:
        own = load_file(out / "adapter" / "adapter_model.safetensors")
        assert {w.dtype for n, w in own.items() if "projector" in n} == {torch.float32}


def test_rounding_that_costs_too_much_is_said_with_what_to_set(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    training = replace(COMMON, dtype="bfloat16", learning_rate=1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "round_unbiased", lambda values, dtype, _: values.to(dtype))
        train_dpo(saved, pairs, out, training=training)
    nearest = read_json(out / "rounding.json")
    assert nearest["lost"] > 0.5 * nearest["moved"]
    assert "--resume true --save-dtype float32" in capsys.readouterr().out
    # As told: nothing is trained again, and what was trained is whole.
    train_dpo(saved, pairs, out, training=replace(training, resume=True, save_dtype="float32"))
    assert dtypes(out / "model") == {torch.float32}
    assert not (out / "rounding.json").exists()
    assert "model/ is in float32 now and loses nothing by rounding" in capsys.readouterr().out


def test_float32_has_nothing_to_say(saved: str, pairs: Path, tmp_path: Path) -> None:
    train_dpo(saved, pairs, tmp_path / "run", training=replace(COMMON, dtype="float32"))
    assert not (tmp_path / "run" / "rounding.json").exists()


@pytest.mark.parametrize("dtype", HALVES)
def test_full_tuning_and_reward_models_are_measured_too(
    saved: str, pairs: Path, tmp_path: Path, dtype: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    full = replace(COMMON, **FULL, dtype="float32", save_dtype=dtype)
    train_sft(saved, pairs, tmp_path / "sft", "preference", training=full)
    assert dtypes(tmp_path / "sft" / "model") == {getattr(torch, dtype)}
    found = read_json(tmp_path / "sft" / "rounding.json")
    assert 0 < found["lost"] < 0.1 and found["unit"] == "nats"
    assert found["moved"] > 0
    train_reward(saved, pairs, tmp_path / "rm", training=replace(COMMON, dtype=dtype))
    found = read_json(tmp_path / "rm" / "rounding.json")
    assert found["moved"] > 0 and found["lost"] < 0.1 and found["unit"] == "log-odds"
    assert "log-odds (root mean square)" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["ppo", "online"])
def test_full_tuning_on_fresh_answers_is_saved_in_half_precision(
    saved: str, pairs: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "run"
    training = replace(
        COMMON, **FULL, dtype="float32", save_dtype="bfloat16", max_steps=2,
        select_by="loss" if method == "online" else "reward",
    )  # fmt: skip
    sampling = Sampling(max_new_tokens=6)
    if method == "ppo":
        train_ppo(
            saved, pairs, out, "preference", judging=Judging(judge="none"), sampling=sampling,
            symbolic=Symbolic(length_penalty=5.0), training=training,
        )  # fmt: skip
    else:
        lists = {f"pair-{number}": ["cup"] for number in range(8)}
        write_json(tmp_path / "objects.json", lists)
        judging = Judging(judge="exact", objects=tmp_path / "objects.json")
        train_online(
            saved, pairs, out, "mixed", offline=1.0, judging=judging, sampling=sampling,
            training=training,
        )  # fmt: skip
    found = read_json(out / "rounding.json")
    assert dtypes(out / "model") == {torch.bfloat16} and found["dtype"] == "bfloat16"
    assert found["moved"] > 0 and found["lost"] < 0.1


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_training_changed_is_the_same_figure_however_it_is_found(
    saved: str, pairs: Path, tmp_path: Path, tuning: Any
) -> None:
    """Measured here by hand: the saved model against the one that training started from."""
    training = replace(COMMON, **tuned(tuning), dtype="float32", save_dtype="bfloat16")
    if tuning == "full":
        training = replace(training, learning_rate=1e-5)
    train_dpo(saved, pairs, tmp_path / "run", training=training)
    found = read_json(tmp_path / "run" / "rounding.json")
    known = read_json(tmp_path / "run" / "start.json")
    policy = load_policy(str(tmp_path / "run" / "model"), "float32", "cpu")
    groups = read_training_rows(policy, pairs, "preference", ("chosen", "rejected"), training)
    own = {group.id: group for group in groups.groups}
    logps = compute_logps(policy, [own[id] for id in known["ids"]], False, len(known["ids"]))
    moved = rms(logps - torch.tensor(known["logps"], dtype=torch.float64))
    assert found["moved"] == pytest.approx(moved, abs=2 * found["lost"]) and found["moved"] > 0


def test_a_finished_run_that_is_saved_again_leaves_nothing_of_before(
    saved: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    training = replace(COMMON, dtype="bfloat16", max_steps=1)
    train_dpo(saved, pairs, out, training=training)
    assert (out / "model").is_dir() and (out / "rounding.json").exists()
    (out / "model" / "model-00001-of-00002.safetensors").write_bytes(b"of another dtype")
    record = read_json(out / "run.json")
    record["files"].append("model/model-00001-of-00002.safetensors")
    write_json(out / "run.json", record)
    train_dpo(saved, pairs, out, training=replace(training, resume=True))
    assert not (out / "model" / "model-00001-of-00002.safetensors").exists()
    assert "is removed" not in capsys.readouterr().out
    train_dpo(saved, pairs, out, training=replace(training, resume=True, save_merged=False))
    assert not (out / "model").exists() and not (out / "rounding.json").exists()
    assert (
        f"{out / 'model'} was saved by an earlier attempt and is removed" in capsys.readouterr().out
    )
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_a_full_disk_leaves_what_was_saved_before(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    training = replace(COMMON, dtype="bfloat16", max_steps=1)
    train_dpo(saved, pairs, out, training=training)
    names = ("model/model.safetensors", "adapter/adapter_model.safetensors", "rounding.json")
    before = [(out / name).read_bytes() for name in names]

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(saving, "tell_rounding", full)  # which writes the last file
        with pytest.raises(UserError, match=r"model and adapter and .* in it are still those"):
            train_dpo(saved, pairs, out, training=replace(training, resume=True))
    assert [(out / name).read_bytes() for name in names] == before
    assert not (out / ".saving").exists()
    (out / ".saving" / "model").mkdir(parents=True)  # as a killed run leaves it
    (out / ".saving" / "model" / "odd.safetensors").touch()
    train_dpo(saved, pairs, out, training=replace(training, resume=True))
    assert not (out / ".saving").exists() and not (out / "model" / "odd.safetensors").exists()


def test_the_line_says_how_much_and_what_to_set() -> None:
    told = describe(AFTER, 8, 0.01, 0.5)
    assert "changed them by 0.5 nats (2.0% of that is lost)." in told
    told = describe(AFTER, 8, 0.1, 0.5)
    assert "20% of that is lost, which is more than 10%" in told and "--save-dtype float32" in told
    assert describe(AFTER, 8, 0.0, 0.0).endswith("changed them by 0 nats.")
    assert "--save-dtype" not in describe(AFTER, 8, 0.1, None)
    assert "changed none of them." in describe(AFTER, 8, 0.1, 0.0)
    told = describe(after_training("bfloat16", False), 8, 0.1, 0.5)
    assert "--save-dtype float32" in told and "adapter" not in told


def test_the_line_has_a_unit_and_says_where_there_is_no_comparison() -> None:
    assert "by 0.02 nats (root mean square), where training changed them by 1 nats" in describe(
        AFTER, 4, 0.02, 1.0
    )
    assert "not known here" in describe(AFTER, 4, 0.02, None)
    told = describe(AFTER, 4, 0.2, 1.0, "log-odds")
    assert "by 0.2 log-odds" in told and "only 1 log-odds" in told and "nats" not in told


def shrunk_adapter(base: str, folder: Path, size: float) -> Path:
    """An adapter of rank 1 whose update has about this size in every number."""
    policy = prepare_training(load_policy(base, "float32", "cpu"), Tuning(rank=1, alpha=1))
    noise = torch.Generator().manual_seed(3)
    for name, weight in policy.model.named_parameters():
        if "lora_" in name:
            random = torch.randn(weight.shape, generator=noise)
            weight.data = random * (size if "lora_B" in name else 1.0)
    policy.model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("command", "dtype"),
    [
        (train_dpo, "float32"),
        (train_dpo, "bfloat16"),
        (train_sft, "float16"),
        (train_reward, "bfloat16"),
    ],
)
def test_a_start_that_an_adapter_is_merged_into_is_measured_on_the_rows(
    saved: str, pairs: Path, tmp_path: Path, dtype: Any, command: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny = shrunk_adapter(saved, tmp_path / "tiny", 1e-8)
    training = replace(COMMON, dtype=dtype, max_steps=1, init_adapter=tiny)
    given = ("preference",) if command is train_sft else ()
    command(saved, pairs, tmp_path / "run", *given, training=training)
    said, record = capsys.readouterr().out, read_json(tmp_path / "run" / "run.json")
    if dtype == "float32":
        assert "rounded" not in said
        assert "merged" not in record and "merges" not in record["models"]["model"]
        return
    found = record["merged"]["model"]
    assert found["adapters"] == [str(tiny)] and found["dtype"] == dtype
    assert found["answers"] == (4 if command is train_sft else 8)
    # The update is far below the distance between two numbers: noise is most of it.
    assert found["lost"] > 0.1 * found["moved"] > 0
    assert f"{tiny} merged is rounded to {dtype}: the scores of" in said
    assert "is lost, which is more than 10%. Set --dtype float32 to keep" in said
    assert record["models"]["model"]["merges"][0]["lost"] > 0.1


class MeasuredError(Exception):
    """Nothing more is of interest."""


@pytest.mark.parametrize("method", ["online", "ppo", "rloo", "steerlm"])
def test_every_other_training_measures_its_merged_start_too(
    saved: str, pairs: Path, tmp_path: Path, pictures: list[Image.Image], method: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    note, noted = Run.note, dict[str, Any]()

    def stop(self: Run, **given: Any) -> None:
        note(self, **given)
        if "merged" in given:
            noted.update(given["merged"])
            raise MeasuredError

    monkeypatch.setattr(Run, "note", stop)
    tiny, out = shrunk_adapter(saved, tmp_path / "tiny", 1e-8), tmp_path / "run"
    training = replace(COMMON, dtype="bfloat16", max_steps=1, init_adapter=tiny, prove_first=False)
    sampling, judging = Sampling(max_new_tokens=4), Judging(judge="none")
    with pytest.raises(MeasuredError):
        if method == "steerlm":
            train_steerlm(saved, rated(tmp_path, pictures), out, training=training)
        elif method == "online":
            write_json(tmp_path / "objects.json", {f"pair-{i}": ["cup"] for i in range(8)})
            judging = Judging(judge="exact", objects=tmp_path / "objects.json")
            train_online(
                saved, pairs, out, "mixed", offline=1.0, judging=judging, sampling=sampling,
                training=training,
            )  # fmt: skip
        else:
            train: Any = train_ppo if method == "ppo" else train_rloo
            train(
                saved, pairs, out, "preference", judging=judging, sampling=sampling,
                symbolic=Symbolic(length_penalty=5.0), training=training,
            )  # fmt: skip
    found = noted["model"]
    assert found["adapters"] == [str(tiny)] and found["dtype"] == "bfloat16"
    assert found["answers"] == (4 if method == "steerlm" else 8)
    assert found["lost"] > 0.1 * found["moved"] > 0
    assert f"{tiny} merged is rounded to bfloat16: the scores of" in capsys.readouterr().out


def rated(folder: Path, pictures: list[Image.Image]) -> Path:
    """Eight prompts with one response each, which has a mark for every attribute."""
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "responses": [[assistant_message("There is a red cup.")]],
            "ratings": [
                {"answer": "responses/0", "aspect": name, "value": 3.0} for name in ATTRIBUTES
            ],
        }
        for i in range(8)
    ]
    write_records(rows, folder / "rated.parquet", "sample")
    return folder / "rated.parquet"


@pytest.mark.parametrize("dtype", HALVES)
def test_a_merged_reference_is_measured_against_what_it_is_without_rounding(
    saved: str, pairs: Path, tmp_path: Path, dtype: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    large = shrunk_adapter(saved, tmp_path / "large", 3e-2)
    training = replace(COMMON, dtype=dtype, max_steps=1)
    train_dpo(saved, pairs, tmp_path / "run", training=training, reference_model=str(large))
    record = read_json(tmp_path / "run" / "run.json")
    assert set(record["merged"]) == {"reference_model"}
    found = record["merged"]["reference_model"]
    # By hand: the same rows by the reference and by the adapter merged in float32.
    half = load_policy(saved, dtype, "cpu")
    start = replace(half, model=cast_weights(half.model, torch.float32))
    rows = read_training_rows(start, pairs, "preference", ("chosen", "rejected"), training).groups
    rows = images_first(rows)[:PROOF_ROWS]
    before = compute_logps(start, rows, True, 8)
    whole = compute_logps(merge_adapter(start, large), rows, True, 8)
    rounded = load_policy(str(large), dtype, "cpu")
    rounded = replace(rounded, model=cast_weights(rounded.model, torch.float32))
    scores = compute_logps(rounded, rows, True, 8)
    assert found["lost"] == pytest.approx(rms(scores - whole), rel=0.02)
    assert found["moved"] == pytest.approx(rms(whole - before), rel=0.02)
    assert found["lost"] < 0.1 * found["moved"]
    assert "where the adapter changed them by" in capsys.readouterr().out
    assert record["models"]["reference_model"]["merges"][0]["adapter"] == str(large)


@pytest.mark.parametrize("room", [0, 1])
def test_a_merge_that_can_not_be_measured_is_said(
    saved: str, pairs: Path, tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    tiny = shrunk_adapter(saved, tmp_path / "tiny", 1e-8)
    training = replace(COMMON, dtype="bfloat16", max_steps=1, init_adapter=tiny)
    # No room for the copy of the merged model, or none for its base and that base's copy.
    if room:
        monkeypatch.setattr(rounding, "load_base", lambda _: None)
    else:
        monkeypatch.setattr(precision, "free_bytes", lambda _: 0)
    train_dpo(saved, pairs, tmp_path / "run", training=training)
    said = capsys.readouterr().out
    assert said.count(f"What rounding cost of {tiny} is not measured") == 1
    assert "merged" not in read_json(tmp_path / "run" / "run.json")


@pytest.mark.parametrize(
    ("command", "dtype"), [("online", "float32"), ("online", "float16"), ("ppo", "bfloat16")]
)
def test_the_merge_of_a_reward_models_adapter_is_recorded(
    saved: str, pairs: Path, tmp_path: Path, dtype: Any, command: str
) -> None:
    """It has another base than the policy, so it is loaded by itself and merged."""
    base, out = tmp_path / "other", tmp_path / "run"
    shutil.copytree(saved, base)
    # Its head starts at zero, so the first of these steps moves no adapter.
    train_reward(str(base), pairs, tmp_path / "rm", training=replace(COMMON, dtype="float32"))
    judging = Judging(judge=f"reward:{tmp_path / 'rm' / 'adapter'}")
    train: Any = train_ppo if command == "ppo" else train_online
    train(
        saved, pairs, out, kind="preference", judging=judging,
        training=replace(COMMON, dtype=dtype, max_steps=1), sampling=Sampling(max_new_tokens=4),
    )  # fmt: skip
    judge = read_json(out / "run.json")["models"]["judge"]
    if dtype == "float32":
        assert "merges" not in judge
        return
    (merge,) = judge["merges"]
    assert (merge["adapter"], merge["dtype"]) == (str(tmp_path / "rm" / "adapter"), dtype)
    assert merge["lost"] > 0
