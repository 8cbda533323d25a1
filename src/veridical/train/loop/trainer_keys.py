"""Every key of Transformers' TrainingArguments: honored, ours, or refused, for both loops.

A key that would be taken and ignored is worse than one that is refused, so each stands in a table
with what happens to it. `tests/train/test_trainer_keys.py` goes through all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Loop = Literal["trainer", "reinforcement"]
"""Who runs the steps: Transformers' Trainer, or the loop of reinforcement learning."""
REINFORCED = ("train ppo", "train rloo", "train grpo")
"""The commands of reinforcement learning."""

HONORED_BY_BOTH = frozenset({
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args",
    "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "tf32",
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "save_total_limit", "full_determinism",
})  # fmt: skip

HONORED: Mapping[Loop, frozenset[str]] = {
    "trainer": HONORED_BY_BOTH | {
        "optim_target_modules", "torch_empty_cache_steps", "logging_strategy", "logging_steps",
        "logging_first_step", "log_level", "log_level_replica", "eval_delay", "debug",
        "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
        "ddp_static_graph",
    },
    "reinforcement": HONORED_BY_BOTH,
}  # fmt: skip
"""What goes through to the loop."""

OURS: Mapping[str, str] = {
    "output_dir": "set --out",
    "do_train": "the command decides it",
    "do_eval": "the command decides it",
    "do_predict": "the command decides it",
    "seed": "set --seed",
    "data_seed": "set --seed",
    "remove_unused_columns": "it stays off, as images would be removed",
    "label_names": "the losses decide it",
    "prediction_loss_only": "the losses decide it",
    "learning_rate": "set --learning-rate",
    "num_train_epochs": "set --epochs",
    "max_steps": "set --max-steps",
    "per_device_train_batch_size": "set --batch-size",
    "per_device_eval_batch_size": "set --batch-size",
    "gradient_accumulation_steps": "set --accumulation",
    "eval_strategy": "set --evaluations",
    "eval_steps": "set --evaluations",
    "save_strategy": "set --evaluations",
    "save_steps": "set --evaluations",
    "load_best_model_at_end": "the best checkpoint is taken whenever --held-out is above 0",
    "metric_for_best_model": "set --select-by",
    "greater_is_better": "set --select-by",
    "resume_from_checkpoint": "set --resume true",
    "bf16": "set --mixed-precision bf16, or --dtype bfloat16 for frozen weights under LoRA",
    "fp16": "set --mixed-precision bf16, or --dtype float16 for frozen weights under LoRA",
    "bf16_full_eval": "rows are evaluated as they are trained on: set --mixed-precision or --dtype",
    "fp16_full_eval": "rows are evaluated as they are trained on: set --dtype",
    "label_smoothing_factor": "the losses decide it (`train dpo` has --label-smoothing)",
    "save_only_model": "checkpoints are kept to be resumed",
    "train_sampling_strategy": "the order is that of --seed",
    "length_column_name": "the order is that of --seed",
    "eval_on_start": "held-out rows are evaluated at step 0 whenever --held-out is above 0",
    "report_to": "set --report-to",
    "use_cpu": "set --device cpu",
    "disable_tqdm": "one line shows the steps",
}
"""Keys that the commands set themselves, each with what to do instead, as a phrase."""

_WORKERS = "the next batch is laid out beside a step by itself, where a GPU computes"
_EVALUATION = "held-out rows are evaluated for their mean losses alone"
_LAUNCHER = "the launcher decides it: set it in its own configuration (`accelerate config`)"
_HUB = "set --push-to-hub OWNER/NAME (and --push-public), which pushes the finished model once"
_REPORT = "set --report-to; WANDB_PROJECT, TRACKIO_PROJECT and TRACKIO_SPACE_ID say where"
_COMPILED = "compiled models are not tested here"
_LIGER = "Liger's kernels replace heads and norms whose results the proofs check"

