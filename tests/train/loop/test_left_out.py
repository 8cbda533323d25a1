"""A picture that the processor refuses by its content leaves its batch, and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from veridical.bdhs.settings import BDHSSettings
from veridical.data.records import assistant_message, read_records, user_message, write_records
from veridical.judges.named import Judging
from veridical.models.batching import collate
from veridical.models.conversations import render_conversation
from veridical.models.lengths import Checked
from veridical.models.policy import Policy
from veridical.objectives.ppo import PPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.train import fresh
from veridical.train.dpo import train_dpo
from veridical.train.loop import trainer as loop
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.rows import TrainingRows, read_training_rows
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rl import learner as rl_learner
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft

MARK = (1, 2, 3)
REFUSED = "row-4"
WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
TRAINING = Training(
    learning_rate=3e-3, max_steps=5, batch_size=4, accumulation=1, held_out=0.0, evaluations=5,
    lora_rank=4, lora_alpha=8, seed=1, dtype="float64", cache="none", max_bad_fraction=0.2,
    trainer={"logging_steps": 1},
)  # fmt: skip
SAMPLING = Sampling(max_new_tokens=6)


@pytest.fixture(autouse=True)
def picky_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse pictures whose first pixel is marked; take random answers for whole ones."""
    stock = CLIPImageProcessorPil.preprocess

    def preprocess(self: Any, images: Any, *rest: Any, **named: Any) -> Any:
        if any(image.getpixel((0, 0)) == MARK for image in flat(images)):
            raise ValueError("not this one")
        return stock(self, images, *rest, **named)

    def exact_norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        mean = hidden.square().mean(-1, keepdim=True)
        normal: torch.Tensor = self.weight * hidden * torch.rsqrt(mean + self.variance_epsilon)
        return normal

    monkeypatch.setattr(CLIPImageProcessorPil, "preprocess", preprocess)
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    monkeypatch.setattr(fresh, "is_cut", lambda rollout: False)


def flat(images: Any) -> Iterator[Image.Image]:
    if isinstance(images, Image.Image):
        yield images
    else:
        for image in images:
            yield from flat(image)


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    def picture(number: int) -> Image.Image:
        # Of a size that other rows have: an odd size would be tried before the first step.
        image = pictures[0 if number == 4 else number % len(pictures)].copy()
        image.putpixel((0, 0), MARK if number == 4 else (9, 9, 9))
        return image

    rows = [
        {
            "id": f"row-{i}",
            "images": [picture(i)],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {WORDS[i % 6]}. There is a {WORDS[i - 6]}.")],
            "rejected": [assistant_message(f"There is a {WORDS[(i + 1) % 6]} on the left.")],
        }
        for i in range(10)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(10)})
    return tmp_path / "pairs.parquet"


COMMANDS = [
    "sft", "dpo-in-step", "online", "ppo",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("dpo", "reward", "mixed", "bdhs", "rloo")
    ),
]  # fmt: skip


def train(command: str, model: str, data: Path, out: Path, training: Training) -> None:
    judging = Judging(judge="exact", objects=data.parent / "objects.json")
    fresh_rows: dict[str, Any] = {"sampling": SAMPLING, "training": training}
    if command in ("ppo", "rloo"):
        fresh_rows["training"] = replace(training, trainer=None)
    if command == "sft":
        train_sft(model, data, out, kind="preference", training=training)
    elif command == "reward":
        train_reward(model, data, out, training=training)
    elif command.startswith("dpo"):
        reference: Any = "in_step" if command == "dpo-in-step" else "precomputed"
        train_dpo(model, data, out, reference=reference, training=training)
    elif command == "bdhs":
        train_online(
            model, data, out, pairs="bdhs", bdhs=BDHSSettings(similarity="edit"), **fresh_rows
        )
    elif command in ("online", "mixed"):
        pairs: Any = command
        train_online(model, data, out, pairs=pairs, judging=judging, **fresh_rows)
    elif command == "ppo":
        train_ppo(
            model, data, out, kind="preference", judging=judging,
            ppo=PPO(kl_target=0.5), **fresh_rows,
        )  # fmt: skip
    else:
        train_rloo(model, data, out, kind="preference", judging=judging, **fresh_rows)


