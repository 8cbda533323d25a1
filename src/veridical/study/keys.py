"""A step's key: everything that its result depends on, as one hash."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_path
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.json_types import JsonObject
from veridical.runtime.versions import own_version
from veridical.study.commands import named_path
from veridical.study.plan import MODELS, OUTPUTS, OptionValue, Plan, Step, bare, lies_in

NO_EFFECT = (*OUTPUTS, "cache", "cache_gigabytes", "device", "report_to", "show_every", "resume")
"""Options that change no result."""


@dataclass(frozen=True)
class Keys:
    """Makes the keys of a plan's steps.

    Attributes:
        plan: the plan.
        paths: for each step's name the options that are paths.
        codes: hashes of the code that makes steps, by name; without one, the version counts alone.
        accepted: hashes of older code in their place, of steps that count as made by today's.
    """

    plan: Plan
    paths: Mapping[str, Collection[str]]
    codes: Mapping[str, str] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    _read: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    def code(self, step: Step) -> str:
        """The hash of the code that makes a step; "" where only the version counts."""
        return self.accepted.get(step.name, self.codes.get(step.name, ""))

    def renew(self, step: Step) -> None:
        """Let today's code count for a step, which is made by it now."""
        self.accepted.pop(step.name, None)

    def key(self, step: Step, made: Mapping[str, str]) -> str:
        """A hash of the command, its options, the files and models that it reads, and the version.

        Args:
            step: whose key.
            made: the keys of the steps that it needs, by their names; what these wrote counts by
                them.
        """
        options = {
            name: self._value(step, name, value, made)
            for name, value in sorted(step.options.items())
            if name not in NO_EFFECT and value is not None
        }
        needs = sorted(made[other.name] for other in self.plan.needs(step))
        content: JsonObject = {
            "command": step.command,
            "options": options,
            "needs": needs,
            "version": own_version(),
            **({"code": self.code(step)} if self.code(step) else {}),
        }
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def _value(
        self, step: Step, name: str, value: OptionValue, made: Mapping[str, str]
    ) -> OptionValue:
        if isinstance(value, Mapping):
            return {key: self._value(step, key, item, made) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(step, name, item, made) for item in value]
        return self._text(step, name, value, made) if isinstance(value, str) else value

    def _text(self, step: Step, name: str, text: str, made: Mapping[str, str]) -> OptionValue:
        """A text by what it names: what a step made, a file's content, a model's, or itself."""
        if step.command == "report":
            return text  # it reads what the steps made, which are among its needs
        own = bare(text)
        for other in self.plan.needs(step):
            if other.name in made and lies_in(own, other.output):
                inside = os.path.relpath(own, other.output)
                return ["made", made[other.name], inside]
        place = named_path(self.plan, own)
        is_model = name in MODELS or own != text
        if not is_model and (name in self.paths[step.name] or os.sep in own) and place.exists():
            return ["content", self._once("content", str(place))]
        if is_model:
            return ["model", self._once("model", str(place) if place.is_dir() else own)]
        return text

    def _once(self, what: Literal["content", "model"], name: str) -> str:
        """The hash of a file or model, read once for all steps that name it."""
        if (what, name) not in self._read:
            read = hash_path(Path(name)) if what == "content" else _model(name)
            self._read[what, name] = read
        return self._read[what, name]


def _model(name: str) -> str:
    try:
        return fingerprint(name).key
    except UserError:
        return name  # a hub's, not here yet; the step says what is wrong, if anything is
