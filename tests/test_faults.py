"""What goes wrong on real machines: kills, full disks, torn files, images that are gone.

Each ends in a clear error or in the right result, and nothing that was finished is lost.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.policy import Policy
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.dpo import DPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.runtime.randomness import generator
from veridical.train.dpo import train_dpo
from veridical.train.loop import saving_trainer, trained, trial
from veridical.train.loop.checkpoints import whole_best
from veridical.train.options import Training

DRIVER = """
import json, os, resource, signal, sys
from pathlib import Path
from transformers.trainer_callback import CallbackHandler
from veridical.builders import _parts, bdhs
from veridical.cli import main

fault, arguments = json.loads(sys.argv[1]), sys.argv[2:]
_parts.CHUNK = 2


def strike():
    if fault["kind"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault["kind"] == "no large file":
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    if fault["kind"] == "full":
        with Path(fault["ballast"]).open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass


def at(where, honest):
    def hook(self, args, state, control, *others, **more):
        if where == "save" and fault.get("where") == where and state.global_step >= fault["step"]:
            strike()
        control = honest(self, args, state, control, *others, **more)
        if where == "step" and fault.get("where") == where and state.global_step == fault["step"]:
            strike()
        return control
    return hook


CallbackHandler.on_step_end = at("step", CallbackHandler.on_step_end)
CallbackHandler.on_save = at("save", CallbackHandler.on_save)
build, built = bdhs.reject_answers, 0


def counted(*given):
    global built
    built += 1
    if fault.get("where") == "chunk" and built == fault["step"]:
        strike()
    return build(*given)


bdhs.reject_answers = counted
sys.exit(main(arguments))
"""
OPTIONS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "max_steps": 7,
    "batch_size": 4,
    "accumulation": 1,
    "held_out": 0.2,
    "evaluations": 3,
    "tuning": "full",
}


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Pairs as JSON Lines, so that their images are files of their own."""
    words = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {words[i % 6]}.")],
            "rejected": [assistant_message(f"There is a {words[(i + 1) % 6]} on the left.")],
        }
        for i in range(18)
    ]
    write_records(rows, tmp_path / "pairs.jsonl", "preference")
    return tmp_path / "pairs.jsonl"


def command(fault: dict[str, Any], *words: object, **options: object) -> list[str]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    arguments = [str(word) for word in words]
    return [sys.executable, "-c", DRIVER, json.dumps(fault), *arguments, *named]


