"""The range of numeric options by name, checked before a command does anything.

A field whose annotation declares a range has that one. All other options of the same name have the
same range in every command. A command may ask for more (a temperature above 0, say); its own check
says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veridical.cli.signatures import Option, is_number
from veridical.runtime.ranges import ABOVE_ZERO, ANY, COUNT, RATE, SHARE, WEIGHT, Range

TEMPERATURE = Range(0, 100)
SEED = Range(0, 2**32 - 1)

RANGES: Mapping[str, Range] = {
    "accumulation": COUNT,
    "answer_reward": ANY,
    "attempts": COUNT,
    "batch_size": COUNT,
    "cache_gigabytes": ABOVE_ZERO,
    "check_limit": COUNT,
    "check_rows": COUNT,
    "check_tokens": COUNT,
    "count": COUNT,
    "cut_words": COUNT,
    "data_weights": ABOVE_ZERO,
    "epochs": ABOVE_ZERO,
    "evaluations": COUNT,
    "held_out": Range(0, 1, below=True),
    "held_out_limit": COUNT,
    "iterations": COUNT,
    "judge_repeats": COUNT,
    "judge_tokens": COUNT,
    "kept": Range(0, 1, above=True, below=True),
    "k": COUNT,
    "learning_rate": RATE,
    "length_penalty": ANY,
    "limit": COUNT,
    "lora_alpha": COUNT,
    "lora_dropout": Range(0, 1, below=True),
    "lora_rank": COUNT,
    "margin": WEIGHT,
    "margin_weight": ABOVE_ZERO,
    "mark_weight": WEIGHT,
    "mask_threshold": SHARE,
    "max_bad_fraction": SHARE,
    "max_length": COUNT,
    "max_new_tokens": COUNT,
    "max_response_tokens": COUNT,
    "max_steps": Range(1, or_else=-1),
    "min_score": SHARE,
    "min_new_tokens": Range(0),
    "minimum": ANY,
    "no_end_penalty": WEIGHT,
    "model_pairs": COUNT,
    "noise_steps": Range(0, 1000),
    "offline": SHARE,
    "overlap": SHARE,
    "patience": COUNT,
    "per_image": COUNT,
    "projector_learning_rate": RATE,
    "questions": COUNT,
    "retry_temperature": TEMPERATURE,
    "rollout_batch": COUNT,
    "rollout_steps": COUNT,
    "seed": SEED,
    "show_every": COUNT,
    "similarity_threshold": Range(-1, 1),
    "temperature": TEMPERATURE,
    "times": COUNT,
    "top_k": Range(0),
    "top_p": Range(0, 1, above=True),
    "verbosity_words": WEIGHT,
    "workers": COUNT,
    "yes_no_swap": SHARE,
    "weights": ABOVE_ZERO,
}


def check_option_ranges(options: Mapping[str, Option], values: Mapping[str, Any]) -> None:
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
            (option.range or RANGES.get(name, ANY)).check(name, value)
