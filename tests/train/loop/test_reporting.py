"""What trackers are told is what `log.jsonl` says, and what can't be told is refused early."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tqdm.auto import tqdm
from transformers import TrainerCallback

from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop import reporting
from veridical.train.loop.reporting import Report, check_trackers
from veridical.train.options import Training
from veridical.train.responses import Sampling
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=3e-3, max_steps=3, batch_size=4, accumulation=1, held_out=0.2, evaluations=1,
    lora_rank=4, lora_alpha=8, trainer={"logging_steps": 1},
)  # fmt: skip
REINFORCED: dict[str, Any] = {
    "kind": "preference", "standardize": False, "judging": Judging(judge="none"),
    "symbolic": Symbolic(length_penalty=5.0), "sampling": Sampling(max_new_tokens=6),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "TENSORBOARD_LOGGING_DIR", "WANDB_API_KEY", "WANDB_MODE", "WANDB_LOG_MODEL", "WANDB_DIR",
        "WANDB_PROJECT", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def figures(out: Path) -> dict[tuple[str, int], float]:
    """{(split/name, step): value} of the log."""
    return {
        (f"{row['split']}/{name}", row["step"]): value
        for row in read_jsonl(out / "log.jsonl")
        for name, value in row.items()
        if isinstance(value, int | float) and name != "step"
    }


def of_tensorboard(out: Path) -> dict[tuple[str, int], float]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {(tag, event.step): event.value for tag in tags for event in found.Scalars(tag)}


def test_tensorboards_files_have_what_the_log_has(saved: str, pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "dpo"
    train_dpo(saved, pairs, out, training=replace(TRAINING, report_to=["tensorboard"]))
    wanted = figures(out)
    assert ("eval/loss", 0) in wanted and ("train/rewards_margin", 3) in wanted
    assert of_tensorboard(out) == pytest.approx(wanted, rel=1e-5)
    assert any(name.startswith("tensorboard/") for name in read_json(out / "run.json")["files"])


def test_a_second_run_of_a_process_writes_into_its_own_folder(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    training = replace(TRAINING, max_steps=1, held_out=0.0, report_to=["tensorboard"])
    before = dict(os.environ)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="no room"):
        patched.setattr(Report, "on_log", refuse)
        train_dpo(saved, pairs, tmp_path / "failed", training=training)
    assert {name for name in os.environ if name.startswith(("TENSORBOARD", "WANDB"))} <= set(before)
    for name in ("one", "two"):
        train_dpo(saved, pairs, tmp_path / name, training=training)
        assert of_tensorboard(tmp_path / name) == pytest.approx(figures(tmp_path / name), rel=1e-5)
        assert len(list((tmp_path / name / "tensorboard").glob("events*"))) == 1


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("no room")


def test_so_do_those_of_reinforcement_learning(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "rloo"
    training = replace(TRAINING, held_out=0.0, trainer=None, report_to=["tensorboard"])
    train_rloo(saved, pairs, out, training=training, **REINFORCED)
    wanted = figures(out)
    assert ("train/reward", 3) in wanted
    assert of_tensorboard(out) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loop", ["trainer", "reinforcement"])
def test_any_tracker_is_opened_told_and_closed(
    loop: str, saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    class Recorder:
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            calls.append(("begin", args.run_name, more["model"].config.model_type))

        def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            calls.append((state.global_step, more["logs"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            calls.append("end")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(reporting, "_is_installed", lambda package: True)
    monkeypatch.setattr(
        reporting, "get_reporting_integration_callbacks", lambda names: [Recorder for _ in names]
    )
    out = tmp_path / "mine"
    training = replace(TRAINING, report_to=["wandb"])
    if loop == "trainer":
        train_dpo(saved, pairs, out, training=training)
    else:
        reinforced = replace(training, held_out=0.0, trainer=None)
        train_rloo(saved, pairs, out, training=reinforced, **REINFORCED)
    assert calls[0] == ("begin", "mine", "llava") and calls[-1] == "end"
    told = {
        (f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}", step): value
        for step, logs in calls[1:-1]
        for name, value in logs.items()
    }
    assert told == figures(out)


@pytest.mark.parametrize(
    ("names", "variables", "words"),
    [
        (["mlflow"], {}, "--report-to mlflow is unknown; there is: tensorboard, trackio, wandb"),
        (["wandb"], {}, "WANDB_API_KEY holds no key"),
        (["wandb"], {"WANDB_MODE": "offline", "WANDB_LOG_MODEL": "end"}, "WANDB_LOG_MODEL"),
        (["wandb"], {"WANDB_MODE": "offline"}, ""),
        (["wandb"], {"WANDB_API_KEY": "secret"}, ""),
        (None, {}, ""),
    ],
)
def test_what_can_not_be_told_is_refused(
    names: list[str] | None,
    variables: dict[str, str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reporting, "_is_installed", lambda package: True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not words:
        check_trackers(names)
        return
    with pytest.raises(UserError, match=words):
        check_trackers(names)


def test_a_missing_package_is_named_before_anything_is_loaded(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_is_installed", lambda package: False)
    with pytest.raises(UserError, match=r"needs the package trackio, .* pip install trackio"):
        train_dpo("nowhere", pairs, tmp_path / "o",
                  training=replace(TRAINING, report_to=["trackio"]))  # fmt: skip
    assert not (tmp_path / "o").exists()


def test_trackers_open_before_the_line_with_the_steps(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bars: list[list[Any]] = []

    class Tracker(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: object, **__: object) -> None:
            open_bars.append([bar for bar in tqdm._instances if bar.desc.startswith("training")])

    monkeypatch.setattr(reporting, "get_reporting_integration_callbacks", lambda _: [Tracker])
    training = replace(TRAINING, max_steps=1, held_out=0.0, report_to=["tensorboard"])
    monkeypatch.setattr(reporting, "check_trackers", lambda _: None)
    train_dpo(saved, pairs, tmp_path / "dpo", training=training)
    assert open_bars == [[]]
