"""The model card: what was done to this model, so that it can be judged and repeated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical.checks.proof_texts import verdict
from veridical.checks.proofs import Proof
from veridical.runtime import processes
from veridical.runtime.files import write_text_atomic
from veridical.runtime.progress import counted
from veridical.runtime.runs import Run
from veridical.runtime.versions import own_version
from veridical.train.loop.stopping import CHECKED, improves, in_words
from veridical.train.loop.trainer_keys import REINFORCED
from veridical.train.options import OF_ADAPTERS

SHOWN = (
    "reference", "reference_model", "reference_every", "reference_mix", "facts", "criterion",
    "tuning", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_rslora",
    "lora_dora", "init_adapter", "train_projector", "train_vision", "model_dropout",
    "projector_learning_rate", "learning_rate", "epochs", "max_steps", "batch_size",
    "accumulation", "group_by_length", "max_length", "max_response_tokens",
    "more_data", "data_weights", "held_out", "select_by", "patience", "dtype", "mixed_precision",
    "attention", "template", "trainer", "seed",
)  # fmt: skip
JUDGED = (
    "judge", "criteria", "judge_facts", "objects", "vocabulary", "attempts", "judge_tokens",
    "judge_template",
)  # fmt: skip
SAMPLED = (
    "temperature", "top_p", "top_k", "min_new_tokens", "max_new_tokens", "rollout_steps",
)  # fmt: skip
REWARDED = (
    "standardize", "no_end_penalty", "length_penalty", "answer_reward", "overlong_penalty",
    "overlong_share",
)  # fmt: skip
PAIRED = ("pairs", "offline", "swap", "margin")
BDHS = (
    "variant", "mask_threshold", "noise_steps", "similarity", "similarity_threshold", "iterations",
    "cut", "cut_words", "guided", "drop_masked", "yes_no_swap", "language", "text_only",
)  # fmt: skip
CHECKING = (
    "check_images", "check_objects", "check_vocabulary", "check_by", "check_limit", "check_tokens",
)  # fmt: skip
"""Shown where a figure of checked images chose the checkpoint."""
EMBEDDED = "embedded"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def write_cards(
    run: Run,
    folders: Sequence[str],
    method: str,
    rows: Mapping[str, int],
    proofs: Sequence[Proof],
    finished: Mapping[str, object],
    measured: Mapping[str, object] | None = None,
) -> None:
    """Write README.md into each saved folder, and their names into `run.json`; the first does.

    Args:
        run: what was asked, and the folder.
        folders: names of saved folders under that.
        method: what was done, as in "direct preference optimization (DPO)".
        rows: counts by role, e.g. {"pairs": 1200, "held-out pairs": 60}.
        proofs: of this run; empty if they were switched off.
        finished: what the training loop reported.
        measured: figures of the samples that were learned from, by name; None is left out.
    """
    if not processes.is_first():
        return
    run.note(saved=list(folders))
    command, configuration = run.record["command"], run.record["configuration"]
    counts = ", ".join(counted(count, name) for name, count in rows.items())
    objective = run.record.get("objective", {})
    model = str(configuration["model"])
    text = f"""# {Path(model).name}, {method}

Made by Veridical {own_version()} from `{model}` with
{counts} of {_files(configuration)}: {finished["steps"]} steps in
{finished["train_seconds"]:.0f} seconds{_best(finished)}.

## Training

{what_was_learned(command, configuration, objective)}{_scale(objective)}

{_table("option", _options(command, configuration, objective))}
{_figures(measured or {})}
## Proofs

Proofs are checks that the run made before its first step.

{_proof_lines(proofs)}

## Limits

