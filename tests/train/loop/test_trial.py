"""The trial before the first step: the longest rows, the optimizer's state, and no trace of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.records import assistant_message, user_message, write_records
from veridical.judges.named import Judging
from veridical.models.batch import Batch
from veridical.models.batching import collate, layout_tokens
from veridical.models.lengths import check_lengths
from veridical.models.policy import Policy
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import Group, render_group
from veridical.objectives.base import PairLogps
from veridical.objectives.cpo import CPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_json
from veridical.train import dpo
from veridical.train.dpo import train_dpo
from veridical.train.loop import memory, reference, trial
from veridical.train.loop.items import Item, Items
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.order import OrderedRow
from veridical.train.loop.rows import TrainingRows
from veridical.train.loop.trainer import GroupTrainer
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.sft import train_sft

TRAINING = Training(
    learning_rate=1e-3, max_steps=2, batch_size=2, accumulation=2, held_out=0.0, evaluations=1,
    lora_rank=4, lora_alpha=8, prove_first=False,
)  # fmt: skip
LONG_PROMPTS = ["row-3", "row-8"]


@pytest.fixture
def rows(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Two rows have a long prompt and short answers, all others longer answers."""
    content = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe it. " * (30 if f"row-{i}" in LONG_PROMPTS else 1))],
            "chosen": [
                assistant_message("Yes." if f"row-{i}" in LONG_PROMPTS else "A cup. " * (4 + i % 3))
            ],
            "rejected": [assistant_message("No.")],
        }
        for i in range(12)
    ]
    write_records(content, tmp_path / "rows.parquet", "preference")
    return tmp_path / "rows.parquet"


def test_the_longest_rows_are_tried_with_the_optimizers_state(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[list[str], bool, bool]] = []
    honest = trial._forward_and_backward

    def watched(trainer: GroupTrainer, model: Any, items: Any) -> None:
        has_gradient = any(p.grad is not None for p in model.parameters())
        ids = sorted(item.group.id for item in items)
        assert all(item.group.cut[-1] for item in items)
        tried.append((ids, bool(trainer.optimizer.state), has_gradient))
        honest(trainer, model, items)

    monkeypatch.setattr(trial, "_forward_and_backward", watched)
    train_dpo(saved, rows, tmp_path / "out", training=TRAINING)
    assert tried == [(LONG_PROMPTS, False, False), (LONG_PROMPTS, True, True)]


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor", "adagrad"])
def test_a_trial_leaves_no_trace(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optim: str
) -> None:
    options = {"optim": optim, "weight_decay": 0.1, "logging_steps": 1}
    training = replace(TRAINING, lora_dropout=0.3, trainer=options)
    train_dpo(saved, rows, tmp_path / "with", training=training)
    monkeypatch.setattr(trial, "try_a_step", lambda *_: None)
    train_dpo(saved, rows, tmp_path / "without", training=training)
    one, other = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("with", "without")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("with", "without")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("where", "name", "on_gpu"),
    [
        (trial, "_make_state", True),
        (trial, "_make_state", False),
        (memory, "prove", False),
        (dpo, "noise_floor", False),
        (reference, "precompute", False),
    ],
)
def test_too_little_memory_is_said_before_the_first_step(
    saved: str,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: ModuleType,
    name: str,
    on_gpu: bool,
) -> None:
    def full(*_: Any) -> None:
        if on_gpu:
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.empty(1 << 50)

    monkeypatch.setattr(where, name, full)
    training = replace(TRAINING, prove_first=True, dry_run=where is memory)
    with pytest.raises(UserError, match=r"not enough memory.* --batch-size"):
        train_dpo(saved, rows, tmp_path / "out", training=training)
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))


MANY = 2 * trial.CANDIDATES
WORD = "xqzj" * 60
"""Long in characters, and one token: as English is beside what has a token for each byte."""


def measured(policy: Policy, groups: list[Group]) -> list[Group]:
    """As rows are when they have been read."""
    return check_lengths(policy, groups, None).fit


def asked(policy: Policy, id: str, question: str, pictures: list[Image.Image]) -> Group:
    answers = [[assistant_message("Yes.")], [assistant_message("No.")]]
    prompt = [user_message(question, images=len(pictures))]
    return render_group(policy, id, pictures, prompt, answers)