def run(
    fault: dict[str, Any], *words: object, **options: object
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    given = command(fault, *words, **options)
    return subprocess.run(given, capture_output=True, text=True, env=environment, timeout=900)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(folder / "model" / "model.safetensors")
    return loaded


def assert_same(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name, weight in left.items():
        assert torch.equal(weight, right[name]), name


NOTHING: dict[str, Any] = {"kind": "none"}


@pytest.mark.slow
def test_three_kills_leave_the_same_weights(saved: str, pairs: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ("train", "dpo", saved, "--data", pairs)
    options = {**OPTIONS, "max_steps": 12, "evaluations": 6}
    done = run(NOTHING, *words, out=whole, **options)
    assert done.returncode == 0, done.stderr
    noise = generator(0, "kills")
    for number in range(3):
        # Between steps, or in the middle of a checkpoint: its files are there, its seal is not.
        fault = {
            "kind": "kill",
            "step": 4 * number + 1 + int(noise.integers(4)),
            "where": "save" if number == 1 else "step",
        }
        killed = run(fault, *words, out=broken, resume=str(number > 0).lower(), **options)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run(NOTHING, *words, out=broken, resume="true", **options)
    assert done.returncode == 0, done.stderr
    assert_same(whole, broken)
    logs = [
        [(r["step"], r["split"], r["loss"]) for r in read_jsonl(out / "log.jsonl")]
        for out in (whole, broken)
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_two_kills_leave_the_same_bdhs_pairs(
    saved: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "messages": [
                user_message("Describe the image."),
                assistant_message("There is a red cup. There is a blue dog on the left."),
            ],
        }
        for i in range(10)
    ]
    data = tmp_path / "conversations.jsonl"
    write_records(rows, data, "conversation")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ("build", "bdhs", saved, "--data", data)
    options = {"max_new_tokens": 8, "iterations": 2, "similarity": "edit"}
    assert run(NOTHING, *words, out=whole, **options).returncode == 0
    for chunk in (3, 2):
        fault = {"kind": "kill", "where": "chunk", "step": chunk}
        killed = run(fault, *words, out=broken, **options)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = run(NOTHING, *words, out=broken, **options)
    assert done.returncode == 0, done.stderr
    one, other = ((out / "pairs.parquet").read_bytes() for out in (whole, broken))
    assert one == other


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB in memory, where the system lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here; the limit on files stands in for it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_full_disk(fault: dict[str, Any], saved: str, pairs: Path, out: Path, whole: Path) -> None:
    words = ("train", "dpo", saved, "--data", pairs)
    assert run(NOTHING, *words, out=whole, **OPTIONS).returncode == 0
    full = run(fault, *words, out=out, **OPTIONS)
    assert full.returncode == 2, full.stderr
    assert re.search(r"veridical: .* can't be written: .*--resume true", full.stderr)
    assert "Traceback" not in full.stderr
    Path(fault.get("ballast", "nothing")).unlink(missing_ok=True)
    done = run(NOTHING, *words, out=out, resume="true", **OPTIONS)
    assert done.returncode == 0, done.stderr
    assert read_json(out / "run.json")["results"]["resumed_from"] == "checkpoint-2"
    assert_same(whole, out)


@pytest.mark.slow
def test_a_full_disk(saved: str, pairs: Path, tmp_path: Path, small_disk: Path) -> None:
    fault = {"kind": "full", "step": 3, "where": "step", "ballast": str(small_disk / "ballast")}
    check_full_disk(fault, saved, pairs, small_disk / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_limit_on_files_like_a_full_disk(saved: str, pairs: Path, tmp_path: Path) -> None:
    fault = {"kind": "no large file", "step": 3, "where": "step"}
    check_full_disk(fault, saved, pairs, tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_runs_share_a_cache_at_once(saved: str, pairs: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = ("train", "dpo", saved, "--data", pairs)
    alone = run(NOTHING, *words, out=tmp_path / "alone", **OPTIONS)
    assert alone.returncode == 0, alone.stderr
    outs = [tmp_path / "one", tmp_path / "two"]
    started = [
        subprocess.Popen(
            command(NOTHING, *words, out=out, cache=tmp_path / "cache", **OPTIONS), env=environment
        )
        for out in outs
    ]
    assert [process.wait(900) for process in started] == [0, 0]
    for out in outs:
        assert_same(tmp_path / "alone", out)
    third = run(NOTHING, *words, out=tmp_path / "three", cache=tmp_path / "cache", **OPTIONS)
    assert "18 of 18 rows were in the cache" in third.stdout
    assert_same(tmp_path / "alone", tmp_path / "three")


def test_a_cache_with_flipped_bits_changes_nothing(
    saved: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**OPTIONS, "max_steps": 2, "evaluations": 1, "cache": str(tmp_path / "cache")}
    training = Training(**options)
    train_dpo(saved, pairs, tmp_path / "one", training=training)
    for entry in (tmp_path / "cache").rglob("*.safetensors"):
        content = bytearray(entry.read_bytes())
        content[-2] ^= 64
        entry.write_bytes(bytes(content))
    capsys.readouterr()
    train_dpo(saved, pairs, tmp_path / "two", training=training)
    told = [line for line in capsys.readouterr().out.splitlines() if "Cache entry" in line]
    # Those that the second run reads: the weights' hash, and the reference's log-probs.
    assert ["/hashes/" in line for line in told] == [True, False]
    assert_same(tmp_path / "one", tmp_path / "two")
    assert read_json(tmp_path / "two" / "reference_logps.json")["reused"] == 0


def test_a_torn_best_checkpoint_is_told_and_not_loaded(
    saved: str,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = whole_best

    def torn(checkpoint: Path) -> Path | None:
        with (checkpoint / trained.WEIGHTS).open("r+b") as file:
            file.truncate(1000)
        return honest(checkpoint)

    monkeypatch.setattr(saving_trainer, "whole_best", torn)
    train_dpo(saved, pairs, tmp_path / "run", training=Training(**OPTIONS))
    told = capsys.readouterr().out
    assert "trained.safetensors is not what was written" in told
    assert "last step's weights" in told
    assert read_json(tmp_path / "run" / "run.json")["results"]["best_step"] is None
    assert weights(tmp_path / "run")


def test_the_last_step_is_evaluated_and_kept(saved: str, pairs: Path, tmp_path: Path) -> None:
    # 7 steps, 3 evaluations: every 7 // 3 = 2 steps, at 0, 2, 4, 6, and at the last, 7.
    train_dpo(saved, pairs, tmp_path / "run", training=Training(**OPTIONS))
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in log if row["split"] == "eval"] == [0, 2, 4, 6, 7]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-7" / "manifest.json").is_file()


def test_resuming_with_other_options_is_refused(saved: str, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    training = Training(**{**OPTIONS, "max_steps": 2, "evaluations": 1})
    again = replace(training, resume=True)
    train_dpo(saved, pairs, out, training=training)
    before = (out / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"--learning-rate 0\.003, not 0\.1; --beta 0\.1, not 0\.2"):
        stronger = AveragedPreference(DPO(beta=0.2))
        train_dpo(saved, pairs, out, stronger, training=replace(again, learning_rate=0.1))
    with pytest.raises(UserError, match="--resume true"):
        train_dpo(saved, pairs, out, training=training)
    other = tmp_path / "other.jsonl"
    other.write_text("".join(pairs.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="another content of --data"):
        train_dpo(saved, other, out, training=again)
    assert (out / "run.json").read_bytes() == before
    train_dpo(saved, pairs, out, training=again)  # the same are welcome


def test_an_image_deleted_before_training_is_listed(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    victim = next((tmp_path / "pairs_images").iterdir())
    victim.unlink()
    with pytest.raises(UserError, match="is not a file"):
        train_dpo(saved, pairs, tmp_path / "run", training=Training(**OPTIONS))


def test_an_image_deleted_while_training_is_named(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = trial.try_a_step

    def deleting(*given: Any) -> None:
        honest(*given)
        shutil.rmtree(tmp_path / "pairs_images")

    monkeypatch.setattr("veridical.train.loop.trial.try_a_step", deleting)
    with pytest.raises(UserError, match=r"pairs_images/.*the file does not exist"):
        train_dpo(saved, pairs, tmp_path / "run", training=Training(**OPTIONS))
