"""The losses of a whole batch, images and all, against TRL's DPOTrainer on the same rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.records import assistant_message, user_message
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import render_group
from veridical.objectives.aot import AOT, UnpairedAOT
from veridical.objectives.apo import APODown, APOZero
from veridical.objectives.base import PairLogps, PairLoss
from veridical.objectives.bco import BCO
from veridical.objectives.cpo import CPO
from veridical.objectives.discopop import DiscoPOP
from veridical.objectives.dpo import DPO
from veridical.objectives.exo import EXO
from veridical.objectives.fdpo import FDPO
from veridical.objectives.ipo import IPO
from veridical.objectives.kto import KTO
from veridical.objectives.lddpo import LDDPO
from veridical.objectives.mpo import MPO
from veridical.objectives.nca import NCA
from veridical.objectives.orpo import ORPO
from veridical.objectives.preference import Preference
from veridical.objectives.robust import Robust
from veridical.objectives.simpo import SimPO
from veridical.objectives.slic import SLiC
from veridical.objectives.sppo import SPPO
from veridical.objectives.wpo import WPO
from veridical.train.loop import fine_tuning
from veridical.train.loop.mismatched import with_mismatched
from veridical.train.loop.outcomes import pair_logps, weighed
from veridical.train.loop.rows import TrainingRows
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


@pytest.fixture(scope="module")
def their_loss(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """A loss of TRL's by name, beta and label smoothing, on one batch."""
    rows = [
        {
            "images": [picture(i)],
            "prompt": [user_message("What do you see?")],
            "chosen": [assistant_message(chosen)],
            "rejected": [assistant_message(rejected)],
        }
        for i, (chosen, rejected) in enumerate(ANSWERS)
    ]
    trainer = trl.DPOTrainer(
        model=load(folder / "policy"),
        ref_model=load(folder / "reference"),
        args=trl.DPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")), report_to=[], use_cpu=True, bf16=False,
            max_length=None, use_weighting=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows, features=features()),
        processing_class=begins_itself(),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    trainer.model.eval()

    def loss(name: str, beta: float, smoothing: float = 0.0) -> float:
        trainer.loss_types, trainer.loss_weights = name.split("+"), [1.0]
        if name == "sigmoid+bco_pair":
            trainer.loss_weights = [0.8, 0.2]
        trainer.beta, trainer.label_smoothing = beta, smoothing
        divergence = name if name.endswith(("_kl", "_divergence")) else "reverse_kl"
        trainer.f_divergence_type, trainer.f_alpha_divergence_coef = divergence, 0.6
        trainer.ld_alpha = 0.25 if name == "ld" else None
        trainer.use_weighting = name == "wpo"
        if name in ("ld", "wpo") or divergence == name:
            trainer.loss_types = ["sigmoid"]
        found: float = trainer.compute_loss(trainer.model, dict(batch)).item()
        return found

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


@lru_cache(maxsize=2)
def our_logps(folder: Path, weighs: PairLoss = DPO()) -> PairLogps:
    """Of the same rows, by the policy and the reference, with the weights that a loss makes."""
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
        groups = [weighed(weighs, group) for group in groups]
        batch = collate(policies[0], groups, True)
        ours, reference = (response_logps(policy.model, batch, True) for policy in policies)
    return pair_logps(ours, reference.sums)


