"""The first step learns something whatever the schedule, and who learned nothing says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainingArguments, get_scheduler

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.randomness import generator
from veridical.train.dpo import train_dpo
from veridical.train.loop.run import tell_best
from veridical.train.loop.schedule import schedule_for
from veridical.train.options import Training

OPTIONS: dict[str, dict[str, Any]] = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 5},
}
WARM = [
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup",
    "inverse_sqrt", *OPTIONS,
]  # fmt: skip


def make(kind: str, steps: int, warmup: float, peaks: tuple[float, ...] = (1.0,)) -> Any:
    arguments = TrainingArguments(
        "unused", lr_scheduler_type=kind, warmup_steps=warmup, use_cpu=True,
        lr_scheduler_kwargs=OPTIONS.get(kind, {}),
    )  # fmt: skip
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks]
    return schedule_for(torch.optim.SGD(groups, lr=1.0), arguments, steps)


def rates(scheduler: Any, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("kind", WARM)
@pytest.mark.parametrize("warmup", [1, 4])
def test_every_step_has_a_learning_rate(kind: str, warmup: int) -> None:
    found = rates(make(kind, 20, warmup, (1.0, 0.1)), 20)
    assert all(rate > 0 for step in found for rate in step)
    assert [step[0] for step in found] == pytest.approx([10 * step[1] for step in found])
    assert max(step[0] for step in found) <= 1.0
    rising = [step[0] for step in found[:warmup]]
    assert rising == sorted(rising)


def test_a_linear_warm_up_by_hand() -> None:
    # 4 steps of warm-up: 1/5, 2/5, 3/5, 4/5, then the peak; then 6 steps of decay.
    found = [step[0] for step in rates(make("linear", 10, 4), 10)]
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert found == pytest.approx(expected)
    assert rates(make("cosine", 1, 1), 1) == [[0.5]]


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_without_a_warm_up_it_is_transformers_own(kind: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    own = rates(get_scheduler(kind, optimizer, 0, 10), 10)
    assert rates(make(kind, 10, 0), 10) == own


def test_a_resumed_schedule_goes_on(tmp_path: Path) -> None:
    whole = rates(make("cosine", 10, 4), 10)
    first = make("cosine", 10, 4)
    rates(first, 3)
    torch.save(first.state_dict(), tmp_path / "scheduler.pt")
    second = make("cosine", 10, 4)
    second.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))
    second.optimizer.param_groups[0]["lr"] = first.get_last_lr()[0]
    assert rates(second, 7) == whole[3:]


def test_options_that_do_not_fit_the_kind() -> None:
    arguments = TrainingArguments("unused", lr_scheduler_type="cosine_with_min_lr", use_cpu=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match=r"lr_scheduler_type cosine_with_min_lr can't be made"):
        schedule_for(optimizer, arguments, 10)


def test_who_learned_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    tell_best(None, None, None)
    assert not capsys.readouterr().out
    tell_best(0.6931, 0.5, 10)
    assert capsys.readouterr().out == (
        "The result is that of step 10, the best by held-out loss (0.5000; 0.6931 at step 0).\n"
    )
    tell_best(0.6931, 0.6931, 10)
    assert "No checkpoint has a lower held-out loss than the start" in capsys.readouterr().out
    tell_best(0.5, 0.6, 10, "rewards_accuracy")
    assert "step 10, the best by rewards_accuracy" in capsys.readouterr().out
    tell_best(0.5, 0.4, 10, "rewards_accuracy")
    assert "a higher rewards_accuracy than the start (0.5000" in capsys.readouterr().out


def write_pairs(path: Path, pictures: list[Image.Image], swapped: Sequence[int]) -> Path:
    answers = ["There is a red cup. There is a green chair.", "There is a blue dog at the bottom."]
    rows = []
    for i, picture in enumerate(pictures):
        chosen, rejected = answers[::-1] if i in swapped else answers
        rows.append(
            {
                "id": f"pair-{i}",
                "images": [picture],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message(chosen)],
                "rejected": [assistant_message(rejected)],
            }
        )
    write_records(rows, path, "preference")
    return path


def test_a_run_of_one_step_moves_and_one_that_goes_astray_says_so(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "policy"
    policy.model.float().save_pretrained(saved)
    policy.processor.save_pretrained(saved)
    training = Training(
        learning_rate=1e-3, max_steps=1, batch_size=3, accumulation=1, held_out=0.5,
        lora_rank=4, lora_alpha=8,
    )  # fmt: skip
    drawn = sorted(range(6), key=lambda i: generator(0, "held-out", f"pair-{i}").random())
    alike = write_pairs(tmp_path / "alike.parquet", pictures, ())
    train_dpo(str(saved), alike, tmp_path / "one", training=training)
    adapter = load_file(tmp_path / "one" / "adapter" / "adapter_model.safetensors")
    assert all(value.any() for name, value in adapter.items() if "lora_B" in name)
    results = read_json(tmp_path / "one" / "run.json")["results"]
    assert results["held_out_loss_at_start"] == pytest.approx(0.693147, abs=1e-4)
    assert results["best_held_out_loss"] < results["held_out_loss_at_start"]
    assert "The result is that of step 1, the best by held-out loss" in capsys.readouterr().out

    # The held-out rows say the opposite of what is learned.
    against = write_pairs(tmp_path / "against.parquet", pictures, drawn[:3])
    train_dpo(str(saved), against, tmp_path / "astray", training=training)
    results = read_json(tmp_path / "astray" / "run.json")["results"]
    assert results["best_held_out_loss"] > results["held_out_loss_at_start"]
    said = capsys.readouterr().out
    assert "No checkpoint has a lower held-out loss than the start" in said
    card = (tmp_path / "astray" / "model" / "README.md").read_text(encoding="utf-8")
    assert "which no checkpoint improved on" in card
