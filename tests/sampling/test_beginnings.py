"""What prompts have in common is read once, and nothing that is said changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models import processing, prompt_batches
from veridical.models.policy import Policy
from veridical.models.precision import mixed_precision
from veridical.models.prompt_batches import Branch, prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import Decoding, Request, beginnings, complete_masked, masked, respond
from veridical.sampling.beginnings import can_share, plan, shared_prompt_batch
from veridical.sampling.cache import CacheRows

PROMPT = [user_message("Describe the image.")]
ANSWER = "This is a park. There is a red cup at the top left. There is a blue dog."
BEGUN = ["", "This is a", "This is a park. There is a", "This is a park. There was no"]
QUESTIONS = ["Is there a red cup in the image?", "Is there a dog?", "Is there a red cup in it?"]


def sentences(pictures: Sequence[Image.Image]) -> list[Request]:
    """What BDHS asks: every sentence of an answer, and a try of the whole."""
    return [
        Request(Prompt(f"{row}/{n}", [picture], PROMPT), begun)
        for row, picture in enumerate(pictures[:3])
        for n, begun in enumerate([*BEGUN, ANSWER])
    ]


def questions(pictures: Sequence[Image.Image]) -> list[Request]:
    """Several questions about an image, some twice, and some about none."""
    asked = [user_message(question) for question in QUESTIONS]
    seen = [
        Request(Prompt(f"{row}/{n}", [picture], [asked[n % 3]]))
        for row, picture in enumerate(pictures[:3])
        for n in range(4)
    ]
    blind = [user_message("What is a cup?", 0), user_message("What is a cup made of?", 0)]
    return [*seen, *(Request(Prompt(f"blind/{n}", [], [one])) for n, one in enumerate(blind))]


ASKED = {"sentences": sentences, "questions": questions}


def test_the_longest_is_read_whole_and_others_take_what_they_share() -> None:
    tokens = [[5, 1, 2], [5, 1, 2, 3, 4], [5, 1, 2, 9], [5, 1, 2, 3, 4], [7, 7]]
    found = plan(tokens, ["a", "a", "a", "b", "b"], [10] * 4 + [0])
    # The last one shares nothing, and would be read anew from its first token.
    assert found.whole == [1, 3, 4]
    assert found.branches == [(0, 2), (0, 4), (0, 3), (1, 4), (2, 1)]


@pytest.mark.parametrize("kind", ASKED)
def test_logits_are_those_of_each_prompt_alone(
    kind: str, policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = ASKED[kind](pictures)
    texts = [render_prompt(policy, r.prompt.messages, r.prefix) for r in requests]
    images = [r.prompt.images for r in requests]
    processed: list[int] = []
    process = processing.process

    def counted(policy: Policy, images: Any, *rest: Any) -> Any:
        processed.append(sum(map(len, images)))
        return process(policy, images, *rest)

    assert can_share(policy)
    monkeypatch.setattr(prompt_batches, "process", counted)
    with torch.inference_mode():
        batch = shared_prompt_batch(policy, images, texts)
        assert processed == [3]  # every image once
        rows = CacheRows(policy.core, batch)
        assert len(rows) == len(requests)
        steps = [rows.take_logits()]
        for token in (20, 21, 22):
            rows.feed(torch.full((len(rows),), token))
            steps.append(rows.take_logits())
        for number in range(len(requests)):
            one = CacheRows(
                policy.core, prompt_batch(policy, images[number:][:1], texts[number:][:1])
            )
            for step, token in zip(steps, (20, 21, 22, 23), strict=True):
                alone = one.take_logits()[0]
                assert torch.allclose(step[number], alone, rtol=0, atol=1e-9)
                one.feed(torch.tensor([token]))


def said_by(policy: Policy, way: str, pictures: list[Image.Image], size: int) -> Any:
    decoding = Decoding(10, 1.0, 3, size)
    if way in ASKED:
        return respond(policy, ASKED[way](pictures), decoding, "", way == "sentences")
    requests = sentences(pictures)
    masks = [request.prompt.id.split("/")[0] for request in requests]
    return complete_masked(policy, requests, masks, 0.6, decoding, True, way == "dropped")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", [*ASKED, "dropped", "kept"])
def test_samples_are_those_of_prompts_that_are_read_whole(
    way: str,
    dtype: torch.dtype,
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy.model.to(dtype)
    branches: list[int] = []
    branch = CacheRows._branch

    def counted(rows: CacheRows, given: Sequence[Branch]) -> None:
        branches.append(len(given))
        branch(rows, given)

    monkeypatch.setattr(CacheRows, "_branch", counted)
    shared = [said_by(policy, way, pictures, size) for size in (1, 4, 50)]
    assert max(branches) > 4
    branches.clear()
    for module in (beginnings, masked):
        monkeypatch.setattr(module, "can_share", lambda _: False)
    whole = said_by(policy, way, pictures, 50)
    assert not branches
    assert all(one == whole for one in shared)


@pytest.mark.parametrize("way", [*ASKED])
def test_tokens_that_were_read_do_not_depend_on_what_is_beside(
    way: str, policy: Policy, pictures: list[Image.Image]
) -> None:
    """Tails of other lengths are padded, and nobody pays for padding."""
    alone, few, many = ([said.prompt_tokens for said in said_by(policy, way, pictures, size)]
                        for size in (1, 4, 50))  # fmt: skip
    assert len(set(alone)) > 2
    assert few == alone and many == alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["positions", "another token", "leak"])
def test_a_model_that_reads_them_otherwise_reads_every_prompt_whole(
    fault: str,
    dtype: torch.dtype,
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy.model.to(dtype)
    assert can_share(policy)
    beginnings._SHARES.clear()
    read = CacheRows._read

    def spoiled(rows: CacheRows, tokens: torch.Tensor, positions: torch.Tensor) -> None:
        if fault == "positions":
            positions = positions + 1
        elif fault == "another token":
            tokens = torch.full_like(tokens, 7)
        else:  # the first branch sees its neighbor's beginning
            for layer in rows.cache.layers:
                layer.keys, layer.values = layer.keys.roll(1, 0), layer.values.roll(1, 0)
        read(rows, tokens, positions)

    monkeypatch.setattr(CacheRows, "_read", spoiled)
    assert not can_share(policy)
    monkeypatch.undo()
    assert said_by(policy, "sentences", pictures, 20)


def test_mixed_precision_shares_what_half_precision_does(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.model.to(torch.float32)
    monkeypatch.setattr(beginnings, "EXACT", -1.0)  # no rounding passes for that of float32
    with mixed_precision("bf16"):
        assert can_share(policy)
    assert not capsys.readouterr().out


def test_memory_that_runs_out_says_nothing_of_the_model(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> bool:
        raise torch.OutOfMemoryError("full")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(beginnings, "_is_near", full)
        can_share(policy)
    assert can_share(policy)
