"""What a step left in its folder: whether it is whole, and how it makes way for the step anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.run_folders import remove_run
from veridical.runtime.run_record import RECORD, read_record
from veridical.study.commands import named_path
from veridical.study.ledger import StepState
from veridical.study.plan import Plan, Step
from veridical.world.dataset import SCENES, remove_scenes


def place_of(plan: Plan, step: Step) -> Path:
    """The folder or file that a step writes, as this process finds it."""
    return named_path(plan, str(step.output))


def is_whole(place: Path, state: StepState) -> bool:
    """Whether what a step wrote is there, whatever it was made with."""
    if (place / RECORD).is_file():
        return read_record(place).status == "finished"
    return state["status"] == "finished" and place.exists()


def make_way(step: Step, place: Path, state: StepState | None, key: str) -> None:
    """Remove what a step made with other options, or half, and nothing else.

    Args:
        step: which.
        place: its folder.
        state: what is known of it.
        key: that it has now.

    Raises:
        UserError: it is not known what it made.
    """
    if state is None or not place.is_dir():
        return
    has_record = (place / RECORD).is_file()
    if state.get("made_folder") and state["status"] != "finished" and not has_record:
        shutil.rmtree(place)  # this plan made it, and the command ended before its end
    elif state["key"] == key:
        return
    elif has_record and read_record(place).files is not None:
        remove_run(place)
    elif step.command == "world make" and (place / SCENES).is_file():
        remove_scenes(place)  # this command keeps no record
    elif state.get("made_folder") and has_record and not read_record(place).is_alive:
        shutil.rmtree(place)  # it was killed; nobody else wrote there
    elif any(place.iterdir()):
        raise UserError(
            f"{step.name} changed, and {place} holds what it made before. Delete that folder "
            "and start again."
        )
