"""What every training command begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from veridical.judges.named import JudgeRuntime, Judging
from veridical.models.adapters import require_adapter
from veridical.models.attention import check_trainable
from veridical.models.cache_keys import model_fingerprint
from veridical.models.load import choose_device, load_policy, starts_from_adapter
from veridical.models.model_argument import Model, name_of
from veridical.models.policy import Policy
from veridical.models.precision import HALF_NAMES, dtype_name, mixed_precision
from veridical.models.tuning import was_trained, widen_trained
from veridical.models.usable import require_trainable
from veridical.objectives.base import Described
from veridical.runtime import processes
from veridical.runtime.allocator import give_back_freed_memory
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import Fingerprint, is_here, model_folders, named_folder
from veridical.runtime.full_memory import memory_errors_alike
from veridical.runtime.hub import check_hub_name, looks_like_path
from veridical.runtime.lacking import memory_asked_for
from veridical.runtime.options import by_option
from veridical.runtime.runs import Run, start_run
from veridical.train.loop.checking import benchmarks, check_checking
from veridical.train.loop.pushing import check_push, push_result
from veridical.train.loop.reporting import check_trackers, tracker_variables
from veridical.train.loop.resume import (
    check_run_folder,
    earlier_fields,
    record_put_back,
    refuse_fewer_steps,
    require_same_model,
)
from veridical.train.loop.showing import check_showing
from veridical.train.loop.stopping import check_selection, figures_of
from veridical.train.loop.trainer_keys import REINFORCED, loop_of
from veridical.train.loop.trainer_options import trainer_arguments
from veridical.train.options import Training

BESIDE_REFERENCE = ("train dpo", "train online", *REINFORCED)
"""The commands whose policy has to start as the reference that it is compared with."""


@dataclass(frozen=True)
class Given:
    """What a training command was given.

    Attributes:
        command: its words, such as "train dpo".
        model: what to load.
        data: the rows.
        out: the run's folder.
        training: the options of every training command.
        options: its own, by parameter.
        inputs: other files that decide the result, by option; None is left out.
        models: other models that do.
    """

    command: str
    model: Model
    data: Path
    out: Path
    training: Training
    options: Mapping[str, Any]
    inputs: Mapping[str, Path | None] = field(default_factory=dict)
    models: Mapping[str, Model | None] = field(default_factory=dict)

    @property
    def configuration(self) -> dict[str, object]:
        """Every option, as `run.json` keeps them."""
        own = {"model": self.model, "data": self.data, "out": self.out, "training": self.training}
        given = {**own, **self.options}
        loaded = {name: name_of(one) for name, one in given.items() if isinstance(one, Policy)}
        return by_option(given | loaded)

    @property
    def all_models(self) -> dict[str, Model]:
        """Every model that is loaded, by option."""
        declared = self.options.get("reference_model")
        models = {"model": self.model, "reference_model": declared, **self.models}
        return {option: model for option, model in models.items() if model}

    def all_inputs(self, checked: Mapping[str, Path]) -> dict[str, Path]:
        """Every file that decides the result, by option; `checked` are those of evaluations."""
        more = {f"more_data_{n}": path for n, path in enumerate(self.training.more_data or ())}
        other = {name: path for name, path in self.inputs.items() if path is not None}
        return {"data": self.data} | more | dict(checked) | other


@contextmanager
def start_training(given: Given) -> Iterator[Run]:
    """Meet the other processes, seed, refuse what can't be done, and write `run.json`.

    Everything within computes in the precision that was asked for.

    Args:
        given: the command and its options.

    Raises:
        UserError: an option makes no sense, there is no data, or the folder holds another run.
    """
    training, out = given.training, given.out
    inputs = given.all_inputs(_refuse_early(given))
    configuration, models = given.configuration, given.all_models
    resumed = models if training.resume else {}
    here = processes.from_first(lambda: _fingerprints_here(resumed, training))
    processes.from_first(lambda: check_run_folder(out, given.command, configuration, inputs, here))
    processes.from_first(lambda: refuse_fewer_steps(out, training))
    kept: dict[str, object] = {}
    if training.resume:
        kept = processes.from_first(lambda: earlier_fields(out, configuration))
    folders = model_folders(*map(name_of, models.values()), str(training.init_adapter or ""))
    with (
        record_put_back(out) if training.resume else nullcontext(),
        start_run(out, given.command, configuration, inputs, kept=kept, models=folders) as run,
        mixed_precision(training.mixed_precision),
        tracker_variables(training.report_to, out),
    ):
        for value in given.options.values():
            if isinstance(value, Described):
                run.note(objective=value.describe())
        with _enough_memory(training):
            yield run
    # The run is finished: nothing that happens here changes that.
    push_result(run, training)


@contextmanager
def _enough_memory(training: Training) -> Iterator[None]:
    """Say what to set where memory is full in a proof, the reference's pass or a training step.

    Raises:
        UserError: it is, on a GPU or a CPU.
    """
    try:
        with memory_errors_alike():
            yield
    except torch.OutOfMemoryError as error:
        batch = "--batch-size, " if training.batch_size > 1 else ""
        raise UserError(
            f"There is not enough memory{memory_asked_for(error)}. Lower {batch}--max-length, or "
            "the tokens of a response (--max-response-tokens, --max-new-tokens), set "
            "trainer.gradient_checkpointing, or choose another --device."
        ) from error


def _refuse_early(given: Given) -> dict[str, Path]:
    """Refuse options before any work, and meet the other processes.

    Returns:
        The files that evaluations on the way read, by option.
    """
    training, command = given.training, given.command
    training.check()
    training.check_saved(starts_from_adapter(name_of(given.model), training.init_adapter))
    check_trackers(training.report_to)
    check_showing(training.show_every, command)
    checked = check_checking(training, command)
    loop = loop_of(command)
    figures = figures_of(command)
    check_selection(
        training.select_by, training.patience, training.held_out, benchmarks(training), figures
    )
    if command in BESIDE_REFERENCE:
        mixed = training.mixed_precision == "bf16"
        refuse_rounded_dora(training, "bfloat16" if mixed else training.weights_dtype)
    _require_models(given)
    require_file(given.data, "--data")
    join_processes(training.device)
    if training.attention != "auto":
        device = choose_device(training.device)
        check_trainable(training.attention, training.weights_dtype, device)
    processes.from_first(lambda: check_push(training))
    torch.manual_seed(training.seed)
    on_cpu = training.device == "cpu"
    trainer_arguments(training, given.out, 1, training.held_out > 0, on_cpu, loop)
    seen = {given.data.resolve()}
    for path in training.more_data or ():
        require_file(path, "--more-data")
        if path.resolve() in seen:
            raise UserError(
                f"--more-data: {path} was given before (--data counts too). Name each file once; "
                "--data-weights or more --epochs show its rows more often."
            )
        seen.add(path.resolve())
    return checked


def _require_models(given: Given) -> None:
    """Refuse models and adapters that are not there; a hub's name is looked up when it is loaded.

    Raises:
        UserError: names the path.
    """
    for model in given.all_models.values():
        name = name_of(model)
        if isinstance(model, str) and named_folder(name) is None and looks_like_path(name):
            check_hub_name(name)
    if given.training.init_adapter is not None:
        require_adapter(given.training.init_adapter)


def record_model(
    run: Run, option: str, model: Model, training: Training, policy: Policy | None = None
) -> None:
    """Write down which model was loaded, and compare it with that of a resumed run's start.

    Models in folders were compared before anything was written; a hub's may be of another commit
    today.

    Args:
        run: keeps it in `run.json`.
        option: that names the model.
        model: its name, or the loaded model.
        training: the run's options.
        policy: the model, which knows what merging its adapters cost.

    Raises:
        UserError: the run was started with another.
    """
    name = name_of(model)
    found = processes.from_first(lambda: _fingerprint(option, model, training))
    known = run.record.get("models", {})
    if option in known:
        require_same_model(option, name, known[option], found)
    else:
        run.note_model(option, name, found, policy.merges if policy is not None else ())


def _fingerprint(option: str, model: Model, training: Training) -> Fingerprint:
    adapter = training.init_adapter if option == "model" else None
    return model_fingerprint(model, adapter, training.open_cache())


def _fingerprints_here(models: Mapping[str, Model], training: Training) -> dict[str, Fingerprint]:
    """Of the models whose files are all here before they are loaded."""
    return {
        option: _fingerprint(option, model, training)
        for option, model in models.items()
        if not isinstance(model, str) or is_here(model)
    }


def judge_place(run: Run, judging: Judging, training: Training) -> JudgeRuntime:
    """Where a run's judge works; one that is a model is recorded once it is loaded.

    Opening it raises `UserError` where a resumed run was started with another.
    """

    def record(policy: Policy) -> None:
        record_model(run, "judge", judging.named, training, policy)

    return JudgeRuntime(run.folder, training.batch_size, training.placement, training.seed, record)


def load_start(model: Model, training: Training, run: Run | None = None) -> Policy:
    """The model that training starts from; what is trained of it whole is in float32.

    Args:
        model: its name; a loaded model is trained in place.
        training: the run's options.
        run: writes down which files it was.

    Raises:
        UserError: it can't be loaded or trained, or a resumed run was started with another.
    """
    if not isinstance(model, str) and was_trained(model):
        raise UserError(
            f"This model was trained in this process, and is no longer {model.name}. Give the "
            "folder that was written, or load the model again."
        )
    policy = load_policy(
        model,
        training.weights_dtype,
        training.device,
        training.init_adapter,
        training.four_bit,
        training.template,
        training.attention,
    )
    if run is not None:
        record_model(run, "model", model, training, policy)
    require_trainable(policy)
    widen_trained(policy, training.trained)
    if policy.device.type == "cpu":
        # Before anything large is computed: what was freed until then stays in pieces.
        give_back_freed_memory()
    return policy


def load_start_beside_reference(model: Model, training: Training, run: Run) -> Policy:
    """The model that training starts from, which is its own reference.

    Raises:
        UserError: with these adapters the policy does not start as the reference, or as for
            `load_start`.
    """
    policy = load_start(model, training, run)
    refuse_rounded_dora(training, dtype_name(policy))
    return policy


def refuse_rounded_dora(training: Training, dtype: str) -> None:
    """Refuse DoRA beside a reference where weights are rounded.

    Args:
        training: the run's options.
        dtype: of the frozen weights, by name; `auto` where only the checkpoint says.

    Raises:
        UserError: the policy would not start as its reference.
    """
    if not training.lora_dora or not (dtype in HALF_NAMES or training.four_bit):
        return
    rounded = "four bits" if training.four_bit else dtype
    instead = "Set --dtype float32"
    if training.four_bit:
        instead = "Set --tuning lora and --dtype float32"
    elif training.mixed_precision != "no":
        instead = "Set --mixed-precision no and --dtype float32"
    raise UserError(
        "--lora-dora rescales every weight from the first step on, which rounds them in "
        f"{rounded}: the policy would not start as its reference. {instead}, or leave "
        "--lora-dora out."
    )


def join_processes(device: str) -> None:
    """Meet the other processes of a launcher, before anything is read or written.

    Raises:
        UserError: the launcher asks for what would start processes from different weights.
    """
    efficient = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower()
    if efficient in ("true", "1") and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise UserError(
            "With fsdp_cpu_ram_efficient_loading only one process would have the weights that the "
            "proofs need. Set it to false in the launcher's configuration."
        )
    processes.join(on_cpu=device == "cpu" or not torch.cuda.is_available())
