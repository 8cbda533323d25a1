"""Every family: greedy answers are those of its own `generate`, in batches that change."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from veridical.batching import prompt_batch
from veridical.models import Policy
from veridical.records import user_message
from veridical.rendering import render_prompt
from veridical.sampling import Decoding, Request, never_sampled, respond
from veridical.sampling.parity import require_parity


@torch.no_grad()
def test_greedy_answers_are_those_of_the_stock_generate(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    asked = [
        Request("a", pictures[:1], [user_message("Describe the image.")]),
        Request("b", pictures[3:], [user_message("What do you see? This is a long one.")]),
        Request("c", [], [user_message("What do you see?", images=0)]),
        Request("d", pictures[2:3], [user_message("Compare. Yes.")]),
    ]
    settings = GenerationConfig(
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=policy.core.generation_config.eos_token_id,
        pad_token_id=policy.processor.tokenizer.pad_token_id,
        suppress_tokens=never_sampled(policy),
    )
    # A checkpoint's settings, of which the answers must not take notice.
    policy.core.generation_config.update(repetition_penalty=2.0, min_new_tokens=8, num_beams=2)
    ours = respond(policy, asked, Decoding(8, batch_size=3), label="")
    policy.core.generation_config = GenerationConfig()
    for request, answer in zip(asked, ours, strict=True):
        text = render_prompt(policy, request.prompt)
        inputs = prompt_batch(policy, [request.images], [text]).inputs
        stock = policy.core.generate(**inputs, generation_config=settings)
        assert answer.token_ids == stock[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_decoding_is_admitted_in_every_dtype(policy: Policy, dtype: str) -> None:
    policy.model.to(getattr(torch, dtype))
    require_parity(dataclasses.replace(policy))
