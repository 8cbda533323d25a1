"""The range of every numeric option, by name: one table, checked before a command does anything.

An option of the same name has the same range in every command. A command may ask for more (a
temperature above 0, say); its own check says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from veridical.cli.signatures import Option, is_number, spelled
from veridical.runtime.errors import UserError

MOST = 10**9
"""Above any count or weight that means something, and far from what 64 bits and floats hold."""


@dataclass(frozen=True)
class Range:
    """The numbers that an option takes; never NaN or infinity.

    Attributes:
        low: the lowest.
        high: the highest.
        above: whether `low` itself is left out.
        below: whether `high` itself is left out.
        or_else: one number outside that stands for "not set"; None if there is none.
    """

    low: float = 0
    high: float = MOST
    above: bool = False
    below: bool = False
    or_else: int | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is in it."""
        if value == self.or_else:
            return True
        if not math.isfinite(value):
            return False
        low = self.low < value if self.above else self.low <= value
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high < MOST:
            left, right = "above " if self.above else "", "below " if self.below else ""
            text = f"{left}{self.low:,g} to {right}{self.high:,}"
        elif self.low <= -MOST:
            text = f"{-MOST:,} to {MOST:,}"
        else:
            text = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
            text += f" (at most {MOST:,})"
        return text if self.or_else is None else f"{text}, or {self.or_else} for none"


COUNT = Range(1)
WEIGHT = Range(0)
ABOVE_ZERO = Range(0, above=True)
SHARE = Range(0, 1)
ANY = Range(-MOST)
RATE = Range(0, 10, above=True)
TEMPERATURE = Range(0, 100)
SEED = Range(0, 2**32 - 1)

RANGES: Mapping[str, Range] = {
    "accumulation": COUNT,
    "answer_reward": ANY,
    "attempts": COUNT,
    "batch_size": COUNT,
    "beta": ABOVE_ZERO,
    "cache_gigabytes": ABOVE_ZERO,
    "centring": WEIGHT,
    "check_limit": COUNT,
    "check_tokens": COUNT,
    "clip": ABOVE_ZERO,
    "count": COUNT,
    "cut_words": COUNT,
    "data_weights": ABOVE_ZERO,
    "epochs": ABOVE_ZERO,
    "evaluations": COUNT,
    "gamma": SHARE,
    "held_out": Range(0, 1, below=True),
    "inner_epochs": COUNT,
    "iterations": COUNT,
    "judge_tokens": COUNT,
    "k": COUNT,
    "kl_coefficient": WEIGHT,
    "kl_horizon": COUNT,
    "kl_target": ABOVE_ZERO,
    "label_smoothing": Range(0, 0.5, below=True),
    "lam": SHARE,
    "learning_rate": RATE,
    "length_penalty": ANY,
    "limit": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": Range(0, 1, below=True),
    "lora_rank": COUNT,
    "margin": WEIGHT,
    "mask_threshold": SHARE,
    "max_bad_fraction": SHARE,
    "max_length": COUNT,
    "max_new_tokens": COUNT,
    "max_response_tokens": COUNT,
    "max_steps": Range(1, or_else=-1),
    "min_score": SHARE,
    "min_new_tokens": Range(0),
    "minibatches": COUNT,
    "minimum": ANY,
    "nll_weight": WEIGHT,
    "no_end_penalty": WEIGHT,
    "noise_steps": Range(0, 1000),
    "offline": SHARE,
    "patience": COUNT,
    "per_image": COUNT,
    "projector_learning_rate": RATE,
    "questions": COUNT,
    "retry_temperature": TEMPERATURE,
    "rollout_batch": COUNT,
    "rollout_steps": COUNT,
    "samples": COUNT,
    "seed": SEED,
    "seeds": COUNT,
    "show_every": COUNT,
    "similarity_threshold": Range(-1, 1),
    "stop_kl": WEIGHT,
    "temperature": TEMPERATURE,
    "top_k": Range(0),
    "top_p": Range(0, 1, above=True),
    "value_clip": ABOVE_ZERO,
    "value_learning_rate": RATE,
    "value_weight": WEIGHT,
    "verbosity_words": WEIGHT,
    "workers": COUNT,
    "yes_no_swap": SHARE,
}


def check_ranges(options: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Refuse a number that is outside its option's range.

    Raises:
        UserError: names the option and the range.
    """
    for name, option in options.items():
        if not is_number(option) or values[name] is None:
            continue
        given = values[name] if isinstance(values[name], list | tuple) else [values[name]]
        for value in given:
            # A test finds every option here; other functions' options are finite.
            if not (range_ := RANGES.get(name, ANY)).holds(value):
                raise UserError(f"{spelled(name)} is {_shown(value)}; give {range_}.")


def _shown(value: float) -> str:
    text = str(value) if abs(value) < 10**15 or not math.isfinite(value) else f"{value:.3g}"
    return text if len(text) <= 40 else f"{text[:37]}..."
