"""Supervised fine-tuning on the answers of conversations, or on the chosen answers of pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from veridical import processes
from veridical.cache import open_cache
from veridical.files import require_file, write_json
from veridical.logprobs import ResponseLogps, Sharing, collate, sharing
from veridical.models import (
    DtypeName,
    Policy,
    Tuning,
    TuningName,
    load_policy,
    prepare_training,
    starts_from_adapter,
)
from veridical.proofs import Proof, noise_floor, print_proofs, prove, require
from veridical.rendering import Group
from veridical.runs import Run, start_run
from veridical.train.card import write_cards
from veridical.train.features import keep_features, with_features
from veridical.train.loop import Items, Outcome, Task
from veridical.train.resume import check_folder
from veridical.train.rows import (
    TrainingRows,
    list_skipped,
    read_training_rows,
    split_held_out,
)
from veridical.train.run import TrainerSettings, join_processes, run_trainer, save_result
from veridical.train.scorer import Scorer
from veridical.vision_cache import VisionCache

PROOF_ROWS = 4
METHOD = "supervised fine-tuning (SFT)"


def train_sft(
    model: str,
    data: Path,
    out: Path,
    kind: Literal["conversation", "preference"] = "conversation",
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
    cache: str | None = None,
    cache_gigabytes: float = 50.0,
    vision_cache: bool = False,
    save_merged: bool = True,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    dtype: DtypeName = "auto",
    device: str = "auto",
    seed: int = 0,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Fine-tune MODEL on the answers in DATA and write the result to OUT.

    The loss is on the tokens of every assistant turn, averaged over the whole global batch; with
    preference pairs, on the chosen answer.

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: conversations or preference pairs, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        kind: what the rows are; of `preference` rows the chosen answers are learned.
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
        cache: folder that runs share for image features, or `none`; if not set, the variable
            VERIDICAL_CACHE says, else it is the user's folder for caches.
        cache_gigabytes: what that folder may hold, in 10^9 bytes; the longest unused goes first.
        vision_cache: keep each image's features there instead of encoding it at every step; the
            vision tower has to be frozen.
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
    store = open_cache(cache, cache_gigabytes)
    inputs = {"data": data} | ({"model": Path(model)} if Path(model).is_dir() else {})
    processes.from_first(lambda: check_folder(out, "train sft", configuration, inputs))
    with start_run(out, "train sft", configuration, inputs) as run:
        start = load_policy(model, dtype, device, init_adapter, tuning == "qlora")
        rows = read_training_rows(
            start, data, kind, ("chosen",), images_root, max_bad_fraction, max_length,
            max_response_tokens,
        )  # fmt: skip
        list_skipped(out, rows)
        train, evaluation = split_held_out(rows.groups, held_out, seed)
        wanted = Tuning(tuning, lora_rank, lora_alpha, 0.0, train_projector, train_vision)
        features = keep_features(start, wanted, store) if vision_cache else None
        fine_tune(
            run, METHOD, start, wanted, settings, rows, train, evaluation, share_prefix,
            prove_first, save_merged, starts_from_adapter(model, init_adapter),
            lambda: load_policy(model, dtype, "cpu", init_adapter),
            features,
        )  # fmt: skip


def fine_tune(
    run: Run,
    method: str,
    start: Policy,
    tuning: Tuning,
    settings: TrainerSettings,
    rows: TrainingRows,
    train: list[Group],
    evaluation: list[Group],
    share_prefix: bool,
    prove_first: bool,
    save_merged: bool,
    started_from_adapter: bool,
    reload: Callable[[], Policy],
    features: VisionCache | None = None,
) -> None:
    """Prove, train on the first response of each group, save, and end the run.

    Args:
        run: as started; its folder gets everything.
        method: what the model card calls it.
        start: the policy to start from.
        tuning: what of it is trained.
        settings: how long, how fast.
        rows: what was read, for its counts.
        train: what is learned.
        evaluation: what is held out; may be empty.
        share_prefix: see `train_sft`.
        prove_first: see `train_sft`.
        save_merged: see `train_sft`.
        started_from_adapter: whether the start has an adapter merged into it.
        reload: loads the start once more, for a save where no process holds the whole model.
        features: image features that are kept, if they are.
    """
    out, configuration = run.folder, run.record["configuration"]
    shares = sharing(start, train) if share_prefix else Sharing(False, "--share-prefix false")
    policy = prepare_training(start, tuning)
    proofs: list[Proof] = []
    few = sorted(train, key=lambda group: not group.images)[:PROOF_ROWS]
    if prove_first:
        proofs = prove(policy, few, lambda groups: collate(policy, groups, shares.allowed))
        if processes.is_first():
            write_json(out / "proofs.json", [dataclasses.asdict(proof) for proof in proofs])
        print_proofs(proofs)
        require(proofs)
    if features is not None:
        floor = noise_floor(policy, few)
        policy = with_features(policy, features, few, shares.allowed, floor)
    task = Task(Scorer(policy), objective, count_tokens, shares.allowed)
    held_out_items = Items(evaluation, torch.zeros(len(evaluation), 1)) if evaluation else None
    train_items = Items(train, torch.zeros(len(train), 1))
    finished = run_trainer(policy, task, settings, train_items, held_out_items, out)
    files = save_result(
        policy, out, save_merged, started_from_adapter, lambda: prepare_training(reload(), tuning)
    )
    counts = {"rows": len(train), "held-out rows": len(evaluation)}
    write_cards(out, files, method, configuration, counts, proofs, finished)
    run.finish(
        rows=len(train), held_out_rows=len(evaluation), skipped=len(rows.skipped),
        cut_responses=rows.cut, prefix_sharing=dataclasses.asdict(shares), **finished,
    )  # fmt: skip
    print(f"The fine-tuned model is in {out / next(iter(files), 'model')}.")


def objective(policy: ResponseLogps, reference: Tensor) -> Outcome:
    """Negative log-likelihood, summed over tokens; there is no reference."""
    sums, counts = policy.sums[:, 0], policy.counts[:, 0]
    measures = {"logps_chosen": sums, "chosen_tokens": counts}
    return Outcome(-sums.sum(), measures)


def count_tokens(groups: Sequence[Group]) -> int:
    """Response tokens of a batch."""
    return sum(int(group.learned_of(0).sum()) for group in groups)
