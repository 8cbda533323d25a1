"""`veridical ask`: what it refuses before a model is loaded, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from veridical import sampling
from veridical.data.responses import Response
from veridical.models import load
from veridical.models.policy import Policy
from veridical.models.refused_rows import RefusedRowsError
from veridical.runtime.errors import UserError
from veridical.sampling.ask import ask


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (20, 10), "red").save(path)
    return path


def test_wrong_requests_are_refused_before_a_model_is_loaded(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UserError, match=r"nothing\.png"):
        ask("embedded", picture.with_name("nothing.png"), "Is it red?")
    with pytest.raises(UserError, match="question is empty"):
        ask("embedded", picture, " ")
    with pytest.raises(UserError, match="--temperature"):
        ask("embedded", picture, "Is it red?", temperature=-1.0)
    with pytest.raises(UserError, match="--max-new-tokens"):
        ask("embedded", picture, "Is it red?", max_new_tokens=0)


def test_the_answer_is_printed(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Policy(None, None, "a model")

    def respond(
        model: Policy,
        requests: list[sampling.Request],
        decoding: sampling.Decoding,
        label: str,
    ) -> list[Response]:
        assert model is policy
        assert [image.size for image in requests[0].prompt.images] == [(20, 10)]  # type: ignore[union-attr]
        assert requests[0].prompt.messages[0]["content"][-1]["text"] == "Is it red?"
        assert (decoding.max_new_tokens, decoding.temperature, decoding.seed) == (5, 0.5, 3)
        return [Response(" Yes.\n")]

    monkeypatch.setattr(load, "load_policy", lambda *_, **__: policy)
    monkeypatch.setattr(sampling, "respond", respond)
    answer = ask("a model", picture, "Is it red?", max_new_tokens=5, temperature=0.5, seed=3)
    assert answer == "Yes."
    assert capsys.readouterr().out == "Yes.\n"


def test_a_picture_that_the_processor_refuses_is_called_by_its_name(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> list[Response]:
        raise RefusedRowsError("a model", {0: "it is too wide"}, ["ask"])

    monkeypatch.setattr(load, "load_policy", lambda *_, **__: Policy(None, None, "m"))
    monkeypatch.setattr(sampling, "respond", refuse)
    with pytest.raises(UserError) as caught:
        ask("a model", picture, "Is it red?")
    assert str(caught.value) == f"{picture} can't be used by a model: it is too wide."
