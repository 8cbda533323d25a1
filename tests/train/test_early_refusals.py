"""What options alone decide is refused before a model is loaded, by every training command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from veridical.bdhs.settings import BDHSSettings
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.runtime.errors import UserError
from veridical.train.dpo import train_dpo
from veridical.train.grpo import train_grpo
from veridical.train.loop import start
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

ANSWERED = Symbolic(answer_reward=1.0)
NOBODY = Judging(judge="none")
ELSEWHERE = Judging(judge="endpoint:m", endpoint={"url": "http://localhost:1/v1"})
SERVER: dict[str, object] = {"url": "http://localhost:1/v1"}
KEYLESS: dict[str, object] = {"url": "https://example.org/v1", "key_variable": "NO_SUCH_KEY"}

OF_ALL: list[tuple[dict[str, Any], str]] = [
    ({"max_length": 0}, "--max-length is 0"),
    ({"max_response_tokens": 0}, "--max-response-tokens"),
    ({"held_out": 1.5}, "--held-out"),
    ({"vision_cache": True, "train_vision": True}, "--vision-cache"),
    ({"tuning": "full", "dtype": "bfloat16"}, "Full fine-tuning of bfloat16"),
    ({"tuning": "full", "dtype": "float16"}, "Full fine-tuning of float16"),
    ({"init_adapter": Path("nowhere")}, "nowhere holds no PEFT adapter"),
    ({"attention": "flex", "device": "cpu"}, "has no backward pass there. Set --attention sdpa"),
    ({"attention": "flash", "device": "cpu"}, "--attention flash needs a CUDA device"),
    ({"attention": "eager", "dtype": "float64"}, "--attention eager can't compute in float64"),
    ({"select_by": "rewards_acuracy"}, "--select-by"),
]
COMMANDS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "sft": {},
    "reward": {},
    "steerlm": {},
    "online": {"judging": ELSEWHERE},
    "ppo": {"judging": NOBODY, "symbolic": ANSWERED},
    "rloo": {"judging": NOBODY, "symbolic": ANSWERED, "standardize": False},
    "grpo": {"judging": NOBODY, "symbolic": ANSWERED},
}
REINFORCED = ("ppo", "rloo", "grpo")
BESIDE_REFERENCE = ("dpo", "online", *REINFORCED)
SAMPLING = ("online", *REINFORCED)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def loads(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(start, "load_policy", loads)
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    return path


def train(command: str, data: Path, model: str = "embedded", **given: Any) -> None:
    """Start a command, with options of `Training` by name and others whole."""
    own = {"learning_rate": 1e-5, "held_out": 0.0, **given.pop("training", {})}
    if command in REINFORCED:
        own = {"select_by": "reward", **own}
    commands: dict[str, Any] = {
        "dpo": train_dpo, "sft": train_sft, "reward": train_reward, "steerlm": train_steerlm,
        "online": train_online, "ppo": train_ppo, "rloo": train_rloo, "grpo": train_grpo,
    }  # fmt: skip
    commands[command](
        model, data, data.parent / "out", training=Training(**own), **COMMANDS[command] | given
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_training(command: str, data: Path) -> None:
    for options, message in OF_ALL:
        with pytest.raises(UserError, match=message):
            train(command, data, training=options)
    with pytest.raises(UserError, match="runs/no/model does not exist"):
        train(command, data, "runs/no/model")
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize("command", BESIDE_REFERENCE)
def test_dora_whose_weights_are_rounded(command: str, data: Path) -> None:
    for options, instead in (
        ({"dtype": "bfloat16"}, "Set --dtype float32"),
        ({"dtype": "float16"}, "Set --dtype float32"),
        ({"mixed_precision": "bf16"}, "Set --mixed-precision no and --dtype float32"),
        ({"mixed_precision": "bf16", "dtype": "float32"}, "Set --mixed-precision no and"),
        ({"tuning": "qlora"}, "four bits.*Set --tuning lora and --dtype float32"),
    ):
        with pytest.raises(UserError, match=f"--lora-dora rescales.*{instead}"):
            train(command, data, training={"lora_dora": True, **options})


@pytest.mark.parametrize("command", BESIDE_REFERENCE)
def test_what_is_wrong_with_dora_itself_comes_first(command: str, data: Path) -> None:
    """Another precision would not help where there are no adapters, or not so many layers."""
    for options, message in (
        ({"tuning": "full", "mixed_precision": "bf16"}, "--lora-dora means nothing under"),
        ({"lora_targets": [], "dtype": "bfloat16"}, "--lora-targets names no layer"),
    ):
        with pytest.raises(UserError, match=message):
            train(command, data, training={"lora_dora": True, **options})


@pytest.mark.parametrize("command", SAMPLING)
def test_servers_and_judges(command: str, data: Path) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        (
            {"sampling": Sampling(engine=SERVER), "training": {"tuning": "full"}},
            "--engine takes adapters",
        ),
        ({"sampling": Sampling(engine=KEYLESS)}, "NO_SUCH_KEY holds no key"),
        ({"judging": Judging(judge="endpoint:m", endpoint=KEYLESS)}, "NO_SUCH_KEY holds no key"),
        ({"judging": Judging(judge="local:m", criteria="odd")}, "--criteria odd is neither"),
        (
            {"judging": Judging(judge=f"reward:{data.parent}")},
            f"{data.parent} holds no reward model",
        ),
        ({"judging": Judging(judge="local:runs/no/m")}, "runs/no/m does not exist"),
        ({"judging": Judging(judge="none", criteria="five")}, "--criteria is for a judge that is"),
        ({"judging": Judging(judge="none", judge_facts=True)}, "--judge-facts is for a judge"),
        ({"judging": Judging(judge="none", attempts=5)}, "--attempts is for a judge that is"),
        ({"judging": Judging(judge="none", judge_tokens=9)}, "--judge-tokens is for a judge"),
        ({"judging": Judging(judge="none", vocabulary=data)}, "the words for --objects"),
    ]
    for given, message in refused:
        with pytest.raises(UserError, match=message):
            train(command, data, **given)


def test_what_only_one_command_has(data: Path) -> None:
    with pytest.raises(UserError, match="runs/no/model does not exist"):
        train("dpo", data, reference_model="runs/no/model")
    for command in REINFORCED:
        with pytest.raises(UserError, match="--judge none: nothing else rewards"):
            train(command, data, symbolic=Symbolic())
        with pytest.raises(UserError, match="--overlong-share says where --overlong-penalty"):
            train(command, data, symbolic=Symbolic(answer_reward=1.0, overlong_share=0.5))
    for given, message in (
        (BDHSSettings(iterations=0), "--iterations is 0"),
        (BDHSSettings(similarity="odd"), "no similarity 'odd'"),
    ):
        with pytest.raises(UserError, match=message):
            train("online", data, pairs="bdhs", kind="conversation", bdhs=given, judging=Judging())


EVERY = tuple(COMMANDS)
FULLY: dict[str, Any] = {"tuning": "full"}
UNASKED = "--check-images was not given"
# An option of `Training`, settings under which it can't act, and the commands that have to refuse
# it then by name.
IDLE: list[tuple[str, dict[str, Any], tuple[str, ...], str]] = [
    ("lora_rank", {"lora_rank": 4, **FULLY}, EVERY, "--lora-rank means nothing under"),
    ("lora_alpha", {"lora_alpha": 4, **FULLY}, EVERY, "--lora-alpha means nothing under"),
    ("lora_dropout", {"lora_dropout": 0.1, **FULLY}, (*EVERY[:5],), "--lora-dropout means nothing"),
    ("lora_dropout", {"lora_dropout": 0.1}, REINFORCED, "--lora-dropout is not offered"),
    ("lora_targets", {"lora_targets": ["q_proj"], **FULLY}, EVERY, "--lora-targets means nothing"),
    ("lora_rslora", {"lora_rslora": True, **FULLY}, EVERY, "--lora-rslora means nothing under"),
    ("lora_dora", {"lora_dora": True, **FULLY}, EVERY, "--lora-dora means nothing under"),
    ("model_dropout", {"model_dropout": True}, REINFORCED, "--model-dropout true is not offered"),
    ("projector_learning_rate", {"projector_learning_rate": 1.0}, EVERY, "the projector is frozen"),
    ("max_response_tokens", {"max_response_tokens": 9}, ("online",), "is not offered with --pairs"),
    ("max_response_tokens", {"max_response_tokens": 9}, REINFORCED, "is not offered by this"),
    ("max_response_tokens", {"max_response_tokens": 9}, ("reward",), "--max-response-tokens can't"),
    ("data_weights", {"data_weights": [1.0]}, EVERY, "--data-weights"),
    ("group_by_length", {"group_by_length": "epoch"}, SAMPLING, "--group-by-length is not offered"),
    ("group_by_length", {"group_by_length": "step", "accumulation": 1}, EVERY, "--group-by-length"),
    ("held_out", {"held_out": 0.1}, ("online",), "--held-out means nothing here"),
    ("select_by", {"select_by": "chair/chair_i"}, EVERY, "--select-by chair/chair_i is counted on"),
    ("patience", {"patience": 2}, EVERY, "--patience goes by held-out"),
    ("check_images", {"check_images": Path("no")}, EVERY, "--check-objects was not given"),
    ("check_objects", {"check_objects": Path("no")}, EVERY, UNASKED),
    ("check_vocabulary", {"check_vocabulary": Path("no")}, EVERY, UNASKED),
    ("check_by", {"check_by": ["pope"]}, EVERY, UNASKED),
    ("check_limit", {"check_limit": 3}, EVERY, UNASKED),
    ("check_tokens", {"check_tokens": 3}, EVERY, UNASKED),
    ("dry_run", {"dry_run": True}, SAMPLING, "--dry-run is not offered"),
    ("vision_cache", {"vision_cache": True, "train_vision": True}, EVERY[:4], "--vision-cache"),
    ("vision_cache", {"vision_cache": True}, ("online",), "--vision-cache is not offered"),
    ("save_merged", {"save_merged": False, **FULLY}, EVERY, "--save-merged false"),
    ("save_dtype", {"save_dtype": "bfloat16", "save_merged": False}, EVERY, "--save-dtype is that"),
    ("push_public", {"push_public": True}, EVERY, "--push-public says how"),
    ("show_every", {"show_every": 2}, ("reward",), "--show-every: a reward model says nothing"),
]  # fmt: skip
# Options that nothing else leaves without effect, and those that may be given where they have none.
ACT = {
    "tuning", "init_adapter", "train_projector", "train_vision", "learning_rate", "max_steps",
    "batch_size", "accumulation", "max_length", "more_data", "evaluations", "share_prefix",
    "prove_first", "cache", "push_to_hub", "images_root", "max_bad_fraction", "dtype",
    "mixed_precision", "device", "attention", "seed", "template", "report_to", "trainer",
}  # fmt: skip
ALLOWED = {
    "epochs": "--max-steps stands instead of them",
    "resume": "of a run that has not begun there is nothing to go on from",
    "extend": "the same",
    "cache_gigabytes": "--cache none has nothing to hold",
}


def test_every_option_acts_is_refused_or_is_allowed_by_name() -> None:
    """A new option of `Training` says here when it can't act."""
    named = {name for name, *_ in IDLE}
    assert not named & (ACT | ALLOWED.keys()) and not ACT & ALLOWED.keys()
    assert {field.name for field in dataclasses.fields(Training)} == named | ACT | ALLOWED.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_can_not_act_is_refused_by_name(command: str, data: Path) -> None:
    for _, options, commands, message in IDLE:
        if command not in commands:
            continue
        with pytest.raises(UserError, match=message):
            train(command, data, training=options)


def test_records_answers_are_cut_where_they_are_learned_from(data: Path) -> None:
    """Of fresh pairs `mixed` alone learns from the records' own, and goes on to load a model."""
    given: dict[str, Any] = {"pairs": "mixed", "kind": "preference"}
    given["training"] = {"max_response_tokens": 9}
    with pytest.raises(AssertionError, match="a model is loaded"):
        train("online", data, **given)
