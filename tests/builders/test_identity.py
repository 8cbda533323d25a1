"""What of a model decides a result: builds and answers of another attention are not taken over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from veridical.builders._models import model_identity
from veridical.eval.answers import AnswerSettings
from veridical.eval.asked_model import AskedModel
from veridical.models.load import load_placed
from veridical.runtime.options import AttentionName, Placement


@pytest.mark.parametrize(("attention", "known"), [("auto", None), ("eager", "eager")])
def test_another_attention_is_another_build(attention: AttentionName, known: str | None) -> None:
    run: Any = SimpleNamespace(note_model=lambda *_: None)
    policy = load_placed("embedded", Placement(attention=attention))
    assert model_identity(run, "model", policy, "embedded").get("attention") == known


@pytest.mark.parametrize(("attention", "known"), [("auto", None), ("eager", "eager")])
def test_answers_of_another_attention_are_others(
    attention: AttentionName, known: str | None
) -> None:
    settings = AnswerSettings(AskedModel("embedded", Placement(attention=attention)))
    assert settings.decoding().get("attention") == known
