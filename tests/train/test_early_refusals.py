"""What options alone decide is refused before a model is loaded, by every training command."""

from __future__ import annotations

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
