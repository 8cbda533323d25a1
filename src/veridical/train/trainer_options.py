"""The `trainer:` passage: everything of Transformers' TrainingArguments that is not ours."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

from veridical.errors import UserError

SCALARS = (bool, int, float, str)

ALWAYS_OWNED: Mapping[str, str] = {
    "output_dir": "set --out",
    "do_train": "the command decides it",
    "do_eval": "the command decides it",
    "do_predict": "the command decides it",
    "seed": "set --seed",
    "data_seed": "set --seed",
    "remove_unused_columns": "it stays off, as images would be removed",
    "label_names": "the losses decide it",
    "prediction_loss_only": "the losses decide it",
    "hub_token": "keys come from the environment (HF_TOKEN) and are never written",
}
"""What no training command lets `trainer:` set, and what to do instead."""


def resolve_trainer_options(
    trainer: Mapping[str, Any] | None, owned: Mapping[str, str]
) -> dict[str, Any]:
    """The keyword arguments for TrainingArguments that the passage `trainer:` asks for.

    Args:
        trainer: keys and values, as in the configuration file; None is an empty passage.
        owned: keys that the command sets itself, each with what to do instead, as a phrase
            ("set --learning-rate"). `ALWAYS_OWNED` is added.

    Returns:
        A new dictionary with the same keys and values.

    Raises:
        UserError: a key that TrainingArguments doesn't have, one that we own, or a value of
            another kind than it takes.
    """
    hints = typing.get_type_hints(TrainingArguments)
    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    instead = {**ALWAYS_OWNED, **owned}
    for key, value in (trainer or {}).items():
        if key in instead:
            raise UserError(f"trainer.{key} is not Transformers' to set here: {instead[key]}.")
        if key not in known:
            raise UserError(
                f"trainer.{key} is no option of Transformers' TrainingArguments"
                f"{_nearest(key, known, instead)}."
            )
        _check_value(key, value, hints[key])
    return dict(trainer or {})


def _nearest(key: str, known: list[str], instead: Mapping[str, str]) -> str:
    matches = difflib.get_close_matches(key, known, n=1)
    if not matches:
        return ""
    if matches[0] in instead:
        return f" (for {matches[0]}: {instead[matches[0]]})"
    return f" (did you mean {matches[0]}?)"


def _check_value(key: str, value: Any, hint: Any) -> None:
    """Refuse a value of the wrong kind, where only names from a list or plain values are taken."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    members = typing.get_args(hint) if is_union else (hint,)
    kinds = [member for member in members if member is not types.NoneType]
    if value is None and len(kinds) < len(members):
        return
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            _check_name(key, value, kind)
            return
    if any(kind not in SCALARS for kind in kinds):
        return
    fits_float = float in kinds and type(value) is int
    if type(value) not in kinds and not fits_float:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"trainer.{key} takes {names}, not {value!r}.")


def _check_name(key: str, value: Any, kind: type[enum.Enum]) -> None:
    names = [str(member.value) for member in kind]
    if value not in names and not isinstance(value, kind):
        raise UserError(f"trainer.{key} is one of {', '.join(names)}; not {value!r}.")
