"""`--mixed-precision bf16`: one precision for steps, proofs, reference, sampling and evaluation."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tuning import FULL, tuned

from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message, write_records
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models import logprobs
from veridical.models.batching import collate
from veridical.models.heads import head_logps
from veridical.models.logprobs import response_logps
from veridical.models.merging import merge_adapters
from veridical.models.policy import Policy
from veridical.models.precision import (
    cast_weights,
    dtype_name,
    exact,
    is_half,
    mixed_precision,
    mixing,
    unmixed,
)
from veridical.models.rendering import Group
from veridical.models.reward_model import new_head, response_rewards
from veridical.models.token_scores import token_values
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.sampling import Decoding, Request, rollouts
from veridical.train import fresh
from veridical.train.dpo import train_dpo
from veridical.train.grpo import train_grpo
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rl import experience
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft

CPU = torch.device("cpu")
MIXED = Training(
    learning_rate=1e-6, max_steps=2, batch_size=2, accumulation=1, held_out=0.25, lora_rank=4,
    lora_alpha=8, evaluations=1, mixed_precision="bf16",
)  # fmt: skip


@pytest.fixture
def checkpoint(policy: Policy, tmp_path: Path) -> str:
    """Kept in bfloat16, as most are."""
    folder = tmp_path / "policy"
    cast_weights(policy.model, torch.bfloat16).save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    words = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message(f"Describe the {words[i % 6]} in the image.")],
            "chosen": [assistant_message(f"There is a {words[i % 6]}.")],
            "rejected": [assistant_message(f"There is a {words[(i + 1) % 6]} on the left.")],
        }
        for i in range(8)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[torch.dtype | None]]:
    """In which precision each part of a run computes, filled while it runs."""
    found: dict[str, set[torch.dtype | None]] = {}

    def watch(owner: Any, name: str, what: str) -> None:
        honest = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            found.setdefault(what, set()).add(mixing(CPU))
            return honest(*given, **named)

        monkeypatch.setattr(owner, name, watched)

    watch(Scorer, "forward", "step")
    watch(GroupTrainer, "evaluation_loop", "evaluation")
    watch(logprobs, "response_logps", "reference")
    watch(fresh, "sample", "sampling")
    watch(experience, "sample", "sampling")
    watch(torch.Tensor, "backward", "backward")
    return found


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("how", ["precomputed", "in_step"])
def test_the_start_is_exact_and_everything_computes_alike(
    checkpoint: str, pairs: Path, tmp_path: Path, seen: dict[str, Any], tuning: Any, how: Any
) -> None:
    out = tmp_path / "run"
    train_dpo(checkpoint, pairs, out, reference=how, training=replace(MIXED, **tuned(tuning)))
    assert mixing(CPU) is None
    assert {name: found for name, found in seen.items() if name != "backward"} == {
        "step": {torch.bfloat16}, "evaluation": {torch.bfloat16}, "reference": {torch.bfloat16},
    }  # fmt: skip
    assert seen["backward"] == {None}
    log = read_jsonl(out / "log.jsonl")
    first = next(row for row in log if row["split"] == "eval")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7 if how == "in_step" else 2e-3)
    proofs = {proof["name"]: proof for proof in read_json(out / "proofs.json")}
    assert all(proof["passed"] and not proof["blind"] for proof in proofs.values())
    assert "distance of bfloat16 from float32" in proofs["path_parity"]["detail"]
    if how == "in_step":
        assert proofs["start"]["value"] < 1e-7
    assert read_json(out / "run.json")["configuration"]["mixed_precision"] == "bf16"
    after = load_file(out / "model" / "model.safetensors")
    before = load_file(Path(checkpoint) / "model.safetensors")
    wide = torch.float32 if tuning == "full" else torch.bfloat16
    assert {weight.dtype for weight in after.values()} == {wide}
    if tuning == "full":
        # Weights are in float32, and nearly all of them move at 1e-6.
        name = next(n for n in after if n.endswith("layers.0.mlp.up_proj.weight"))
        assert float((after[name] != before[name].float()).float().mean()) > 0.95


@pytest.mark.parametrize("method", ["sft", "reward", "online", "ppo", "rloo", "grpo"])
def test_every_algorithm_computes_alike(
    checkpoint: str, pairs: Path, tmp_path: Path, seen: dict[str, Any], method: str
) -> None:
    out, training = tmp_path / "run", replace(MIXED, train_projector=True)
    write_json(tmp_path / "objects.json", {f"pair-{i}": ["cup"] for i in range(8)})
    sampled: dict[str, Any] = {
        "sampling": Sampling(max_new_tokens=6),
        "judging": Judging(objects=tmp_path / "objects.json"),
        "training": replace(training, held_out=0.0),
    }
    if method == "sft":
        train_sft(checkpoint, pairs, out, "preference", training=training)
    elif method == "reward":
        train_reward(checkpoint, pairs, out, training=training)
    elif method == "online":
        sampled["training"] = replace(training, held_out=0.0, max_bad_fraction=0.99)
        train_online(checkpoint, pairs, out, pairs="mixed", offline=0.9, **sampled)
    else:
        sampled["symbolic"] = Symbolic(length_penalty=1.0)
        commands: dict[str, Any] = {"ppo": train_ppo, "rloo": train_rloo, "grpo": train_grpo}
        commands[method](checkpoint, pairs, out, kind="preference", standardize=False, **sampled)
    assert seen.pop("backward") == {None}
    assert seen
    assert all(found == {torch.bfloat16} for found in seen.values()), seen
    assert ("sampling" in seen) == (method not in ("sft", "reward"))
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))


def test_what_does_not_go_with_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"mixed_precision": "fp16"}, "gradients scaled"),
        ({"tuning": "qlora"}, "four bits"),
        ({"dtype": "bfloat16", "tuning": "full"}, "trains weights in float32, not bfloat16"),
        ({"dtype": "float16"}, "computes in bfloat16, not float16"),
    )
    for options, words in cases:
        with pytest.raises(UserError, match=words):
            replace(MIXED, **options).check()
    MIXED.check()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="DeepSpeed"):
        MIXED.check()


@pytest.mark.parametrize("asked", ["no", "bf16"])
@pytest.mark.parametrize("outside", ["bf16", "fp16", "BF16", ""])
def test_it_is_refused_from_elsewhere(
    checkpoint: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any,
    outside: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", outside)
    with pytest.raises(UserError, match=r"ACCELERATE_MIXED_PRECISION is .*--mixed-precision"):
        train_dpo(checkpoint, pairs, tmp_path / "x", training=replace(MIXED, mixed_precision=asked))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("section", ["bf16", "fp16", "bfloat16"])
def test_it_is_refused_from_a_file_of_deepspeed(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plain = tmp_path / "deepspeed.json", replace(MIXED, mixed_precision="no")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    for value in (False, "auto"):  # `auto` is what the launcher says, which is no
        write_json(file, {section: {"enabled": value}, "zero_optimization": {}})
        plain.check()
    write_json(file, {section: {"enabled": True}})
    with pytest.raises(UserError, match=rf"deepspeed\.json switches {section} on"):
        plain.check()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    plain.check()


def test_a_run_is_resumed_in_its_own_precision(
    checkpoint: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train_dpo(checkpoint, pairs, out, training=MIXED)
    other = replace(MIXED, resume=True, mixed_precision="no")
    with pytest.raises(UserError, match="--mixed-precision bf16, not no"):
        train_dpo(checkpoint, pairs, out, training=other)
    train_dpo(checkpoint, pairs, out, training=replace(MIXED, resume=True))


def test_the_memory_of_a_step_knows_of_it(checkpoint: str, pairs: Path, tmp_path: Path) -> None:
    parts = {}
    for name in ("no", "bf16"):
        wanted = replace(
            MIXED, mixed_precision=name, dtype="float32", dry_run=True, batch_size=4, **FULL
        )
        train_dpo(checkpoint, pairs, tmp_path / name, training=wanted)
        parts[name] = read_json(tmp_path / name / "dry_run.json")["memory_bytes"]["cpu"]
    assert parts["bf16"]["weights"] == parts["no"]["weights"]
    assert parts["bf16"]["activations"] < 0.95 * parts["no"]["activations"]


@pytest.mark.parametrize("share", [False, True])
def test_the_float32_view_computes_in_float32_with_the_same_weights(
    policy: Policy, groups: list[Group], share: bool
) -> None:
    cast_weights(policy.model, torch.float32)
    batch = collate(policy, groups, share)
    with torch.no_grad():
        plain = response_logps(policy.model, batch).sums
        assert not is_half(policy)
        with mixed_precision("bf16"):
            assert is_half(policy)
            mixed = response_logps(policy.model, batch).sums
            with exact(policy) as view:
                assert view is not None and view is not policy
                assert not is_half(view) and dtype_name(view) == "float32"
                assert torch.equal(response_logps(view.model, batch).sums, plain)
                ours = {id(p) for p in policy.model.parameters()}
                assert {id(p) for p in view.model.parameters()} == ours
            assert torch.equal(response_logps(policy.model, batch).sums, mixed)
    assert not torch.equal(mixed, plain)


def test_a_float32_copy_of_half_precision_computes_in_float32(
    policy: Policy, groups: list[Group]
) -> None:
    """As adapters have it under mixed precision: the frozen weights are in bfloat16."""
    cast_weights(policy.model, torch.bfloat16)
    batch = collate(policy, groups, True)
    wide = Policy(cast_weights(copy.deepcopy(policy.model), torch.float32), policy.processor, "")
    with torch.no_grad():
        plain = response_logps(wide.model, collate(wide, groups, True)).sums
        with mixed_precision("bf16"), exact(policy) as copied:
            assert copied is not None and not is_half(copied)
            found = response_logps(copied.model, collate(copied, groups, True)).sums
            assert torch.equal(found, plain)
            assert not torch.equal(response_logps(policy.model, batch).sums, plain)


@pytest.mark.parametrize("trained", [False, True])
def test_the_heads_gradients_are_those_of_float32_but_for_rounding(
    policy: Policy, trained: bool
) -> None:
    head = cast_weights(policy.model, torch.float32).lm_head.requires_grad_(trained)
    noise = torch.Generator().manual_seed(0)
    states = torch.randn(40, head.in_features, generator=noise)
    targets = torch.randint(head.out_features, (40,), generator=noise)
    found = []
    for name in ("no", "bf16"):
        hidden = states.clone().requires_grad_()
        with mixed_precision(name):
            logps = head_logps(head, hidden, targets, chunk=16)
            with unmixed():
                logps.sum().backward()
        assert logps.dtype == torch.float32
        assert hidden.grad is not None
        found.append([logps.detach(), hidden.grad, *([head.weight.grad] if trained else [])])
        head.weight.grad = None
    for one, other in zip(*found, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.02


def test_small_heads_and_merging_stay_in_float32(policy: Policy, groups: list[Group]) -> None:
    cast_weights(policy.model, torch.float32)
    head = new_head(policy)
    torch.nn.init.normal_(head.weight)
    batch = collate(policy, groups, False)
    with torch.no_grad(), mixed_precision("bf16"):
        rewards = response_rewards(policy.model, head, batch)
        values = token_values(policy.model, head, batch)
    for numbers in (rewards, values):
        assert numbers.dtype == torch.float32
        assert not torch.equal(numbers, numbers.bfloat16().float())
    merged = []
    for name in ("no", "bf16"):
        torch.manual_seed(0)
        one = prepare_training(
            Policy(copy.deepcopy(policy.model), policy.processor, "one"), Tuning(rank=4, alpha=8)
        )
        for parameter in one.model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.02)
        with mixed_precision(name):
            merged.append(merge_adapters(one.model).state_dict())
    assert all(torch.equal(weight, merged[1][name]) for name, weight in merged[0].items())


def test_samples_are_those_of_the_policy_that_is_scored(
    policy: Policy, groups: list[Group], pictures: list[Image.Image]
) -> None:
    cast_weights(policy.model, torch.float32)
    request = Request(Prompt("one", tuple(pictures[:1]), [user_message("Describe the image.")]))
    with mixed_precision("bf16"):
        said = rollouts.roll_out(policy, [request], Decoding(8, 1.0, 0, 4), 4)[0]
        group = rollouts.rollout_group(policy, request, said)
        with torch.no_grad():
            scored = response_logps(policy.model, collate(policy, [group], True)).sums[0]
    sampled = torch.tensor([sum(one.logps) for one in said])
    assert torch.allclose(sampled.float(), scored, atol=0.1)
