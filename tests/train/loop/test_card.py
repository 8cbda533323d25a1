"""What a model card says, for every training command: only what is true of it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from veridical.objectives.base import Described
from veridical.runtime.options import by_option, options_of
from veridical.runtime.progress import counted
from veridical.runtime.run_record import RunFields
from veridical.runtime.runs import Run
from veridical.train.dpo import train_dpo
from veridical.train.grpo import train_grpo
from veridical.train.loop.card import _options, hub_name, what_was_learned, write_cards
from veridical.train.loop.resume import FREE
from veridical.train.online import train_online
from veridical.train.ppo import train_ppo
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

PLAIN = {
    "model": "embedded", "data": "rows.parquet", "beta": 0.1, "learning_rate": 1e-5,
    "judge": "exact", "criteria": None, "objects": "objects.json", "samples": 4,
    "kl_coefficient": 0.1, "no_end_penalty": 8.0, "answer_reward": 0.0, "temperature": 1.0,
    "max_new_tokens": 64, "pairs": "online", "offline": 0.5, "swap": True, "variant": "mask",
}  # fmt: skip
FINISHED = {"steps": 7, "train_seconds": 12.3, "best_step": None}


def card(
    folder: Path,
    command: str,
    saved: str = "model",
    finished: Any = None,
    compares: bool = True,
    **changes: Any,
) -> str:
    configuration = PLAIN | changes
    own = {name: configuration[name] for name in ("beta", "samples", "kl_coefficient")}
    record: RunFields = {"command": command, "configuration": configuration}
    record["objective"] = {"options": own, "needs_reference": compares}
    run = Run(folder, record, 0.0)
    measured = {"reward, last step": 0.123456789, "kl_k1, last step": None}
    (folder / saved).mkdir(exist_ok=True)
    write_cards(run, [saved], "a method", {"prompts": 3}, [], FINISHED | (finished or {}), measured)
    return (folder / saved / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train ppo", "train rloo", "train grpo"])
def test_reinforcement_says_judge_reward_kl_and_samples(command: str, tmp_path: Path) -> None:
    text = card(tmp_path, command)
    assert "chosen answers" not in text
    assert "4 times each step" in text
    assert "the score of `exact`, with `no_end_penalty` 8" in text
    for row in ("| judge | exact |", "| kl_coefficient | 0.1 |", "| samples | 4 |",
                "| temperature | 1 |", "| reward, last step | 0.123457 |"):  # fmt: skip
        assert row in text
    assert "kl_k1" not in text  # nothing counted in the last step
    alone = card(tmp_path, command, judge="none", answer_reward=1.0)
    assert "higher reward: `no_end_penalty` 8 and `answer_reward` 1." in alone
    assert "objects" not in alone
    free = card(tmp_path, command, kl_coefficient=0.0)
    assert "There was no KL penalty" in free and "The penalty `kl_coefficient`" not in free


def test_a_loss_without_a_reference_is_compared_with_none(tmp_path: Path) -> None:
    given: dict[str, Any] = {"reference": "precomputed", "reference_model": None}
    with_it = card(tmp_path, "train dpo", **given)
    assert "more than its reference does." in with_it and "| reference | precomputed |" in with_it
    without = card(tmp_path, "train dpo", compares=False, **given)
    assert "rejected ones." in without and "| reference" not in without


def test_online_says_where_its_pairs_are_from(tmp_path: Path) -> None:
    online = card(tmp_path, "train online")
    assert "that `exact` found better" in online and "not trained on answers of the rows" in online
    assert "offline" not in online
    mixed = card(tmp_path, "train online", pairs="mixed")
    assert "probability 0.5" in mixed and "not trained on answers of the rows" not in mixed
    bdhs = card(tmp_path, "train online", pairs="bdhs")
    assert "true answers" in bdhs and "No judge was used" in bdhs
    assert "| judge |" not in bdhs and "| variant | mask |" in bdhs
    seeing = card(tmp_path, "train online", pairs="bdhs", variant="none")
    assert "with the whole image visible" in seeing and "little or nothing" not in seeing


def test_the_figure_that_chose_the_checkpoint_is_told(tmp_path: Path) -> None:
    finished = {
        "best_step": 5, "selected_by": "rewards_accuracy", "best_value": 0.75,
        "value_at_start": 0.5, "best_held_out_loss": 0.7, "held_out_loss_at_start": 0.6931,
    }  # fmt: skip
    text = card(tmp_path, "train dpo", finished=finished)
    assert "(rewards_accuracy 0.7500, 0.5000 at the start)" in text
    assert "improved on" not in text
    text = card(tmp_path, "train dpo", finished=finished | {"best_value": 0.5})
    assert "which no checkpoint improved on" in text


def test_what_decided_the_result_is_told(tmp_path: Path) -> None:
    text = card(
        tmp_path, "train dpo", more_data=["more.parquet"], data_weights=[0.3, 0.7],
        mixed_precision="bf16", lora_dora=True, trainer={"weight_decay": 0.1},
    )  # fmt: skip
    assert "of `rows.parquet`, `more.parquet`:" in text
    for row in ("| data_weights | [0.3, 0.7] |", "| mixed_precision | bf16 |",
                "| lora_dora | True |", "| trainer | {'weight_decay': 0.1} |"):  # fmt: skip
        assert row in text


UNTOLD = {
    "out", "dry_run", "evaluations", "kind", "one_base", "share_prefix", "endpoint", "engine",
}  # fmt: skip
"""What leaves the result as it is but for rounding and which checkpoints there are, what the data's
file tells, and servers with their addresses."""


@pytest.mark.parametrize(
    "command", [train_dpo, train_sft, train_steerlm, train_reward, train_online, train_ppo,
                train_rloo, train_grpo],
)  # fmt: skip
def test_every_option_that_decides_is_shown(command: Callable[..., None]) -> None:
    parameters = inspect.signature(command).parameters
    options = by_option({name: one.default for name, one in parameters.items()})
    words = command.__name__.replace("_", " ")
    described = [one.default for one in parameters.values() if isinstance(one.default, Described)]
    own = options_of(described[0]) if described else {}
    found: set[str] = set()
    for pairs in ("mixed", "bdhs"):
        found |= set(
            _options(
                words,
                {**options, "select_by": "chair/chair_i", "pairs": pairs, "reference_every": 8},
                {"options": own},
            )
        )
    assert set(options) - found - FREE - UNTOLD - set(own) == set()


def test_each_command_has_words_of_its_own(tmp_path: Path) -> None:
    commands = ["train dpo", "train sft", "train steerlm", "train reward", "train ppo",
                "train online"]  # fmt: skip
    said = [what_was_learned(command, PLAIN) for command in commands]
    assert all(said) and len(set(said)) == len(said)
    for command in commands:
        text = card(tmp_path, command)
        assert ("| judge |" in text) == (command in ("train ppo", "train online"))
        assert ("chosen answers" in text) == (command in ("train dpo", "train reward"))


def test_each_kind_of_preference_has_its_own() -> None:
    """Answers without a pair were not preferred to any; S-VCO compares pictures, not answers."""
    compared = {"name": "dpo", "needs_reference": True}
    said = [
        what_was_learned("train dpo", PLAIN | {"kind": kind}, compared | {"name": loss})
        for kind, loss in (("preference", "dpo"), ("unpaired", "kto"), ("preference", "svco"))
    ]
    assert "the chosen answers of these rows to the rejected ones" in said[0]
    assert "the good answers of these rows, and not to give the bad ones" in said[1]
    assert "for the images that show it" in said[2]
    assert all(one.endswith(", more than its reference does.") for one in said)


def test_the_hub_can_read_the_metadata(tmp_path: Path) -> None:
    for saved in ("model", "adapter"):
        text = card(tmp_path, "train dpo", saved)
        head = yaml.safe_load(re.split(r"^---$", text, flags=re.M)[1])
        assert "base_model" not in head
        assert head["library_name"] == ("peft" if saved == "adapter" else "transformers")
    named = ModelCard(card(tmp_path, "train dpo", model="org/vlm-7b"))
    assert vars(named.data)["base_model"] == "org/vlm-7b"
    assert "# vlm-7b, a method" in named.text


def test_names_on_the_hub(tmp_path: Path) -> None:
    assert hub_name("org/model-7B.v1") == "org/model-7B.v1"
    for name in ("embedded", str(tmp_path), "./model", "runs/dpo/model", "../a/b", "a/b/c", ""):
        assert hub_name(name) is None
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = adapter / "adapter_config.json"
    for base, wanted in (("org/base", "org/base"), (str(tmp_path), None), (None, None)):
        settings.write_text(json.dumps({"base_model_name_or_path": base}))
        assert hub_name(str(adapter)) == wanted
    settings.write_text("[]")
    assert hub_name(str(adapter)) is None


def test_cells_stay_in_their_table(tmp_path: Path) -> None:
    text = card(tmp_path, "train ppo", criteria="a|b\nc")
    assert "| criteria | a\\|b c |" in text


def test_one_thing_is_counted_in_the_singular() -> None:
    assert counted(1, "held-out pairs") == "1 held-out pair"
    assert [counted(n, "pairs") for n in (0, 2)] == ["0 pairs", "2 pairs"]
