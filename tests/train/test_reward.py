"""Reward models, from pairs to a judge."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tuning import FULL, tuned

from veridical.cli.dispatch import main
from veridical.data.records import assistant_message, user_message, write_records
from veridical.eval.reward import RewardOptions, eval_reward
from veridical.models.load import load_policy
from veridical.models.logprobs import ResponseLogps
from veridical.models.policy import Policy
from veridical.models.reward_model import (
    HEAD_FILE,
    attach_reward_model,
    load_reward_model,
)
from veridical.models.reward_scores import score_groups
from veridical.models.tuning import without_language_head
from veridical.objectives.reward import BradleyTerry
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.train.options import Training
from veridical.train.reward import (
    read_reward_pairs,
    reward_outcome,
    train_reward,
)

COLOURS = ("red", "blue", "green", "black", "orange", "purple")
SMALL = Training(
    learning_rate=3e-3, max_steps=8, batch_size=4, accumulation=1, held_out=0.2, evaluations=2,
    lora_rank=4, lora_alpha=8, cache="none", device="cpu",
)  # fmt: skip
QUESTION = "Is this what the image shows?"


def write_pairs(path: Path, with_facts: bool = True, **more: Any) -> Path:
    """A picture of one colour each; a right answer and a wrong one about it."""
    write_records(
        [
            {
                "id": f"pair-{i}",
                "images": [Image.new("RGB", (48, 48), (i * 9, 200 - i * 9, i))],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message(f"There is a {COLOURS[i % 6]} cup.")],
                "rejected": [assistant_message(f"There is a {COLOURS[(i + 1) % 6]} dog.")],
                "facts": [f"There is a {COLOURS[i % 6]} cup."] if with_facts and i else None,
                **more,
            }
            for i in range(18)
        ],
        path,
        "preference",
    )
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.parquet")


def test_objective_by_hand() -> None:
    """Rewards (2, 1) and (0, 3): -ln sigmoid(1) - ln sigmoid(-3), and 0.1 * (9 + 9)."""
    scores = ResponseLogps(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.ones(2, 2))
    outcome = reward_outcome(BradleyTerry(0.1))(scores, torch.zeros(2, 2))
    expected = math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3)) + 1.8
    assert float(outcome.loss_sum) == pytest.approx(expected, abs=1e-5)
    assert outcome.measures["rewards_accuracy"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_run_learns_and_its_result_judges(pairs: Path, tmp_path: Path, tuning: Any) -> None:
    """In full and as an adapter, merged or on a base in memory, it gives the same rewards."""
    out = tmp_path / "run"
    training = dataclasses.replace(SMALL, **tuned(tuning))
    train_reward("embedded", pairs, out, facts=True, criterion=QUESTION, training=training)
    log = read_jsonl(out / "log.jsonl")
    evaluations = [row for row in log if row["split"] == "eval"]
    assert evaluations[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    assert evaluations[-1]["rewards_accuracy"] > 0.9
    proofs = read_json(out / "proofs.json")
    assert proofs[0]["name"] == "start"
    assert all(proof["passed"] and proof["applicable"] for proof in proofs)
    reward_model = load_reward_model(out / "model")
    assert reward_model.reading.criterion == QUESTION and reward_model.reading.with_facts
    groups = read_reward_pairs(reward_model.policy, pairs, reward_model.reading, training).groups
    expected = score_groups(reward_model, groups, 8, True)
    right = sum(chosen > rejected for chosen, rejected in expected)
    assert right == len(groups)
    if tuning == "full":
        assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "trained as a reward model" in page and "by DPO" not in page
        assert not (out / "adapter").exists()
        return
    for other in (
        load_reward_model(out / "adapter"),
        attach_reward_model(load_policy("embedded"), out / "adapter"),
    ):
        found = score_groups(other, groups, 8, True)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3)
    eval_reward(RewardOptions(model=out / "model", data=[pairs]), tmp_path / "scores")
    details = read_jsonl(tmp_path / "scores" / "rewards.jsonl")
    for row, (chosen, rejected) in zip(details, expected, strict=True):
        assert (row["chosen"], row["rejected"]) == pytest.approx((chosen, rejected), abs=1e-4)


def test_sharing_two_rows_and_accumulation_give_the_same(pairs: Path, tmp_path: Path) -> None:
    heads = []
    for name, change in (
        ("shared", {}),
        ("rows", {"share_prefix": False}),
        ("halves", {"batch_size": 2, "accumulation": 2}),
    ):
        training = dataclasses.replace(SMALL, **FULL, **change)
        train_reward("embedded", pairs, tmp_path / name, criterion=QUESTION, training=training)
        heads.append(load_file(tmp_path / name / "model" / HEAD_FILE)["weight"])
    assert heads[0].abs().max() > 1e-4
    for other in heads[1:]:
        assert torch.allclose(other, heads[0], atol=1e-4 * float(heads[0].abs().max()))


def test_a_resumed_run_ends_with_the_same_head(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first checkpoint: that keeps the head like all else that is trained."""
    training = dataclasses.replace(SMALL, trainer={"lr_scheduler_type": "constant"})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_reward("embedded", pairs, whole, criterion=QUESTION, training=training)

    class Killed(BaseException):
        pass

    import veridical.train.loop.trainer as loop

    step = loop.GroupTrainer.training_step
    taken = []

    def dying(*arguments: Any, **named: Any) -> Any:
        taken.append(1)
        if len(taken) == 6:
            raise Killed
        return step(*arguments, **named)

    monkeypatch.setattr(loop.GroupTrainer, "training_step", dying)
    with pytest.raises(Killed):
        train_reward("embedded", pairs, parts, criterion=QUESTION, training=training)
    again = dataclasses.replace(training, resume=True)
    train_reward("embedded", pairs, parts, criterion=QUESTION, training=again)
    assert len(taken) == 6 + 4
    for folder in ("model", "adapter"):
        for file in (HEAD_FILE, *(["adapter_model.safetensors"] if folder == "adapter" else [])):
            ours, theirs = (load_file(run / folder / file) for run in (parts, whole))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_several_rejected_answers_are_several_pairs(policy: Policy, tmp_path: Path) -> None:
    more = [[assistant_message("There is a bench.")], [assistant_message("This is a park.")]]
    data = write_pairs(tmp_path / "pairs.parquet", more_rejected=more)
    from veridical.models.reward_model import RewardInputs

    rows = read_reward_pairs(policy, data, RewardInputs(QUESTION), SMALL)
    assert len(rows.groups) == 54
    assert [group.id for group in rows.groups[:4]] == ["pair-0", "pair-0/1", "pair-0/2", "pair-1"]
    assert "There is a bench." in rows.groups[1].response_texts[1]
    assert all(len(group.response_ids) == 2 for group in rows.groups)