def our_loss(folder: Path, loss: Preference) -> float:
    own = our_logps(folder, loss.loss) if isinstance(loss.loss, LDDPO) else our_logps(folder)
    return float(loss(own).mean())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("sigmoid", Preference(DPO(0.3))),
        ("ipo", Preference(IPO(0.3), per_token=True)),
        ("hinge", Preference(SLiC(0.3))),
        ("sigmoid_norm", Preference(DPO(0.3), per_token=True)),
        ("robust", Preference(Robust(0.3, 0.2))),
        ("exo_pair", Preference(EXO(0.3, 0.2))),
        ("nca_pair", Preference(NCA(0.3))),
        ("bco_pair", Preference(BCO(0.3))),
        ("sppo_hard", Preference(SPPO(0.3))),
        ("apo_zero", Preference(APOZero(0.3))),
        ("apo_down", Preference(APODown(0.3))),
        ("aot", Preference(AOT(0.3, 0.2))),
        ("aot_unpaired", Preference(UnpairedAOT(0.3))),
        ("discopop", Preference(DiscoPOP(0.3))),
        ("forward_kl", Preference(FDPO(0.3, "forward_kl"))),
        ("js_divergence", Preference(FDPO(0.3, "js"))),
        ("alpha_divergence", Preference(FDPO(0.3, "alpha", 0.4))),
        ("ld", Preference(LDDPO(0.3, excess_weight=0.25))),
        ("wpo", Preference(WPO(0.3))),
        ("sigmoid+bco_pair", Preference(MPO(0.3, generation_weight=0.0, reward_shift=0.0))),
    ],
    ids=lambda one: one if isinstance(one, str) else one.loss.name,
)
def test_the_same_loss_as_trl(
    folder: Path, their_loss: Callable[..., float], theirs: str, ours: Preference
) -> None:
    expected = their_loss(theirs, 0.3, getattr(ours.loss, "label_smoothing", 0.0))
    found = our_loss(folder, ours)
    start = ours.with_known_start().at_start
    assert start is not None
    assert abs(expected - start) > 1e-4  # the reference makes a difference
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ours", [SimPO(0.3), CPO(0.3), ORPO(0.3)], ids=lambda loss: loss.name)
def test_the_same_loss_as_trls_without_a_reference(folder: Path, ours: PairLoss) -> None:
    """Their formulas, on our log-probs of the batch; their trainers take no images."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    logps = our_logps(folder)
    means = logps.per_token().policy
    given = SimpleNamespace(
        beta=0.3, alpha=0.0, label_smoothing=0.0, simpo_gamma=0.15, loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    if ours.name == "orpo":
        # They maximize it.
        expected = -ORPOTrainer.odds_ratio_loss(given, *means.unbind(1))[0]
    else:
        given.loss_type = "simpo" if ours.name == "simpo" else "sigmoid"
        own = means if ours.name == "simpo" else logps.policy
        expected = CPOTrainer.cpo_loss(given, *own.unbind(1))[0]
    assert torch.allclose(ours(logps).squeeze(1), expected, rtol=1e-5)


def test_the_same_loss_as_trls_of_single_answers(folder: Path, tmp_path: Path) -> None:
    """KTO on a batch with images, each answer also behind the next row's prompt."""
    labels, loss = [True, False, True], KTO(0.3, 1.3, 0.7)
    rows: list[dict[str, Any]] = [
        {
            "images": [picture(i)],
            "prompt": [user_message("What do you see?")],
            "completion": [assistant_message(chosen)],
            "label": label,
        }
        for i, ((chosen, _), label) in enumerate(zip(ANSWERS, labels, strict=True))
    ]
    # The other way around the divergence would be below zero, and count as 0.
    now, before = "policy", "reference"
    trainer = trl.KTOTrainer(
        model=load(folder / now),
        ref_model=load(folder / before),
        args=trl.KTOConfig(
            output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=None,
            beta=0.3, desirable_weight=1.3, undesirable_weight=0.7,
            train_sampling_strategy="sequential", per_device_train_batch_size=3,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=begins_itself(),
    )  # fmt: skip
    trainer.model.eval()
    expected = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    policies = [Policy(load(folder / name).eval(), begins_itself(), name) for name in (now, before)]
    groups = [
        replace(
            render_group(policies[0], str(i), [picture(i)], row["prompt"], [row["completion"]]),
            label=row["label"],
        )
        for i, row in enumerate(rows)
    ]
    groups = with_mismatched(TrainingRows(groups, [], 0, 3), None).groups
    with torch.no_grad():
        batch = collate(policies[0], groups, True)
        ours, reference = (response_logps(policy.model, batch) for policy in policies)
        logps = pair_logps(ours, reference.sums)
    assert float(Preference(loss).measures(logps)["kl"][0]) > 0.1
    assert float(Preference(loss)(logps).mean()) == pytest.approx(expected, rel=1e-5)


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
