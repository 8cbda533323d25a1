"""`train dpo` with other losses, more than two answers, own images and another reference."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from tuning import FULL

from veridical.builders.distort import build_distort
from veridical.cli.signatures import as_arguments
from veridical.data.images import load_image
from veridical.data.record_types import Branch
from veridical.data.records import (
    assistant_message,
    read_records,
    user_message,
    write_records,
)
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_inputs, stock_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.objectives.aot import AOT
from veridical.objectives.averaged import AveragedPreference
from veridical.objectives.base import PairLogps, PairLoss
from veridical.objectives.combined import Combined
from veridical.objectives.ddpo import DDPO
from veridical.objectives.dpo import DPO
from veridical.objectives.ipo import IPO
from veridical.objectives.lddpo import LDDPO
from veridical.objectives.mdpo import MDPO
from veridical.objectives.mpo import MPO
from veridical.objectives.preference import Preference
from veridical.objectives.svco import SVCO
from veridical.objectives.symmpo import SymMPO
from veridical.objectives.vdpo import VDPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.train import sft
from veridical.train.dpo import train_dpo
from veridical.train.loop.outcomes import pair_logps, require_used, weighed
from veridical.train.loop.reference_cache import precompute
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.training_set import kept_together, same_pictures, split_held_out
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.sft import train_sft

COMMON: dict[str, Any] = {
    "tuning": "full",
    "learning_rate": 3e-3,
    "max_steps": 4,
    "batch_size": 4,
    "accumulation": 1,
    "held_out": 0.0,
    "evaluations": 1,
    "trainer": {"logging_steps": 1},
}
TRAINING = Training(**COMMON)
WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


def pair(i: int, pictures: list[Image.Image], **more: Any) -> dict[str, Any]:
    row = {
        "id": f"pair-{i}",
        "images": [pictures[i % len(pictures)]],
        "prompt": [user_message("Describe the image.")],
        "chosen": [assistant_message(f"There is a {WORDS[i % 6]}.")],
        "rejected": [assistant_message(f"There is a {WORDS[(i + 1) % 6]} on the left.")],
    }
    return row | more


def write(tmp_path: Path, rows: list[dict[str, Any]], name: str = "pairs") -> Path:
    path = tmp_path / f"{name}.parquet"
    write_records(rows, path, "preference")
    return path


def train_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"loss": "ipo", "beta": 0.9, "per_token": True, "learning_rate": 3e-4}, 1 / (4 * 0.81)),
        ({"loss": "slic", "beta": 0.1}, 1.0),
        ({"label_smoothing": 0.2}, 0.693147),
    ],
)
def test_each_loss_begins_where_it_must_and_falls(
    saved: str, tmp_path: Path, pictures: list[Image.Image], options: dict[str, Any], start: float
) -> None:
    data = write(tmp_path, [pair(i, pictures) for i in range(12)])
    given = as_arguments(train_dpo, {**COMMON, **options})
    train_dpo(saved, data, tmp_path / "run", **given)
    losses = train_losses(tmp_path / "run")
    assert losses[0] == pytest.approx(start, abs=1e-4)
    assert losses[-1] < losses[0]
    proofs = {proof["name"]: proof for proof in read_json(tmp_path / "run" / "proofs.json")}
    assert proofs["start"]["passed"]
    assert f"{start:.6f}"[:6] in proofs["start"]["detail"]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [("ipo", "float32"), ("ipo", "bfloat16"), ("ipo", "float16"), ("kto", "float16")],
)
def test_means_begin_where_sums_do_in_every_type(
    saved: str, tmp_path: Path, pictures: list[Image.Image], loss: str, kind: str
) -> None:
    """Rewards of 0 that tie; then rewards of means, which the loss reads, select a checkpoint."""
    more = {"dtype": kind, "tuning": "lora", "held_out": 0.4, "evaluations": 2, "lora_rank": 2}
    chosen = {"loss": loss, "beta": 0.9, "per_token": True, "select_by": "rewards_accuracy"}
    data = write(tmp_path, [pair(i, pictures) for i in range(12)])
    given = as_arguments(train_dpo, {**COMMON, **more, **chosen})
    train_dpo(saved, data, tmp_path / "run", **given)
    proofs = {proof["name"]: proof for proof in read_json(tmp_path / "run" / "proofs.json")}
    assert proofs["start"]["passed"], proofs["start"]
    log = read_jsonl(tmp_path / "run" / "log.jsonl")
    start = next(row for row in log if row["split"] == "eval")
    for row in (start, next(row for row in log if row["split"] == "train")):
        assert row["rewards_accuracy"] == 0.5 and row["rewards_margin"] == 0.0
    end = log[-1] if log[-1]["split"] == "eval" else log[-2]
    assert end["step"] > start["step"]
    # All answers have equal lengths in a branch, so that the mean of quotients is one of means.
    moved = (end["logps_chosen"] - start["logps_chosen"]) / end["chosen_tokens"]
    rounding = {"float32": 1e-5, "bfloat16": 0.03, "float16": 0.004}[kind]
    assert end["rewards_chosen"] == pytest.approx(0.9 * moved, abs=rounding)
    record = read_json(tmp_path / "run" / "run.json")
    assert record["objective"]["rewards"] == {"beta": 0.9, "of": "means"}
    assert (
        "of means over an answer's tokens" in (tmp_path / "run" / "model" / "README.md").read_text()
    )


@dataclass(frozen=True)
class Likelier(PairLoss):
    """A loss of the policy alone."""

    name: ClassVar[str] = "likelier"
    needs_reference: ClassVar[bool] = False
    beta: float = 1.0

    def __call__(self, logps: PairLogps) -> torch.Tensor:
        means = logps.per_token().policy
        return means[:, 1:] - means[:, :1]


@pytest.mark.parametrize("reference", ["precomputed", "in_step"])
def test_a_loss_without_a_reference_computes_none(
    saved: str, tmp_path: Path, pictures: list[Image.Image], reference: Any
) -> None:
    data, out = write(tmp_path, [pair(i, pictures) for i in range(8)]), tmp_path / "run"
    objective = AveragedPreference(Likelier())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--reference-model means nothing with --loss likelier"):
        train_dpo(saved, data, out, objective, reference, saved, training=TRAINING)
    train_dpo(saved, data, out, objective, reference, training=TRAINING)
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    assert not start["applicable"] and "compares with no reference" in start["detail"]
    assert not (out / "reference_logps.json").exists()
    losses = train_losses(out)
    assert losses[-1] < losses[0]
    assert read_json(out / "start.json")["objective"]["needs_reference"] is False


def test_two_rejected_answers_are_averaged(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Weight 1 = the first alone, and so is a set whose second answer is the first again."""
    plain = [pair(i, pictures) for i in range(8)]
    other = [assistant_message("There is a yellow kite.")]
    twice = [{**row, "more_rejected": [row["rejected"]]} for row in plain]
    mixed = [{**row, "more_rejected": [other] if i % 2 else None} for i, row in enumerate(plain)]
    losses = {}
    for name, rows, weight in (
        ("plain", plain, 0.5), ("twice", twice, 0.3), ("mixed", mixed, 0.5), ("off", mixed, 1.0),
    ):  # fmt: skip
        data = write(tmp_path, rows, name)
        objective = AveragedPreference(first_rejected_weight=weight)
        train_dpo(saved, data, tmp_path / name, objective, training=TRAINING)
        losses[name] = torch.tensor(train_losses(tmp_path / name))
    assert torch.allclose(losses["plain"], losses["off"], atol=1e-6)
    assert torch.allclose(losses["plain"], losses["twice"], atol=1e-4)
    assert (losses["plain"] - losses["mixed"]).abs().max() > 1e-3


