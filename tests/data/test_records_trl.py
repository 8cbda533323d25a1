"""Records and TRL: a set written by either trains with TRL's own DPOTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.data.messages import assistant_message, user_message
from veridical.data.records import read_records, write_records

datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")


def picture(number: int) -> Image.Image:
    return Image.new("RGB", (20 + number, 30), (255 - 20 * number, 10 * number, 0))


def train_one_step(dataset: Any, folder: Path) -> list[dict[str, Any]]:
    """One step of TRL's DPOTrainer with the embedded world's model, untrained and shrunk."""
    import torch

    from veridical.world import model

    torch.manual_seed(0)
    processor = model.build_processor()
    # From a folder, as TRL loads its reference model by the policy's name.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WIDTH": 32, "VISION_LAYERS": 1, "LANGUAGE_LAYERS": 1}.items():
            patch.setattr(model, name, value)
        model.build_model(processor).save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    configuration = trl.DPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        bf16=False,
        max_length=None,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        logging_steps=1,
    )
    trainer = trl.DPOTrainer(
        model=str(folder / "model"),
        args=configuration,
        train_dataset=dataset,
        processing_class=processor,
    )
    trainer.train()
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


def load_as_trl_does(path: Path, folder: Path) -> Any:
    return datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(folder / "cache")
    )


def test_a_set_written_here_trains_there(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"row{number}",
            "images": [picture(number)],
            "prompt": [user_message("What do you see?")],
            "chosen": [assistant_message("A red thing is on the table.")],
            "rejected": [assistant_message("A blue thing.")],
            "facts": ["a thing"] if number else None,
            "source": "{}",
        }
        for number in range(2)
    ]
    write_records(rows, tmp_path / "set.parquet", "preference")
    dataset = load_as_trl_does(tmp_path / "set.parquet", tmp_path)
    assert dataset[1]["images"][0].size == (21, 30)
    history = train_one_step(dataset, tmp_path)
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert history[0]["grad_norm"] > 0


def test_rows_are_the_same_to_trl_from_the_file_and_read_here(tmp_path: Path) -> None:
    import torch
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    from veridical.world.model import build_processor

    path = tmp_path / "set.parquet"
    datasets.Dataset.from_list(trl_rows("blocks")).to_parquet(path)
    write_records(read_records(path, "preference").rows, path, "preference")
    collate = DataCollatorForVisionPreference(processor=build_processor())
    theirs = collate(list(load_as_trl_does(path, tmp_path)))
    ours = collate(list(read_records(path, "preference").rows))
    assert theirs.keys() == ours.keys() >= {"input_ids", "pixel_values", "completion_mask"}
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def trl_rows(form: str) -> list[dict[str, Any]]:
    """The forms of TRL's vision preference sets."""
    rows = []
    for number in range(2):
        plain = [{"role": "user", "content": "What do you see?"}]
        blocks = [user_message("What do you see?")]
        chosen, rejected = f"A red thing {number}.", f"A blue thing {number}."
        row: dict[str, Any] = {"chosen": [assistant_message(chosen)]}
        row["rejected"] = [assistant_message(rejected)]
        if form == "blocks":
            row |= {"images": [picture(number)], "prompt": blocks}
        elif form == "one image, plain strings":
            row = {
                "image": picture(number),
                "prompt": plain,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        else:
            row = {
                "images": [picture(number)],
                "chosen": [*blocks, *row["chosen"]],
                "rejected": [*blocks, *row["rejected"]],
            }
        rows.append(row)
    return rows


@pytest.mark.parametrize("form", ["blocks", "one image, plain strings", "implicit prompt"])
def test_a_set_written_for_trl_loads_here(tmp_path: Path, form: str) -> None:
    path = tmp_path / "trl.parquet"
    datasets.Dataset.from_list(trl_rows(form)).to_parquet(path)
    read = read_records(path, "preference")
    assert (read.total, read.problems) == (2, [])
    row = read.rows[1]
    assert row["images"][0].size == (21, 30)
    assert row["prompt"] == [user_message("What do you see?")]
    assert row["chosen"] == [assistant_message("A red thing 1.")]
    assert row["rejected"] == [assistant_message("A blue thing 1.")]


def test_a_set_with_json_columns_loads_here(tmp_path: Path) -> None:
    """Datasets writes blocks with unlike keys as its Json type, if it is told to."""
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of Datasets has no Json type")
    path = tmp_path / "trl.parquet"
    rows = trl_rows("blocks")
    datasets.Dataset.from_list(rows, on_mixed_types="use_json").to_parquet(path)
    assert read_records(path, "preference").rows[0]["prompt"] == rows[0]["prompt"]


def test_here_there_and_back_is_the_same_set(tmp_path: Path) -> None:
    path = tmp_path / "trl.parquet"
    datasets.Dataset.from_list(trl_rows("blocks")).to_parquet(path)
    write_records(read_records(path, "preference").rows, tmp_path / "ours.parquet", "preference")
    load_as_trl_does(tmp_path / "ours.parquet", tmp_path).to_parquet(tmp_path / "back.parquet")
    ours = read_records(tmp_path / "ours.parquet", "preference").rows
    back = read_records(tmp_path / "back.parquet", "preference").rows
    assert list(ours.select_columns(["id", "prompt", "chosen", "rejected"])) == list(
        back.select_columns(["id", "prompt", "chosen", "rejected"])
    )
    assert ours[0]["images"][0].tobytes() == back[0]["images"][0].tobytes()
