"""Evaluations as the command line calls them: every option by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veridical.cli.signatures import as_arguments
from veridical.eval import chair, pope
from veridical.scoring.statistics import Estimate


def eval_chair(objects: Path, out: Path, **options: Any) -> dict[str, Estimate]:
    values = {"objects": objects, "out": out, **_listed(options)}
    return chair.eval_chair(**as_arguments(chair.eval_chair, values))


def eval_pope(out: Path, **options: Any) -> dict[str, Estimate]:
    return pope.eval_pope(**as_arguments(pope.eval_pope, {"out": out, **_listed(options)}))


def _listed(options: dict[str, Any]) -> dict[str, Any]:
    answers = options.get("answers")
    return {**options, "answers": [answers]} if isinstance(answers, Path) else options
