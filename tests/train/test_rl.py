"""PPO, RLOO and GRPO from file to folder: what is learned, logged, resumed, shared and refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from tuning import FULL

from veridical.data.prompts import Prompt
from veridical.data.records import user_message, write_records
from veridical.data.responses import Response
from veridical.judges.judging import Case, Verdict
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.batching import collate
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.reward_model import RewardInputs, RewardModel, new_head, save_head
from veridical.models.token_scores import token_scores
from veridical.models.tuning import prepare_training
from veridical.objectives.grpo import GRPO, Average, group_advantages
from veridical.objectives.policy_gradient import Advantages, SampledTokens
from veridical.objectives.ppo import PPO
from veridical.objectives.rloo import RLOO, leave_one_out_advantages
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.runtime.run_files import LOG
from veridical.sampling import Decoding, Request
from veridical.sampling.rollouts import roll_out, rollout_group
from veridical.train import ppo
from veridical.train.grpo import train_grpo
from veridical.train.loop.modes import checkpoint_activations
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.prompts import TrainingPrompt
from veridical.train.responses import Sampling
from veridical.train.rl import actors as module
from veridical.train.rl import learner as rl_learner
from veridical.train.rl import loop as rl_loop
from veridical.train.rl import rewarding
from veridical.train.rl.actors import Actors, build_actors, drop_other_adapters
from veridical.train.rl.experience import (
    Experience,
    RewardedGroup,
    Setting,
    _token_figures,
    gather_experience,
    minibatches,
)
from veridical.train.rl.finish import nothing_earned
from veridical.train.rl.learning import Learned, Lesson, learn, lesson_of
from veridical.train.rl.rewarding import Rewarded, Rewarder, refuse_no_judge, refuse_no_reward
from veridical.train.rl.scale import scale_of
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=1e-2, max_steps=4, batch_size=4, accumulation=1, held_out=0.0, evaluations=2,
    lora_rank=4, lora_alpha=8, seed=1, trainer={"lr_scheduler_type": "constant"},
)  # fmt: skip
SAMPLING = Sampling(max_new_tokens=10)
SHORT = Symbolic(length_penalty=5.0)
NOBODY = Judging(judge="none")
ONE_UPDATE = PPO(inner_epochs=1, minibatches=1)
DAPO = GRPO(
    samples=2, minibatches=2, clip_high=0.28, average="tokens", skip_equal=True, kl_coefficient=0.05
)


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    with torch.no_grad():
        policy.core.lm_head.weight[policy.processor.tokenizer.eos_token_id] *= 3
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    texts = ["Describe the image.", "Is there a red cup at the top left of the image?"]
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message(texts[i % 2])],
            "expected_answer": "yes" if i % 2 else None,
        }
        for i in range(8)
    ]
    write_records(rows, tmp_path / "prompts.parquet", "prompt")
    write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(8)})
    return tmp_path / "prompts.parquet"


def train(name: str, model: str, data: Path, out: Path, **options: Any) -> None:
    common = {"judging": NOBODY, "symbolic": SHORT, "sampling": SAMPLING, "training": TRAINING}
    if name == "ppo":
        train_ppo(model, data, out, **{**common, **options})
    elif name == "grpo":
        train_grpo(model, data, out, **{"grpo": DAPO, **common, **options})
    else:
        train_rloo(model, data, out, **{"standardize": False, **common, **options})


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def longest_difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_it_learns_what_is_rewarded_and_logs_how(
    name: str, saved: str, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training = replace(TRAINING, max_steps=14, learning_rate=1e-3, **FULL)
    judging = replace(NOBODY, objects=prompts.parent / "objects.json")
    light = {"rloo": RLOO(kl_coefficient=0.05)} if name == "rloo" else {}
    train(name, saved, prompts, out, training=training, judging=judging, **light)
    log = read_jsonl(out / "log.jsonl")
    assert [row["step"] for row in log] == list(range(1, 15))
    early, late = log[:3], log[-3:]
    for figure, falls in (("response_tokens", True), ("reward", False)):
        before, after = (sum(row[figure] for row in rows) / 3 for rows in (early, late))
        assert (after < before - 1) if falls else (after > before + 0.5), (figure, before, after)
    first = log[0]
    assert first["kl_k1"] == pytest.approx(0, abs=1e-3)
    assert first["clip_share"] == 0 or name != "rloo"
    assert log[-1]["kl_k3"] > 0.01
    assert 0 < first["entropy"] < 10
    for figure in ("explained_variance", "kl_coefficient", "moved", "loss", "learning_rate"):
        assert figure in first
    # Truth watches where objects are known, whoever judges.
    assert "exact_score" in first
    assert len(first["samples"]) == 2
    assert set(first["samples"][0]) == {"place", "id", "text", "reward", "score", "exact"}
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    record = read_json(out / "run.json")
    assert record["configuration"]["length_penalty"] == 5.0
    assert record["results"]["steps"] == 14
    load_policy(str(out / "model"))
    assert LOG.read(out) == log  # as `report` reads it, samples included


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_a_killed_run_resumes_bit_for_bit(
    name: str, saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options: dict[str, Any] = {"training": replace(TRAINING, max_steps=6, evaluations=3)}
    if name == "ppo":
        options["ppo"] = PPO(kl_target=0.5, kl_horizon=20)
    train(name, saved, prompts, whole, **options)
    honest = gather_experience

    def dies(setting: Setting, step: int, indexes: Sequence[int]) -> Experience:
        if step == 5:
            raise KeyboardInterrupt
        return honest(setting, step, indexes)

    with monkeypatch.context() as patch:
        patch.setattr(rl_loop, "gather_experience", dies)
        with pytest.raises(KeyboardInterrupt):
            train(name, saved, prompts, broken, **options)
    with pytest.raises(UserError, match="--resume true"):
        train(name, saved, prompts, broken, **options)
    # The newest checkpoint is torn, so the run goes on from the one before.
    (broken / "checkpoints" / "checkpoint-4" / "trained.safetensors").write_bytes(b"torn")
    options["training"] = replace(options["training"], resume=True)
    train(name, saved, prompts, broken, **options)
    assert longest_difference(whole, broken) == 0
    assert read_jsonl(whole / "log.jsonl") == read_jsonl(broken / "log.jsonl")
    if name == "ppo":
        assert len({row["kl_coefficient"] for row in read_jsonl(whole / "log.jsonl")}) > 3


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_epochs_that_do_not_divide_evenly_see_every_prompt_as_often(
    name: str, saved: str, prompts: Path, tmp_path: Path
) -> None:
    # 8 prompts, 6 a step: an epoch is a step of 6 and one of 2.
    training = replace(TRAINING, max_steps=-1, epochs=2.0, batch_size=6)
    train(name, saved, prompts, tmp_path / "run", training=training)
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert [row["epoch"] for row in log] == [0.75, 1.0, 1.75, 2.0]


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_neither_batch_nor_layout_changes_what_is_learned(
    name: str, saved: str, prompts: Path, tmp_path: Path
) -> None:
    ways = {
        "four": TRAINING,
        "two and two": replace(TRAINING, batch_size=2, accumulation=2),
        "rows": replace(TRAINING, share_prefix=False),
        "kept features": replace(TRAINING, vision_cache=True, cache=str(tmp_path / "cache")),
    }
    for way, training in ways.items():
        train(name, saved, prompts, tmp_path / way, training=replace(training, max_steps=2))
    # Llama's norm rounds to float32 inside, so equality ends there.
    assert longest_difference(tmp_path / "four", tmp_path / "two and two") < 2e-4
    assert longest_difference(tmp_path / "four", tmp_path / "rows") < 2e-4
    assert longest_difference(tmp_path / "four", tmp_path / "kept features") < 2e-4
    assert any((tmp_path / "cache").rglob("*"))


def test_kept_features_are_refused_where_the_value_model_sees_otherwise(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = build_actors

    def other_tower(*arguments: Any) -> Actors:
        everybody = honest(*arguments)
        assert everybody.critic is not None
        with torch.no_grad():
            next(everybody.critic.policy.core.model.vision_tower.parameters()).add_(1)
        return everybody

    training = replace(TRAINING, **FULL, vision_cache=True, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(ppo, "build_actors", other_tower)
    with pytest.raises(UserError, match="has another encoder"):
        train("ppo", saved, prompts, tmp_path / "run", training=training)


def one_step(policy: Policy, pictures: list[Image.Image], k: int) -> tuple[Setting, Experience]:
    """A setting without judge or value model, and the responses to one prompt."""
    asked = Request(Prompt("row", [pictures[0]], [user_message("Describe the image.")]))
    decoding = Decoding(8, 1.0)
    said = roll_out(policy, [asked], decoding, k)
    groups = [rollout_group(policy, asked, said[0])]
    everybody = Actors(policy, None, None, None)
    rewarder = Rewarder(lambda cases: [], None, Symbolic(), 8)
    setting = Setting(everybody, [], rewarder, decoding, k, 4, False)
    with torch.no_grad():
        scores = setting.scores(policy.model, setting.batch(groups))
    zeros = torch.zeros_like(scores.logps)
    rewards = torch.zeros(k, dtype=torch.float64)
    sampled = SampledTokens(rewards, scores.logps, scores.logps, zeros, scores.mask)
    answered = RewardedGroup(0, asked, said[0], groups[0], Rewarded())
    seen = Experience([answered], sampled, zeros)
    return setting, seen


def kept_gradient(policy: Policy) -> Any:
    """A learner that leaves the gradients where they are."""
    return SimpleNamespace(step=lambda: 0.0)


def test_ppos_first_gradient_is_reinforces(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, seen = one_step(policy, pictures, 1)
    head = new_head(policy)
    critic = RewardModel(policy, head, RewardInputs())
    setting = replace(setting, actors=replace(setting.actors, critic=critic))
    advantages = 1.7 * seen.sampled.mask.double()
    settings = replace(ONE_UPDATE, value_weight=0.0)
    lesson = Lesson(settings, seen, Advantages(advantages, advantages, 0.0))
    learned = learn(setting, lesson, kept_gradient(policy), 1, 0)
    ours = policy.core.lm_head.weight.grad.clone()
    policy.model.zero_grad()
    scores = setting.scores(policy.model, setting.batch([one.group for one in seen.answered]))
    (-1.7 * scores.logps.sum() / int(seen.sampled.mask.sum())).backward()
    assert torch.allclose(ours, policy.core.lm_head.weight.grad, rtol=0, atol=1e-12)
    assert learned.clip_share == 0 and learned.moved == pytest.approx(0, abs=1e-12)


def test_rloos_first_gradient_is_reinforces_with_its_baseline(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    setting, seen = one_step(policy, pictures, 3)
    rewards = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    advantages = torch.tensor([1 - 4.0, 2 - 3.5, 6 - 1.5], dtype=torch.float64)
    assert torch.equal(leave_one_out_advantages(rewards.unsqueeze(0))[0], advantages)
    lesson = Lesson(RLOO(samples=3), seen, Advantages(advantages, None, 0.0))
    learn(setting, lesson, kept_gradient(policy), 1, 0)
    ours = policy.core.lm_head.weight.grad.clone()
    policy.model.zero_grad()
    scores = setting.scores(policy.model, setting.batch([one.group for one in seen.answered]))
    (-(advantages * scores.logps.sum(-1)).mean()).backward()
    assert torch.allclose(ours, policy.core.lm_head.weight.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("average", ["responses", "tokens", "limit"])
def test_grpos_first_gradient_is_reinforces_against_its_group(
    policy: Policy, pictures: list[Image.Image], average: Average
) -> None:
    setting, seen = one_step(policy, pictures, 3)
    rewards = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    advantages = group_advantages(rewards.unsqueeze(0), True)[0]
    seen = replace(seen, sampled=replace(seen.sampled, scores=rewards))
    settings = GRPO(samples=3, average=average)
    learned = learn(setting, lesson_of(settings, seen, 0.3), kept_gradient(policy), 1, 0)
    ours = policy.core.lm_head.weight.grad.clone()
    policy.model.zero_grad()
    scores = setting.scores(policy.model, setting.batch([one.group for one in seen.answered]))
    lengths = scores.mask.sum(-1)
    earned = advantages * scores.logps.sum(-1)
    divided = 3 * lengths if average == "responses" else torch.tensor(3 * 8)
    divided = lengths.sum() if average == "tokens" else divided
    (-(earned / divided).sum()).backward()
    assert torch.allclose(ours, policy.core.lm_head.weight.grad, rtol=0, atol=1e-12)
    assert learned.clip_share == 0 and learned.moved == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_ratios_are_1_until_a_weight_moves_in_every_type(
    policy: Policy, pictures: list[Image.Image], kind: str
) -> None:
    """Exactly, in all minibatches of the first pass: GSPO clips at 3e-4, and rounding reaches that.

    In the batches that responses are sampled in, half precision is off by up to 1e-3 a response.
    """
    policy.model.to(getattr(torch, kind))
    texts = ["Describe the image.", "What is this?", "Is there a red cup at the top left of it?"]
    asked = [
        Request(Prompt(f"row-{i}", [pictures[i % 4]], [user_message(texts[i % 3])]))
        for i in range(8)
    ]
    decoding, k = Decoding(12, 1.0), 4
    said = roll_out(policy, asked, decoding, k)
    groups = [rollout_group(policy, one, own) for one, own in zip(asked, said, strict=True)]
    answered = [RewardedGroup(i, asked[i], said[i], groups[i], Rewarded()) for i in range(8)]
    rewarder = Rewarder(lambda cases: [], None, Symbolic(), 8)
    everybody = Actors(policy, policy, None, None)
    setting = Setting(everybody, [], rewarder, decoding, k, 4, True, minibatches=4)
    gspo = GRPO(samples=k, minibatches=4, ratio="response", clip=3e-4, kl_coefficient=0.0)
    planned = minibatches(setting, answered, 8, 0, 0)
    drawn = torch.Generator().manual_seed(0)
    scores = torch.rand(32, generator=drawn, dtype=torch.float32)

    def learned(batches: list[list[int]] | None) -> Learned:
        figures = _token_figures(setting, groups, batches)
        logps = pad_sequence([one.logps for one in figures], batch_first=True)
        mask = pad_sequence([torch.ones_like(one.logps) for one in figures], batch_first=True)
        zeros = torch.zeros_like(logps)
        sampled = SampledTokens(scores, logps, logps, zeros, mask.bool())
        lesson = lesson_of(gspo, Experience(answered, sampled, zeros), 0.0)
        return learn(setting, lesson, kept_gradient(policy), 8, 0)

    found = learned(planned)
    assert found.inner_steps == 4
    assert found.moved == 0.0 and found.clip_share == 0.0
    elsewhere = learned(None).moved
    assert elsewhere is not None and (elsewhere > 1e-9) == (kind != "float32")


def test_the_first_update_is_that_of_its_own_log_probs(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    """What another batch or kernel said of samples decides nothing before a weight has moved."""
    setting, seen = one_step(policy, pictures, 2)
    off = seen.sampled.logps + 0.01 * torch.randn(seen.sampled.logps.shape, dtype=torch.float64)
    rewards = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gspo = GRPO(samples=2, inner_epochs=2, ratio="response", clip=3e-4, kl_coefficient=0.0)
    gradients = []
    for logps in (seen.sampled.logps, off):
        steps: list[torch.Tensor] = []

        def step(kept: list[torch.Tensor] = steps) -> float:
            kept.append(policy.core.lm_head.weight.grad.clone())
            policy.model.zero_grad()
            return 0.0

        sampled = replace(seen.sampled, scores=rewards, logps=logps)
        lesson = lesson_of(gspo, replace(seen, sampled=sampled), 0.0)
        learn(setting, lesson, SimpleNamespace(step=step), 2, 0)  # type: ignore[arg-type]
        gradients.append(steps)
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])


def test_groups_that_earn_the_same_are_left_out_and_counted(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is learned as if the others had not been asked; if none is, nothing moves."""
    which = {"some": "0246", "others unscored": "0246", "none": ""}
    judged: list[str] = []

    def by_place(cases: Sequence[Case]) -> list[Verdict]:
        def marks(case: Case) -> Verdict:
            differs = case.prompt.id[4] in which[judged[-1]]
            if judged[-1] == "others unscored" and not differs:
                return Verdict(problem="odd")
            points = range(len(case.responses)) if differs else [7] * len(case.responses)
            return Verdict(tuple({"points": float(one)} for one in points))

        return [marks(case) for case in cases]

    monkeypatch.setattr(rewarding, "open_marks", lambda *_: by_place)
    # Adam and a limit on the gradient would hide by how much it is divided.
    plain = {"lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}
    training = replace(
        TRAINING, batch_size=8, max_steps=2, max_bad_fraction=0.5, **FULL, trainer=plain
    )
    for way in which:
        judged.append(way)
        objective = replace(DAPO, minibatches=1, clip_high=None)
        train("grpo", saved, prompts, tmp_path / way, training=training, grpo=objective,
              judging=Judging(objects=prompts.parent / "objects.json"),
              symbolic=Symbolic(no_end_penalty=0.0))  # fmt: skip
    logs = {way: read_jsonl(tmp_path / way / "log.jsonl") for way in which}
    assert [row["equal_groups"] for row in logs["some"]] == [4, 4]
    assert [row["equal_groups"] for row in logs["others unscored"]] == [0, 0]
    moved = longest_difference(tmp_path / "some", tmp_path / "none")
    assert moved > 0
    assert longest_difference(tmp_path / "some", tmp_path / "others unscored") < 0.01 * moved
    assert all(row["loss"] is None and row["equal_groups"] == 8 for row in logs["none"])
    assert all(row["reward"] == 7.0 for row in logs["none"])


@pytest.fixture
def reward_folder(saved: str, tmp_path: Path) -> Path:
    """A reward model's adapter on the policy's base, with weights that are not zero."""
    torch.manual_seed(3)
    start = load_policy(saved)
    carrier = prepare_training(start, TRAINING.trained)
    head = new_head(carrier)
    with torch.no_grad():
        head.weight.normal_()
        for name, parameter in carrier.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    folder = tmp_path / "reward"
    carrier.model.save_pretrained(str(folder))
    carrier.processor.save_pretrained(str(folder))
    save_head(head, RewardInputs(), folder)
    return folder


def test_four_models_share_one_base(saved: str, reward_folder: Path) -> None:
    judging = Judging(judge=f"reward:{reward_folder}")
    everybody = build_actors(load_policy(saved), saved, judging, TRAINING, True, True)
    policy, critic, judge = everybody.policy, everybody.critic, everybody.reward_model
    assert critic is not None and judge is not None
    assert critic.policy.model is policy.model is judge.policy.model
    assert set(policy.model.peft_config) == {"default", "reward", "value"}
    named = dict(policy.model.named_parameters())
    values = {name: p for name, p in named.items() if ".value." in name}
    assert values
    for name, parameter in values.items():
        # The value model begins as the reward model, and goes its own way.
        assert torch.equal(parameter, named[name.replace(".value.", ".reward.")])
        assert parameter.requires_grad
    assert torch.equal(critic.head.weight, judge.head.weight)
    assert critic.head.weight.requires_grad and not judge.head.weight.requires_grad
    assert not any(p.requires_grad for name, p in named.items() if ".reward." in name)
    ours = {id(p) for p in everybody.policy_parameters()}
    theirs = {id(p) for p in everybody.value_parameters()}
    assert ours and theirs and not ours & theirs
    assert ours | theirs == {id(p) for p in everybody.trained().parameters() if p.requires_grad}
    with module.as_critic(critic) as model:
        assert model.active_adapter == "value"
    assert policy.model.active_adapter == "default"
    drop_other_adapters(policy)
    assert set(policy.model.peft_config) == {"default"}

    apart = build_actors(load_policy(saved), saved, judging, TRAINING, True, False)
    assert apart.critic is not None and apart.reward_model is not None
    models = {id(a.policy.model) for a in (apart, apart.critic, apart.reward_model)}
    assert len(models) == 3
    assert torch.equal(apart.critic.head.weight, apart.reward_model.head.weight)


@pytest.mark.parametrize("one_base", [True, False])
def test_pictures_are_encoded_once_for_all_models_of_a_step(
    saved: str, pictures: list[Image.Image], one_base: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever comes first; the numbers and gradients are those of each looking for itself."""
    everybody = build_actors(load_policy(saved), saved, NOBODY, TRAINING, True, one_base)
    critic = everybody.critic
    assert critic is not None
    torch.nn.init.normal_(critic.head.weight)
    setting, seen = one_step(everybody.policy, pictures, 2)
    setting = replace(setting, actors=everybody)
    advantages = 1.7 * seen.sampled.mask.double()
    settings = ONE_UPDATE
    lesson = Lesson(settings, seen, Advantages(advantages, advantages, 0.0))
    cores = {id(one.core): one.core for one in (everybody.policy, critic.policy)}.values()
    towers = [core.model.vision_tower for core in cores]
    for core in cores:  # patches want gradients then, and features would bring a graph along
        checkpoint_activations(core, False, {"use_reentrant": False})
        core.enable_input_require_grads()
    assert len(towers) == (1 if one_base else 2)
    runs = []
    for tower in towers:
        tower.register_forward_hook(lambda *_: runs.append(1))
    found = []
    for alike in (True, False):
        monkeypatch.setitem(vars(setting), "sees_alike", setting.sees_alike and alike)
        (figures,) = list(_token_figures(setting, [seen.answered[0].group]))[:1]
        gathered = len(runs)
        learn(setting, lesson, kept_gradient(everybody.policy), 1, 0)
        trained = [*everybody.policy_parameters(), *everybody.value_parameters()]
        grads = [p.grad.clone() for p in trained if p.grad is not None]
        for parameter in trained:
            parameter.grad = None
        found.append([*vars(figures).values(), *grads])
        assert [gathered, len(runs) - gathered] == ([1, 1] if alike else [3, 2])
        runs.clear()
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("one_base", [True, False])
def test_ppo_on_a_reward_model_moves_policy_and_value_and_nothing_else(
    saved: str, prompts: Path, reward_folder: Path, tmp_path: Path, one_base: bool
) -> None:
    out = tmp_path / "run"
    judging = Judging(judge=f"reward:{reward_folder}", objects=prompts.parent / "objects.json")
    settings = PPO(one_base=one_base, value_weight=1.0)
    train(
        "ppo", saved, prompts, out, judging=judging, ppo=settings, standardize=True,
        symbolic=Symbolic(no_end_penalty=0.0), training=replace(TRAINING, tuning="lora"),
    )  # fmt: skip
    log = read_jsonl(out / "log.jsonl")
    scale = read_json(out / "rewards.json")
    for row in log:
        expected = (row["judge_score"] - scale["mean"]) / scale["deviation"]
        assert row["reward"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert abs(log[0]["reward"]) < 2
    names = {p.name for p in (out / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names and not {"value", "reward"} & names
    kept = load_file(out / "checkpoints" / "checkpoint-4" / "trained.safetensors")
    assert any(".value." in name or name.startswith("value.") for name in kept)
    assert {"head.weight", "head.bias"} <= set(kept)
    start = load_file(Path(saved) / "model.safetensors")
    moved = {name for name, value in weights(out).items() if not torch.equal(value, start[name])}
    assert moved and all("language_model" in name for name in moved)
    head = load_file(reward_folder / "reward_head.safetensors")
    assert not torch.equal(kept["head.weight"], head["weight"])


def test_a_step_ends_when_the_policy_has_moved_enough(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_place(cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict(({"points": float(case.prompt.id[4])},)) for case in cases]

    # Marks that differ whatever was sampled: equal ones would move nothing.
    monkeypatch.setattr(rewarding, "open_marks", lambda *_: by_place)
    for limit, steps in ((0.0, 6), (1e-6, 2)):
        out = tmp_path / str(limit)
        settings = PPO(inner_epochs=3, minibatches=2, stop_kl=limit)
        train("ppo", saved, prompts, out, ppo=settings, training=replace(TRAINING, max_steps=1))
        (row,) = read_jsonl(out / "log.jsonl")
        assert (row["inner_steps"], row["stopped"]) == (steps, limit > 0)


def test_what_the_judge_cannot_score_is_left_out_and_counted(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(cases: Sequence[Case]) -> list[Verdict]:
        return [
            Verdict(problem="odd")
            if int(case.prompt.id[-1]) % 2
            else Verdict(tuple({"points": float(len(text))} for text in case.responses))
            for case in cases
        ]

    monkeypatch.setattr(rewarding, "open_marks", lambda *_: odd)
    for name in ("ppo", "rloo", "grpo"):
        out = tmp_path / name
        training = replace(TRAINING, batch_size=8)
        with pytest.raises(UserError, match=r"At step 1, 4 of 8 prompts have no verdict .* odd"):
            train(name, saved, prompts, tmp_path / f"strict-{name}", training=training)
        train(name, saved, prompts, out, training=replace(training, max_bad_fraction=0.5))
        log = read_jsonl(out / "log.jsonl")
        assert [row["unscored"] for row in log] == [4] * 4
        assert all(sample["id"][4] in "0246" for row in log for sample in row["samples"])


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_where_nothing_is_scored_nothing_moves_and_nothing_is_zero(
    name: str, saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fails_later(cases: Sequence[Case]) -> list[Verdict]:
        asked.append(len(cases))
        if len(asked) > 1:
            return [Verdict(problem="odd") for _ in cases]
        return [
            Verdict(tuple({"points": float(len(text))} for text in case.responses))
            for case in cases
        ]

    monkeypatch.setattr(rewarding, "open_marks", lambda *_: fails_later)
    training = replace(TRAINING, batch_size=8, max_steps=3, max_bad_fraction=1.0, **FULL)
    options: dict[str, Any] = {"training": training}
    if name == "ppo":
        options["ppo"] = PPO(kl_target=0.5, kl_horizon=20)
    steps = []
    honest = rl_learner.Learner.step

    def counted(learner: rl_learner.Learner) -> float:
        steps.append(1)
        return honest(learner)

    monkeypatch.setattr(rl_learner.Learner, "step", counted)
    monkeypatch.setattr(rl_loop, "try_a_step", lambda *_: None)
    train(name, saved, prompts, tmp_path / "run", **options)
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert [row["unscored"] for row in log] == [0, 8, 8]
    assert len(steps) == log[0]["inner_steps"]
    for figure in ("reward", "judge_score", "kl_k1", "kl_k3", "entropy", "loss", "moved"):
        assert log[0][figure] is not None
        assert [row[figure] for row in log[1:]] == [None, None], figure
    assert log[1]["kl_coefficient"] == log[2]["kl_coefficient"]


def test_the_last_real_token_is_rewarded_whatever_the_padding(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    """Scores of a short response do not depend on a long one beside it."""
    asked = Request(Prompt("row", [pictures[0]], [user_message("Describe the image.")]))
    tokens = [(5, 6, 7), (5, 6, 7, 8, 9, 10)]
    said = [Response("", ids, (0.0,) * len(ids), "end") for ids in tokens]
    both = rollout_group(policy, asked, said)
    alone = rollout_group(policy, asked, said[:1])
    with torch.no_grad():
        together = token_scores(policy.model, collate(policy, [both], True))
        single = token_scores(policy.model, collate(policy, [alone], False))
    assert torch.allclose(together.logps[0, :3], single.logps[0])
    assert not together.logps[0, 3:].any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rloo", {"rloo": RLOO(samples=1)}, "--samples is 1"),
        ("grpo", {"grpo": GRPO(samples=1)}, "--samples is 1"),
        ("grpo", {"grpo": GRPO(ratio="response")}, "--ratio response has no effect"),
        ("grpo", {"grpo": GRPO(clip_high=0.28)}, "--clip-high 0.28 has no effect"),
        ("grpo", {"grpo": GRPO(clip=0.1)}, "--clip 0.1 has no effect"),
        ("rloo", {"rloo": RLOO(clip=0.1)}, "--clip 0.1 has no effect"),
        ("ppo", {"ppo": replace(ONE_UPDATE, clip=0.1)}, "--clip 0.1 has no effect"),
        ("ppo", {"ppo": replace(ONE_UPDATE, value_clip=0.1)}, "--value-clip 0.1 has no effect"),
        ("ppo", {"ppo": replace(ONE_UPDATE, stop_kl=0.1)}, "--stop-kl 0.1 has no effect"),
        ("grpo", {"grpo": GRPO(minibatches=5)}, "--minibatches to 4 or less"),
        ("rloo", {"rloo": RLOO(minibatches=5)}, "--minibatches to 4 or less"),
        ("ppo", {"training": replace(TRAINING, model_dropout=True)}, "--model-dropout true is not"),
        ("rloo", {"training": replace(TRAINING, model_dropout=True)}, "--model-dropout true is"),
        ("grpo", {"training": replace(TRAINING, model_dropout=True)}, "--model-dropout true is"),
        ("grpo", {"training": replace(TRAINING, lora_dropout=0.1)}, "--lora-dropout is not"),
        ("ppo", {"training": replace(TRAINING, batch_size=1)}, "--minibatches to 1 or less"),
        ("grpo", {"symbolic": Symbolic(overlong_penalty=1.0, overlong_share=0.0)}, "share is 0"),
        ("ppo", {"ppo": PPO(clip=0.0)}, "--clip is 0"),
        ("ppo", {"ppo": PPO(lam=1.2)}, "--lam is 1.2"),
        ("ppo", {"ppo": PPO(kl_target=0.0)}, "--kl-target is 0"),
        ("ppo", {"ppo": PPO(kl_target=1.0, kl_coefficient=0.0)}, "0 stays 0"),
        ("ppo", {"sampling": Sampling(rollout_steps=2)}, "--rollout-steps is 2"),
        ("ppo", {"judging": Judging()}, "needs --objects"),
        ("rloo", {"standardize": True}, "--judge none gives none"),
    ],
)
def test_what_makes_no_sense_is_refused(
    name: str, options: dict[str, Any], message: str, saved: str, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(name, saved, prompts, tmp_path / "out", **options)


def test_minibatches_need_prompts_of_the_data_too(
    saved: str, prompts: Path, tmp_path: Path
) -> None:
    training = replace(TRAINING, batch_size=64)
    with pytest.raises(UserError, match=r"--minibatches to \d or less"):
        train(
            "grpo", saved, prompts, tmp_path / "out", grpo=GRPO(minibatches=64), training=training
        )
    assert not (tmp_path / "out" / "model").exists()


def test_an_option_of_later_updates_is_taken_where_there_are_some() -> None:
    for one in (replace(ONE_UPDATE, clip=0.1, minibatches=2), RLOO(clip=0.1, inner_epochs=2)):
        one.check_updates(4)


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo"])
def test_where_all_earn_the_same_the_end_says_so(
    name: str, saved: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The tiny model never says yes, so that no answer is right.
    symbolic = Symbolic(no_end_penalty=0.0, answer_reward=1.0)
    training = replace(TRAINING, max_steps=2)
    train(name, saved, prompts, tmp_path / "run", symbolic=symbolic, training=training)
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    assert [row["reward_deviation"] for row in log] == [0.0, 0.0]
    assert "No response earned more than another" in capsys.readouterr().out


def test_what_moves_by_noise_alone_is_told() -> None:
    step = {"gradient_norm": 0.1, "reward": 1.0, "reward_deviation": 0.0}
    assert "noise of the value model" in nothing_earned([step, step])
    assert nothing_earned([step, step | {"reward_deviation": 0.2}]) == ""
    assert nothing_earned([step, step | {"reward": 2.0}]) == ""  # one response a step
    assert nothing_earned([]) == ""
    assert "was scored" in nothing_earned([{"gradient_norm": None, "reward": None}])


def test_rewards_that_nobody_can_earn_are_refused() -> None:
    silent, knowing = (
        SimpleNamespace(asked=SimpleNamespace(expected_answer=one)) for one in (None, "yes")
    )
    asked = Symbolic(answer_reward=1.0)
    with pytest.raises(UserError, match=r"none of the 2 prompts has an `expected.*`answer`"):
        refuse_no_reward(asked, [silent, silent])  # type: ignore[list-item]
    refuse_no_reward(asked, [silent, knowing])  # type: ignore[list-item]
    for nothing in (Symbolic(), Symbolic(no_end_penalty=0.0)):
        with pytest.raises(UserError, match="--judge none: nothing else rewards"):
            refuse_no_judge(NOBODY, nothing)
    refuse_no_judge(NOBODY, Symbolic(length_penalty=-1.0))


def test_the_scale_is_that_of_the_records_pairs(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    def count(cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict(tuple({"n": float(len(t))} for t in case.responses)) for case in cases]

    asked = Prompt("row", [pictures[0]], [user_message("Describe the image.")])
    prompt = TrainingPrompt(asked, "aaaa", ("aaaa", "aa"), SimpleNamespace(), ())  # type: ignore[arg-type]
    found = scale_of(policy, [prompt], count, Decoding(4, 1.0))
    # 4 and 2: mean 3, deviation 1.
    assert (found.mean, found.deviation) == (3.0, 1.0)

    def equal(cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict(({"n": 1.0}, {"n": 1.0})) for _ in cases]

    with pytest.raises(UserError, match="the same score to all of 2 answers"):
        scale_of(policy, [prompt], equal, Decoding(4, 1.0))


@pytest.mark.parametrize(
    ("judging", "given", "resolved"),
    [(NOBODY, None, False), (Judging(), None, True), (Judging(), False, False)],
)
def test_scores_are_standardized_where_a_judge_gives_some(
    judging: Judging, given: bool | None, resolved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[bool] = []

    def begin(command: str, arguments: Any) -> None:
        began.append(arguments.standardize)
        raise UserError("enough")

    monkeypatch.setattr("veridical.train.rloo.begin", begin)
    with pytest.raises(UserError, match="enough"):
        train_rloo("m", Path("d"), Path("o"), standardize=given, judging=judging)
    assert began == [resolved]