def test_mpo_goes_on_with_its_reward_shift(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Resumed, it is the run that was not stopped; its parts and the shift are logged."""
    data = write(tmp_path, [pair(i, pictures) for i in range(4)])
    steady = {"logging_steps": 1, "lr_scheduler_type": "constant", "warmup_steps": 0}
    whole = replace(TRAINING, batch_size=2, max_steps=3, trainer=steady)
    objective = AveragedPreference(MPO())
    unproved = replace(whole, prove_first=False)
    train_dpo(saved, data, tmp_path / "whole", objective, training=unproved)
    out = tmp_path / "parts"
    train_dpo(saved, data, out, objective, training=replace(whole, max_steps=2))
    train_dpo(saved, data, out, objective, training=replace(unproved, extend=True))
    logs = [read_jsonl(folder / "log.jsonl") for folder in (tmp_path / "whole", out)]
    parts = ("loss", "loss_dpo", "loss_bco", "loss_nll", "mean_log_ratio")
    found = [[[row[name] for name in parts] for row in log] for log in logs]
    assert found[0] == found[1]
    loss, preference, quality, nll, shift = found[0][0]
    assert (preference, quality, shift) == pytest.approx((math.log(2), 2 * math.log(2), 0))
    assert loss == pytest.approx(1.2 * math.log(2) + nll, abs=1e-5)
    # After a step both means are those of the rewards logged up to there.
    rewards = [(row["rewards_chosen"] + row["rewards_rejected"]) / 2 for row in logs[0]]
    assert found[0][2][4] == pytest.approx(sum(rewards[:2]) / 2 / 0.1, rel=1e-4)
    assert abs(found[0][2][4]) > 1e-3
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    assert start["passed"] and "known value 0.831777" in start["detail"]


def test_factors_on_beta_are_trained_with_and_refused_by_other_losses(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Factor 2 on every row, at beta 0.1, is beta 0.2."""
    rows = [pair(i, pictures) for i in range(4)]
    doubled = write(tmp_path, [{**row, "beta_factor": 2.0} for row in rows], "doubled")
    training = replace(TRAINING, max_steps=2)
    train_dpo(saved, doubled, tmp_path / "rows", AveragedPreference(DPO(0.1)), training=training)
    plain = write(tmp_path, rows, "plain")
    train_dpo(saved, plain, tmp_path / "all", AveragedPreference(DPO(0.2)), training=training)
    assert train_losses(tmp_path / "rows") == train_losses(tmp_path / "all")
    with pytest.raises(UserError, match="Row pair-0 has the beta_factor 2, and --loss ipo"):
        train_dpo(saved, doubled, tmp_path / "ipo", AveragedPreference(IPO()), training=training)


def test_weights_of_parts_are_trained_with_and_refused_by_other_losses(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Weight 2 of both answers, at beta 0.1, is beta 0.2."""
    rows = [pair(i, pictures) for i in range(4)]
    training = replace(TRAINING, max_steps=2)
    plain = write(tmp_path, rows, "plain")
    train_dpo(saved, plain, tmp_path / "all", AveragedPreference(DPO(0.2)), training=training)
    weights = [{"answer": answer, "weight": 2.0} for answer in ("chosen", "rejected")]
    twice = write(tmp_path, [row | {"span_weights": weights} for row in rows], "twice")
    train_dpo(saved, twice, tmp_path / "rows", AveragedPreference(DPO(0.1)), training=training)
    assert train_losses(tmp_path / "rows") == train_losses(tmp_path / "all")
    with pytest.raises(UserError, match="Row pair-0 has span_weights, and --loss ipo takes none"):
        train_dpo(saved, twice, tmp_path / "ipo", AveragedPreference(IPO()), training=training)


def test_a_given_beginning_carries_no_loss(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """The loss is DPO's of the whole answers, which begin alike; only the rest is counted."""
    rows = [pair(i, pictures) for i in range(8)]
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    train_dpo(saved, write(tmp_path, rows, "plain"), whole, training=TRAINING)
    given = write(tmp_path, [row | {"answer_prefix": "There is a"} for row in rows], "given")
    train_dpo(saved, given, rest, reference="in_step", training=TRAINING)
    first, second = (torch.tensor(train_losses(out)) for out in (whole, rest))
    assert torch.allclose(first, second, atol=1e-4)
    assert float(second[0]) == pytest.approx(math.log(2), abs=1e-5)
    tokens = [read_jsonl(out / "log.jsonl")[0]["chosen_tokens"] for out in (whole, rest)]
    assert tokens[0] - tokens[1] == 3


COLUMNS: dict[str, dict[str, Any]] = {
    "hsa-dpo": {"span_weights": [{"answer": "rejected", "weight": 0.4}]},
    "opa-dpo": {"span_weights": [
        {"answer": "chosen", "start": 11, "end": 14, "weight": 2.5},
        {"answer": "rejected", "start": 0, "end": 5, "weight": 3.0},
    ]},
    "mm-dpo": {"beta_factor": 1.7},
    "c-dpo": {"answer_prefix": "There is a"},
}  # fmt: skip


def test_columns_of_a_pair_by_a_slow_reference(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """The loss of each row and its gradient, token by token, by the model's own forward alone."""
    rows = [pair(i, pictures, **columns) for i, columns in enumerate(COLUMNS.values())]
    answers: tuple[Branch, ...] = ("chosen", "rejected")
    data = write(tmp_path, rows)
    groups = read_training_rows(policy, data, "preference", answers, TRAINING).groups
    reference = -40 * torch.rand(4, 2, dtype=torch.float64)
    ours = Preference(DPO(0.3))(
        pair_logps(response_logps(policy.model, collate(policy, groups, True)), reference)
    )
    slow = [slow_loss(policy, group, reference[i], 0.3) for i, group in enumerate(groups)]
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    for found, expected in zip(ours, slow, strict=True):
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
        both = [
            torch.autograd.grad(one, trained, retain_graph=True, allow_unused=True)
            for one in (found, expected)
        ]
        moved = 0.0
        for own, other in zip(*both, strict=True):
            assert (own is None) == (other is None)
            if own is not None and other is not None:
                assert torch.allclose(own, other, rtol=1e-7, atol=1e-10)
                moved += float(other.abs().sum())
        assert moved > 0


def slow_loss(policy: Policy, group: Group, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """DPO of a pair: every token's log-prob, times its weight, where it is not given."""
    ratios = []
    for answer, ids in enumerate(group.response_ids):
        text = group.prompt_text + group.response_texts[answer]
        inputs = stock_inputs(policy, [load_image(one) for one in group.images], text)
        logits, total = policy.core(**inputs).logits[0], torch.zeros((), dtype=torch.float64)
        learned, weights = group.learned_of(answer).tolist(), group.weights_of(answer).tolist()
        for place, token in enumerate(ids.tolist()):
            row = logits[len(logits) - len(ids) + place - 1]
            logp = row[token] - row.exp().sum().log()
            total = total + weights[place] * logp if learned[place] else total
        ratios.append(total - reference[answer])
    margin = beta * group.beta_factor * (ratios[0] - ratios[1])
    return (1 + (-margin).exp()).log()


def test_a_loss_that_weighs_what_was_corrected(
    saved: str, policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """It begins at ln 2, its proofs pass, and with weight 1 it is DPO, the same rows in all."""
    data, out = write(tmp_path, [pair(i, pictures) for i in range(4)]), tmp_path / "run"
    read = read_training_rows(policy, data, "preference", ("chosen", "rejected"), TRAINING)
    assert all(weighed(DDPO(changed_weight=1.0), group) is group for group in read.groups)
    own = replace(read.groups[0], weights=tuple(2.0 + ids for ids in read.groups[0].response_ids))
    assert weighed(DDPO(), own) is own
    training = replace(TRAINING, max_steps=1)
    train_dpo(saved, data, out, AveragedPreference(DDPO(), per_token=True), training=training)
    assert train_losses(out) == [pytest.approx(math.log(2), abs=1e-5)]


def test_mdpo_sees_the_chosen_answer_under_other_images_too(
    saved: str, tmp_path: Path, pictures: list[Image.Image], policy: Policy
) -> None:
    """It starts at 3 ln 2; pairs of two and three answers have the branch behind the others."""
    gray = Image.new("RGB", (48, 48), (127, 127, 127))
    other = [assistant_message("There is a yellow kite.")]
    rows = [
        pair(i, pictures, contrast_images=[gray], more_rejected=[other] if i % 2 else None)
        for i in range(4)
    ]
    data, out = write(tmp_path, rows), tmp_path / "run"
    branches: tuple[Branch, ...] = ("chosen", "rejected")
    read = read_training_rows(policy, data, "preference", branches, TRAINING, True, MDPO.views)
    for group in read.groups:
        assert len(group.response_ids) == 4 and group.contrasts == 1
        assert group.response_ids[3].equal(group.response_ids[0])
        assert group.images_of(3) != group.images_of(0) == group.images_of(2)
        assert group.response_ids[1].equal(group.response_ids[2]) == (
            group.id in ("pair-0", "pair-2")
        )
    training = replace(TRAINING, max_steps=2)
    train_dpo(saved, data, out, AveragedPreference(MDPO()), training=training)
    losses = train_losses(out)
    assert losses[0] == pytest.approx(3 * math.log(2), abs=1e-5) and losses[1] < losses[0]
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    assert start["passed"] and start["applicable"]
    rows[3]["contrast_images"] = None
    rows[2]["contrast_images"] = rows[2]["images"]
    with pytest.raises(UserError, match="2 of 4 rows can't be used") as refused:
        data = write(tmp_path, rows, "lacking")
        train_dpo(saved, data, tmp_path / "no", AveragedPreference(MDPO()), training=training)
    assert "build distort --column contrast_images" in str(refused.value)
    assert "contrast_images show the same as images" in str(refused.value)


def test_vdpo_sees_both_answers_under_other_images_too(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Its first loss depends on the rows; the start proof compares all four log-probs."""
    black, other = Image.new("RGB", (48, 48)), [assistant_message("There is a yellow kite.")]
    rows = [pair(i, pictures, contrast_images=[black]) for i in range(4)]
    out, training = tmp_path / "run", replace(TRAINING, max_steps=1)
    train_dpo(saved, write(tmp_path, rows), out, AveragedPreference(VDPO()), training=training)
    assert train_losses(out)[0] > 0
    start = next(proof for proof in read_json(out / "proofs.json") if proof["name"] == "start")
    assert start["passed"] and start["applicable"]
    more = write(tmp_path, [{**row, "more_rejected": [other]} for row in rows[:1]], "more")
    with pytest.raises(UserError, match="more_rejected, and --loss vdpo compares two answers"):
        train_dpo(saved, more, tmp_path / "no", AveragedPreference(VDPO()), training=training)
    with pytest.raises(UserError, match=r"--loss aot sorts .* Set --accumulation 1"):
        given = replace(training, accumulation=2)
        train_dpo(saved, more, tmp_path / "no", AveragedPreference(AOT()), training=given)
    for loss, said in ((AOT(), "--loss aot"), (Combined(terms="aot:1,nll:1"), "--terms aot")):
        with pytest.raises(UserError, match=f"{said} sorts .* with --batch-size 1 it is DPO"):
            given = replace(training, batch_size=1)
            train_dpo(saved, more, tmp_path / "no", AveragedPreference(loss), training=given)


@pytest.mark.parametrize(
    ("loss", "column", "said"),
    [
        (IPO(), {"beta_factor": 2.0}, "--loss ipo takes none. Set --loss dpo, ddpo, lddpo"),
        (IPO(), {}, "--loss ipo takes none. Set --loss dpo, ddpo, fdpo"),
        (MPO(), {}, "--loss mpo takes none"),
        (Combined(terms="dpo:1,ipo:1"), {}, "--terms ipo takes none"),
    ],
)
def test_the_loss_that_has_no_use_for_a_column_is_named(
    loss: Any, column: dict[str, Any], said: str
) -> None:
    weights = () if column else (torch.ones(1), torch.ones(1))
    ids = (torch.tensor([1]), torch.tensor([2]))
    row = Group("a", (), "", ("", ""), ids, (False, False), weights=weights, **column)
    with pytest.raises(UserError, match=said):
        require_used(AveragedPreference(loss), [row])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_hidden_image_tokens_change_what_an_answer_is_given(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image], kind: str
) -> None:
    """In both layouts as in the model's own forward; with all hidden no picture matters."""
    policy.model.to(getattr(torch, kind))
    same = pair(0, pictures)["chosen"]
    rows = [
        pair(i, pictures, images=[pictures[n]], chosen=same, rejected=same, rejected_masked=share)
        for i, (n, share) in enumerate(((0, 0.5), (0, 1.0), (3, 1.0)))
    ]
    answers: tuple[Branch, ...] = ("chosen", "rejected")
    data = write(tmp_path, rows, kind)
    groups = read_training_rows(policy, data, "preference", answers, TRAINING).groups
    exact = kind == "float32"
    with torch.no_grad():
        stock = torch.stack([stock_logps(policy, group) for group in groups])
        for share_prefix in (True, False):
            batch = collate(policy, groups, share_prefix)
            found = response_logps(policy.model, batch).sums
            assert torch.allclose(found, stock, rtol=1e-5 if exact else 0.02)
    if exact:
        assert (stock[:, 0] - stock[:, 1]).abs().min() > 1e-4
        assert torch.allclose(stock[1, 1], stock[2, 1], rtol=1e-6)  # of either picture nothing
        assert not torch.allclose(stock[1, 0], stock[2, 0], rtol=1e-5)


def test_pairs_whose_image_tokens_are_hidden_are_trained_on(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """From conversations by `build distort --how tokens`; and for what is compared elsewhere."""
    rows = [pair(i, pictures) for i in range(4)]
    data = write(tmp_path, rows)
    build_distort(data, tmp_path / "set", "preference", "tokens", "contrast_images", covered=0.6)
    made = tmp_path / "set" / "pairs.parquet"
    assert [row["contrast_masked"] for row in read_records(made, "preference").rows] == [0.6] * 4
    training = replace(TRAINING, max_steps=1)
    train_dpo(saved, made, tmp_path / "run", AveragedPreference(MDPO()), training=training)
    assert train_losses(tmp_path / "run") == [pytest.approx(3 * math.log(2), abs=1e-4)]
    proofs = read_json(tmp_path / "run" / "proofs.json")
    assert all(proof["passed"] for proof in proofs)


@pytest.mark.parametrize(("loss", "start"), [(SymMPO(), 4), (SVCO(), 4)], ids=["symmpo", "svco"])
def test_two_pictures_are_compared_both_ways(
    saved: str,
    tmp_path: Path,
    pictures: list[Image.Image],
    policy: Policy,
    loss: SymMPO | SVCO,
    start: int,
) -> None:
    """Either starts at 4 ln 2; every branch is read with its own picture, or with none."""
    other = Image.new("RGB", (48, 48), (127, 9, 127))
    right = {"contrast_images": [other], "contrast_chosen": [assistant_message("It is violet.")]}
    rows = [pair(i, pictures, **right) for i in range(4)]
    if isinstance(loss, SVCO):
        rows = [row | {"rejected": row["contrast_chosen"]} for row in rows]
    data, out = write(tmp_path, rows), tmp_path / "run"
    answers: tuple[Branch, ...] = ("chosen", "rejected")
    group = read_training_rows(
        policy, data, "preference", answers, TRAINING, False, loss.views
    ).groups[0]
    texts, ids = group.response_texts, group.response_ids
    assert len(ids) == 2 + len(loss.views) == 2 + (group.contrasts or 0)
    for i, view in enumerate(loss.views, start=2):
        answer, sees = view.answer, view.images
        said = {"chosen": texts[0], "rejected": texts[1]}.get(answer, texts[3])
        assert texts[i] == said and torch.equal(ids[i], ids[texts.index(said)])
        assert (group.images_of(i) == group.images) == (sees == "images")
        assert (group.prompt_of(i) == group.prompt_text) == (sees != "none")
        assert bool(group.images_of(i)) == (sees != "none")
    training = replace(TRAINING, max_steps=2, learning_rate=3e-4)
    train_dpo(saved, data, out, AveragedPreference(loss), training=training)
    losses = train_losses(out)
    assert losses[0] == pytest.approx(start * math.log(2), abs=1e-4) and losses[1] < losses[0]
    proofs = {proof["name"]: proof for proof in read_json(out / "proofs.json")}
    assert all(proof["passed"] for proof in proofs.values()) and proofs["start"]["applicable"]


def test_what_two_pictures_need(saved: str, tmp_path: Path, pictures: list[Image.Image]) -> None:
    rows = [pair(0, pictures), pair(1, pictures, contrast_images=[pictures[0]])]
    rows[0] |= {"images": [], "prompt": [user_message("Hello?", images=0)]}
    for loss, reasons in (
        (SymMPO(), ["contrast_images, and there are none", "contrast_chosen, and there is none"]),
        (SVCO(), ["contrast_images, and there are none"]),
    ):
        with pytest.raises(UserError, match="rows can't be used") as refused:
            data = write(tmp_path, rows, loss.name)
            train_dpo(saved, data, tmp_path / "no", AveragedPreference(loss), training=TRAINING)
        assert all(reason in str(refused.value) for reason in reasons)
    right = {"contrast_images": [pictures[0]], "contrast_chosen": [assistant_message("Grass.")]}
    data = write(tmp_path, [pair(0, pictures, **right), pair(1, pictures, contrast_masked=0.5)])
    with pytest.raises(UserError, match="rows can't be used") as refused:
        train_dpo(saved, data, tmp_path / "no", AveragedPreference(SVCO()), training=TRAINING)
    for reason in ("contrast_chosen is another one; set --loss symmpo", "the pair's own image"):
        assert reason in str(refused.value)
    with pytest.raises(UserError, match="--loss svco compares answers under contrast_images"):
        train_online(saved, data, tmp_path / "no", objective=Preference(SVCO()), training=TRAINING)
    for terms, message in (("dpo:1,kto:1", "--terms kto reads"), ("dpo:1,mdpo:1", "--terms mdpo")):
        chosen = Preference(Combined(terms=terms))
        with pytest.raises(UserError, match=message):
            train_online(saved, data, tmp_path / "no", objective=chosen, training=TRAINING)


@pytest.mark.parametrize("column", ["rejected_images", "rejected_masked"])
def test_svco_reads_both_answers_with_the_same_pictures(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image], column: str
) -> None:
    own = {"rejected_images": [pictures[2]], "rejected_masked": 0.5}[column]
    data = write(tmp_path, [pair(0, pictures, contrast_images=[pictures[1]], **{column: own})])
    answers: tuple[Branch, ...] = ("chosen", "rejected")
    views = SVCO.views
    groups = read_training_rows(policy, data, "preference", answers, TRAINING, True, views).groups
    with pytest.raises(UserError, match="--loss svco reads both answers with images"):
        require_used(AveragedPreference(SVCO()), groups)
    require_used(AveragedPreference(MDPO()), groups)


def test_weights_by_length_are_not_replaced_by_other_ones(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    row, other = pair(0, pictures), [assistant_message("There is a yellow kite.")]
    marked = write(
        tmp_path, [row | {"span_weights": [{"answer": "chosen", "weight": 2.0}]}], "marked"
    )
    with pytest.raises(UserError, match=r"has span_weights, and --loss lddpo .* dpo, ddpo, fdpo"):
        train_dpo(saved, marked, tmp_path / "no", AveragedPreference(LDDPO()), training=TRAINING)
    more = write(tmp_path, [row | {"more_rejected": [other]}], "more")
    with pytest.raises(UserError, match="more_rejected, and --loss lddpo compares two answers"):
        train_dpo(saved, more, tmp_path / "no", AveragedPreference(LDDPO()), training=TRAINING)


def test_the_rejected_branch_sees_its_own_image(
    saved: str, tmp_path: Path, pictures: list[Image.Image], policy: Policy
) -> None:
    """The same answer on both branches is a pair if the pictures differ."""
    gray = Image.new("RGB", (48, 48), (127, 127, 127))
    rows = []
    for i in range(8):
        same = pair(i, pictures)["chosen"]
        own = [gray] if i % 2 else None
        rows.append(pair(i, pictures, rejected_images=own) | ({"rejected": same} if own else {}))
    data = write(tmp_path, rows)
    read = read_training_rows(policy, data, "preference", ("chosen", "rejected"), TRAINING)
    own_images = {group.id: bool(group.response_images) for group in read.groups}
    assert [own_images[f"pair-{i}"] for i in range(4)] == [False, True, False, True]
    train_dpo(saved, data, tmp_path / "run", training=TRAINING)
    losses = train_losses(tmp_path / "run")
    assert losses[0] == pytest.approx(0.693147, abs=1e-4)
    assert losses[-1] < losses[0]
    assert all(proof["passed"] for proof in read_json(tmp_path / "run" / "proofs.json"))


def test_rows_that_share_a_picture_are_held_out_together(policy: Policy) -> None:
    """By content: through rows with several pictures, and whatever is asked about them."""
    a, b, c, d = (Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green", "gray"))

    def row(id: str, *images: Image.Image, text: str = "What?") -> Group:
        return Group(id, images, text, ("",), (torch.zeros(1, dtype=torch.long),), (False,))

    rows = [
        row("1", a), row("2", a.copy(), text="Where?"), row("3", b), row("4", c, b), row("5", c),
        row("6", d), row("7/0", text="x"), row("7/1", text="y"), row("8", text="x"),
    ]  # fmt: skip
    found = same_pictures(rows, lambda id: id.partition("/")[0])
    assert found == {
        "1": "1", "2": "1", "3": "3", "4": "3", "5": "3", "6": "6", "7/0": "7/0", "7/1": "7/0",
        "8": "7/0",
    }  # fmt: skip
    with pytest.raises(UserError, match="2 rows of one picture: nothing can be held out"):
        together = same_pictures(rows[:2])
        split_held_out(rows[:2], 0.5, 0, by=together.__getitem__)
    asked = r"--held-out 0.99 would hold out all 9 rows.*none to train on. Set --held-out 0.88 or"
    with pytest.raises(UserError, match=asked):
        split_held_out(rows, 0.99, 0)
    assert len(split_held_out(rows, 0.88, 0)[0]) == 1


def test_pictures_of_single_answers_keep_rows_together_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unless so many rows have them that nothing could be held out."""
    images = [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(12)]

    def rows(others: list[int]) -> list[Group]:
        ids = (torch.zeros(1, dtype=torch.long),)
        return [
            Group(f"{i:02}", (images[i],), "", ("",), ids, (False,), (None, (images[other],)))
            for i, other in enumerate(others)
        ]

    own = [f"{i:02}" for i in range(10)]
    linked = kept_together(rows([0, 1, 2, 3, 4, 5, 6, 7, 3, 11]))
    assert list(linked.values()) == [*own[:8], "03", "09"]
    assert capsys.readouterr().out == ""
    alone = kept_together(rows(10 * [10]))
    assert list(alone.values()) == own
    assert "10 of 10 rows are linked through" in capsys.readouterr().out


def test_sft_trains_on_no_picture_that_it_holds_out(
    saved: str, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(i % 4, pictures) | {"id": f"pair-{i}"} for i in range(12)]
    seen: list[set[bytes]] = []

    def watched(run: Any, method: str, model: str, start: Any, rows: Any, *_: Any) -> None:
        for part in (rows.train, rows.held_out):
            seen.append({load_image(g.images[0]).tobytes() for g in part.groups})

    monkeypatch.setattr(sft, "fine_tune", watched)
    train_sft(saved, write(tmp_path, rows), tmp_path / "out", "preference",
              training=replace(TRAINING, held_out=0.25))  # fmt: skip
    assert seen[0] and seen[1] and not seen[0] & seen[1]


def test_pairs_of_one_prompt_are_held_out_together(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    rows = [pair(i % 4, pictures) | {"id": f"pair-{i}"} for i in range(12)]
    read = read_training_rows(
        policy, write(tmp_path, rows), "preference", ("chosen", "rejected"), TRAINING
    )
    prompts = same_pictures(read.groups)
    assert len(set(prompts.values())) == 4
    train, held_out = split_held_out(read.groups, 0.25, 0, by=prompts.__getitem__)
    assert len(held_out) == 3
    assert not {prompts[g.id] for g in train} & {prompts[g.id] for g in held_out}


@pytest.mark.parametrize("reference", ["precomputed", "in_step"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_second_round_against_an_earlier_model(
    saved: str, tmp_path: Path, pictures: list[Image.Image], reference: Any, tuning: Any
) -> None:
    """The proofs know that the reference is not the start, and the loss does not start at ln 2."""
    data = write(tmp_path, [pair(i, pictures) for i in range(8)])
    train_dpo(saved, data, tmp_path / "first", training=TRAINING)
    training = replace(
        TRAINING, **(FULL if tuning == "full" else {"tuning": tuning, "lora_rank": 4})
    )
    first, second = str(tmp_path / "first" / "model"), tmp_path / "second"
    train_dpo(first, data, second, reference=reference, reference_model=saved, training=training)
    losses = train_losses(second)
    assert losses[0] < 0.65
    start = read_json(second / "proofs.json")[0]
    assert start["name"] == "start"
    assert start["passed"]
    assert "declared" in start["detail"]
    assert f"reference_model | {saved}" in (second / "model" / "README.md").read_text()


def test_a_declared_reference_that_is_not_used_is_found(
    saved: str, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path, [pair(i, pictures) for i in range(8)])
    train_dpo(saved, data, tmp_path / "first", training=TRAINING)

    def wrong(policy: Policy, *arguments: Any) -> Any:
        with torch.no_grad():
            policy.core.lm_head.weight.mul_(1.01)
        return precompute(policy, *arguments)

    monkeypatch.setattr("veridical.train.loop.reference.precompute", wrong)
    model = str(tmp_path / "first" / "model")
    training = replace(TRAINING, cache="none")
    with pytest.raises(UserError, match="'start' fails"):
        train_dpo(model, data, tmp_path / "second", reference_model=saved, training=training)


def test_a_reference_that_reads_pictures_differently_is_refused(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    data = write(tmp_path, [pair(i, pictures) for i in range(8)])
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    settings = read_json(other / "processor_config.json")
    settings["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    write_json(other / "processor_config.json", settings)
    with pytest.raises(UserError, match="image processors differ"):
        train_dpo(saved, data, tmp_path / "run", reference_model=str(other), training=TRAINING)


def test_sft_learns_every_turn_of_mixed_conversations(
    saved: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    rows = []
    for i in range(8):
        first = user_message("Is there a cup in the image?", images=i % 2)
        later = user_message("Is there a dog?", images=0)
        answers = [assistant_message("Yes."), assistant_message("There is a red cup.")]
        rows.append(
            {
                "id": f"row-{i}",
                "images": [pictures[i % 6]] if i % 2 else [],
                "messages": [first, answers[0], later, answers[1]],
            }
        )
    write_records(rows, tmp_path / "talk.jsonl", "conversation")
    train_sft(saved, tmp_path / "talk.jsonl", tmp_path / "run", training=TRAINING)
    log = [row for row in read_jsonl(tmp_path / "run" / "log.jsonl") if row["split"] == "train"]
    assert log[-1]["loss"] < log[0]["loss"]
    # "Yes ." and "There is a red cup ." and one end token, or one for each turn.
    assert log[0]["chosen_tokens"] in {9, 10}
