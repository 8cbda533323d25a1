"""SteerLM: learn every rated response, told how it was rated (Dong et al. 2023).

Each response becomes a row: its prompt ends with a request for an answer with the marks that it
got, and the response is learned. Asked for high marks afterwards (`--steer all-4`), the model
answers as the well-rated responses did (Li et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from veridical.data.record_types import CheckedRow, Rating
from veridical.data.records import count_images, response_name
from veridical.data.steering import ATTRIBUTES, MOST, Numerals, numerals_for, steer_prompt
from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group, RefusedRowError, render_group
from veridical.train.loop.fine_tuning import fine_tune
from veridical.train.loop.pair_rows import Images
from veridical.train.loop.rows import render_rows
from veridical.train.loop.start import Given, load_start, start_training
from veridical.train.loop.training_set import training_set
from veridical.train.options import Training

METHOD = "SteerLM (fine-tuning on rated responses)"


def train_steerlm(
    model: Model,
    data: Path,
    out: Path,
    training: Training = Training(learning_rate=2e-5, model_dropout=True),
) -> None:
    """Fine-tune MODEL on every rated response in DATA, each behind the marks it got.

    The loss is that of `train sft`, on the response alone. All responses to a prompt are held out
    together or not at all.

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: records of kind `sample`, each response rated on Helpfulness, Correctness, Coherence,
            Complexity and Verbosity in whole numbers 0 to 4, as `build rate` does.
        out: folder for the run: `model/`, `log.jsonl`, `proofs.json`, `run.json`.
        training: what every training command takes.
    """
    with start_training(Given("train steerlm", model, data, out, training, {})) as run:
        start = load_start(model, training, run)
        numerals = numerals_for(start.processor.tokenizer)

        def render(row: CheckedRow, images: Images) -> list[Group]:
            return steered_groups(start, row, images, numerals, training.max_response_tokens)

        read = render_rows(start, data, "sample", training, render)
        rows = training_set(start, read, training, out, prompt_id)
        fine_tune(run, METHOD, model, start, rows, training, steers=True)


def steered_groups(
    policy: Policy,
    row: CheckedRow,
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


def marks_of(ratings: Sequence[Rating], answer: str) -> dict[str, int]:
    """The five marks of a response.

    Raises:
        RefusedRowError: one is missing, or is not a whole number from 0 to 4.
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
