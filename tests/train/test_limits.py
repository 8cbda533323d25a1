"""What training refuses before it costs time, and values that are not numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from veridical.data.records import assistant_message, user_message
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.cache import Cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_jsonl
from veridical.train.loop.reference_cache import precompute
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.start import join_processes
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training

TRAINING = Training(learning_rate=1e-4, accumulation=1)


@pytest.mark.parametrize(
    "key", ["label_smoothing_factor", "bf16_full_eval", "fp16_full_eval", "save_only_model"]
)
def test_what_would_be_ignored_or_break_the_run_is_refused(tmp_path: Path, key: str) -> None:
    value = 0.1 if key == "label_smoothing_factor" else True
    with pytest.raises(UserError, match=key):
        trainer_arguments(replace(TRAINING, trainer={key: value}), tmp_path, 8, False)


def test_loading_on_one_process_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(UserError, match="fsdp_cpu_ram_efficient_loading"):
        join_processes("cpu")


def test_steps_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TRAINING.steps(17) == 3  # ceil(17 / 8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert TRAINING.steps(17) == 2  # ceil(17 / 16)


@pytest.mark.parametrize("limits", [(0, None), (None, 0), (None, -1)])
def test_limits_below_one_token(limits: tuple[int | None, int | None]) -> None:
    training = replace(TRAINING, max_length=limits[0], max_response_tokens=limits[1])
    with pytest.raises(UserError, match="give 1 or more"):
        training.check()


def test_a_reference_that_is_no_number(policy: Policy, groups: list[Group], tmp_path: Path) -> None:
    with torch.no_grad():
        policy.core.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"not finite .*pair-0"):
        precompute(policy, groups[:2], True, 2, 1e-6, Cache(tmp_path / "cache", 1e9), "weights")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("good", [0, 1, 2])
def test_what_is_left_is_counted_in_rows(policy: Policy, tmp_path: Path, good: int) -> None:
    """A conversation with a picture in each of two turns is learned in two groups."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    data, rows = tmp_path / "rows.jsonl", []
    for number in range(6):
        answer = "Yes." if number < good else "Yes. " * 2000
        first = [user_message("First.", images=1), assistant_message("No.")]
        turns = [*first, user_message("Second.", images=1), assistant_message(answer)]
        rows.append({"id": str(number), "messages": turns, "images": ["a.png", "a.png"]})
    write_jsonl(data, rows)
    training = replace(TRAINING, max_length=400, images_root=tmp_path)
    left = ("so none is left", "1 is left; more", "2 are left; more")[good]
    with pytest.raises(UserError, match=f"{6 - good} of 6 rows can't be used, {left}"):
        read_training_rows(policy, data, "conversation", (), training)
