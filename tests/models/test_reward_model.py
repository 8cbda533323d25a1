"""Rewards: read off the last token, equal in both layouts, saved and found again."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from veridical.checks.proving import prove
from veridical.data.records import assistant_message, user_message
from veridical.models.batch import Batch
from veridical.models.batching import collate
from veridical.models.load import load_policy
from veridical.models.logprobs import hidden_states, response_logps
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group
from veridical.models.reward_model import (
    RewardInputs,
    RewardModel,
    attach_reward_model,
    judged_group,
    load_reward_model,
    new_head,
    question_about,
    response_rewards,
    reward_measure,
    save_head,
)
from veridical.models.reward_scores import score_groups
from veridical.models.tuning import Tuning, prepare_training
from veridical.objectives.reward import reward_loss
from veridical.runtime.errors import UserError

FACTS = ["There is a red cup.", "There is a blue dog.", "This is a park.", "There is a bench."]
ANSWERS = (("There is a red cup.", "There is a blue dog. This is a park."), ("Yes.", "No."))


@pytest.fixture
def reward_model(policy: Policy) -> RewardModel:
    head = new_head(policy)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return RewardModel(policy, head, RewardInputs("Is it so?", with_facts=True))


def groups_of(reward_model: RewardModel, pictures: list[Image.Image]) -> list[Group]:
    return [
        judged_group(
            reward_model.policy,
            reward_model.reading,
            f"row-{i}",
            [pictures[i]],
            [user_message("Describe the image.")],
            [[assistant_message(text)] for text in texts],
            FACTS[i:],
        )
        for i, texts in enumerate(ANSWERS)
    ]


def test_reward_loss_by_hand() -> None:
    """Rewards 2 and 1: -ln sigmoid(1) = 0.313262, and 0.1 * 9 for the center."""
    loss = reward_loss(torch.tensor([2.0]), torch.tensor([1.0]))
    assert math.isclose(float(loss), 0.313262, abs_tol=1e-6)
    centerd = reward_loss(torch.tensor([2.0]), torch.tensor([1.0]), 0.1)
    assert math.isclose(float(centerd), 1.213262, abs_tol=1e-6)
    zero = torch.zeros(1)
    assert math.isclose(float(reward_loss(zero, zero, 0.1)), math.log(2), abs_tol=1e-6)


def test_a_new_head_rewards_nothing(policy: Policy, pictures: list[Image.Image]) -> None:
    reward_model = RewardModel(policy, new_head(policy), RewardInputs())
    batch = collate(policy, groups_of(reward_model, pictures), True)
    assert torch.equal(response_rewards(policy.model, reward_model.head, batch), torch.zeros(2, 2))


def test_both_layouts_and_one_response_alone_give_the_same(
    reward_model: RewardModel, pictures: list[Image.Image]
) -> None:
    policy, head = reward_model.policy, reward_model.head
    groups = groups_of(reward_model, pictures)
    with torch.no_grad():
        shared = response_rewards(policy.model, head, collate(policy, groups, True))
        rows = response_rewards(policy.model, head, collate(policy, groups, False))
        assert torch.allclose(shared, rows, rtol=0, atol=1e-10)
        for i, group in enumerate(groups):
            for j, text in enumerate(group.response_texts):
                inputs = policy.processor(
                    images=[pictures[i]], text=group.prompt_text + text, return_tensors="pt",
                    add_special_tokens=not group.prompt_text.startswith("<s>"),
                )  # fmt: skip
                inputs["pixel_values"] = inputs["pixel_values"].double()
                hidden = policy.core(**inputs, output_hidden_states=True).hidden_states[-1]
                alone = head(hidden[0, -1])
                assert torch.allclose(alone, shared[i, j], rtol=0, atol=1e-10)


def test_the_last_token_is_where_an_answer_would_begin(
    reward_model: RewardModel, pictures: list[Image.Image]
) -> None:
    policy = reward_model.policy
    groups = groups_of(reward_model, pictures)
    ends = [int(ids[-1]) for group in groups for ids in group.response_ids]
    for share in (True, False):
        batch = collate(policy, groups, share)
        rows, places = batch.ends.T
        assert batch.inputs["input_ids"][rows, places].tolist() == ends
    text = groups[0].response_texts[0]
    assert text.rstrip().endswith("ASSISTANT:")
    assert text.index("There is a red cup.") < text.index("Is it so?") < text.index("- ")


def test_facts_come_in_an_order_of_the_record() -> None:
    reading = RewardInputs("Good?", with_facts=True)
    orders = {question_about(reading, f"row-{i}", FACTS) for i in range(40)}
    assert len(orders) > 10
    assert question_about(reading, "row-1", FACTS) == question_about(reading, "row-1", FACTS)
    assert all(fact in order for order in orders for fact in FACTS)
    assert question_about(RewardInputs("Good?"), "row-1", FACTS) == "Good?"
    assert question_about(reading, "row-1", []) == "Good?"


def test_a_full_disk_is_said_where_the_head_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("veridical.models.reward_model.save_file", full)
    with pytest.raises(UserError, match=r"No space left on device\. Make room"):
        save_head(torch.nn.Linear(4, 1), RewardInputs(), tmp_path)


def test_a_reward_model_is_found_again(reward_model: RewardModel, tmp_path: Path) -> None:
    reward_model.policy.model.save_pretrained(tmp_path)
    reward_model.policy.processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no reward model"):
        load_reward_model(tmp_path)
    save_head(reward_model.head, reward_model.reading, tmp_path)
    again = load_reward_model(tmp_path)
    assert again.reading == reward_model.reading
    assert torch.equal(again.head.weight, reward_model.head.weight)


def test_scores_do_not_depend_on_what_they_are_made_beside(
    reward_model: RewardModel, pictures: list[Image.Image]
) -> None:
    groups = groups_of(reward_model, pictures)
    single = dataclasses.replace(
        groups[0],
        response_texts=groups[0].response_texts[:1],
        response_ids=groups[0].response_ids[:1],
        cut=(False,),
    )
    together = score_groups(reward_model, [*groups, single, groups[1]], 8, True)
    assert [len(row) for row in together] == [2, 2, 1, 2]
    alone = [score_groups(reward_model, [group], 1, False)[0] for group in [*groups, single]]
    for ours, slow in zip(together, alone, strict=False):
        assert ours == pytest.approx(slow, abs=1e-10)
    assert together[3] == pytest.approx(together[1], abs=1e-10)


def test_a_reward_adapter_shares_its_base(policy: Policy, tmp_path: Path) -> None:
    """Beside the policy's own adapter, and by itself; the policy never notices."""
    picture = Image.new("RGB", (48, 48), (200, 30, 30))
    base = copy.deepcopy(policy)
    trained = prepare_training(copy.deepcopy(policy), Tuning(rank=4, alpha=8))
    shake(trained.model)
    head = new_head(trained)
    torch.nn.init.normal_(head.weight)
    trained.model.save_pretrained(tmp_path)
    save_head(head, RewardInputs("Is it so?"), tmp_path)
    alone = RewardModel(trained, head, RewardInputs("Is it so?"))
    group = judged_group(
        policy, alone.reading, "a", [picture], [user_message("Describe the image.")],
        [[assistant_message("There is a red cup.")], [assistant_message("Yes.")]],
    )  # fmt: skip
    expected = score_groups(alone, [group], 1, True)

    bare = attach_reward_model(copy.deepcopy(base), tmp_path)
    assert score_groups(bare, [group], 1, True)[0] == pytest.approx(expected[0], abs=1e-10)

    mine = prepare_training(copy.deepcopy(base), Tuning(rank=2, alpha=2))
    shake(mine.model)
    before = response_logps(mine.model, collate(mine, [group], True)).sums
    wanted = [name for name, p in mine.model.named_parameters() if p.requires_grad]
    shared = attach_reward_model(mine, tmp_path)
    assert score_groups(shared, [group], 1, True)[0] == pytest.approx(expected[0], abs=1e-10)
    after = response_logps(mine.model, collate(mine, [group], True)).sums
    assert torch.equal(before, after)
    assert [name for name, p in mine.model.named_parameters() if p.requires_grad] == wanted


