"""The losses of a whole batch, images and all, against TRL's DPOTrainer on the same rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.records import assistant_message, user_message
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import render_group
from veridical.objectives.dpo import DPO
from veridical.objectives.ipo import IPO
from veridical.objectives.preference import Preference
from veridical.objectives.slic import SLiC
from veridical.train.loop import fine_tuning
from veridical.train.loop.outcomes import outcome_of
from veridical.world import model as world_model

datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")

ANSWERS = (
    ("This is a park. There is a red cup.", "There is a blue dog."),
    ("There is a green chair on the right.", "There is a red cup. There is a blue cup."),
    ("Yes.", "No."),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world's model, untrained and shrunk, and beside it a reference that differs."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("models")
    processor = begins_itself()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WIDTH": 32, "VISION_LAYERS": 1, "LANGUAGE_LAYERS": 1}.items():
            patch.setattr(world_model, name, value)
        policy = world_model.build_model(processor)
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for weight in reference.get_decoder().parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    for name, model in (("policy", policy), ("reference", reference)):
        model.save_pretrained(out / name)
        processor.save_pretrained(out / name)
    return out


def begins_itself() -> Any:
    """TRL adds no begin token of its own, even where the processor would: the template has it."""
    processor = world_model.build_processor()
    processor.chat_template = processor.tokenizer.bos_token + processor.chat_template
    return processor


def their_loss(folder: Path, name: str, beta: float, out: Path) -> float:
    rows = [
        {
            "images": [picture(i)],
            "prompt": [user_message("What do you see?")],
            "chosen": [assistant_message(chosen)],
            "rejected": [assistant_message(rejected)],
        }
        for i, (chosen, rejected) in enumerate(ANSWERS)
    ]
    processor = begins_itself()
    trainer = trl.DPOTrainer(
        model=load(folder / "policy"),
        ref_model=load(folder / "reference"),
        args=trl.DPOConfig(
            output_dir=str(out), loss_type=[name], beta=beta,
            report_to=[], use_cpu=True, bf16=False, max_length=None,
        ),
        train_dataset=datasets.Dataset.from_list(rows, features=features()),
        processing_class=processor,
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    trainer.model.eval()
    loss: float = trainer.compute_loss(trainer.model, batch).item()
    return loss


def features() -> Any:
    from veridical.data.records import arrow_features

    wanted = ("images", "prompt", "chosen", "rejected")
    return datasets.Features({k: v for k, v in arrow_features("preference").items() if k in wanted})


def load(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (20 + number, 30), (255 - 20 * number, 10 * number, 0))


def our_loss(folder: Path, loss: Preference) -> float:
    processor = begins_itself()
    policies = [
        Policy(load(folder / name).eval(), processor, name) for name in ("policy", "reference")
    ]
    groups = [
        render_group(
            policies[0],
            str(i),
            [picture(i)],
            [user_message("What do you see?")],
            [[assistant_message(text)] for text in texts],
        )
        for i, texts in enumerate(ANSWERS)
    ]
    with torch.no_grad():
        batch = collate(policies[0], groups, True)
        ours, reference = (response_logps(policy.model, batch) for policy in policies)
    return float(outcome_of(loss)(ours, reference.sums).loss_sum) / len(groups)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sigmoid", Preference(DPO(0.3))),
        ("ipo", Preference(IPO(0.3), per_token=True)),
        ("hinge", Preference(SLiC(0.3))),
    ],
)
def test_the_same_loss_as_trl(folder: Path, tmp_path: Path, theirs: str, ours: Preference) -> None:
    expected = their_loss(folder, theirs, 0.3, tmp_path)
    found = our_loss(folder, ours)
    assert ours.at_start is not None
    assert abs(expected - ours.at_start) > 1e-3  # the reference makes a difference
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_same_sft_loss_as_trl(folder: Path, tmp_path: Path) -> None:
    """Per token over the whole batch, on the answers alone."""
    rows: list[dict[str, Any]] = [
        {
            "images": [picture(i)],
            "prompt": [user_message("What do you see?")],
            "completion": [assistant_message(chosen)],
        }
        for i, (chosen, _) in enumerate(ANSWERS)
    ]
    trainer = trl.SFTTrainer(
        model=load(folder / "policy"),
        args=trl.SFTConfig(
            output_dir=str(tmp_path), completion_only_loss=True, report_to=[], use_cpu=True,
            bf16=False, max_length=None,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=begins_itself(),
    )  # fmt: skip
    trainer.model.eval()
    expected = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    policy = Policy(load(folder / "policy").eval(), begins_itself(), "policy")
    groups = [
        render_group(policy, str(i), row["images"], row["prompt"], [row["completion"]])
        for i, row in enumerate(rows)
    ]
    with torch.no_grad():
        logps = response_logps(policy.model, collate(policy, groups, True))
    found = float(
        fine_tuning.objective(logps, torch.zeros(3, 1)).loss_sum
    ) / fine_tuning.count_tokens(groups)
    assert found == pytest.approx(expected, rel=1e-5)