def test_a_head_that_shares_its_weights_is_left_to_train(policy: Policy) -> None:
    core = policy.core
    core.requires_grad_(True)
    without_language_head(policy)
    assert not core.get_output_embeddings().weight.requires_grad
    core.requires_grad_(True)
    core.get_output_embeddings().weight = core.get_input_embeddings().weight
    without_language_head(policy)
    assert core.get_output_embeddings().weight.requires_grad


def test_what_cannot_be_trained_is_refused(tmp_path: Path, capsys: Any) -> None:
    data = write_pairs(tmp_path / "pairs.parquet", with_facts=False)
    with pytest.raises(UserError, match="has facts"):
        train_reward("embedded", data, tmp_path / "a", facts=True, training=SMALL)
    words = ["train", "reward", "embedded", "--data", str(data), "--out", str(tmp_path / "b")]
    assert main([*words, "--max-response-tokens", "3"]) == 2
    assert "would be judged as a whole one" in capsys.readouterr().err
    assert main([*words, "--centering", "-1"]) == 2
    assert "--centering is -1.0; give 0 or more" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_dry_run_tells_memory(pairs: Path, tmp_path: Path) -> None:
    training = dataclasses.replace(SMALL, dry_run=True)
    train_reward("embedded", pairs, tmp_path / "dry", training=training)
    assert (tmp_path / "dry" / "dry_run.json").is_file()
    assert not (tmp_path / "dry" / "model").exists()
