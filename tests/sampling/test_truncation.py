"""Top-p, top-k and least lengths, against their definitions and Transformers' own warpers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import TopKLogitsWarper, TopPLogitsWarper

from veridical.builders.sample import build_sample
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.judges.named import Judging
from veridical.models.policy import Policy, end_token_ids
from veridical.runtime.errors import UserError
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.adapters import truncation_options
from veridical.sampling.rollouts import roll_out
from veridical.sampling.truncation import check_truncation, truncate, untruncated_logps
from veridical.train.grpo import train_grpo
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.rloo import train_rloo

NONE = torch.tensor([], dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{"top_k": 5}, {"top_p": 0.7}, {"top_p": 0.2}, {"top_k": 9, "top_p": 0.5}]
)
def test_what_stays_is_what_transformers_keeps(options: dict[str, Any], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    # Whole numbers apart, so that rounding makes no equals.
    logits = torch.stack([torch.randperm(40) for _ in range(8)]).to(dtype) / 4
    decoding = Decoding(temperature=0.8, **options)
    expected = logits.float() / 0.8
    if "top_k" in options:
        expected = TopKLogitsWarper(options["top_k"])(NONE, expected)
    if "top_p" in options:
        expected = TopPLogitsWarper(options["top_p"])(NONE, expected)
    found = truncate(logits, decoding, NONE)
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert torch.equal(found[found.isfinite()], logits.float()[found.isfinite()])


def test_banned_tokens_are_not_among_the_likeliest() -> None:
    logits = torch.tensor([[9.0, 3.0, 2.0, 1.0]])
    kept = truncate(logits, Decoding(temperature=1.0, top_k=2), torch.tensor([0]))
    assert kept.isfinite().tolist() == [[False, True, True, False]]
    whole = torch.tensor([3.0, 2.0, 1.0]).log_softmax(-1)
    found = untruncated_logps(logits, torch.tensor([2]), 1.0, torch.tensor([0]))
    assert found.tolist() == pytest.approx([float(whole[1])])


def requests(pictures: list[Image.Image]) -> list[Request]:
    prompt = [user_message("Describe the image.")]
    return [
        Request(Prompt(f"row-{i}", [picture], prompt)) for i, picture in enumerate(pictures[:4])
    ]


def test_one_token_is_greedy_and_log_probs_are_of_the_whole_distribution(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    asked = requests(pictures)
    greedy = roll_out(policy, asked, Decoding(8, 0.0))
    sampled = Decoding(8, 1.0, seed=3)
    for one_token in (replace(sampled, top_k=1), replace(sampled, top_p=1e-6)):
        found = roll_out(policy, asked, one_token)
        assert [r.token_ids for (r,) in found] == [r.token_ids for (r,) in greedy]
        for (one,), (other,) in zip(found, greedy, strict=True):
            assert one.logps == pytest.approx(other.logps, abs=1e-5)
            assert max(one.logps) < -1e-3
    free = roll_out(policy, asked, sampled)
    assert [r.token_ids for (r,) in free] != [r.token_ids for (r,) in greedy]
    everything = roll_out(policy, asked, replace(sampled, top_k=10**6))
    assert [r.token_ids for (r,) in everything] == [r.token_ids for (r,) in free]


def test_no_answer_ends_before_its_least_length(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    ends = end_token_ids(policy)
    with torch.no_grad():
        policy.core.lm_head.weight[min(ends)] *= 6
    asked, free = requests(pictures), Decoding(12, 1.0, seed=1, batch_size=3)
    short = [len(r.token_ids) for row in roll_out(policy, asked, free, 4) for r in row]
    assert min(short) < 6
    for held in (replace(free, min_new_tokens=6), replace(free, min_new_tokens=6, top_p=0.9)):
        rows = roll_out(policy, asked, held, 4)
        assert min(len(r.token_ids) for row in rows for r in row) >= 7
        assert not any(ends & set(r.token_ids[:6]) for row in rows for r in row)
        one = roll_out(policy, asked[:1], replace(held, batch_size=1), 4)
        assert [r.token_ids for r in one[0]] == [r.token_ids for r in rows[0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.0}, "--top-p is 0"),
        ({"top_k": -1}, "--top-k is -1"),
        ({"min_new_tokens": 9}, "--min-new-tokens is 9"),
        ({"temperature": 0.0, "top_k": 3}, "change nothing at --temperature 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_truncation(Decoding(**{"max_new_tokens": 8, "temperature": 1.0, **options}))


def test_what_an_algorithm_can_not_use_is_refused(tmp_path: Path) -> None:
    training = Training(learning_rate=1e-4, held_out=0.0)
    data, out = tmp_path / "d.jsonl", tmp_path / "o"
    data.write_text("")
    for train in (train_ppo, train_rloo, train_grpo):
        with pytest.raises(UserError, match="samples of the policy itself"):
            train("m", data, out, judging=Judging(judge="none"), sampling=Sampling(top_k=3),
                  training=training)  # fmt: skip
    with pytest.raises(UserError, match="not offered with --pairs bdhs"):
        train_online("m", data, out, "bdhs", sampling=Sampling(top_p=0.9), training=training)
    with pytest.raises(UserError, match="not sent to a server"):
        build_sample("endpoint:m", data, out, decoding=Decoding(temperature=1.0, top_p=0.9))


def test_a_server_is_told() -> None:
    told = truncation_options(Decoding(8, 1.0, top_p=0.9, top_k=7, min_new_tokens=2))
    assert told == {"top_p": 0.9, "top_k": 7, "min_tokens": 2}
    assert truncation_options(Decoding()) == {"top_p": 1.0, "top_k": -1, "min_tokens": 0}
