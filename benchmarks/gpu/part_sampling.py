"""Sampling: tokens a second of our loops beside `generate`, vLLM and bare forward passes; BDHS.

A rate is that of the tokens after the first few: the time of a long call less that of a short one,
so that reading the prompts does not count. How long the long call is follows the time there is.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Figures, Settings, free_memory, installed, run_part, seconds_of
from shapes import (
    END_WORD,
    FIRST_WORD,
    Shape,
    build,
    image_tokens_of,
    missing,
    pictures,
    random_rows,
    shapes_of,
)
from transformers import DynamicCache

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.policy import Policy
from veridical.models.positions import token_positions
from veridical.models.prompt_texts import render_prompt
from veridical.sampling import Decoding, Request, respond
from veridical.sampling.rollouts import roll_out

SHORT, LONG = 2, 66
"""New tokens of the short call, and of the long one at most."""
PROMPT_TOKENS = 60
SENTENCES, SENTENCE_TOKENS, MASKED = 4, 20, 0.99
VLLM_SECONDS = 75.0
"""What its start takes, about."""


def measure_sampling(settings: Settings, figures: Figures) -> None:
    """Decoding for each vocabulary, BDHS for each size of picture, vLLM at the end."""
    shapes = []
    for shape in shapes_of(settings):
        reason = missing(shape)
        if reason:
            figures.note(reason)
        else:
            shapes.append(shape)
    blocks: list[Callable[[float], None]] = [
        partial(decode, settings, figures, shape) for shape in shapes
    ]
    blocks += [
        partial(bdhs, settings, figures, shapes[0], tokens) for tokens in image_tokens_of(settings)
    ]
    for number, block in enumerate(blocks):
        # What is heavy comes first and gets the more: two shares each, one for BDHS.
        shares = [2 if i < len(shapes) else 1 for i in range(number, len(blocks))]
        block(time.monotonic() + figures.left() * shares[0] / sum(shares))
        free_memory()
    if not installed("vllm"):
        figures.note("vLLM is left out: it is not installed")
        return
    for shape in shapes:
        label = {"what": "decoding", "shape": shape.name, "prompt": "text", "way": "vllm"}
        for batch in batches_of(settings.tiny)[1:2]:
            figures.attempt({**label, "batch": batch}, VLLM_SECONDS, partial(vllm, shape, batch))


def batches_of(tiny: bool) -> tuple[int, ...]:
    """Responses at once."""
    return (2, 4) if tiny else (64, 16, 256)


def decode(settings: Settings, figures: Figures, shape: Shape, end: float) -> None:
    """Every way to sample from one model, for every batch."""
    image_tokens = image_tokens_of(settings)[0]
    policy = build(shape, image_tokens, settings.device, settings.dtype)
    # An end token, one word of all, would end a row of random words too soon for `generate` only.
    policy.model.generation_config.eos_token_id = None
    for run in ways_of(policy, requests_of(shape, image_tokens, 2, images=True)).values():
        run(SHORT)  # libraries are loaded before any plan's time begins
    plans = [("text", batch) for batch in batches_of(settings.tiny)]
    plans.insert(1, ("image", batches_of(settings.tiny)[0 if settings.tiny else 1]))
    for number, (prompt, batch) in enumerate(plans):
        requests = requests_of(shape, image_tokens, batch, prompt == "image")
        ways = ways_of(policy, requests)
        plan_end = time.monotonic() + (end - time.monotonic()) / (len(plans) - number)
        for place, (way, run) in enumerate(ways.items()):
            allowed = (plan_end - time.monotonic()) / (len(ways) - place)
            label = {
                "what": "decoding", "shape": shape.name, "vocabulary": shape.vocabulary,
                "prompt": prompt, "batch": batch, "way": way,
            }  # fmt: skip

            def rate(run: Any = run, allowed: float = allowed) -> dict[str, Any]:
                return decoding_rate(run, allowed, settings.tiny)

            if allowed < 0.5 and not settings.tiny:
                figures.skip(label, 0.5, allowed)
                continue
            figures.attempt(label, 0.0, rate)


def decoding_rate(run: Callable[[int], int], allowed: float, tiny: bool) -> dict[str, Any]:
    """Tokens a second, of as many tokens as fit into `allowed` seconds.

    Where not even a few fit, the prompt's time is in the rate, and its name says so.

    Args:
        run: makes so many new tokens a row; returns how many all rows have.
        allowed: seconds for everything, about.
        tiny: no more than a few tokens.
    """
    began = time.monotonic()
    run(SHORT)  # warms up: kernels are chosen, memory is taken
    made: dict[int, int] = {}

    def keep(tokens: int) -> None:
        made[tokens] = run(tokens)

    short = seconds_of(lambda: keep(SHORT))
    if short > allowed and not tiny:
        return {"new_tokens": SHORT, "tokens_per_second_with_prompt": made[SHORT] / short}
    trial = SHORT + 4
    each = max(seconds_of(lambda: keep(trial)) - short, 1e-4) / 4
    left = allowed - (time.monotonic() - began) - short
    most = SHORT + 8 if tiny else LONG
    tokens = min(most, max(trial, SHORT + int(left / each)))
    long = seconds_of(lambda: keep(tokens))
    decoded = max(made[tokens] - made[SHORT], 1)
    return {
        "new_tokens": tokens - SHORT,
        "prompt_seconds": short,
        "seconds_a_token": (long - short) / (tokens - SHORT),
        "tokens_per_second": decoded / max(long - short, 1e-9),
    }


def ways_of(policy: Policy, requests: Sequence[Request]) -> dict[str, Callable[[int], int]]:
    """How the same prompts can be continued by so many tokens."""
    batch = len(requests)

    def plain(tokens: int) -> int:
        return bare_forwards(policy, stock_inputs(policy, requests), tokens)

    def generate(tokens: int) -> int:
        inputs = stock_inputs(policy, requests)
        with torch.inference_mode():
            found = policy.model.generate(
                **inputs, do_sample=True, min_new_tokens=tokens, max_new_tokens=tokens,
                eos_token_id=None, pad_token_id=policy.processor.tokenizer.pad_token_id,
            )  # fmt: skip
        return batch * int(found.shape[1] - inputs["input_ids"].shape[1])

    def answers(tokens: int) -> int:
        decoding = Decoding(tokens, 1.0, batch_size=batch)
        return sum(len(one.token_ids) for one in respond(policy, requests, decoding, label=""))

    def rollouts(tokens: int) -> int:
        decoding = Decoding(tokens, 1.0, batch_size=batch)
        rolled = roll_out(policy, requests, decoding)
        return sum(len(one.token_ids) for row in rolled for one in row)

    return {
        "bare forward passes": plain,
        "generate": generate,
        "respond": answers,
        "roll_out": rollouts,
    }


def requests_of(shape: Shape, image_tokens: int, count: int, images: bool) -> list[Request]:
    """Prompts of one length, so that no side pads."""
    rows = random_rows(shape, image_tokens, min(count, 16), PROMPT_TOKENS, 1)
    chosen = [rows[index % len(rows)] for index in range(count)]
    return [
        Request(
            Prompt(
                f"request-{index}",
                row["images"] if images else [],
                row["prompt"] if images else [user_message(_text(row), images=0)],
            )
        )
        for index, row in enumerate(chosen)
    ]


def stock_inputs(policy: Policy, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    """What the model's own processor makes of the prompts."""
    texts = [render_prompt(policy, request.prompt.messages) for request in requests]
    images = [list(request.prompt.images) for request in requests]
    encoded = policy.processor(
        images=images if any(images) else None, text=texts, return_tensors="pt"
    ).to(policy.device)
    dtype = policy.model.dtype
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in encoded.items()}