def read_thinking(policy: Policy) -> None:
    """Let a policy's template read whether to think."""
    template = policy.processor.chat_template
    policy.processor.chat_template = "{% if enable_thinking %}Think. {% endif %}" + template


def test_a_reward_model_reads_the_template_it_was_trained_with(
    policy: Policy, tmp_path: Path
) -> None:
    """Alone or on the policy's base, which is asked without thinking."""
    read_thinking(policy)
    policy.model.float().save_pretrained(tmp_path / "base")
    policy.processor.save_pretrained(tmp_path / "base")
    base = load_policy(str(tmp_path / "base"), device="cpu")
    trained = prepare_training(copy.deepcopy(base), Tuning(rank=4, alpha=8))
    trained.model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    trained.model.save_pretrained(tmp_path / "adapter")
    reading = RewardInputs("Is it so?", template={"enable_thinking": True})
    save_head(new_head(trained), reading, tmp_path / "adapter")
    for judge in (
        load_reward_model(tmp_path / "adapter", device="cpu"),
        attach_reward_model(base, tmp_path / "adapter"),
    ):
        assert judge.reading == reading
        assert render_prompt(judge.policy, [user_message("So?", images=0)]).startswith("Think. ")
    assert not render_prompt(base, [user_message("So?", images=0)]).startswith("Think. ")


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("odd", ["lost", "left over"])
def test_a_reward_adapter_has_to_fit_in_every_tensor(
    policy: Policy, tmp_path: Path, odd: str, beside: bool
) -> None:
    trained = prepare_training(copy.deepcopy(policy), Tuning(rank=4, alpha=8))
    trained.model.save_pretrained(tmp_path)
    save_head(new_head(trained), RewardInputs(), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(weights))
    weights[name.replace("layers.0", "layers.9")] = weights[name].clone()
    if odd == "lost":
        del weights[name.replace("layers.0", "layers.9")], weights[name]
    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    own = prepare_training(policy, Tuning(rank=2, alpha=2)) if beside else policy
    with pytest.raises(UserError, match=r"does not fit.*(\n.*)?trained on the same base"):
        attach_reward_model(own, tmp_path)


