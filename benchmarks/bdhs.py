"""BDHS: pairs per second with masked image tokens dropped, kept, and by a plain generate loop.

    python benchmarks/bdhs.py [--quick]

A LLaVA of random weights, 99 % of the image tokens masked; a pair is four sentences, each completed
with 20 tokens from where the truth begins it, behind the sentences before it. Dropped and kept go
through the product, 32 completions at once, the image encoded and what sentences share read once;
the plain loop is what one writes first: processor, mask, `generate`, one completion after the
other. They take turns; the first turn does not count. LLaVA's pictures are square, so 2,916 image
tokens stand for 2,880. Figures go to `runs/benchmark/bdhs.json`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cases import TINY, Size, llava, random_pairs

from veridical.data.prompts import Prompt
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.runtime.files import write_json
from veridical.sampling import Decoding, Request, complete_masked, sample_mask

SENTENCES, TOKENS, SHARE = 4, 20, 0.99
PLAIN = 4
"""Completions of the plain loop in a turn: its time does not depend on their number."""


def requests_of(size: Size, pairs: int) -> list[Request]:
    """The completions that the pairs need."""
    return [
        Request(
            Prompt(f"{row['id']}/{sentence}", row["images"], row["prompt"]),
            " ".join(["w1 w2 w3"] * (1 + 3 * sentence)),
        )
        for row in random_pairs(size, pairs, 2)
        for sentence in range(SENTENCES)
    ]  # fmt: skip


def complete(policy: Policy, requests: Sequence[Request], drop: bool) -> list[tuple[int, ...]]:
    """By the product; returns the sampled tokens."""
    decoding = Decoding(TOKENS, 1.0, batch_size=32)
    # One an answer, as in the product.
    masks = [request.prompt.id.split("/")[0] for request in requests]
    answers, _ = complete_masked(policy, requests, masks, SHARE, decoding, False, drop)
    return [answer.token_ids for answer in answers]


@torch.no_grad()
def complete_plainly(policy: Policy, requests: Sequence[Request]) -> None:
    """One after the other, with nothing of ours but the mask."""
    for request in requests:
        text = render_prompt(policy, request.prompt.messages, request.prefix)
        inputs = policy.processor(
            images=list(request.prompt.images), text=text, return_tensors="pt"
        )
        image = inputs["input_ids"][0] == policy.processor.image_token_id
        seen = sample_mask(int(image.sum()), SHARE, 0, request.prompt.id)
        inputs["attention_mask"][0, image] = seen.long()
        policy.model.generate(**inputs, do_sample=True, max_new_tokens=TOKENS, pad_token_id=2)


def measure(size: Size, pairs: int, turns: int) -> list[dict[str, Any]]:
    """A row for each way; raises if dropping changes a sample."""
    policy = llava(size)
    policy.model.generation_config.eos_token_id = None  # every completion is as long
    requests = requests_of(size, pairs)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "dropped": (len(requests), lambda: complete(policy, requests, True)),
        "kept": (len(requests), lambda: complete(policy, requests, False)),
        "plain loop": (PLAIN, lambda: complete_plainly(policy, requests[:PLAIN])),
    }
    clocks: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    samples = {}
    for _ in range(turns + 1):
        for way, (number, run) in ways.items():
            began, cpu = time.perf_counter(), time.process_time()
            samples[way] = run()
            pair = SENTENCES / number
            taken = (time.perf_counter() - began) * pair, (time.process_time() - cpu) * pair
            clocks[way].append(taken)
    equal = samples["dropped"] == samples["kept"]
    return [
        {
            "image_tokens": size.image_tokens,
            "way": way,
            "pairs_per_second": 1 / statistics.median(wall for wall, _ in found[1:]),
            "cpu_seconds_a_pair": statistics.median(cpu for _, cpu in found[1:]),
            "samples_equal": equal,
        }
        for way, found in clocks.items()
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="BDHS with masked tokens dropped and kept.")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sizes = [TINY] if given.quick else [Size(), Size(image_tokens=2916)]
    rows = []
    for size in sizes:
        for row in measure(size, 2 if given.quick else 8, 1 if given.quick else 2):
            rows.append(row)
            print(
                f"  {row['image_tokens']:5} image tokens, {row['way']:10} "
                f"{row['pairs_per_second']:8.3f} pairs/s, CPU {row['cpu_seconds_a_pair']:7.2f} s "
                f"a pair, samples equal: {row['samples_equal']}",
                flush=True,
            )
    write_json(given.out / "bdhs.json", {"rows": rows})


if __name__ == "__main__":
    main()