@pytest.mark.parametrize(
    ("long_by", "share_prefix"),
    [
        ("prompt", True), ("prompt", False), ("pictures", True), ("pictures", False),
        ("responses", True), ("responses", False), ("distorted", True),
    ],
)  # fmt: skip
def test_the_longest_row_is_found_whatever_makes_it_long(
    policy: Policy, groups: list[Group], long_by: str, share_prefix: bool
) -> None:
    """All others have more characters, or more pixels: those are not what a step's memory holds."""
    large = Image.new("RGB", (900, 900))
    usual = asked(policy, "usual", f"{WORD} What is it?", [large])
    if long_by == "responses":
        tokens = tuple(ids[:1].repeat(40) for ids in usual.response_ids)
        long = replace(usual, response_ids=tokens, prompt_text=groups[0].prompt_text, sampled=True)
    elif long_by == "distorted":
        usual = asked(policy, "usual", f"{WORD} What is it?", 2 * [large])
        # Alone it has pictures of its own for the rejected answer, and so its prompt twice.
        long = asked(policy, "long", "What?", 2 * [Image.new("RGB", (9, 9))])
        long = replace(long, response_images=(None, 2 * (Image.new("RGB", (9, 8)),)))
    else:
        small = 3 * [Image.new("RGB", (9, 9))]
        question = f"What{60 * ' '}is it?" if long_by == "prompt" else "What is it?"
        long = asked(policy, "long", question, small if long_by == "pictures" else [])
    many = [replace(usual, id=str(i)) for i in range(MANY)]
    many[50] = replace(long, id="50")
    assert trial.longest_rows(policy, measured(policy, many), share_prefix, 1) == [50]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("words", [1, 30, 60])
def test_no_other_batch_is_larger_where_some_rows_take_two(
    policy: Policy, count: int, words: int
) -> None:
    """A pair with pictures of its own for an answer takes two rows, as wide as its batch is."""
    picture, other = Image.new("RGB", (9, 9)), Image.new("RGB", (9, 8))
    twice = replace(asked(policy, "x", "What is it?", [picture]), response_images=(None, (other,)))
    groups = [replace(twice, id=f"twice-{i}") for i in range(3)]
    groups += [asked(policy, f"once-{i}", "What" + " ?" * words, [picture]) for i in range(3)]
    groups = measured(policy, groups)
    tried = trial.longest_rows(policy, groups, True, count)

    def tokens(batch: Sequence[int]) -> int:
        inputs = collate(policy, [groups[i] for i in batch], True).inputs
        return int(inputs["input_ids"].numel())

    assert tokens(tried) == max(map(tokens, combinations(range(6), count)))


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("sampled", [True, False])
def test_no_tried_batch_goes_without_a_mask(
    policy: Policy, share_prefix: bool, sampled: bool
) -> None:
    """Equally long answers alone are no batch that other steps' batches are as small as."""
    group = replace(asked(policy, "one", "What?", [Image.new("RGB", (9, 9))]), sampled=sampled)
    equal, uneven = (
        collate(policy, some, share_prefix).inputs for some in ([group], trial.uneven([group]))
    )
    if not share_prefix:
        assert equal["attention_mask"].all() and not uneven["attention_mask"].all()
        assert uneven["input_ids"].shape == equal["input_ids"].shape
    # What is alone in its batch at every step stays as it is, and so does the last thing to learn.
    alone = replace(group, response_ids=group.response_ids[:1], response_texts=("Yes.",))
    assert trial.uneven([alone]) == [alone]
    assert [group.cut for group in trial.uneven([alone, alone])] == [(False, False), (False, True)]
    learned = tuple(torch.arange(len(ids)) == len(ids) - 1 for ids in group.response_ids)
    assert trial.shortened(replace(group, learned=learned)).response_ids == group.response_ids


def test_rows_are_taken_again_where_there_are_too_few(policy: Policy, groups: list[Group]) -> None:
    assert len(trial.longest_rows(policy, measured(policy, groups[:3]), True, 7)) == 7


def test_copies_of_a_row_do_not_take_the_place_of_others(
    policy: Policy, groups: list[Group]
) -> None:
    """As --data-weights lays an epoch out; all rows are of about one length."""
    first, *others = measured(policy, groups[:4])
    first = replace(first, prompt_tokens=tuple(8 + n for n in first.prompt_tokens))
    epoch = [first] * MANY + others
    found = trial.longest_rows(policy, epoch, True, 4)
    assert {id(epoch[place]) for place in found} == {id(row) for row in (first, *others)}
    sizes = [collate(policy, [epoch[i]], True).inputs["input_ids"].numel() for i in found]
    assert sizes == sorted(sizes, reverse=True)
    assert len(trial.longest_rows(policy, epoch, True, 9)) == 9


