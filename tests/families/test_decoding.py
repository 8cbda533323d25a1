"""Every family: greedy answers are those of its own `generate`, in batches that change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_family import FAMILIES
from PIL import Image
from transformers import GenerationConfig

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.policy import Policy
from veridical.models.positions import special_layers
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import Decoding, Request, never_sampled, parity, respond
from veridical.sampling.beginnings import can_share, shared_prompt_batch
from veridical.sampling.cache import CacheRows
from veridical.sampling.parity import distance, require_parity

ONLY_ASKED = ("PaliGemma", "Mllama")
"""Families whose decoding is right, though Mllama can only be asked here, and PaliGemma is refused
for its rows. Llama 4 has no `model` to decode with, and is refused when it is loaded."""


def test_greedy_answers_are_those_of_the_stock_generate(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    require_stock_answers(policy, pictures)


@pytest.mark.parametrize("name", ONLY_ASKED)
def test_greedy_answers_of_families_that_are_only_asked(
    name: str, pictures: list[Image.Image]
) -> None:
    require_stock_answers(only_asked(name), pictures)


def only_asked(name: str) -> Policy:
    torch.manual_seed(0)
    return next(family for family in FAMILIES if family.name == name).build()


@torch.no_grad()
def require_stock_answers(policy: Policy, pictures: list[Image.Image]) -> None:
    """One batch with two image sizes and no image, padded, rows that come in late."""
    alone = [Request(Prompt("c", [], [user_message("What do you see?", images=0)]))]
    if type(policy.core).__name__.startswith("PaliGemma"):
        alone = []  # its processor takes no prompt without a picture
    asked = [
        Request(Prompt("a", pictures[:1], [user_message("Describe the image.")])),
        Request(Prompt("b", pictures[3:], [user_message("What do you see? This is a long one.")])),
        *alone,
        Request(Prompt("d", pictures[2:3], [user_message("Compare. Yes.")])),
    ]
    settings = GenerationConfig(
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=policy.core.generation_config.eos_token_id,
        pad_token_id=policy.processor.tokenizer.pad_token_id,
        suppress_tokens=never_sampled(policy),
    )
    # A checkpoint's settings, of which the answers must not take notice.
    policy.core.generation_config.update(
        repetition_penalty=2.0, min_new_tokens=8, num_beams=2, num_return_sequences=2,
        return_dict_in_generate=True, do_sample=True, bad_words_ids=[[5]], no_repeat_ngram_size=1,
    )  # fmt: skip
    ours = respond(policy, asked, Decoding(8, batch_size=3), label="")
    policy.core.generation_config = GenerationConfig()
    for request, answer in zip(asked, ours, strict=True):
        text = render_prompt(policy, request.prompt.messages)
        inputs = prompt_batch(policy, [request.prompt.images], [text]).inputs
        stock = policy.core.generate(**inputs, generation_config=settings)
        assert [*answer.token_ids] == stock[0, inputs["input_ids"].shape[1] :].tolist()


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
        ours = CacheRows(policy.core, batch).take_logits()
        for number, logits in enumerate(ours):
            one = prompt_batch(policy, images[number : number + 1], texts[number : number + 1])
            alone = CacheRows(policy.core, one).take_logits()
            apart = distance([logits[None]], [alone]).value
            assert apart < (1e-4 if dtype == "float32" else 0.15)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("PaliGemma", "float32"), *(("Mllama", d) for d in ("float32", "bfloat16", "float16"))],
)
def test_decoding_of_families_that_are_only_asked_is_admitted_and_a_fault_seen(
    name: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = only_asked(name)
    policy.model.to(getattr(torch, dtype))
    require_parity(policy)
    assert "could not be compared" not in capsys.readouterr().out
    with torch.inference_mode():
        examples = parity.stock_examples(policy)
        assert len(examples) >= 2
        exact = parity.our_logits

        def shifted(policy: Policy, examples: Any, late: bool, shift: int = 0) -> Any:
            return exact(policy, examples, late, shift + 1)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(parity, "our_logits", shifted)
            fault = parity.decoding_fault(policy, examples, late=False)
    assert fault is not None and "are not those of its own `generate`" in fault
