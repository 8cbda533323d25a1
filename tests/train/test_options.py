"""The options that training commands share."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from veridical import cli
from veridical.cli import signatures
from veridical.models.tuning import Tuning
from veridical.objectives.table import AnyTerm
from veridical.runtime.errors import UserError
from veridical.runtime.options import by_option
from veridical.train.options import Training

TRAINING = Training(learning_rate=1e-4)
COMMANDS = [name for name in cli.COMMANDS if name.startswith("train ")]


def function_of(name: str) -> Callable[..., Any]:
    module, function = cli.COMMANDS[name].function.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_what_run_json_keeps_are_the_options(name: str) -> None:
    function = function_of(name)
    arguments = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    options = signatures.narrowed(signatures.read_options(function), {})
    # A term that is left out has no settings.
    off = {field.name for term in get_args(tuple[AnyTerm]) for field in dataclasses.fields(term)}
    kept = {n: option.default for n, option in options.items() if n not in off}
    assert by_option(arguments) == kept
    assert list(by_option(arguments)) == list(kept)


def test_terms_choose_their_loss_by_themselves() -> None:
    options = signatures.read_options(function_of("train dpo"))
    asked = signatures.narrowed(options, {"terms": ["dpo:1"]})
    assert asked["loss"].default == "terms" and "label_smoothing" not in asked
    with pytest.raises(UserError, match="--terms belongs to --loss terms; ipo has none"):
        signatures.narrowed(options, {"loss": ["ipo"], "terms": ["dpo:1"]})


def test_what_is_trained() -> None:
    given = replace(TRAINING, tuning="qlora", lora_rank=4, lora_alpha=8, train_projector=True)
    assert given.trained == Tuning("qlora", 4, 8, 0.0, True, False)
    assert given.four_bit
    assert not TRAINING.four_bit


def test_steps_are_those_asked_for_or_enough_for_the_epochs() -> None:
    assert TRAINING.steps(100) == 4  # ceil(100 / (8 * 4))
    assert replace(TRAINING, epochs=3.0).steps(100) == 12  # 3 times ceil(100 / 32)
    assert replace(TRAINING, epochs=3.0, max_steps=7).steps(100) == 7
    assert replace(TRAINING, epochs=0.01).steps(100) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"accumulation": -1}, "--accumulation is -1"),
        ({"evaluations": 0}, "--evaluations is 0"),
        ({"learning_rate": 0.0}, "--learning-rate is 0;"),
        ({"epochs": 0.0}, "Neither --epochs nor --max-steps"),
        ({"cache": "somewhere", "cache_gigabytes": 0.0}, "--cache-gigabytes is 0"),
    ],
)
def test_what_makes_no_sense(changed: dict[str, Any], words: str) -> None:
    TRAINING.check()
    with pytest.raises(UserError, match=words):
        replace(TRAINING, **changed).check()
