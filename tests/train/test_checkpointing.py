"""Activation checkpointing under the names that older and newer releases of Transformers have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn
from transformers import TrainingArguments

from veridical.train.loop.modes import checkpoint_activations, checkpointing_asked_for


class Recording(nn.Module):
    """Has one of the two methods, and keeps what it is called with."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.given: dict[str, Any] = {}
        setattr(self, f"{name}_enable", self.given.update)


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_it_is_switched_on_by_the_name_that_there_is(name: str) -> None:
    model = Recording(name)
    options = {"use_reentrant": False, "every_n_layers": 2}
    checkpoint_activations(model, False, options)
    assert model.given == {f"{name}_kwargs": {"use_reentrant": False}, "every_n_layers": 2}


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_it_is_asked_for_by_the_name_that_there_is(name: str) -> None:
    def asked(**given: Any) -> dict[str, Any] | None:
        return checkpointing_asked_for(cast(TrainingArguments, SimpleNamespace(**given)))

    assert asked(**{name: True, f"{name}_kwargs": {"offload": True}}) == {"offload": True}
    assert asked(**{name: True, f"{name}_kwargs": None}) == {}
    assert asked(**{name: False, f"{name}_kwargs": None}) is None