def log(out: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(out / "log.jsonl")
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def largest_difference(one: Path, other: Path) -> float:
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_row_is_listed_and_neither_batches_nor_a_kill_change_what_is_learned(
    command: str, saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, alone, broken = tmp_path / "whole", tmp_path / "alone", tmp_path / "broken"
    train(command, saved, pairs, whole, TRAINING)
    (listed,) = read_jsonl(whole / "skipped.jsonl")
    assert listed["id"] == REFUSED and listed["field"] == "processor"
    assert "not this one" in listed["reason"]
    assert (listed["file"], listed["row"]) == (str(pairs), 5)
    results = read_json(whole / "run.json")["results"]
    used = results.get("rows", results.get("pairs", results.get("prompts")))
    assert (used, results["skipped"]) == (9, 1)
    # The refused row is a batch of its own here, of which nothing is left.
    train(command, saved, pairs, alone, replace(TRAINING, batch_size=1, accumulation=4))
    assert largest_difference(whole, alone) < 1e-7
    assert len(log(whole)) > 0 and log(whole)[-1]["step"] == 5

    calls: list[None] = []

    def dies(*given: Any, **named: Any) -> Any:
        if len(calls) == (13 if command == "ppo" else 3):
            raise KeyboardInterrupt
        calls.append(None)
        return honest(*given, **named)

    place: Any = rl_learner.Learner if command in ("ppo", "rloo") else loop.GroupTrainer
    name = "step" if command in ("ppo", "rloo") else "compute_loss"
    honest = getattr(place, name)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, dies)
        with pytest.raises(KeyboardInterrupt):
            train(command, saved, pairs, broken, TRAINING)
    train(command, saved, pairs, broken, replace(TRAINING, resume=True))
    assert read_json(broken / "run.json")["results"]["resumed_from"]
    assert largest_difference(whole, broken) == 0
    assert log(whole) == log(broken)
    assert read_jsonl(broken / "skipped.jsonl") == [listed]


def test_answers_are_shown_to_the_first_rows_that_the_processor_takes(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    # Behind a row of the same size, or it would be refused when lengths are looked at.
    pq.write_table(pq.read_table(pairs).take([0, 4, 5, 6, 7, 8]), tmp_path / "late.parquet")
    training = replace(TRAINING, max_steps=1, evaluations=1, show_every=1)
    train("sft", saved, tmp_path / "late.parquet", tmp_path / "out", training)
    shown = read_jsonl(tmp_path / "out" / "shown.jsonl")
    assert [row["id"] for row in shown] == ["row-0", "row-5"] * 2


def test_parts_of_a_conversation_are_refused_by_their_own_pictures(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path
) -> None:
    marked = pictures[0].copy()
    marked.putpixel((0, 0), MARK)
    turns = [
        user_message("First.", images=1), assistant_message("Yes."),
        user_message("Second.", images=1), assistant_message("No."),
    ]  # fmt: skip
    groups = render_conversation(policy, "row", [pictures[1], marked], turns)
    assert [len(group.images) for group in groups] == [1, 2]
    left_out = LeftOut(tmp_path, TrainingRows(groups, [], 0, 10), TRAINING)
    assert left_out.usable(policy, reversed(groups), 1) == [groups[0]]
    for order in (groups, groups[::-1]):
        batch, places = left_out.lay_out(order, lambda own: collate(policy, own, True))
        assert batch is not None and batch.groups == 1
        assert [order[place] for place in places] == [groups[0]]
    (listed,) = read_jsonl(tmp_path / "skipped.jsonl")
    assert (listed["id"], listed["images"]) == ("row", 2)


def test_too_many_refused_rows_end_the_run_and_are_listed(policy: Policy, tmp_path: Path) -> None:
    left_out = LeftOut(tmp_path, TrainingRows([], [], 0, 10), TRAINING)
    left_out.note({("a", 1): "odd", ("b", 1): "odd"})
    left_out.share()  # 0.2 of 10 rows
    left_out.note({("c", 1): "worse"})
    with pytest.raises(UserError, match=r"3 of 10 rows .* c: worse.*--resume true"):
        left_out.share()
    resumed = LeftOut(tmp_path, TrainingRows([], [], 0, 10), replace(TRAINING, resume=True))
    assert set(resumed.refused) == {("a", 1), ("b", 1), ("c", 1)}
    assert len(LeftOut(tmp_path, TrainingRows([], [], 0, 10), TRAINING)) == 0


def test_rows_without_ids_are_named_by_file_line_and_image(
    policy: Policy,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "veridical.train.loop.rows.check_lengths", lambda policy, groups, limit: Checked(groups, {})
    )
    marked = pictures[0].copy()
    marked.putpixel((0, 0), MARK)
    marked.save(tmp_path / "wide.png")
    pictures[1].save(tmp_path / "good.png")
    good = {"image": "good.png", "prompt": "What?", "chosen": "A cup.", "rejected": "A dog."}
    lines = ["", json.dumps(good), "not JSON", json.dumps({**good, "image": "wide.png"})]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(lines))
    training = replace(TRAINING, max_bad_fraction=0.7)
    rows = read_training_rows(policy, data, "preference", ("chosen", "rejected"), training)
    left_out = LeftOut(tmp_path, rows, training)
    assert len(left_out.usable(policy, rows.groups, 2)) == 1
    unread, refused = read_jsonl(tmp_path / "skipped.jsonl")
    assert (unread["file"], unread["row"]) == (str(data), 3)
    image = str(tmp_path / "wide.png")
    assert (refused["file"], refused["row"], refused["image_files"]) == (str(data), 4, [image])
    said = capsys.readouterr().out
    assert f"{data} line 4 ({refused['id']}, image {image}): " in said
    resumed = LeftOut(tmp_path, rows, replace(training, resume=True))
    assert set(resumed.refused) == {(refused["id"], 1)}
    assert rows.groups[1] in resumed and read_jsonl(tmp_path / "skipped.jsonl") == [unread, refused]
    for changed in ("3", "null", json.dumps({**refused, "images": [1]})):
        (tmp_path / "skipped.jsonl").write_text(f"{json.dumps(unread)}\n{changed}\n")
        with pytest.raises(UserError, match=r"skipped\.jsonl, row 2 is not as the run wrote it"):
            LeftOut(tmp_path, rows, replace(training, resume=True))


def test_usable_rows_of_parquet_know_their_numbers(
    pictures: list[Image.Image], tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    texts = ["a", "", "b"]
    table = {"prompt": ["What?"] * 3, "chosen": texts, "rejected": ["c"] * 3}
    pq.write_table(pa.table(table), path)
    for _ in range(2):  # the second time from what was kept
        assert list(read_records(path, "preference", max_bad_fraction=0.5).numbers) == [1, 3]


def test_all_that_is_wrong_is_said_before_too_many_rows_end_the_run(
    policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")

    def row(name: str, image: str = "a.png", asked: int = 1, said: int = 1) -> dict[str, Any]:
        block = [{"type": "image"}, {"type": "text", "text": "cup " * asked}]
        answer = [{"type": "text", "text": "a cup " * said}]
        messages = [{"role": "user", "content": block}, {"role": "assistant", "content": answer}]
        return {"id": name, "images": [image], "messages": messages}

    rows = [row("x", "no.png"), row("y", "none.png"), row("z", asked=900), row("w", said=30)]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, *(row(str(i)) for i in range(20))])
    training = Training(learning_rate=1.0, max_length=400, max_response_tokens=9)
    with pytest.raises(UserError, match="2 of 24 rows cannot be used, more than --max-bad"):
        read_training_rows(policy, tmp_path / "rows.jsonl", "conversation", ("chosen",), training)
    lines = [line for line in capsys.readouterr().out.splitlines() if " first is " in line]
    assert [line.split(",")[0].split(":")[0] for line in lines] == [
        "  2 rows", "  1 row", "  Longer than allowed",
    ]  # fmt: skip
    for line, place in zip(lines, ("line 1 (x", "line 3 (z", "line 4 (w"), strict=True):
        assert place in line
    lenient = replace(training, max_bad_fraction=0.5)
    read = read_training_rows(policy, tmp_path / "rows.jsonl", "conversation", ("chosen",), lenient)
    LeftOut(tmp_path, read, lenient)
    assert "1 row, length: " in capsys.readouterr().out
