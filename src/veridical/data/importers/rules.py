"""What is to be done with the rows of a foreign set: columns, placeholders, paths of images."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from veridical.data.record_kinds import Kind, RowError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json

PATTERN_FIELDS = ("id", "name", "path", "stem")


@dataclass(frozen=True)
class Fit:
    """Why a row is of a shape, and the kind of record that it becomes."""

    reason: str
    kind: Kind


@dataclass(frozen=True)
class Rules:
    """How rows are converted; unset options follow the named set.

    Attributes:
        columns: OURS=THEIRS, such as `chosen=y_win`, for column names that are not known;
            `images=meta.file` looks inside an object, or inside a text that is one in JSON. Ours:
            id, images, prompt, chosen, rejected, a, b, winner, messages, responses, context,
            severity, the other
            columns of the kind, and the factors chosen_by, rejected_by, judge, prompts.
        winner_values: for two answers `a` and `b` and a column `winner` that says which is better:
            what it says where `a` is, where `b` is, and where neither is, such as `1 2 0`. Letters
            and words for ties are known. `--columns a=THEIRS b=THEIRS winner=THEIRS` names them.
        images: `copy` stores bytes in Parquet, and copies files beside a `.jsonl` unless they are
            under its folder; `refer` makes a `.jsonl` point to the original files below
            --images-root (set it again to read the file); `drop` reads only the texts, for a set
            whose pictures you do not have. `copy` if not set.
        placeholder: put images `before` or `after` a question without `<image>`.
        image_path: pattern that builds an image's path from the row, such as
            `COCO_train2014_{id:012d}.jpg` or `train2014/{name}`. `{path}` is the row's own path,
            `{name}` its last part, `{stem}` that without its suffix, `{id}` a number.
        image_table: a JSON file that has the path or URL of each image by its id (an object, or a
            list of rows with `image_id` and `url` or `image_path`); of a URL the last two parts
            are the path.
        turn_marks: two texts that begin a user's and an assistant's turn in a prompt that holds
            a whole chat template, such as `USER: ASSISTANT:`. Text before the first mark, and
            end tokens, are removed.
        context: use of a `context` that begins the answer: `prefix` puts it before both answers
            and into `answer_prefix`, so that it is given and carries no loss; `answer` only puts it
            before them, where it cancels out in DPO's loss; `drop` leaves it out.
        severity: keep a rejected answer's `severity` as a `rating`, as the `weight` of that
            answer's log-probabilities (`span_weights`), or `drop` it.
        margin_weight: set `beta_factor` to 1 + this number times the row's `margin` (MM-RLHF's
            `ls_factor`; the number is w of its code, 0.1 in the released script). If not set, the
            margin is not used.
        questions: questions for rows without one; if several, one is drawn by seed.
    """

    columns: dict[str, str] | None = None
    winner_values: list[str] | None = None
    images: Literal["copy", "refer", "drop"] | None = None
    placeholder: Literal["before", "after"] | None = None
    image_path: str | None = None
    image_table: Path | None = None
    turn_marks: list[str] | None = None
    context: Literal["prefix", "answer", "drop"] | None = None
    severity: Literal["rating", "weight", "drop"] | None = None
    margin_weight: float | None = None
    questions: list[str] | None = None

    def over(self, default: Rules) -> Rules:
        """These rules, and the default's where these say nothing; columns are merged."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        columns = {**(default.columns or {}), **(self.columns or {})}
        return dataclasses.replace(default, **given | {"columns": columns})

    def check(self) -> None:
        """Refuse what can't work for any row.

        Raises:
            UserError: a pattern with an unknown field, or another number of marks than two.
        """
        if self.turn_marks is not None and len(self.turn_marks) != 2:
            raise UserError("--turn-marks takes two texts, such as USER: ASSISTANT:.")
        said = self.winner_values
        if said is not None and (len(said) < 2 or len({*map(str.casefold, said)}) < len(said)):
            raise UserError(
                "--winner-values takes two or more different texts, such as A B or 1 2 0."
            )
        if self.image_path is None:
            return
        try:
            parts = list(string.Formatter().parse(self.image_path))
            fields = [name for _, name, _, _ in parts]
            for _, name, spec, _ in parts:
                if name is not None and name not in PATTERN_FIELDS:
                    raise KeyError(name)
                if re.search(r"\d{4}|{", spec or ""):
                    raise ValueError(f"a name is shorter than {spec!r} says")
            self.image_path.format(id=1, name="a.jpg", path="b/a.jpg", stem="a")
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(
                f"--image-path {self.image_path!r} is not a pattern ({error}); use "
                f"{', '.join('{' + name + '}' for name in PATTERN_FIELDS)}."
            ) from error
        if not any(fields):
            raise UserError(f"--image-path {self.image_path!r} is the same for every image.")

    @cached_property
    def paths(self) -> Mapping[str, str]:
        """Of `image_table`: the path of each image by id.

        Raises:
            UserError: the file is not of a form that is understood.
        """
        return {} if self.image_table is None else _read_table(self.image_table)

    def locate(self, value: object) -> object:
        """An image's reference as a path, by these rules; bytes stay as they are.

        Raises:
            RowError: the table has no such id, or the pattern needs a number.
        """
        if isinstance(value, Mapping):
            held = value.get("path")
            if value.get("bytes") or not isinstance(held, str):
                return value
            return {**value, "path": self.locate(held)}
        if not isinstance(value, str | int) or isinstance(value, bool):
            return value
        text = str(value)
        if self.image_table is not None:
            if text not in self.paths:
                raise RowError("images", f"{self.image_table.name} has no image {text[:60]}")
            text = self.paths[text]
        if self.image_path is None:
            return text
        name = PurePosixPath(text).name
        stem = PurePosixPath(name).stem
        digits = "".join(filter(str.isdecimal, stem.rpartition("_")[2])) or "-1"
        number = int(digits)
        if number < 0 and "{id" in self.image_path:
            raise RowError("images", f"{text[:60]} has no number for --image-path")
        return self.image_path.format(id=number, name=name, path=text, stem=stem)


def _read_table(path: Path) -> dict[str, str]:
    content = read_json(path)
    if isinstance(content, list):
        try:
            rows = [(row["image_id"], row.get("url") or row["image_path"]) for row in content]
        except (TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path}: each row needs image_id and url or image_path, not "
                f"{json.dumps(content[0])[:80]}."
            ) from error
    elif isinstance(content, dict):
        rows = list(content.items())
    else:
        raise UserError(f"{path} must be a JSON object of paths by id, or a list of rows.")
    return {str(key): _relative(str(place)) for key, place in rows}


def _relative(place: str) -> str:
    return "/".join(place.split("/")[-2:]) if "://" in place else place