@pytest.mark.parametrize("beside", [False, True])
def test_a_reward_adapter_may_not_change_the_shared_base(
    policy: Policy, tmp_path: Path, beside: bool
) -> None:
    trained = prepare_training(copy.deepcopy(policy), Tuning(rank=4, alpha=8))
    trained.model.save_pretrained(tmp_path)
    save_head(new_head(trained), RewardInputs(), tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    own = prepare_training(policy, Tuning(rank=2, alpha=2)) if beside else policy
    name, norm = next((n, p) for n, p in policy.core.named_parameters() if "norm" in n)
    same = {f"base_model.model.{name}": norm.detach().clone()}
    moved = {f"base_model.model.{name}": norm.detach() + 1}
    save_file(weights | moved, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weight of the base in another state"):
        attach_reward_model(own, tmp_path)
    norm.data -= 1  # what the refused one did
    save_file(weights | same, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    attach_reward_model(own, tmp_path, "again")


def test_what_is_no_adapter_or_of_another_base_is_refused(
    reward_model: RewardModel, policy: Policy, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds no reward model"):
        attach_reward_model(policy, tmp_path)
    save_head(reward_model.head, reward_model.reading, tmp_path)
    with pytest.raises(UserError, match="no adapter that another model could carry"):
        attach_reward_model(policy, tmp_path)
    odd = torch.nn.Linear(3, 1)
    save_head(odd, reward_model.reading, tmp_path)
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="states of size 3"):
        load_reward_model(tmp_path)


def test_the_proofs_see_what_a_new_head_hides(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold for what is right, and fail where the wrong token is read."""
    groups = groups_of(RewardModel(policy, new_head(policy), RewardInputs("Is it so?")), pictures)
    proofs = prove(policy, groups, lambda some, rows: collate(some, rows, True), reward_measure)
    assert all(proof.passed for proof in proofs)
    unit = reward_measure(policy).unit
    assert {proof.unit for proof in proofs if proof.name != "placeholders"} == {unit}

    def one_before(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return hidden_states(model, batch).roll(1, 1)

    monkeypatch.setattr("veridical.models.reward_model.hidden_states", one_before)
    proofs = prove(policy, groups, lambda some, rows: collate(some, rows, True), reward_measure)
    assert [proof.name for proof in proofs if not proof.passed] == ["path_parity"]


def shake(model: torch.nn.Module) -> None:
    """Adapters start at nothing; give them something."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=noise)
                parameter.add_(0.05 * drawn.to(parameter))


def test_an_empty_answer_has_a_reward(
    reward_model: RewardModel, pictures: list[Image.Image]
) -> None:
    group = judged_group(
        reward_model.policy,
        reward_model.reading,
        "row",
        [pictures[0]],
        [user_message("Describe the image.")],
        [[assistant_message("")], [assistant_message("A cup.")]],
        FACTS,
    )
    (rewards,) = score_groups(reward_model, [group], 1, share_prefix=True)
    assert all(map(math.isfinite, rewards))
