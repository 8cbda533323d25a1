"""Supervised fine-tuning on the answers of conversations, or on the chosen answers of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from veridical.models.model_argument import Model
from veridical.train.loop.fine_tuning import fine_tune
from veridical.train.loop.rows import read_training_rows
from veridical.train.loop.start import Given, load_start, start_training
from veridical.train.loop.training_set import training_set
from veridical.train.options import Training

METHOD = "supervised fine-tuning (SFT)"


def train_sft(
    model: Model,
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
    training: Training = Training(learning_rate=2e-5, model_dropout=True),
) -> None:
    """Fine-tune MODEL on the answers in DATA and write the result to OUT.

    The loss is on the tokens of every assistant turn, averaged over the whole global batch; with
    preference pairs, on the chosen answer.

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: conversations or preference pairs, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what the rows are; of `preference` rows the chosen answers are learned.
        training: what every training command takes.
    """
    with start_training(Given("train sft", model, data, out, training, {"kind": kind})) as run:
        start = load_start(model, training, run)
        read = read_training_rows(start, data, kind, ("chosen",), training)
        fine_tune(run, METHOD, model, start, training_set(start, read, training, out), training)
