"""Scores of single tokens: those of the stock forward, in every layout."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models import heads
from veridical.models.batching import collate, row_batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.token_scores import token_scores, token_values
from veridical.sampling import Decoding, Request, never_sampled
from veridical.sampling.rollouts import roll_out, rollout_group

PROMPTS = ["Describe the image.", "Is there a red cup at the top left of the image?"]


def sampled(
    policy: Policy, pictures: list[Image.Image], temperature: float
) -> tuple[list[Group], list[tuple[float, ...]]]:
    with torch.no_grad():
        policy.core.lm_head.weight[policy.processor.tokenizer.eos_token_id] *= 4
    requests = [
        Request(Prompt(str(i), [pictures[i]], [user_message(t)])) for i, t in enumerate(PROMPTS)
    ]
    found = roll_out(policy, requests, Decoding(16, temperature), k=3)
    groups = [rollout_group(policy, *pair) for pair in zip(requests, found, strict=True)]
    return groups, [sample.logps for row in found for sample in row]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_scores_are_what_was_sampled_and_gradients_those_of_the_stock_logits(
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    share: bool,
    temperature: float,
) -> None:
    monkeypatch.setattr(heads, "CHUNK_LOGITS", 5 * len(policy.processor.tokenizer))
    groups, logps = sampled(policy, pictures, temperature)
    banned = never_sampled(policy)
    scores = token_scores(policy.model, collate(policy, groups, share), temperature, banned)
    lengths = [len(row) for row in logps]
    assert scores.mask.sum(-1).tolist() == lengths
    assert len(set(lengths)) > 2
    for row, drawn in zip(scores.logps, logps, strict=True):
        ours = torch.tensor(drawn, dtype=torch.float64)
        assert torch.allclose(row[: len(drawn)], ours, rtol=0, atol=1e-8)
        assert not row[len(drawn) :].any()

    weights = torch.linspace(-1, 1, scores.logps.numel(), dtype=torch.float64)
    policy.model.zero_grad()
    (scores.logps * weights.view_as(scores.logps)).sum().backward()
    ours_gradient = policy.core.lm_head.weight.grad.clone()

    policy.model.zero_grad()
    batch = row_batch(policy, groups)
    logits = policy.core(**batch.inputs).logits[:, :-1] / temperature
    logits = logits.index_fill(-1, torch.tensor(banned), -torch.inf)
    distribution = logits.log_softmax(-1)
    predicted = distribution.gather(-1, batch.inputs["input_ids"][:, 1:, None]).squeeze(-1)
    stock = predicted[batch.rows, batch.sources]
    (stock * weights.view_as(scores.logps)[scores.mask]).sum().backward()
    assert torch.allclose(policy.core.lm_head.weight.grad, ours_gradient, atol=1e-9)
    chosen = distribution[batch.rows, batch.sources]
    entropies = -(chosen.exp() * chosen.masked_fill(chosen.isinf(), 0)).sum(-1)
    assert torch.allclose(scores.entropies[scores.mask], entropies)
    assert not scores.entropies.requires_grad


@torch.no_grad()
def test_their_sums_are_the_responses_log_probs(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    groups, _ = sampled(policy, pictures, 1.0)
    for share in (False, True):
        batch = collate(policy, groups, share)
        sums = response_logps(policy.model, batch).sums
        assert torch.allclose(token_scores(policy.model, batch).logps.sum(-1).view_as(sums), sums)


@torch.no_grad()
def test_values_stand_on_the_state_before_each_token(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    groups, logps = sampled(policy, pictures, 1.0)
    hidden = policy.core.config.get_text_config().hidden_size
    torch.manual_seed(1)
    head = torch.nn.Linear(hidden, 1).double()
    batch = row_batch(policy, groups)
    states = policy.core(**batch.inputs, output_hidden_states=True).hidden_states[-1]
    for share in (False, True):
        values = token_values(policy.model, head, collate(policy, groups, share))
        for row, drawn in enumerate(logps):
            before = batch.sources[batch.owners == row]
            expected = head(states[row, before]).squeeze(-1)
            assert torch.allclose(values[row, : len(drawn)], expected)
            assert not values[row, len(drawn) :].any()
