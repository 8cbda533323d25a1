"""What a folder that holds checkpoints is good for: to be resumed as it was started."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from veridical.judges.endpoint import EndpointSettings
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_path, read_jsonl, write_json
from veridical.runtime.fingerprint import Fingerprint
from veridical.runtime.progress import counted, say
from veridical.runtime.run_record import RECORD, read_fields, read_record, this_process
from veridical.runtime.runs import json_types
from veridical.sampling.engines.server import ServerSettings
from veridical.train.loop.checkpoints import newest_finished, newest_verified, steps_of
from veridical.train.loop.counting import total_steps
from veridical.train.options import Training

FREE = {
    "out", "resume", "extend", "cache", "cache_gigabytes", "vision_cache", "save_merged",
    "save_dtype", "prove_first", "report_to", "show_every", "device", "images_root",
    "max_bad_fraction", "model", "data", "rollout_batch", "push_to_hub", "push_public",
}  # fmt: skip
"""Options that may differ when a run is resumed: they leave the result as it is, or what they name
is compared in its own way: the file of rows by content, models by their fingerprints. Other files
and models are free where both are there to be compared (`_compared`)."""

LENGTH = {"epochs", "max_steps", "patience"}
"""Options that may differ as well where a run is extended, and only there."""

AS_BEFORE: Mapping[str, object] = {
    "generation_weight": 0.0, "reference_every": None, "overlong_penalty": 0.0,
    "attention": "auto", "group_by_length": "no",
}  # fmt: skip
"""Newer options that change a result, and the value that goes on with a run that was started before
they were there."""

FREE_KEYS: Mapping[str, frozenset[str]] = {
    "endpoint": frozenset(field.name for field in fields(EndpointSettings)),
    "engine": frozenset(field.name for field in fields(ServerSettings)),
    "trainer": frozenset({
        "logging_steps", "logging_strategy", "logging_first_step", "log_level",
        "log_level_replica", "save_total_limit", "debug", "torch_empty_cache_steps",
        "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    }),
}  # fmt: skip
"""Of options that are dictionaries, the keys that may differ: budgets, addresses, patience, and
what is logged or kept."""


def check_run_folder(
    out: Path,
    command: str,
    configuration: Mapping[str, object],
    inputs: Mapping[str, Path],
    models: Mapping[str, Fingerprint],
) -> None:
    """Before anything is written: may this run use the folder?

    Args:
        out: the run's folder.
        command: such as "train dpo".
        configuration: every option as resolved; `resume` is one of them.
        inputs: files that the run reads, as `start_run` takes them.
        models: by option, those that are known before they are loaded.

    Raises:
        UserError: it holds checkpoints and `resume` is not asked for, or they are of a run with
            other options or other data.
    """
    if not any((out / "checkpoints").glob("checkpoint-*")):
        return
    if not configuration["resume"]:
        if (out / RECORD).is_file():
            found = read_record(out)
            if found.command != command or found.is_alive:
                return  # `start_run` says whose folder it is, or which process writes there
        raise UserError(
            f"{out} already holds a run's checkpoints. Set --resume true to go on with it, or "
            "choose another --out."
        )
    if not (out / RECORD).is_file():
        return
    record = read_fields(out)
    if record.get("command") != command:
        raise UserError(f"{out} holds a run of `{record.get('command')}`; choose another --out.")
    before, known = record.get("configuration", {}), record.get("models", {})
    compared = _compared_files(record.get("inputs", {}), inputs)
    compared |= _compared_models(before, configuration, known.keys() & models.keys())
    changed = _changed_from_either(before, length_before_extension(out), configuration, compared)
    changed += _changed_inputs(record.get("inputs", {}), inputs)
    if not ("model" in known and "model" in models):
        changed += _changed_name(before, configuration)
    if changed:
        raise UserError(
            f"{out} was started with {'; '.join(changed)}. Give what it was started with to "
            f"resume it, or choose another --out.{_how_to_extend(changed)}"
        )
    for option in sorted(known.keys() & models.keys()):
        require_same_model(option, configuration.get(option), known[option], models[option])


def earlier_fields(out: Path, configuration: Mapping[str, object]) -> dict[str, object]:
    """What the record of a run that goes on keeps of the one that is there.

    Args:
        out: the run's folder.
        configuration: every option now.

    Returns:
        The models that the run was started with, and which length it had, if another is asked for.
    """
    if not any((out / "checkpoints").glob("checkpoint-*")) or not (out / RECORD).is_file():
        return {}
    fields, kept = read_fields(out), dict[str, object]()
    if fields.get("models"):
        kept["models"] = fields["models"]
    before, now = length_before_extension(out), json_types(configuration)
    if before is None:
        recorded = fields.get("configuration", {})
        before = {name: recorded[name] for name in LENGTH & recorded.keys()}
    if any(value != now.get(name) for name, value in before.items()):
        step = newest_finished(out / "checkpoints")
        kept["extended"] = {"from_step": step, "length": before}
    return kept


def length_before_extension(out: Path) -> dict[str, object] | None:
    """The length that a run had, if it was extended and stopped before its next checkpoint.

    Until then nothing of the new length is in the run: it may go on with either.

    Args:
        out: the run's folder.

    Returns:
        The options of `LENGTH`; None where those recorded as the run's are its only ones.
    """
    extension = read_fields(out).get("extended")
    if extension is None or newest_finished(out / "checkpoints") > extension["from_step"]:
        return None
    return dict(extension["length"])


@contextmanager
def record_put_back(out: Path) -> Iterator[None]:
    """Leave `run.json` as it was where going on with a run is refused before its next checkpoint.

    What was refused is none of the run's options, with which the next attempt is compared, and a
    run that was finished keeps its results.

    Args:
        out: the run's folder.
    """
    before, me = read_fields(out) if (out / RECORD).is_file() else None, this_process()
    kept = set((out / "checkpoints").glob("checkpoint-*"))
    try:
        yield
    except UserError:
        unchanged = kept and kept == set((out / "checkpoints").glob("checkpoint-*"))
        # Another process that still runs there has a record of its own, which stays.
        own = unchanged and processes.is_first() and read_fields(out).get("process") == me
        if own and before is not None:
            write_json(out / RECORD, before)
        raise


def require_same_model(option: str, name: Any, old: Mapping[str, Any], new: Fingerprint) -> None:
    """Compare a model with that of the start.

    Args:
        option: that names the model, as a parameter.
        name: what it says.
        old: what `run.json` says of it.
        new: the model today.

    Raises:
        UserError: a file has another content, as after a new commit on the hub.
    """
    changed = new.changed_files(old)
    if not changed:
        return
    which = ""
    if old.get("revision") and new.revision:
        which = f" (revision {old['revision'][:12]}, now {new.revision[:12]})"
    raise UserError(
        f"The run was started with other weights of --{option.replace('_', '-')} {name}{which}: "
        f"{', '.join(changed[:3])} {'differs' if len(changed) == 1 else 'differ'}. Give the model "
        "that it was started with, or choose another --out."
    )


def refuse_fewer_steps(out: Path, training: Training) -> None:
    """Before a model is loaded: is the run extended to fewer steps than it has?

    How many steps an epoch has is known where its newest checkpoint ends one; else
    `require_steps_left` finds out once the rows are read.

    Args:
        out: the run's folder.
        training: the run's options.

    Raises:
        UserError: it is.
    """
    if not training.extend:
        return
    checkpoint, _ = newest_verified(out / "checkpoints")
    if checkpoint is None:
        return
    done, steps = steps_of(checkpoint), training.max_steps
    if steps <= 0:
        an_epoch = _steps_an_epoch(out, done)
        if an_epoch is None:
            return
        steps = total_steps(an_epoch, 1, training.epochs, 0)
    if steps < done:
        require_steps_left(done, steps, True)


def _steps_an_epoch(out: Path, done: int) -> int | None:
    """Steps of an epoch, by the log; None where `done` steps end none."""
    log = read_jsonl(out / "log.jsonl") if (out / "log.jsonl").is_file() else []
    epochs = next((float(row["epoch"]) for row in log if row["step"] == done), 0.0)
    if epochs < 1 or abs(epochs - round(epochs)) > 1e-6:
        return None
    return done // round(epochs)


def require_steps_left(done: int, steps: int, extend: bool) -> None:
    """Compare how far a run is with how far it is to go.

    Args:
        done: optimizer steps of its newest checkpoint.
        steps: of the whole run, as the options ask for.
        extend: whether the number of steps may be another one than it was started with.

    Raises:
        UserError: it is further than that.
    """
    if extend and done > steps:
        raise UserError(
            f"--extend true: the run has {counted(done, 'steps')} already, and --epochs or "
            "--max-steps asks "
            f"for {steps} in all. Give more than it has."
        )
    if extend and done == steps:
        print(
            f"The run has all of its {counted(steps, 'steps')}; raise --epochs or --max-steps to "
            "extend it."
        )


def tell_resumption(done: int, steps: int) -> None:
    """Say where a run goes on, or that none of its steps are left.

    Args:
        done: optimizer steps of its newest checkpoint.
        steps: of the whole run.
    """
    if done < steps:
        print(f"Going on from the checkpoint of step {done} of {steps}.")
    else:
        print(f"The run has all of its {counted(steps, 'steps')}; only its result is saved again.")


def tell_extension(done: int, steps: int, rate: float) -> None:
    """Say where a run goes on that is extended.

    Args:
        done: optimizer steps so far.
        steps: of the whole run now.
        rate: learning rate of its next step.
    """
    if done < steps:
        say(
            f"Extending the run from step {done} to {steps}. The learning rate goes on at "
            f"{rate:.3g}, where the schedule of {steps} steps has it."
        )


def changed_options(
    old: Mapping[str, Any], new: Mapping[str, Any], compared: Set[str] = frozenset()
) -> list[str]:
    """`--name old, not new` for each option that differs and could change the result.

    Options that either version of the program does not know are left alone, but those in
    `AS_BEFORE`.

    Args:
        old: every option of the run's start.
        new: every option now.
        compared: options that name what is compared by content, wherever it is now.
    """
    now = json_types(new)
    free = {*FREE, *compared, *(LENGTH if now.get("extend") else ())}
    changed = []
    for name, value in AS_BEFORE.items():
        if name in now and name not in old and now[name] != value:
            option = f"--{name.replace('_', '-')}"
            changed.append(f"{option} {_written(value)}, not {_written(now[name])}")
    for name in old:
        if name not in now or name in free or old[name] == now[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        if name in FREE_KEYS:
            before, after = old[name] or {}, now[name] or {}
            changed += [
                f"{option}.{key} {_written(before.get(key))}, not {_written(after.get(key))}"
                for key in sorted({*before, *after} - FREE_KEYS[name])
                if before.get(key) != after.get(key)
            ]
        else:
            changed.append(f"{option} {_written(old[name])}, not {_written(now[name])}")
    return changed


def _changed_from_either(
    before: Mapping[str, Any],
    length: Mapping[str, object] | None,
    now: Mapping[str, Any],
    compared: Set[str],
) -> list[str]:
    """`changed_options`; the run's length may be that before an extension that got nowhere."""
    changed = changed_options(before, now, compared)
    if not changed or length is None:
        return changed
    return changed_options({**before, **length}, now, compared)


