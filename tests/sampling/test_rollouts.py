"""Rollouts: what the slow way samples, with the log-probs of a forward pass over the pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.batching import row_batch, shared_batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy, end_token_ids
from veridical.sampling import Decoding, Request, never_sampled, respond
from veridical.sampling.cache import CacheRows
from veridical.sampling.parity import require_parity
from veridical.sampling.rollouts import roll_out, rollout_group

PROMPT = [user_message("Describe the image.")]
LONGER = [user_message("Is there a red cup at the top left of the image?")]
DECODING = Decoding(24, 1.0, seed=5)


def requests_for(pictures: list[Image.Image]) -> list[Request]:
    prompts = [PROMPT, LONGER, PROMPT]
    return [
        Request(Prompt(f"row-{i}", [picture], prompt))
        for i, (picture, prompt) in enumerate(zip(pictures[:3], prompts, strict=True))
    ]


@pytest.fixture
def ending(policy: Policy) -> Policy:
    """A policy that ends many answers early, and none at the same place."""
    with torch.no_grad():
        for token in end_token_ids(policy):
            policy.core.lm_head.weight[token] *= 4
    return policy


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_k_samples_are_those_of_k_separate_answers(
    ending: Policy, pictures: list[Image.Image], temperature: float
) -> None:
    requests = requests_for(pictures)
    decoding = Decoding(24, temperature, seed=5)
    fast = roll_out(ending, requests, decoding, k=4, version=7)
    for request, samples in zip(requests, fast, strict=True):
        for number, sample in enumerate(samples):
            one = Request(
                Prompt(
                    f"{request.prompt.id}/{number}", request.prompt.images, request.prompt.messages
                )
            )
            (slow,) = respond(ending, [one], decoding, label="")
            assert sample.token_ids == slow.token_ids
            assert (sample.text, sample.stop_reason) == (slow.text, slow.stop_reason)
            assert sample.version == 7
    lengths = {len(sample.token_ids) for samples in fast for sample in samples}
    assert len(lengths) > 2
    reasons = [sample.stop_reason for samples in fast for sample in samples]
    assert {"end", "length"} == set(reasons)
    ends = end_token_ids(ending)
    for sample in (sample for samples in fast for sample in samples):
        # A sample that was cut by length has no end token; any other has one, at its end.
        assert (sample.token_ids[-1] in ends) == (sample.stop_reason == "end")
        assert not ends & set(sample.token_ids[:-1])


def test_neither_the_batch_nor_k_changes_a_sample(
    ending: Policy, pictures: list[Image.Image]
) -> None:
    requests = requests_for(pictures)
    found = [
        roll_out(ending, requests, Decoding(24, 1.0, 5, batch_size=size), k=4)
        for size in (1, 3, 4, 32)
    ]
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert [r.token_ids for r in ours] == [r.token_ids for r in theirs]
            for one, same in zip(ours, theirs, strict=True):
                assert one.logps == pytest.approx(same.logps, abs=1e-9)
    fewer = roll_out(ending, requests, Decoding(24, 1.0, 5), k=2)
    assert [[r.token_ids for r in row] for row in fewer] == [
        [r.token_ids for r in row[:2]] for row in found[0]
    ]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_those_of_a_forward_pass_with_the_pixels(
    ending: Policy, pictures: list[Image.Image], temperature: float
) -> None:
    requests, banned = requests_for(pictures), never_sampled(ending)
    samples = roll_out(ending, requests, Decoding(24, temperature, seed=5), k=2)
    groups = [rollout_group(ending, *pair) for pair in zip(requests, samples, strict=True)]
    batch = row_batch(ending, groups)
    logits = ending.core(**batch.inputs).logits / temperature
    logits[..., banned] = -torch.inf
    logps = torch.log_softmax(logits[:, :-1], -1)
    picked = logps.gather(-1, batch.inputs["input_ids"][:, 1:, None]).squeeze(-1)
    flat = [sample for row in samples for sample in row]
    for row, sample in enumerate(flat):
        ours = torch.tensor(sample.logps, dtype=torch.float64)
        assert torch.allclose(
            picked[row][batch.sources[batch.owners == row]], ours, rtol=0, atol=1e-8
        )
    # What is trained on afterwards sees the same tokens, whichever way they are laid out.
    sums = response_logps(ending.model, batch).sums
    assert torch.allclose(sums, response_logps(ending.model, shared_batch(ending, groups)).sums)
    if temperature == 1.0:
        # Over the whole vocabulary, which the tokens that can't be sampled have a share of.
        assert torch.all(sums <= torch.tensor([[sum(s.logps) for s in row] for row in samples]))


def test_the_image_is_encoded_once_and_ended_rows_leave(
    ending: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_parity(ending)  # it encodes pictures of its own
    requests = requests_for(pictures)
    rows: list[int] = []
    encoded: list[int] = []
    feed = CacheRows.feed
    tower = ending.core.model.vision_tower.forward

    def counted(self: Any, tokens: torch.Tensor) -> None:
        rows.append(len(tokens))
        feed(self, tokens)

    def seen(pixel_values: torch.Tensor, **rest: Any) -> Any:
        encoded.append(len(pixel_values))
        return tower(pixel_values, **rest)

    monkeypatch.setattr(CacheRows, "feed", counted)
    monkeypatch.setattr(ending.core.model.vision_tower, "forward", seen)
    samples = roll_out(ending, requests, DECODING, k=4)
    assert sum(encoded) == len(requests)
    # Each fed token is one that something follows: none is spent on a response that has ended.
    lengths = [len(sample.token_ids) for row in samples for sample in row]
    assert sum(rows) == sum(length - 1 for length in lengths)


def test_a_cache_that_takes_in_no_rows_gives_the_same(
    ending: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_for(pictures)
    decoding = Decoding(24, 1.0, seed=5, batch_size=4)
    refilled = roll_out(ending, requests, decoding, k=3)
    monkeypatch.setattr(CacheRows, "can_be_joined", lambda self: False)
    monkeypatch.setattr(CacheRows, "join", None)
    apart = roll_out(ending, requests, decoding, k=3)
    assert [[r.token_ids for r in row] for row in apart] == [
        [r.token_ids for r in row] for row in refilled
    ]


def test_what_would_break_the_next_pass_is_not_sampled(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    tokenizer = policy.processor.tokenizer
    banned = {tokenizer.bos_token_id, tokenizer.pad_token_id, policy.core.config.image_token_id}
    assert banned <= set(never_sampled(policy))
    with torch.no_grad():
        policy.core.lm_head.weight[list(banned)] *= 100
    samples = roll_out(policy, requests_for(pictures), DECODING, k=3)
    assert not any(banned & set(sample.token_ids) for row in samples for sample in row)
    policy.core.config.vision_start_token_id = 17
    policy.core.config.video_token_id = None
    policy.core.config.boi_token_index = 10**6
    try:
        assert 17 in never_sampled(policy)
        assert 10**6 not in never_sampled(policy)
    finally:
        for name in ("vision_start_token_id", "video_token_id", "boi_token_index"):
            delattr(policy.core.config, name)


def test_sampled_tokens_are_not_tokenized_again(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    tokenizer = policy.processor.tokenizer
    (request, *_) = requests_for(pictures)
    (samples,) = roll_out(policy, [request], DECODING, k=4)
    again = [tokenizer(s.text, add_special_tokens=False)["input_ids"] for s in samples]
    odd = [list(s.token_ids) for s in samples]
    group = rollout_group(policy, request, samples)
    batch = row_batch(policy, [group])
    for row, ids in enumerate(odd):
        assert batch.targets[batch.owners == row].tolist() == ids
    assert any(ids != other for ids, other in zip(odd, again, strict=True))
