"""Every family: greedy answers are those of its own `generate`, in batches that change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from veridical._positions import special_layers
from veridical.batching import prompt_batch
from veridical.models import Policy
from veridical.records import user_message
from veridical.rendering import render_prompt
from veridical.sampling import Decoding, Request, never_sampled, respond
from veridical.sampling.beginnings import can_share, shared_prompt_batch
from veridical.sampling.cache import Rows
from veridical.sampling.parity import distance, require_parity


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prompts_that_begin_alike_are_answered_as_if_each_were_read_whole(
    dtype: str,
    policy: Policy,
    pictures: list[Image.Image],
    record_property: Callable[[str, object], None],
) -> None:
    policy.model.to(getattr(torch, dtype))
    begun = "Look at the image with care, as there are many things in it, and say what you see"
    asked = [f"{begun}.", f"{begun} in it. Yes or no?", "What do you see?"]
    texts = [render_prompt(policy, [user_message(question)]) for question in asked] * 2
    images = [[pictures[number // 3]] for number in range(6)]
    with torch.inference_mode():
        batch = shared_prompt_batch(policy, images, texts)
        record_property("shared", bool(batch.branches))
        assert bool(batch.branches) == can_share(policy)
        assert not batch.branches or not special_layers(policy.core)
        ours = Rows(policy.core, batch).take_logits()
        for number, logits in enumerate(ours):
            one = prompt_batch(policy, images[number : number + 1], texts[number : number + 1])
            alone = Rows(policy.core, one).take_logits()
            apart = distance([logits[None]], [alone]).value
            assert apart < (1e-4 if dtype == "float32" else 0.15)
