"""How much faster BDHS completes sentences when masked image tokens are dropped.

    python benchmarks/bdhs_dropping.py

A LLaVA of random weights (language model 512 x 6 layers, 576 image tokens), 99 % of the image
tokens masked, 16 completions of up to 40 tokens in a batch; dropped and masked take turns, the
first turn of each is not counted. Prints seconds, the ratio, and whether the samples are equal.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from veridical.models import Policy
from veridical.records import user_message
from veridical.sampling import Decoding, Request, complete_masked
from veridical.world.model import build_processor

PIXELS, PATCH = 192, 8
ROUNDS = 4


def build_policy() -> Policy:
    """The embedded model's processor at another size, and a larger model of random weights."""
    processor = build_processor()
    size = {"height": PIXELS, "width": PIXELS}
    processor.image_processor = CLIPImageProcessorPil(size=size, crop_size=size)
    processor.patch_size = PATCH
    torch.manual_seed(0)
    tokens = len(processor.tokenizer)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
            image_size=PIXELS, patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=tokens, hidden_size=512, intermediate_size=1376, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048,
        ),
        image_token_index=processor.image_token_id,
        image_seq_length=(PIXELS // PATCH) ** 2,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return Policy(model, processor, "random LLaVA")


def main() -> None:
    """Measure, in turns."""
    policy = build_policy()
    pixels = np.random.default_rng(0).integers(0, 255, (PIXELS, PIXELS, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    prompt = [user_message("Describe the image.")]
    requests = [Request(str(i), [image], prompt, "There is a") for i in range(16)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    samples = {}
    for _ in range(ROUNDS + 1):
        for drop in (True, False):
            began = time.perf_counter()
            answers, _ = complete_masked(
                policy, requests, ["one"] * 16, 0.99, Decoding(40, 1.0), False, drop
            )
            seconds[drop].append(time.perf_counter() - began)
            samples[drop] = [answer.token_ids for answer in answers]
    dropped, masked = (statistics.median(seconds[drop][1:]) for drop in (True, False))
    print(f"image tokens {(PIXELS // PATCH) ** 2}, threads {torch.get_num_threads()}")
    print(f"masked tokens kept    {masked:6.2f} s")
    print(f"masked tokens dropped {dropped:6.2f} s, {masked / dropped:.1f} times faster")
    print(f"samples equal: {samples[True] == samples[False]}")


if __name__ == "__main__":
    main()
