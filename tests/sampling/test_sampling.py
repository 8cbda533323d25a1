"""Sampling: masking = dropping, and no response depends on its batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from veridical.checks.probes import masking_refusal
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.data.text.sentences import first_sentence
from veridical.models import decoder_inputs, masked_prompts
from veridical.models.masked_prompts import encode_prompts, masked_prompt_batch
from veridical.models.policy import Policy, image_token_id
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import (
    Decoding,
    Request,
    complete_masked,
    respond,
    sample_mask,
)

PROMPT = [user_message("Describe the image.")]
PREFIXES = ["", "This is a park. There is", "There is a red", "This"]


def requests_for(pictures: list[Image.Image]) -> list[Request]:
    return [
        Request(Prompt(f"row-{i}/{j}", [picture], PROMPT), prefix)
        for i, picture in enumerate(pictures[:3])
        for j, prefix in enumerate(PREFIXES)
    ]


def test_mask_keeps_the_share_it_says_and_is_keyed() -> None:
    mask = sample_mask(100_000, 0.99, 0, "a")
    assert 0.008 < float(mask.float().mean()) < 0.012
    assert not sample_mask(64, 1.0, 0, "a").any()
    assert sample_mask(64, 0.0, 0, "a").all()
    assert torch.equal(sample_mask(64, 0.5, 1, "a"), sample_mask(64, 0.5, 1, "a"))
    assert not torch.equal(sample_mask(64, 0.5, 1, "a"), sample_mask(64, 0.5, 1, "b"))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9, 1.0])
def test_dropping_masked_tokens_gives_the_same_logits(
    policy: Policy, pictures: list[Image.Image], threshold: float
) -> None:
    text = render_prompt(policy, PROMPT)
    continuations = [render_prompt(policy, PROMPT, p)[len(text) :] for p in PREFIXES]
    with torch.no_grad():
        encoded = encode_prompts(policy, [[p] for p in pictures[:4]], [text] * 4)
        seen = [
            sample_mask(int(e.is_image.sum()), threshold, 0, str(i)) for i, e in enumerate(encoded)
        ]
        logits = []
        for drop in (True, False):
            batch = masked_prompt_batch(policy, encoded, continuations, [text] * 4, seen, drop)
            logits.append(policy.core(**batch.inputs).logits[:, -1])
    assert torch.allclose(logits[0], logits[1], rtol=0, atol=1e-10)
    if threshold == 1.0:
        # All image tokens gone: the picture must not matter at all.
        blank = [[Image.new("RGB", (30, 30))]] * 4
        with torch.no_grad():
            other = encode_prompts(policy, blank, [text] * 4)
            batch = masked_prompt_batch(policy, other, continuations, [text] * 4, seen, True)
            assert torch.equal(policy.core(**batch.inputs).logits[:, -1], logits[0])


def test_dropping_without_positions_would_not_be_the_same(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    text = render_prompt(policy, PROMPT)
    with torch.no_grad():
        encoded = encode_prompts(policy, [[pictures[0]]], [text])
        seen = [sample_mask(int(encoded[0].is_image.sum()), 0.9, 0, "0")]
        logits = []
        for drop in (True, False):
            batch = masked_prompt_batch(policy, encoded, [""], [text], seen, drop)
            batch.inputs.pop("position_ids")
            logits.append(policy.core(**batch.inputs).logits[:, -1])
    assert not torch.allclose(logits[0], logits[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("threshold", [0.5, 0.99, 1.0])
def test_dropping_gives_the_same_samples_whatever_the_batch(
    policy: Policy, pictures: list[Image.Image], threshold: float
) -> None:
    requests = requests_for(pictures)
    masks = [request.prompt.id.split("/")[0] for request in requests]
    results = []
    for drop, size in ((True, 5), (True, 12), (False, 4), (False, 1)):
        decoding = Decoding(12, 1.0, seed=3, batch_size=size)
        answers, shares = complete_masked(policy, requests, masks, threshold, decoding, False, drop)
        results.append(([answer.token_ids for answer in answers], shares))
    assert all(result == results[0] for result in results[1:])
    assert len({tuple(ids) for ids in results[0][0]}) > 6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_plain_answers_do_not_depend_on_the_batch(
    policy: Policy, pictures: list[Image.Image], temperature: float
) -> None:
    requests = requests_for(pictures)
    one = respond(policy, requests, Decoding(10, temperature, 1, batch_size=1), "")
    many = respond(policy, requests, Decoding(10, temperature, 1, batch_size=7), "")
    assert [r.token_ids for r in one] == [r.token_ids for r in many]
    assert one == many


def test_special_tokens_are_never_sampled(policy: Policy, pictures: list[Image.Image]) -> None:
    tokenizer = policy.processor.tokenizer
    banned = {tokenizer.bos_token_id, tokenizer.pad_token_id, policy.core.config.image_token_id}
    with torch.no_grad():
        policy.core.lm_head.weight[list(banned)] *= 100
    answers = respond(policy, requests_for(pictures), Decoding(20, 1.0), "")
    assert not any(banned & set(answer.token_ids) for answer in answers)


def test_sampling_follows_the_distribution(policy: Policy, pictures: list[Image.Image]) -> None:
    requests = [Request(Prompt(str(i), [pictures[0]], PROMPT)) for i in range(2000)]
    answers, _ = complete_masked(
        policy, requests, ["same"] * 2000, 0.5, Decoding(1, 1.0, batch_size=500), False
    )
    drawn = torch.bincount(
        torch.tensor([a.token_ids[0] for a in answers]), minlength=len(policy.processor.tokenizer)
    )
    text = render_prompt(policy, PROMPT)
    with torch.no_grad():
        encoded = encode_prompts(policy, [[pictures[0]]], [text])
        seen = [sample_mask(int(encoded[0].is_image.sum()), 0.5, 0, "same")]
        batch = masked_prompt_batch(policy, encoded, [""], [text], seen)
        probabilities = policy.core(**batch.inputs).logits[0, -1].softmax(-1)
    error = (drawn / 2000 - probabilities).abs()
    assert float(error.max()) < 4 * float((probabilities.max() / 2000).sqrt())


def test_a_sentence_stop_cuts_there(policy: Policy, pictures: list[Image.Image]) -> None:
    full_stop = policy.processor.tokenizer.convert_tokens_to_ids(".")
    with torch.no_grad():
        policy.core.lm_head.weight[full_stop] *= 3
    decoding = Decoding(40, 1.0)
    answers = respond(policy, requests_for(pictures), decoding, "", until_sentence_end=True)
    stopped = [answer for answer in answers if answer.stop_reason == "sentence"]
    assert stopped
    begun = {request.prompt.id: request.prefix for request in requests_for(pictures)}
    for request, answer in zip(begun, answers, strict=True):
        assert first_sentence(answer.text, before=begun[request]) == answer.text.rstrip()


def test_masking_is_admitted_by_experiment(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(Prompt("row", [pictures[0]], PROMPT))
    assert masking_refusal(policy, request) is None
    honest = decoder_inputs.decoder_inputs
    forward = type(policy.core).forward

    def counted(core: object, *, position_ids: object = None, **inputs: object) -> object:
        return forward(core, **inputs)

    with monkeypatch.context() as patch:
        patch.setattr(type(policy.core), "forward", counted)
        assert "dropping" in str(masking_refusal(policy, request))

    def doubled(core: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        is_image = (inputs["input_ids"] == image_token_id(policy)).unsqueeze(-1)
        given = honest(core, inputs)
        return {**given, "inputs_embeds": given["inputs_embeds"] * (1 + is_image.long())}

    monkeypatch.setattr(masked_prompts, "decoder_inputs", doubled)
    assert "logits differ" in str(masking_refusal(policy, request))