@torch.inference_mode()
def bare_forwards(policy: Policy, inputs: dict[str, torch.Tensor], tokens: int) -> int:
    """One forward pass a token, the likeliest each time: what no decode loop can do without."""
    core, mask = policy.core, inputs["attention_mask"]
    positions = token_positions(core, inputs)  # or each family would count in its own way
    given: dict[str, Any] = {
        **inputs, "position_ids": positions, "past_key_values": DynamicCache(config=core.config),
    }  # fmt: skip
    following = positions.amax(-1, keepdim=True)
    for _ in range(tokens):
        output = core(**given, use_cache=True, logits_to_keep=1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        following = following + 1
        given = {
            "input_ids": output.logits[:, -1].argmax(-1, keepdim=True), "attention_mask": mask,
            "position_ids": following, "past_key_values": output.past_key_values,
        }  # fmt: skip
    return tokens * len(mask)


def bdhs(
    settings: Settings, figures: Figures, shape: Shape, image_tokens: int, _end: float
) -> None:
    """Pairs a second with masked image tokens dropped and kept."""
    policy = build(shape, image_tokens, settings.device, settings.dtype)
    pairs = 2 if settings.tiny else 8
    sources = sources_of(shape, image_tokens, pairs)
    measure = load_similarity("edit")
    for drop in (True, False):
        given = Rejecting(
            BDHSSettings(mask_threshold=MASKED, iterations=1, drop_masked=drop),
            Decoding(SENTENCE_TOKENS, 1.0, 0, SENTENCES * pairs),
            measure,
        )

        def rate(given: Rejecting = given) -> dict[str, Any]:
            def build_them(some: list[TrueAnswer]) -> int:
                # Random words hardly ever end a sentence, so the pairs come to nothing in the end.
                return len(reject_answers(policy, some, given))

            build_them(sources[:1])
            made: list[int] = []
            seconds = seconds_of(lambda: made.append(build_them(sources)))
            return {"pairs": made[0], "pairs_per_second": made[0] / seconds}

        label = {
            "what": "BDHS", "shape": shape.name, "image_tokens": image_tokens,
            "masked": "dropped" if drop else "kept",
        }  # fmt: skip
        figures.attempt(label, 0.5 if settings.tiny else 4.0, rate)


def sources_of(shape: Shape, image_tokens: int, count: int) -> list[TrueAnswer]:
    """True answers of a few sentences of random words."""
    sentence = f"{FIRST_WORD} w1 w2 w3 w4 w5 {END_WORD}"
    answer = " ".join([sentence] * SENTENCES)
    return [
        TrueAnswer(Prompt(f"source-{index}", [picture], [user_message("w7 w8 w9")]), answer)
        for index, picture in enumerate(pictures(shape, image_tokens, count))
    ]


def vllm(shape: Shape, batch: int) -> dict[str, Any]:
    """Tokens a second of vLLM on random weights of its own, text prompts of the same length."""
    from vllm import LLM, SamplingParams

    policy = build(shape, 576, "meta", torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        policy.model.config.dtype = "bfloat16"
        policy.model.config.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        name = type(policy.model).__name__
        path = Path(folder) / "config.json"
        content = {**json.loads(path.read_text()), "architectures": [name]}
        path.write_text(json.dumps(content), encoding="utf-8")
        engine = LLM(folder, load_format="dummy", max_model_len=2048, gpu_memory_utilization=0.6)
        texts = [
            render_prompt(policy, request.prompt.messages)
            for request in requests_of(shape, 576, batch, images=False)
        ]

        def run(tokens: int) -> int:
            chosen = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True)
            outputs = engine.generate(texts, chosen, use_tqdm=False)
            return sum(len(output.outputs[0].token_ids) for output in outputs)

        return decoding_rate(run, 10.0, False)


def _text(row: dict[str, Any]) -> str:
    blocks = (b for message in row["prompt"] for b in message["content"])
    return str(next(block["text"] for block in blocks if block["type"] == "text"))


if __name__ == "__main__":
    run_part(measure_sampling)
