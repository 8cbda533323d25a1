"""Samples and BDHS pairs on a device: the CPU's in float32, and scored alike in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from family_models import Family
from PIL import Image

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.batching import row_batch
from veridical.models.policy import Policy
from veridical.models.token_scores import token_scores
from veridical.sampling import Decoding, Request, complete_masked, never_sampled, respond
from veridical.sampling.rollouts import roll_out, rollout_group

from .conftest import Tried

ANSWER = "This is a park. There is a red cup at the top left."
LENGTHENED = 2.0
"""How much further than the mean a single token may be off."""


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_are_the_cpus(
    family: Family, tried: Tried, requests: list[Request], temperature: float
) -> None:
    decoding = Decoding(8, temperature)
    found = respond(tried.policy, requests, decoding, label="")
    assert found == respond(tried.policy, requests, decoding, label="")
    if not tried.half:
        assert found == respond(tried.exact, requests, decoding, label="")


@torch.no_grad()
def test_rollouts_have_the_log_probs_of_a_forward_pass(
    family: Family, tried: Tried, requests: list[Request], measured: Callable[[str, float], float]
) -> None:
    rolled = roll_out(tried.policy, requests, Decoding(8, 1.0), k=2)
    groups = [rollout_group(tried.policy, *pair) for pair in zip(requests, rolled, strict=True)]
    batch = row_batch(tried.exact, groups)
    scores = token_scores(tried.exact.model, batch, 1.0, never_sampled(tried.exact))
    samples = [sample for row in rolled for sample in row]
    # A model in half precision may be further off by itself (tiny Qwen3.5: 0.56).
    batch = row_batch(tried.policy, groups)
    forward = token_scores(tried.policy.model, batch, 1.0, never_sampled(tried.policy))
    for row, own, sample in zip(scores.logps, forward.logps, samples, strict=True):
        drawn = torch.tensor(sample.logps, dtype=torch.float64)
        off = float((row[: len(drawn)].cpu() - drawn).abs().max())
        by_itself = float((row.cpu() - own.cpu().double()).abs().max())
        assert measured("off", off) < LENGTHENED * max(tried.bounds.logps, by_itself)


def test_bdhs_is_the_cpus(family: Family, tried: Tried, pictures: list[Image.Image]) -> None:
    if family.masks is not None:
        pytest.skip(f"its image tokens can't be masked: {family.masks}")
    prompt = [user_message("Describe the image.")]
    asked = [Request(Prompt(f"m{i}", [one], prompt), "This is") for i, one in enumerate(pictures)]
    sources = [TrueAnswer(Prompt(f"s{i}", [one], prompt), ANSWER) for i, one in enumerate(pictures)]
    settings = BDHSSettings(mask_threshold=0.5, iterations=1)
    how = Rejecting(settings, Decoding(6, 1.0), load_similarity("edit"))

    def completed(policy: Policy, drop: bool) -> list[tuple[int, ...]]:
        keys = [request.prompt.id for request in asked]
        given = (asked, keys, 0.5, Decoding(6, 1.0), False, drop)
        return [answer.token_ids for answer in complete_masked(policy, *given)[0]]

    found = completed(tried.policy, True)
    assert found == completed(tried.policy, True)
    # Random words hardly ever end a sentence, so pairs may come to nothing, but by the same tries.
    pairs = reject_answers(tried.policy, sources, how)
    assert all(pair["tries"]["made"] == 1 for pair in pairs)
    if not tried.half:
        assert found == completed(tried.policy, False) == completed(tried.exact, True)
        assert pairs == reject_answers(tried.exact, sources, how)
