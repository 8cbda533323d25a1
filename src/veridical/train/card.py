"""The model card: what was done to this model, so that it can be judged and repeated."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from veridical import processes
from veridical.files import write_text_atomic
from veridical.proofs import Proof, verdict
from veridical.runs import Run

SHOWN = (
    "loss", "beta", "label_smoothing", "per_token", "gamma", "nll_weight", "reference",
    "reference_model", "facts", "criterion", "centring", "tuning", "lora_rank", "lora_alpha",
    "init_adapter", "train_projector", "train_vision", "projector_learning_rate", "learning_rate",
    "epochs", "max_steps", "batch_size", "accumulation", "held_out", "seed",
)  # fmt: skip


def write_cards(
    run: Run,
    folders: Sequence[str],
    method: str,
    rows: Mapping[str, int],
    proofs: Sequence[Proof],
    finished: Mapping[str, Any],
) -> None:
    """Write README.md into each saved folder; the first process does.

    Args:
        run: what was asked, and the folder.
        folders: names of saved folders under that.
        method: what was done, as in "direct preference optimisation (DPO)".
        rows: counts by role, e.g. {"pairs": 1200, "held-out pairs": 60}.
        proofs: of this run; empty if they were switched off.
        finished: what the training loop reported.
    """
    if not processes.is_first():
        return
    out, configuration = run.folder, run.record["configuration"]
    options = "\n".join(
        f"| {name} | {configuration[name]} |" for name in SHOWN if name in configuration
    )
    counts = ", ".join(f"{count} {name}" for name, count in rows.items())
    text = f"""---
library_name: {"{library}"}
tags: [veridical, vision-language, preference-alignment]
base_model: {configuration["model"]}
---

# {Path(str(configuration["model"])).name}, {method}

Made by Veridical {importlib.metadata.version("veridical")} from `{configuration["model"]}` with
{counts} of `{configuration["data"]}`: {finished["steps"]} steps in
{finished["train_seconds"]:.0f} seconds{_best(finished)}.

| option | value |
|---|---|
{options}

## Proofs

{_proof_lines(proofs)}

## Limits

The model was made to prefer the chosen answers of these rows, nothing more. What it says about
other kinds of images was not measured here; `veridical eval` measures it.
"""
    for folder in folders:
        library = "peft" if folder == "adapter" else "transformers"
        write_text_atomic(out / folder / "README.md", text.replace("{library}", library))


def _best(finished: Mapping[str, Any]) -> str:
    if finished.get("best_step") is None:
        return ""
    loss, start = finished["best_held_out_loss"], finished.get("held_out_loss_at_start")
    at_start = "" if start is None else f", {start:.4f} at the start"
    worse = start is not None and loss >= start
    return (
        f"; the weights are those of step {finished['best_step']} (held-out loss {loss:.4f}"
        f"{at_start}{', which no checkpoint improved on' if worse else ''})"
    )


def _proof_lines(proofs: Sequence[Proof]) -> str:
    if not proofs:
        return "They were switched off for this run."
    return "\n".join(
        f"- {proof.name}: {verdict(proof)} {proof.unit} ({proof.detail})"
        if proof.applicable
        else f"- {proof.name}: does not apply ({proof.detail})"
        for proof in proofs
    )