{_limits(command)}
"""
    for folder in folders:
        head = _metadata(command, model, folder)
        write_text_atomic(run.folder / folder / "README.md", f"{head}\n{text}")


def _files(configuration: Mapping[str, Any]) -> str:
    """The files that the rows are from."""
    more = configuration.get("more_data") or ()
    return ", ".join(f"`{path}`" for path in (configuration["data"], *more))


def _metadata(command: str, model: str, folder: str) -> str:
    """What the hub reads: YAML between two lines of dashes."""
    tag = "reward-model" if command == "train reward" else "preference-alignment"
    library = "peft" if folder == "adapter" else "transformers"
    lines = [f"library_name: {library}", f"tags: [veridical, vision-language, {tag}]"]
    base = hub_name(model)
    return "\n".join(["---", *lines, *([f"base_model: {base}"] if base else []), "---", ""])


def hub_name(model: str) -> str | None:
    """The name on the hub of the model that was trained; None for one that is only here.

    An adapter folder has its base's. The hub refuses cards that name a model that it can't have.
    """
    settings = Path(model) / "adapter_config.json"
    if settings.is_file():
        try:
            found = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return hub_name(found) if isinstance(found, str) and found != model else None
    if model == EMBEDDED or Path(model).exists() or not _HUB_NAME.fullmatch(model):
        return None
    return model


def what_was_learned(
    command: str, configuration: Mapping[str, object], objective: Mapping[str, object] | None = None
) -> str:
    """What a training command makes a model do, in a few sentences that are true of that command.

    Args:
        command: its words.
        configuration: its options.
        objective: what `run.json` says of it.
    """
    judge = f"`{configuration.get('judge')}`"
    compares = (objective or {}).get("needs_reference", True)
    if command in REINFORCED:
        return (
            "Only the prompts of the rows were used. The model answered each of them "
            f"{_samples(configuration)} and was trained to give answers with a higher reward: "
            f"{_reward(configuration)}. {_held(configuration)} It was not trained on answers "
            "of the rows."
        )
    if command == "train online":
        pairs = configuration.get("pairs")
        if pairs == "bdhs":
            seeing = "with little or nothing of the image visible"
            if configuration.get("variant") == "none":
                seeing = "with the whole image visible"
            return (
                "The model was trained to prefer the rows' true answers to answers that it "
                f"sampled itself {seeing}. No judge was used."
            )
        own = (
            "The model answered each prompt of the rows twice, and was trained to prefer the "
            f"answer that {judge} found better."
        )
        mixed = (
            " For each prompt and step, the row's own chosen and rejected answers were used "
            f"instead, with probability {configuration.get('offline')}."
        )
        return own + (mixed if pairs == "mixed" else " It was not trained on answers of the rows.")
    return {
        "train dpo": _preferred(str((objective or {}).get("name")), configuration.get("kind"))
        + (", more than its reference does." if compares else "."),
        "train sft": "The model was trained to give the answers of these rows.",
        "train steerlm": (
            "The model was trained to give the responses of these rows, good and bad ones, after "
            "their ratings. Prompts must name the wanted ratings (`--steer`)."
        ),
        "train reward": (
            "This model does not answer. A linear head gives a response one number. It was trained "
            "to give the chosen answers of these rows a higher number than the rejected answers."
        ),
    }.get(command, "")


def _scale(objective: Mapping[str, Any]) -> str:
    """That answers were compared by means over tokens, where they were."""
    if (objective.get("rewards") or {}).get("of") != "means":
        return ""
    return " Rewards and margins are of means over an answer's tokens, as its loss reads them."


def _preferred(loss: str, kind: object) -> str:
    """What `train dpo` made likelier, without the end of the sentence."""
    if kind == "unpaired":
        return (
            "The model was trained to give the good answers of these rows, and not to give the bad "
            "ones"
        )
    if loss == "svco":
        return (
            "The model was trained to give each answer of these rows, chosen or rejected, for the "
            "images that show it, and not without them or for the other images"
        )
    return "The model was trained to prefer the chosen answers of these rows to the rejected ones"


def _held(configuration: Mapping[str, object]) -> str:
    if not configuration.get("kl_coefficient"):
        return "There was no KL penalty (`kl_coefficient` 0)."
    return (
        "The penalty `kl_coefficient` on the KL divergence kept it near the model that it started "
        "from."
    )


def _samples(configuration: Mapping[str, Any]) -> str:
    samples = configuration.get("samples")
    return "once each step" if samples == 1 else f"{samples} times each step"


def _reward(configuration: Mapping[str, object]) -> str:
    symbolic = [
        f"`{name}` {configuration[name]:g}"
        for name in ("no_end_penalty", "length_penalty", "answer_reward", "overlong_penalty")
        if configuration.get(name)
    ]
    judge = configuration.get("judge")
    if judge == "none":
        return " and ".join(symbolic) or "none"
    return f"the score of `{judge}`" + (f", with {' and '.join(symbolic)}" if symbolic else "")


def _options(
    command: str, configuration: Mapping[str, Any], objective: Mapping[str, Any]
) -> dict[str, object]:
    """The options that decided the result; those that this command or choice does not use are not.

    `train online` on BDHS pairs has no judge, whatever the option says.

    Args:
        command: its words.
        configuration: its options.
        objective: what `run.json` says of it.
    """
    own = objective.get("options", {})
    shown: tuple[str, ...] = ()
    if command in REINFORCED:
        shown = (*JUDGED, *REWARDED, *SAMPLED)
    elif command == "train online":
        bdhs = configuration.get("pairs") == "bdhs"
        shown = ("pairs", *BDHS, *SAMPLED) if bdhs else (*PAIRED, *JUDGED, *SAMPLED)
        if configuration.get("pairs") != "mixed":
            shown = tuple(name for name in shown if name != "offline")
    if configuration.get("judge") == "none":
        shown = tuple(name for name in shown if name not in JUDGED[1:])
    unused = () if objective.get("needs_reference", True) else ("reference", "reference_model")
    if configuration.get("tuning") == "full":  # there are no adapters
        unused = (*unused, *OF_ADAPTERS)
    if configuration.get("reference_every") is None:  # the reference stays what it is
        unused = (*unused, "reference_every", "reference_mix")
    common = (*SHOWN, *CHECKING) if configuration.get("select_by") in CHECKED else SHOWN
    rest = {n: configuration[n] for n in common if n in configuration and n not in unused}
    chosen = {name: configuration[name] for name in shown if name in configuration}
    return {**chosen, **own, **rest}


def _figures(measured: Mapping[str, object]) -> str:
    known = {name: value for name, value in measured.items() if value is not None}
    return f"\n## Samples\n\n{_table('figure', known)}\n" if known else ""


def _table(head: str, values: Mapping[str, object]) -> str:
    lines = [f"| {head} | value |", "|---|---|"]
    return "\n".join(lines + [f"| {name} | {_cell(value)} |" for name, value in values.items()])


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _limits(command: str) -> str:
    if command == "train reward":
        return (
            "Its accuracy on other kinds of responses was not measured here; `veridical eval "
            "reward` measures it on other pairs."
        )
    more = ""
    if command in (*REINFORCED, "train online"):
        more = (
            "A higher score of a judge need not mean a better answer: look at responses, and at "
            "the truth where it is known. "
        )
    return (
        f"{more}The model's answers about other kinds of images were not measured here; `veridical "
        "eval` measures them."
    )


def _best(finished: Mapping[str, Any]) -> str:
    if finished.get("best_step") is None:
        return ""
    name = finished.get("selected_by", "loss")
    best, start = finished["best_value"], finished.get("value_at_start")
    if best is None:
        return f"; the weights are those of step {finished['best_step']}"
    shown = in_words(name)
    at_start = "" if start is None else f", {start:.4f} at the start"
    worse = start is not None and not improves(best, start, name)
    return (
        f"; the weights are those of step {finished['best_step']} ({shown} {best:.4f}"
        f"{at_start}{', which no checkpoint improved on' if worse else ''})"
    )


def _proof_lines(proofs: Sequence[Proof]) -> str:
    if not proofs:
        return "The proofs were turned off for this run."
    return "\n".join(
        f"- {proof.name}: {verdict(proof)} ({proof.detail})"
        if proof.applicable
        else f"- {proof.name}: does not apply ({proof.detail})"
        for proof in proofs
    )
