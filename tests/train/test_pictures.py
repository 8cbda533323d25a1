"""Pictures that rows name by file: a resumed run finds those it was started with, or refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from veridical.data.records import read_records, write_records
from veridical.data.steering import ATTRIBUTES
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.train.dpo import train_dpo
from veridical.train.loop.pictures import (
    NO_PICTURES,
    RECORDED,
    Pictures,
    named_pictures,
    recognize_pictures,
)
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.reward import train_reward
from veridical.train.rloo import train_rloo
from veridical.train.sft import train_sft
from veridical.train.steerlm import train_steerlm

WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
TRAINING = Training(
    learning_rate=3e-3, max_steps=2, batch_size=2, accumulation=1, held_out=0.25, evaluations=1,
    tuning="full", cache="none", device="cpu",
)  # fmt: skip
SAMPLING = Sampling(max_new_tokens=6)
REINFORCED: dict[str, Any] = {
    "judging": Judging(judge="none"), "symbolic": Symbolic(length_penalty=1.0),
    "sampling": SAMPLING, "kind": "preference", "standardize": False,
}  # fmt: skip


def picture(number: int) -> Image.Image:
    noise = np.random.default_rng(number)
    return Image.fromarray(noise.integers(0, 255, (40, 52, 3), dtype=np.uint8))


def ratings(answer: str) -> list[dict[str, Any]]:
    return [{"answer": answer, "aspect": aspect, "value": 2.0} for aspect in ATTRIBUTES]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve different pictures of one size: what tells them apart is their content alone."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        picture(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A pair for each picture."""
    rows = [
        {
            "id": f"row-{i}",
            "images": [f"{i}.png"],
            "prompt": "Describe the image.",
            "chosen": f"There is a {WORDS[i % 6]}. There is a {WORDS[(i + 5) % 6]}.",
            "rejected": f"There is a {WORDS[(i + 1) % 6]} on the left.",
        }
        for i in range(12)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(12)})
    return tmp_path / "pairs.jsonl"


def train(command: str, model: str, pairs: Path, out: Path, training: Training) -> None:
    """Run a training command on the pairs."""
    if command == "dpo":
        train_dpo(model, pairs, out, training=training)
    elif command == "sft":
        train_sft(model, pairs, out, kind="preference", training=training)
    elif command == "steerlm":
        answers = {
            "responses": ["A red cup.", "A blue dog."],
            "ratings": ratings("responses/0") + ratings("responses/1"),
        }
        keys = ("id", "images", "prompt")
        rows = [{key: row[key] for key in keys} | answers for row in read_jsonl(pairs)]
        write_jsonl(pairs.with_name("samples.jsonl"), rows)
        train_steerlm(model, pairs.with_name("samples.jsonl"), out, training=training)
    elif command == "reward":
        train_reward(model, pairs, out, training=training)
    elif command == "online":
        judging = Judging(judge="exact", objects=pairs.with_name("objects.json"))
        without = replace(training, held_out=0.0)
        train_online(
            model, pairs, out, pairs="mixed", judging=judging, sampling=SAMPLING, training=without
        )
    elif command == "ppo":
        train_ppo(model, pairs, out, training=training, **REINFORCED)
    else:
        train_rloo(model, pairs, out, training=training, **REINFORCED)


COMMANDS = ["sft", "steerlm", "reward", "online", "ppo", "rloo"]


