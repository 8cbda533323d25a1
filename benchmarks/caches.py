"""What kept image features are worth: processor seconds a step and at the start, both ways.

    python benchmarks/caches.py [--steps 8]

Batches of 2 pairs, shared prefix, full tuning of the language model, float32; each image is seen
once before the clock starts with kept features (that pass is `first`), so the steps are those of
the second epoch and later. Stock steps open, preprocess and encode the image every time.

Then the same of a try of BDHS for two pictures: four sentences each, 20 tokens, 99 % of the image
tokens masked. Tries after the first one, and later builds, find the features.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message
from veridical.models.batching import collate
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_group
from veridical.models.tuning import Tuning, prepare_training
from veridical.models.vision_cache import VisionCache
from veridical.runtime.cache import Cache
from veridical.sampling import Decoding, Request, complete_masked
from veridical.world.model import build_processor

BATCH = 2


def llava_576() -> Policy:
    """A LLaVA with 576 image tokens: tower 128 x 4 layers, language model 512 x 6 layers."""
    processor = build_processor()
    processor.image_processor.size = {"height": 192, "width": 192}
    processor.image_processor.crop_size = {"height": 192, "width": 192}
    processor.patch_size = 8
    tower = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        image_size=192, patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(processor.tokenizer), hidden_size=512, intermediate_size=1376,
        num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=8,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=processor.image_token_id,
    )  # fmt: skip
    return Policy(LlavaForConditionalGeneration(config).eval(), processor, "llava-576")


def pairs(policy: Policy, folder: Path, count: int) -> list[Group]:
    """Pairs over photographs' worth of pixels (640 x 480 PNG)."""
    noise, groups = np.random.default_rng(0), []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(noise.integers(0, 255, (480, 640, 3), dtype=np.uint8)).save(path)
        answers = [[assistant_message("There is a red cup. " * n)] for n in (6, 8)]
        question = [user_message("Describe the image.")]
        groups.append(render_group(policy, str(number), [path], question, answers))
    return groups


def step(policy: Policy, groups: list[Group]) -> float:
    """Seconds of the processor for laying out, forward and backward."""
    began = time.process_time()
    response_logps(policy.model, collate(policy, groups, True)).sums.sum().backward()
    policy.model.zero_grad()
    return time.process_time() - began


def measure(policy: Policy, steps: int) -> dict[str, Any]:
    """Median seconds a step both ways, interleaved, and of the pass that fills the cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups = pairs(policy, folder, BATCH * steps)
        policy = prepare_training(policy, Tuning("full"))
        began = time.process_time()
        vision = VisionCache(policy, Cache(folder / "cache", 1e10))
        opened = time.process_time() - began
        kept = dataclasses.replace(policy, vision=vision)
        batches = [groups[i : i + BATCH] for i in range(0, len(groups), BATCH)]
        step(policy, batches[0])
        first = [step(kept, batch) for batch in batches]
        both = [(step(policy, batch), step(kept, batch)) for batch in batches]
        size = sum(f.stat().st_size for f in (folder / "cache").rglob("*.safetensors"))
    stock, again = (median(times) for times in zip(*both, strict=True))
    return {
        "stock_seconds": round(stock, 3), "kept_seconds": round(again, 3),
        "first_seconds": round(median(first), 3), "opening_seconds": round(opened, 3),
        "ratio": round(stock / again, 3), "bytes_per_image": size // len(groups),
    }  # fmt: skip


def requests_of(folder: Path, number: int) -> list[Request]:
    """The completions that one try for two pictures needs."""
    question = [user_message("Describe the image.")]
    return [
        Request(
            Prompt(f"{number}/{picture}/{sentence}", [folder / f"{picture}.png"], question),
            "There is",
        )
        for picture in (BATCH * number, BATCH * number + 1)
        for sentence in range(4)
    ]


def attempt(policy: Policy, requests: list[Request]) -> float:
    """Seconds of the processor for one try."""
    began = time.process_time()
    masks = [request.prompt.id for request in requests]
    decoding = Decoding(20, 1.0, batch_size=len(requests))
    complete_masked(policy, requests, masks, 0.99, decoding, False)
    return time.process_time() - began


def measure_attempts(policy: Policy, steps: int) -> dict[str, Any]:
    """Median seconds a try of BDHS both ways, interleaved, and of the first one with features."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs(policy, folder, BATCH * steps)
        tries = [requests_of(folder, number) for number in range(steps)]
        kept = dataclasses.replace(policy, vision=VisionCache(policy, Cache(folder / "c", 1e10)))
        attempt(policy, tries[0])
        first = [attempt(kept, requests) for requests in tries]
        both = [(attempt(policy, requests), attempt(kept, requests)) for requests in tries]
    stock, again = (median(times) for times in zip(*both, strict=True))
    return {
        "stock_seconds": round(stock, 3), "kept_seconds": round(again, 3),
        "first_seconds": round(median(first), 3), "ratio": round(stock / again, 3),
    }  # fmt: skip


def main() -> None:
    """Print two lines of JSON for each model: a try of BDHS, a step of training."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    for policy in (load_policy("embedded"), llava_576()):
        for found in (measure_attempts(policy, steps), measure(policy, steps)):
            print(json.dumps({"model": policy.name, **found}), flush=True)


if __name__ == "__main__":
    main()
