"""What may differ when a run is resumed, option by option, keys of dictionaries included."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest

from veridical.cli import COMMANDS
from veridical.cli.signatures import Option, read_options
from veridical.judges.endpoint import EndpointSettings
from veridical.objectives.combined import Combined
from veridical.objectives.table import AnyPairLoss, AnyTerm
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_path, read_json
from veridical.runtime.fingerprint import Fingerprint, fingerprint, is_here
from veridical.runtime.runs import start_run
from veridical.train.loop.resume import (
    FREE,
    FREE_KEYS,
    LENGTH,
    changed_options,
    check_run_folder,
    earlier_fields,
)
from veridical.train.loop.start import record_model
from veridical.train.loop.trainer_keys import HONORED
from veridical.train.options import Training

FIXED = {
    # of BDHS
    "guided", "yes_no_swap", "cut_words", "drop_masked",
    # of every training command
    "tuning", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora",
    "lora_dora", "init_adapter", "train_projector", "train_vision",
    "model_dropout", "projector_learning_rate", "learning_rate",
    "batch_size", "accumulation", "group_by_length", "max_length", "max_response_tokens",
    "held_out", "evaluations",
    "more_data", "data_weights", "select_by",
    "check_images", "check_objects", "check_vocabulary", "check_by", "check_limit", "check_tokens",
    "share_prefix", "template", "dry_run", "dtype", "attention", "mixed_precision",
    "seed",
    # objectives
    "kind", "loss", "per_token", "first_rejected_weight", "reference", "reference_model",
    "reference_every", "reference_mix", "facts",
    "criterion", "centering",
    # fresh responses and who judges them
    "temperature", "top_p", "top_k", "min_new_tokens", "max_new_tokens", "rollout_steps",
    "judge", "judge_template", "objects",
    "vocabulary", "criteria", "judge_facts", "attempts", "judge_tokens", "pairs", "offline", "swap",
    "margin", "answer_reward", "length_penalty", "no_end_penalty", "standardize",
    "variant", "mask_threshold", "noise_steps", "similarity", "similarity_threshold", "iterations",
    "cut", "language", "text_only",
    # reinforcement learning
    "samples", "inner_epochs", "minibatches", "clip", "value_clip", "value_weight",
    "value_learning_rate", "gamma", "lam", "kl_coefficient", "kl_estimator", "kl_target",
    "kl_horizon", "stop_kl", "one_base",
    "ratio", "clip_high", "average", "divide_by_deviation", "skip_equal", "overlong_penalty",
    "overlong_share",
}  # fmt: skip


def test_every_option_of_training_is_free_or_fixed_or_goes_by_key() -> None:
    options: dict[str, Option] = {}
    for name, command in COMMANDS.items():
        if name.startswith("train "):
            module, function = command.function.split(":")
            options |= read_options(getattr(importlib.import_module(module), function))
    free, by_key = FREE | LENGTH, FREE_KEYS.keys()
    of_objectives = {
        field.name
        for objective in (*get_args(AnyPairLoss), Combined, *get_args(tuple[AnyTerm]))
        for field in dataclasses.fields(objective)
    }
    assert options.keys() == free | by_key | FIXED | of_objectives
    assert not of_objectives & (free | by_key)
    assert not free & FIXED
    assert not by_key & (free | FIXED)
    # A dictionary that is not fixed as a whole goes by key.
    assert {name for name, option in options.items() if option.is_mapping} - FIXED == set(by_key)
    # What an endpoint is asked stands in other options.
    assert FREE_KEYS["endpoint"] == {field.name for field in dataclasses.fields(EndpointSettings)}
    assert FREE_KEYS["trainer"] <= HONORED["trainer"]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"endpoint": {"max_tokens": 10}}, {"endpoint": {"max_tokens": 99}}, []),
        ({"endpoint": {"url": "http://a/v1"}}, {"endpoint": None}, []),
        ({"trainer": None}, {"trainer": {"logging_steps": 5, "save_total_limit": 1}}, []),
        ({"rollout_batch": 64}, {"rollout_batch": 8}, []),
        ({"epochs": 1.0}, {"epochs": 2.0}, ["--epochs 1.0, not 2.0"]),
        ({"epochs": 1.0, "max_steps": 9}, {"epochs": 2.0, "max_steps": 12, "extend": True}, []),
        (
            {"template": {"a": 1}},
            {"template": {"a": 2}, "extend": True},
            ["--template {'a': 1}, not {'a': 2}"],
        ),
        (
            {"trainer": {"optim": "sgd", "logging_steps": 1}},
            {"trainer": {"logging_steps": 2}},
            ["--trainer.optim sgd, not (not set)"],
        ),
        (
            {"engine": {"url": "http://a", "max_staleness": 0}},
            {"engine": {"url": "http://b", "max_staleness": 2}},
            ["--engine.max_staleness 0, not 2"],
        ),
        # A run of MPO from before it had the likelihood goes on without it, if it says so.
        (
            {"loss": "mpo"},
            {"loss": "mpo", "generation_weight": 1.0},
            ["--generation-weight 0.0, not 1.0"],
        ),
        ({"loss": "mpo"}, {"loss": "mpo", "generation_weight": 0.0}, []),
        ({}, {"reference_every": None, "overlong_penalty": 0.0}, []),
        (
            {},
            {"reference_every": 2, "overlong_penalty": 1.0},
            ["--reference-every (not set), not 2", "--overlong-penalty 0.0, not 1.0"],
        ),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, ["--learning-rate 0.1, not 0.2"]),
    ],
)
def test_what_is_told_apart(old: dict[str, Any], new: dict[str, Any], changed: list[str]) -> None:
    assert changed_options(old, new) == changed


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ("one", "other", True),
        ("one", "copy", False),
        ("one", "embedded", True),
        ("embedded", "one", True),
        ("embedded", "org/model", True),
        ("embedded", "embedded", False),
    ],
)
def test_a_run_goes_on_with_the_model_that_it_began_with(
    before: str, now: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("one", "1"), ("copy", "1"), ("other", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    out = tmp_path / "out"
    (out / "checkpoints" / "checkpoint-2").mkdir(parents=True)

    def models(model: str) -> dict[str, Fingerprint]:
        return {"model": fingerprint(model)} if is_here(model) else {}

    record = {
        "command": "train dpo",
        "configuration": {"model": before},
        "models": {name: dataclasses.asdict(found) for name, found in models(before).items()},
    }
    (out / "run.json").write_text(json.dumps(record))
    resumed = {"model": now, "resume": True}
    if refused:
        with pytest.raises(UserError, match="model"):
            check_run_folder(out, "train dpo", resumed, {}, models(now))
    else:
        check_run_folder(out, "train dpo", resumed, {}, models(now))


OBJECTS, MORE = {"objects": "a/one"}, {"more_data": ["a/one", "a/two"]}


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        (OBJECTS, {"objects": "b/one"}, None),
        (OBJECTS, {"objects": "b/two"}, "another content of --objects"),
        (OBJECTS, {"objects": None}, "--objects a/one, not"),
        (MORE, {"more_data": ["b/one", "b/two"]}, None),
        (MORE, {"more_data": ["b/two", "b/one"]}, "another content of --more-data"),
        (MORE, {"more_data": ["b/one"]}, "--more-data"),
        ({"reference_model": "a/m"}, {"reference_model": "b/m"}, None),
        ({"reference_model": "a/m"}, {"reference_model": "b/n"}, "other weights of --reference"),
        ({"reference_model": "a/m"}, {"reference_model": None}, "--reference-model a/m, not"),
        ({"judge": "reward:a/m"}, {"judge": "reward:b/m"}, None),
        ({"judge": "reward:a/m"}, {"judge": "reward:b/n"}, "other weights of --judge"),
        ({"judge": "reward:a/m"}, {"judge": "local:b/m"}, "--judge reward:a/m, not local:b/m"),
        ({"init_adapter": "a/m"}, {"init_adapter": "b/m"}, None),
        ({"init_adapter": "a/m"}, {"init_adapter": "b/n"}, "other weights of --model"),
        ({"init_adapter": "a/m"}, {"init_adapter": None}, "other weights of --model"),
    ],
)
def test_files_and_models_may_move_and_stay_what_they_were(
    before: dict[str, Any], now: dict[str, Any], refused: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        for model in ("m", "n", "base"):
            (Path(folder) / model).mkdir(parents=True)
            (Path(folder) / model / "config.json").write_text(model)
        for name in ("one", "two"):
            (Path(folder) / name).write_text(name)
    out = tmp_path / "out"
    (out / "checkpoints" / "checkpoint-2").mkdir(parents=True)

    def inputs(options: dict[str, Any]) -> dict[str, Path]:
        more = {f"more_data_{n}": Path(one) for n, one in enumerate(options.get("more_data", ()))}
        return more | ({"objects": Path(options["objects"])} if options.get("objects") else {})

    def models(options: dict[str, Any]) -> dict[str, Fingerprint]:
        adapter = options.get("init_adapter")
        found = {"model": fingerprint("a/base", Path(adapter) if adapter else None)}
        for name in ("reference_model", "judge"):
            if options.get(name):
                found[name] = fingerprint(options[name].rpartition(":")[2])
        return found

    record = {
        "command": "train ppo",
        "configuration": {"model": "a/base", **before},
        "inputs": {
            name: {"path": str(path), "sha256": hash_path(path)}
            for name, path in inputs(before).items()
        },
        "models": {name: dataclasses.asdict(one) for name, one in models(before).items()},
    }
    (out / "run.json").write_text(json.dumps(record))
    resumed = {"model": "a/base", "resume": True, **now}
    with pytest.raises(UserError, match=refused) if refused else nullcontext():
        check_run_folder(out, "train ppo", resumed, inputs(now), models(now))


def test_a_folder_of_another_command_is_no_reason_to_resume(tmp_path: Path) -> None:
    """`--resume true` would lead to the next error: `start_run` says whose folder it is."""
    with start_run(tmp_path, "train dpo", {}) as run:
        (tmp_path / "checkpoints" / "checkpoint-2").mkdir(parents=True)
        run.finish()
    with pytest.raises(UserError, match="already holds a run's checkpoints"):
        check_run_folder(tmp_path, "train dpo", {"resume": False}, {}, {})
    check_run_folder(tmp_path, "train sft", {"resume": False}, {}, {})
    with pytest.raises(UserError, match="holds a run of `train dpo`"):
        start_run(tmp_path, "train sft", {})


@pytest.mark.parametrize(
    ("revision", "content", "refused"),
    [("one", b"a", False), ("two", b"b", True), ("readme-only", b"a", False)],
)
def test_a_hubs_new_commit_is_told(
    revision: str,
    content: bytes,
    refused: bool,
    tmp_path: Path,
    commit: Callable[[str, str, Mapping[str, bytes]], None],
) -> None:
    """Also where an adapter's base is the hub's model, whose folder has nothing of it."""
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    training = Training(learning_rate=1e-3, cache="none")
    files = {"config.json": b"{}", "model.safetensors": content}
    for name in ("org/base", str(adapter)):
        commit("org/base", "one", {"config.json": b"{}", "model.safetensors": b"a"})
        run = start_run(out, "train sft", {"model": name, "out": out})
        record_model(run, "model", name, training)
        (out / "checkpoints" / "checkpoint-2").mkdir(parents=True)
        (out / "checkpoints" / "checkpoint-2" / "state.json").write_text("{}")
        run.fail("an error")
        commit("org/base", revision, files)
        kept = earlier_fields(out, {})
        again = start_run(out, "train sft", {"model": name, "out": out}, kept=kept)
        if refused:
            with pytest.raises(UserError, match=r"other weights.*revision one, now two.*model.saf"):
                record_model(again, "model", name, training)
        else:
            record_model(again, "model", name, training)
        assert read_json(out / "run.json")["models"]["model"]["revision"] == "one"
        shutil.rmtree(out)


def test_an_extension_that_was_killed_before_its_next_checkpoint_leaves_both_lengths(
    tmp_path: Path,
) -> None:
    out, own = tmp_path / "out", {"epochs": 1.0, "patience": None}

    def options(steps: int, resume: bool = True, extend: bool = False) -> dict[str, Any]:
        return {**own, "max_steps": steps, "resume": resume, "extend": extend, "out": out}

    def begin(given: dict[str, Any]) -> None:
        """Start a run, which is killed at once."""
        check_run_folder(out, "train sft", given, {}, {})
        start_run(out, "train sft", given, kept=earlier_fields(out, given))

    def finish_checkpoint(step: int) -> None:
        (out / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
        (out / "checkpoints" / f"checkpoint-{step}" / "manifest.json").write_text("{}")

    begin(options(4, resume=False))
    finish_checkpoint(4)
    begin(options(6, extend=True))
    (out / "checkpoints" / "checkpoint-5").mkdir()  # it was killed while writing this one
    for steps in (6, 4, 4):
        begin(options(steps))
    with pytest.raises(UserError, match=r"--max-steps 4, not 6\. .* Set --extend true"):
        begin(options(6))
    begin(options(6, extend=True))
    begin(options(8, extend=True))
    with pytest.raises(UserError, match=r"--max-steps 4, not 6\. "):
        begin(options(6))
    begin(options(4))
    begin(options(8, extend=True))
    finish_checkpoint(6)
    begin(options(8))
    with pytest.raises(UserError, match=r"--max-steps 8, not 4\. "):
        begin(options(4))
