"""SteerLM: learn every rated response, told how it was rated (Dong et al. 2023).

Each response becomes a row: its prompt ends with a request for an answer with the marks that it
got, and the response is learned. Asked for high marks afterwards (`--steer all-4`), the model
answers as the well-rated responses did (Li et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from veridical import processes
from veridical.files import require_file
from veridical.models import DtypeName, Policy, Tuning, TuningName, load_policy, starts_from_adapter
from veridical.records import count_images, response_name
from veridical.rendering import Group, RefusedRowError, render_group
from veridical.runs import start_run
from veridical.steering import ATTRIBUTES, MOST, Numerals, numerals_for, steer_prompt
from veridical.train.resume import check_folder
from veridical.train.rows import Images, Limits, list_skipped, render_rows, split_held_out
from veridical.train.run import TrainerSettings, join_processes
from veridical.train.sft import fine_tune

METHOD = "SteerLM (fine-tuning on rated responses)"


def train_steerlm(
    model: str,
    data: Path,
    out: Path,
    tuning: TuningName = "lora",
    lora_rank: int = 128,
    lora_alpha: int = 256,
    init_adapter: Path | None = None,
    train_projector: bool = False,
    train_vision: bool = False,
    projector_learning_rate: float | None = None,
    learning_rate: float = 2e-5,
    epochs: float = 1.0,
    max_steps: int = -1,
    batch_size: int = 8,
    accumulation: int = 4,
    max_length: int | None = None,
    max_response_tokens: int | None = None,
    held_out: float = 0.05,
    evaluations: int = 10,
    share_prefix: bool = True,
    prove_first: bool = True,
    resume: bool = False,
    save_merged: bool = True,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    dtype: DtypeName = "auto",
    device: str = "auto",
    seed: int = 0,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Fine-tune MODEL on every rated response in DATA, each behind the marks it got.

    The loss is that of `train sft`, on the response alone. All responses to a prompt are held out
    together or not at all.

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: records of kind `sample`, each response rated on Helpfulness, Correctness, Coherence,
            Complexity and Verbosity in whole numbers 0 to 4, as `build rate` does.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        tuning: `lora` on the language model's linear layers, `qlora` (the same, on weights of
            four bits), or `full`.
        lora_rank: rank of the adapters.
        lora_alpha: scaling of the adapters (the update is scaled by alpha / rank).
        init_adapter: PEFT adapter to start from; it is merged.
        train_projector: train the projector too.
        train_vision: train the vision tower too.
        projector_learning_rate: of the projector, if trained; the common one if not set.
        learning_rate: peak learning rate.
        epochs: passes over the rows.
        max_steps: optimiser steps; above 0 it overrides epochs.
        batch_size: rows on a device at once.
        accumulation: batches an optimiser step.
        max_length: prompt and answer together, in tokens; longer rows are listed and left out.
        max_response_tokens: longer answers lose their end (and are counted).
        held_out: share of rows kept for evaluation, 0 to below 1; the checkpoint with the lowest
            loss on them is the result.
        evaluations: how often the held-out rows are evaluated (and a checkpoint is kept).
        share_prefix: use the layout without logits for image tokens, where the model allows it.
        prove_first: run the proofs before the first step and stop if one fails.
        resume: go on from the newest checkpoint in OUT that verifies.
        save_merged: also write the merged model (LoRA), not only the adapter.
        images_root: what image paths are relative to; the data file's folder if not set.
        max_bad_fraction: share of unusable rows above which the run does not start.
        dtype: of the weights; `auto` keeps the checkpoint's own (float32 on a CPU).
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...
        seed: of order, adapters and held-out rows.
        trainer: any other option of Transformers' TrainingArguments.
    """
    configuration = dict(locals())
    require_file(data, "--data")
    join_processes(device)
    torch.manual_seed(seed)
    settings = TrainerSettings(
        learning_rate, epochs, max_steps, batch_size, accumulation, evaluations, seed,
        projector_learning_rate, resume, trainer,
    )  # fmt: skip
    settings.arguments(out, 1, False, device == "cpu")  # refuses a bad `trainer:` before any work
    inputs = {"data": data} | ({"model": Path(model)} if Path(model).is_dir() else {})
    processes.from_first(lambda: check_folder(out, "train steerlm", configuration, inputs))
    with start_run(out, "train steerlm", configuration, inputs) as run:
        start = load_policy(model, dtype, device, init_adapter, tuning == "qlora")
        numerals = numerals_for(start.processor.tokenizer)
        limits = Limits(max_bad_fraction, max_length, max_response_tokens)

        def render(row: dict[str, Any], images: Images) -> list[Group]:
            return steered_groups(start, row, images, numerals, max_response_tokens)

        rows = render_rows(start, data, "sample", images_root, limits, render)
        list_skipped(out, rows)
        train, evaluation = split_held_out(rows.groups, held_out, seed, by=prompt_id)
        wanted = Tuning(tuning, lora_rank, lora_alpha, 0.0, train_projector, train_vision)
        fine_tune(
            run, METHOD, start, wanted, settings, rows, train, evaluation, share_prefix,
            prove_first, save_merged, starts_from_adapter(model, init_adapter),
            lambda: load_policy(model, dtype, "cpu", init_adapter),
        )  # fmt: skip


def steered_groups(
    policy: Policy,
    row: dict[str, Any],
    images: Images,
    numerals: Numerals,
    max_response_tokens: int | None,
) -> list[Group]:
    """A row for each response of a record, behind its own marks.

    Raises:
        RefusedRowError: a response lacks a mark, or the row cannot be rendered.
    """
    pictures = images.of_prompt(count_images(row["prompt"]))
    groups = []
    for number, response in enumerate(row["responses"]):
        marks = marks_of(row.get("ratings") or (), response_name(number))
        prompt = steer_prompt(row["prompt"], marks, numerals)
        id = f"{row['id']}/{number}"
        groups.append(render_group(policy, id, pictures, prompt, [response], max_response_tokens))
    return groups


def marks_of(ratings: Sequence[dict[str, Any]], answer: str) -> dict[str, int]:
    """The five marks of a response.

    Raises:
        RefusedRowError: one is missing, or is no whole number from 0 to 4.
    """
    found = {row["aspect"]: row["value"] for row in ratings if row["answer"] == answer}
    for name in ATTRIBUTES:
        if name not in found:
            raise RefusedRowError(f"{answer} is not rated on {name}")
        if found[name] not in range(MOST + 1):
            raise RefusedRowError(
                f"{answer} has {name} {found[name]:g}, no whole number from 0 to {MOST}"
            )
    return {name: int(found[name]) for name in ATTRIBUTES}


def prompt_id(group_id: str) -> str:
    """The record that a row of `steered_groups` is from."""
    return group_id.rpartition("/")[0]
