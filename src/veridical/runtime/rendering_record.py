"""What a run has to remember of how prompts are rendered: the present, and template variables."""

from __future__ import annotations

from datetime import datetime

_now: list[datetime] = []
_given: dict[str, dict[str, object]] = {}


def note_given(model: str, variables: dict[str, object]) -> None:
    """Remember what a loaded model's template is given, defaults included."""
    _given[model] = variables


def noted_variables() -> dict[str, dict[str, object]]:
    """What the template of each model that was loaded is given; models without any are left out."""
    return {model: dict(given) for model, given in _given.items() if given}


def forget_variables() -> None:
    """Begin a new run's record."""
    _given.clear()


def freeze_time(moment: datetime) -> None:
    """Set what every template takes for the present, until this is called again."""
    _now[:] = [moment]


def frozen_time() -> datetime:
    """What templates take for the present; the time of the first call if nobody has set it."""
    if not _now:
        freeze_time(datetime.now().replace(microsecond=0))
    return _now[0]
