"""Criteria: what a model that judges is told, in a file that users may edit.

A criterion is a Markdown file that begins with a passage of YAML between two lines of `---`:
`form: marks` with `aspects` (name to lowest and highest mark), or `form: choice` with the two
`names` by which the responses are called. The rest is what the model reads before the
conversation. How it has to reply is added in `judges.prompts`, so that it fits the parser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.json_types import JsonObject
from veridical.runtime.yaml_text import read_yaml

SHIPPED = Path(__file__).parent / "criteria"
NAMES = ("Response 1", "Response 2")
Form = Literal["marks", "choice"]


@dataclass(frozen=True)
class Criterion:
    """What a judge goes by.

    Attributes:
        name: as it was asked for.
        form: whether each response gets marks, or the better of two is named.
        text: what the model is told.
        aspects: of marks: aspect to lowest and highest mark, whole numbers.
        names: of a choice: what the first and the second response are called.
        sha256: of the file.
    """

    name: str
    form: Form
    text: str
    aspects: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    names: tuple[str, str] = NAMES
    sha256: str = ""


def read_criterion(name: str, form: Form) -> Criterion:
    """Read a criterion that ships with the package, or a user's own file.

    Args:
        name: of a shipped one (`five`, `three`, `honesty`), or a path.
        form: what is needed.

    Raises:
        UserError: there is none, it cannot be understood, or it has the other form.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.md"))}
    if name not in shipped and not Path(name).is_file():
        raise UserError(
            f"--criteria {name} is neither a file nor one of {', '.join(shipped)}. "
            "docs/judges.md shows how to write one."
        )
    text = read_text(shipped.get(name, Path(name)))
    criterion = parse_criterion(name, text)
    if criterion.form != form:
        command = {"marks": "build annotate", "choice": "build rank"}[criterion.form]
        raise UserError(
            f"--criteria {name} has the form {criterion.form!r}, which is for `{command}`; "
            f"this command takes the form {form!r}."
        )
    return criterion


def parse_criterion(name: str, text: str) -> Criterion:
    """A criterion from a file's text.

    Raises:
        UserError: says what is wrong with it.
    """
    parts = text.replace("\r\n", "\n").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip() or not parts[2].strip():
        raise UserError(
            f"--criteria {name}: begin with `---`, the lines `form:` and `aspects:` or `names:`, "
            "and `---` again; then say what counts."
        )
    head = read_yaml(parts[1], f"--criteria {name}: its first passage")
    head = head if isinstance(head, dict) else {}
    form = head.get("form")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    body = parts[2].strip()
    if form == "marks" and set(head) == {"form", "aspects"}:
        return Criterion(name, form, body, aspects=_aspects(name, head["aspects"]), sha256=sha256)
    if form == "choice" and set(head) <= {"form", "names"}:
        return Criterion(name, form, body, names=_names(name, head), sha256=sha256)
    raise UserError(
        f"--criteria {name}: its first passage holds {', '.join(map(str, head)) or 'nothing'}; "
        "write `form: marks` with `aspects:`, or `form: choice` with `names:`."
    )


def _aspects(name: str, given: Any) -> dict[str, tuple[int, int]]:
    limits = list(given.values()) if isinstance(given, dict) else []
    good = bool(limits) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(type(end) is int for end in pair)
        and 0 <= pair[0] < pair[1]
        for pair in limits
    )
    if not good or not all(isinstance(key, str) and key.isidentifier() for key in given):
        raise UserError(
            f"--criteria {name}: write each aspect as one word with its lowest and highest mark, "
            "whole numbers from 0 up: `Helpfulness: [0, 4]`."
        )
    return {key: (pair[0], pair[1]) for key, pair in given.items()}


def _names(name: str, head: JsonObject) -> tuple[str, str]:
    given = head.get("names", list(NAMES))
    texts = [str(one).strip() for one in given] if isinstance(given, list) else []
    if len(texts) != 2 or not all(texts) or texts[0].casefold() == texts[1].casefold():
        raise UserError(f"--criteria {name}: `names` has to be two different texts.")
    return texts[0], texts[1]
