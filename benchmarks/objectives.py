"""What a step of each objective costs, compared with DPO's.

    python benchmarks/objectives.py [--rounds 5]

The embedded model, full fine-tuning, reference log-probs stored, eight pairs a step, a shared
prefix, one thread. CPU seconds of forward and backward pass, the least of rounds in which every
objective has its turn (other processes only add), divided by DPO's. Figures go to
`runs/benchmark/objectives.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from PIL import Image

from veridical import load_policy
from veridical.data.messages import without_images
from veridical.data.records import assistant_message, user_message
from veridical.models.answer_parts import Answer
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_answers
from veridical.objectives.base import PairLoss
from veridical.objectives.combined import Combined
from veridical.objectives.fdpo import FDPO
from veridical.objectives.preference import Preference
from veridical.objectives.table import AnyPairLoss
from veridical.runtime.files import write_json
from veridical.train.loop.outcomes import pair_logps, weighed

PAIRS = 8
COLORS = ("red", "blue", "green", "yellow", "black", "white", "orange", "purple")


def pair(policy: Policy, number: int, loss: PairLoss) -> Group:
    """A pair about a picture of one color, with what the loss reads beside it."""
    color, other = COLORS[number], COLORS[(number + 1) % PAIRS]
    said = [f"There is a {one} cup. There is a dog on the left." for one in (color, other)]
    answers = [Answer([assistant_message(text)]) for text in said]
    prompt = [user_message("Describe the image.")]
    of = {"images": None, "contrast_images": [Image.new("RGB", (64, 64), (127, 127, 127))]}
    for view in loss.views:
        one = answers[view.answer != "chosen"]
        if view.images == "none":
            answers.append(dataclasses.replace(one, images=(), prompt=without_images(prompt)))
        else:
            answers.append(dataclasses.replace(one, images=of[view.images]))
    if loss.mismatched:
        answers += answers[::-1]
    picture = Image.new("RGB", (64, 64), color)
    group = render_answers(policy, str(number), [picture], prompt, answers, None)
    return dataclasses.replace(group, contrasts=len(answers) - 2 or None)


def seconds_a_step(policy: Policy, loss: PairLoss) -> float:
    """CPU seconds of one forward and backward pass."""
    groups = [pair(policy, number, loss) for number in range(PAIRS)]
    groups = list(map(partial(weighed, loss), groups))
    batch = collate(policy, groups, True)
    objective = Preference(loss)  # type: ignore[arg-type]
    began = time.process_time()
    logps = response_logps(policy.model, batch, loss.needs_squares)
    objective(pair_logps(logps, logps.sums.detach())).sum().backward()
    seconds = time.process_time() - began
    policy.model.zero_grad(set_to_none=True)
    return seconds


def main() -> None:
    """Measure every loss, and write and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    torch.set_num_threads(1)
    policy = load_policy("embedded", "float32", "cpu")
    policy.model.requires_grad_(True).train()
    losses: list[PairLoss] = [made() for made in get_args(AnyPairLoss)]
    losses += [Combined(terms="dpo:0.8,bco:0.2,nll:1"), FDPO(divergence="forward_kl")]
    seconds_a_step(policy, losses[0])  # the first pass is slower
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for loss in losses:
            name = f"fdpo {loss.divergence}" if isinstance(loss, FDPO) else loss.name
            taken.setdefault(name, []).append(seconds_a_step(policy, loss))
    least = {name: min(values) for name, values in taken.items()}
    ratios = {name: seconds / least["dpo"] for name, seconds in least.items()}
    out = Path("runs/benchmark")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "objectives.json", {"seconds": taken, "of_dpo": ratios})
    for name, ratio in ratios.items():
        print(f"{name:14} {ratio:.2f}")


if __name__ == "__main__":
    main()