def _compared_files(old: Mapping[str, Any], new: Mapping[str, Path]) -> set[str]:
    """Parameters that name files, as many as at the start, all of which have a hash."""

    def parameter(name: str) -> str:
        return re.sub(r"_\d+$", "", name)

    found = set()
    for option in {parameter(name) for name in new}:
        before = {name for name in old if parameter(name) == option}
        now = {name for name in new if parameter(name) == option}
        if before == now and all(old[name].get("sha256") for name in before):
            found.add(option)
    return found


def _compared_models(old: Mapping[str, Any], new: Mapping[str, Any], both: Set[str]) -> set[str]:
    """Parameters that name models whose fingerprints are known of the start and of today.

    A judge's kind stands before its name, and has to be the same.
    """
    found = set(both)
    if "model" in both:
        found.add("init_adapter")  # part of that model's fingerprint
    kinds = {str(options.get("judge")).partition(":")[0] for options in (old, new)}
    return found - {"judge"} if len(kinds) > 1 else found


def _changed_inputs(old: Mapping[str, Any], new: Mapping[str, Path]) -> list[str]:
    return [
        f"another content of {_option_of(name)} ({new[name]})"
        for name, entry in old.items()
        if name in new and entry.get("sha256") and hash_path(new[name]) != entry["sha256"]
    ]


def _option_of(name: str) -> str:
    """The option that an input belongs to: `more_data_0` is the first file of `--more-data`."""
    return "--" + re.sub(r"_\d+$", "", name).replace("_", "-")


def _changed_name(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """A model that is not a folder, in one run or the other, has only its name to compare."""
    before, now = old.get("model"), json_types(new).get("model")
    if before is None or now is None or before == now:
        return []
    return [f"--model {before}, not {now}"]


def _how_to_extend(changed: list[str]) -> str:
    """What to add where nothing but the run's length differs."""
    options = {f"--{name.replace('_', '-')}" for name in LENGTH}
    lengths = all(line.split()[0] in options for line in changed)
    return " Set --extend true to train it for another number of steps." if lengths else ""


def _written(value: object) -> str:
    if value is None:
        return "(not set)"
    return str(value).lower() if isinstance(value, bool) else str(value)