@pytest.mark.parametrize(
    "command", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS)]
)
def test_a_run_is_resumed_with_its_own_pictures_wherever_they_are(
    command: str, saved: str, pairs: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    training = replace(TRAINING, images_root=images)
    if command in ("ppo", "rloo"):
        training = replace(training, select_by="reward")
    train(command, saved, pairs, out, training)
    resumed = replace(training, resume=True)
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    # Row 12 is none of the four that prove the run.
    shutil.copy(images / "3.png", images / "11.png")
    with pytest.raises(UserError, match=r"row-11, image .*/11.png\) has other images"):
        train(command, saved, pairs, out, resumed)
    changed = {path.name for path, content in kept.items() if path.read_bytes() != content}
    assert changed <= {"run.json"}
    picture(11).save(images / "11.png")
    images.rename(tmp_path / "moved")
    train(command, saved, pairs, out, replace(resumed, images_root=tmp_path / "moved"))
    assert read_json(out / "run.json")["results"]["resumed_from"] == "checkpoint-2"


def found(pairs: Path, images: Path) -> Pictures:
    return named_pictures([read_records(pairs, "preference", images, max_bad_fraction=0.5)])


@pytest.fixture
def started(pairs: Path, images: Path, tmp_path: Path) -> Path:
    """A run that has a checkpoint; its eleventh picture was missing when it was started."""
    (images / "10.png").unlink()
    out = tmp_path / "run"
    out.mkdir()
    recognize_pictures(out, found(pairs, images))
    (out / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    return out


def swap(images: Path) -> None:
    """Exchange two pictures: the same contents under other names."""
    (images / "0.png").rename(images / "kept")
    (images / "1.png").rename(images / "0.png")
    (images / "kept").rename(images / "1.png")


def shorten(images: Path) -> None:
    """Cut the end off what was recorded."""
    record = images.parent / "run" / RECORDED
    write_jsonl(record, read_jsonl(record)[:-1])


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (
            lambda images: swap(images),
            r"of 2 rows are.* line 1 \(row-0, .*other images.*of all",
        ),
        (lambda images: picture(10).save(images / "10.png"), "line 11 .*row-10.*could not be"),
        (lambda images: shorten(images), r"line 12 .*row-11.*pictures\.jsonl.* has lost lines"),
        (
            lambda images: (images / "5.png").unlink(),
            "line 6 .*can't be used .*5.png is not a file",
        ),
        (lambda images: (images / "5.png").write_bytes(b""), "line 6 .*can't be used .*empty"),
    ],
)
def test_rows_that_came_went_or_changed_are_refused(
    change: Callable[[Path], None], refused: str, started: Path, pairs: Path, images: Path
) -> None:
    recognize_pictures(started, found(pairs, images))
    change(images)
    with pytest.raises(UserError, match=refused):
        recognize_pictures(started, found(pairs, images))


def test_every_named_file_counts_and_is_read_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that are held in the rows are compared with their file, and not again here."""
    texts = {"prompt": "Describe.", "chosen": "A red cup.", "rejected": "A dog."}
    rows = [
        {"id": "a", "images": ["0.png"], "rejected_images": ["1.png"], **texts},
        {"id": "b", "images": ["0.png"], **texts},
        {"id": "c", "images": [], **texts},
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    records = read_records(tmp_path / "pairs.jsonl", "preference", images)
    read: list[str] = []

    def hashed(path: Path) -> str:
        read.append(path.name)
        return path.stem

    monkeypatch.setattr("veridical.train.loop.pictures.hash_file", hashed)
    pictures = named_pictures([records, records])
    assert sorted(read) == ["0.png", "1.png"]
    assert [(row.place, [Path(file).name for file in row.files]) for row in pictures.rows] == [
        ((0, 1), ["0.png", "1.png"]), ((0, 2), ["0.png"]),
        ((1, 1), ["0.png", "1.png"]), ((1, 2), ["0.png"]),
    ]  # fmt: skip
    write_records(records.rows, tmp_path / "held.parquet", "preference")
    held = named_pictures([read_records(tmp_path / "held.parquet", "preference")])
    assert not held.rows and not held.hashes


def test_a_run_without_a_record_says_that_nothing_is_compared(
    started: Path, pairs: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (started / RECORDED).unlink()
    recognize_pictures(started, NO_PICTURES)
    assert not capsys.readouterr().out
    recognize_pictures(started, found(pairs, images))
    assert "pictures.jsonl is missing" in capsys.readouterr().out


def test_processes_that_read_different_pictures_are_refused(
    pairs: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two machines, each with its own copy of the images; both say so."""
    monkeypatch.setattr("veridical.runtime.processes.gather", lambda own: [own, b"another"])
    with pytest.raises(UserError, match="Processes 0 and 1 read different images"):
        recognize_pictures(tmp_path, found(pairs, images))