REFUSED: Mapping[str, str] = {
    "hub_token": "keys come from the environment (HF_TOKEN) and are never written",
    "neftune_noise_alpha": "noise on the policy's input would be missing in reference and proofs",
    "auto_find_batch_size": "find one with --dry-run true, and set --batch-size",
    "torch_compile": _COMPILED,
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "use_cache": "training reads whole rows, so there is nothing to keep",
    "average_tokens_across_devices": "losses are over the whole global batch in any case",
    "include_num_input_tokens_seen": "the log has the tokens of answers instead",
    "logging_nan_inf_filter": "a loss that is not a number ends the run",
    "log_on_each_node": "the first process writes the log",
    "skip_memory_metrics": "set --dry-run true to see what memory a step takes",
    "save_on_each_node": "the first process writes checkpoints; --out has to be shared",
    "enable_jit_checkpoint": "its checkpoints have no manifest, so --resume would pass them over",
    "ignore_data_skip": "a resumed run sees the rows that are left",
    "restore_callback_states_from_checkpoint": "no callback here has a state",
    "run_name": _REPORT,
    "project": _REPORT,
    "trackio_space_id": _REPORT,
    "trackio_bucket_id": _REPORT,
    "trackio_static_space_id": _REPORT,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_private_repo": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "accelerator_config": "processes share each batch in one way only",
    "parallelism_config": _LAUNCHER,
    "fsdp": _LAUNCHER,
    "fsdp_config": _LAUNCHER,
    "deepspeed": _LAUNCHER,
    "local_rank": _LAUNCHER,
    "ddp_backend": "processes meet before: nccl on GPUs, gloo on CPUs",
    "ddp_timeout": "processes meet before, and wait 30 minutes for each other",
    "dataloader_drop_last": "every row counts",
    "dataloader_num_workers": _WORKERS,
    "dataloader_pin_memory": _WORKERS,
    "dataloader_persistent_workers": _WORKERS,
    "dataloader_prefetch_factor": _WORKERS,
    "dataloader_multiprocessing_context": _WORKERS,
    "dataloader_in_order": _WORKERS,
}
"""Keys that would be ignored, or break what a run promises, each with the reason."""

_OWN_LOOP = "PPO, RLOO and GRPO run a loop of their own, which does not have it"
_SUMS = "gradients are summed over processes by the command itself, without DDP"
_EVERY_STEP = "every step has a line in log.jsonl"

REFUSED_IN_REINFORCEMENT: Mapping[str, str] = {
    "optim_target_modules": _OWN_LOOP,
    "torch_empty_cache_steps": _OWN_LOOP,
    "debug": _OWN_LOOP,
    "log_level": _OWN_LOOP,
    "log_level_replica": _OWN_LOOP,
    "logging_strategy": _EVERY_STEP,
    "logging_steps": _EVERY_STEP,
    "logging_first_step": _EVERY_STEP,
    "eval_delay": "evaluations begin at step 0",
    "ddp_find_unused_parameters": _SUMS,
    "ddp_bucket_cap_mb": _SUMS,
    "ddp_broadcast_buffers": _SUMS,
    "ddp_static_graph": _SUMS,
}
"""The same, where only the loop of reinforcement learning lacks it."""

STEERED_OPTIMIZERS: Mapping[str, str] = {
    "galore": "galore_torch", "apollo": "apollo_torch", "lomo": "lomo_optim",
    "adalomo": "lomo_optim", "schedule_free": "schedulefree",
}  # fmt: skip
"""Beginnings of optimizers' names that Transformers' Trainer steers by hand, with the packages that
have them."""

MEASURED_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow a held-out loss."""


def loop_of(command: str) -> Loop:
    """Who runs the steps of a command, such as "train dpo"."""
    return "reinforcement" if command in REINFORCED else "trainer"


def refusals(loop: Loop) -> dict[str, str]:
    """Every key that may not be set, with what to do instead or why, as a phrase."""
    more = REFUSED_IN_REINFORCEMENT if loop == "reinforcement" else {}
    return {**OURS, **REFUSED, **more}