def test_others_are_tried_where_the_processor_refuses_the_longest(
    policy: Policy, groups: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than are laid out else."""
    many = [replace(measured(policy, groups[:1])[0], id=str(i)) for i in range(MANY)]
    many = [replace(g, prompt_tokens=(900 - i, 900 - i)) for i, g in enumerate(many)]

    def picky(policy: Policy, own: list[Group], share_prefix: bool) -> Batch:
        if int(own[0].id) < trial.CANDIDATES + 5:
            raise RefusedRowsError(policy.name, {0: "odd"}, [own[0].id])
        return collate(policy, own, share_prefix)

    monkeypatch.setattr(trial, "collate", picky)
    left_out = LeftOut(tmp_path, TrainingRows(many, [], 0, MANY), TRAINING)
    assert trial.longest_rows(policy, many, True, 1, left_out) == [trial.CANDIDATES + 5]


class TriedError(Exception):
    """Nothing more is of interest."""


@pytest.mark.parametrize("method", ["dpo", "sft", "reward", "online"])
def test_every_training_tries_its_longest_prompts(
    saved: str, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:  # fmt: skip
    """For `online` they come at no step yet, and their answers may become as long as allowed."""
    content = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message(f"What{90 * ' '}?" if f"row-{i}" in LONG_PROMPTS else WORD)],
            "chosen": [assistant_message("A red cup.")],
            "rejected": [assistant_message("No.")],
        }
        for i in range(12)
    ]
    data = tmp_path / "rows.parquet"
    write_records(content, data, "preference")
    tried: list[Any] = []

    def watched(trainer: GroupTrainer, model: Any, items: Any) -> None:
        tried.extend(items)
        honest(trainer, model, items)
        raise TriedError

    honest = trial._forward_and_backward
    monkeypatch.setattr(trial, "_forward_and_backward", watched)
    monkeypatch.setattr(trial, "CANDIDATES", 2)
    out = tmp_path / "out"
    training = replace(TRAINING, accumulation=1)
    with pytest.raises(TriedError):
        if method == "online":
            write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(12)})
            train_online(
                saved, data, out, "mixed", offline=1.0, training=training,
                judging=Judging(judge="exact", objects=tmp_path / "objects.json"),
                sampling=Sampling(max_new_tokens=17),
            )  # fmt: skip
        elif method == "sft":
            train_sft(saved, data, out, "preference", training=training)
        else:
            (train_dpo if method == "dpo" else train_reward)(saved, data, out, training=training)
    assert sorted(item.group.id for item in tried) == LONG_PROMPTS
    if method == "online":
        assert {len(ids) for item in tried for ids in item.group.response_ids} == {16, 17}
        filled = read_jsonl(next((out / "rollouts").glob("*.jsonl")))
        assert LONG_PROMPTS[0] not in {row["id"] for row in filled}


def test_the_longest_held_out_rows_are_evaluated_in_the_trial(
    saved: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(trainer: GroupTrainer, train: Items, held_out: Items) -> None:
        held_out.groups = sorted(held_out.groups, key=lambda group: layout_tokens(group, True))
        honest(trainer, train, held_out)
        sizes = {group.id: layout_tokens(group, True) for group in held_out.groups}
        assert len(set(sizes.values())) > 1
        assert [sizes[id] for id in seen] == sorted(sizes.values(), reverse=True)[: len(seen)]
        assert seen
        raise TriedError

    def read(self: Items, place: OrderedRow) -> Item:
        seen.append(self.groups[place.index].id)
        return taken(self, place)

    honest, taken = trial.try_a_step, Items.__getitem__
    monkeypatch.setattr(trial, "try_a_step", watched)
    monkeypatch.setattr(Items, "__getitem__", read)
    with pytest.raises(TriedError):
        train_dpo(saved, rows, tmp_path / "out", training=replace(TRAINING, held_out=0.5))


def test_no_gradient_is_an_error_at_the_start_alone() -> None:
    """A hinge that was learned has none: a run that is resumed there goes on.

    CPO has neither loss nor gradient where sums are -30 and -2000 at the start.
    """
    model = torch.nn.Linear(1, 1)
    trainer: Any = SimpleNamespace(
        collate_items=lambda items: {"count": 1},
        outcome=lambda model, inputs: SimpleNamespace(loss_sum=(0.7 + 0 * model.weight).sum()),
        state=SimpleNamespace(global_step=0),
    )
    with pytest.raises(UserError, match="no trained weight receives a gradient"):
        trial._forward_and_backward(trainer, model, [])
    trainer.state.global_step = 3
    trial._forward_and_backward(trainer, model, [])
    trainer.state.global_step = 0
    sums = torch.tensor([[-30.0, -2000.0]])

    def cpo(model: Any, inputs: Any) -> SimpleNamespace:
        logps = PairLogps(sums * model.weight.abs() / model.weight.abs().detach(), 0 * sums, sums)
        return SimpleNamespace(loss_sum=CPO(0.1)(logps).sum())

    trainer.outcome = cpo
    model.zero_grad()
    trial._forward_and_backward(trainer, model, [])
    assert model.weight.grad is not None and not model.weight.grad.any()


def test_the_largest_batch_of_groups_of_several_sizes() -> None:
    """1 and 3 rows as wide as 100 are 400 tokens, 3 and 2 as wide as 90 are 450."""
    rng = Random(0)
    cases = [(2, [(1, 100), (3, 60), (3, 60), (2, 90)])]
    cases += [
        (count, [(rng.randint(1, 3), rng.randint(50, 100)) for _ in range(6)])
        for count in (1, 2, 3)
        for _ in range(50)
    ]

    def tokens(batch: Sequence[tuple[int, int]]) -> int:
        return sum(rows for rows, _ in batch) * max(width for _, width in batch)

    assert max(map(tokens, combinations(cases[0][1], 2))) == 450
    for count, shapes in cases:
        found = trial._largest_batch(dict(enumerate(shapes)), count)
        assert len(set(found)) == count
        assert tokens([shapes[i] for i in found]) == max(map(tokens, combinations(shapes, count)))
