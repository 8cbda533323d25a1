"""Rows that a run goes on without: listed in `skipped.jsonl`, counted, and never too many.

Most are known once the file is read. What a processor refuses by a picture's content shows only
when it is prepared; to prepare every picture before the first step would cost as much as an epoch
does. So such a row leaves its batch, whose loss is a sum that is divided by what is left of the
global batch. The order of the others does not change, and a run that is resumed knows the rows that
were found before it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from veridical.data.origins import kinds_in_words, place_in_words
from veridical.models.lengths import prompts_of
from veridical.models.policy import Policy
from veridical.models.processing import process
from veridical.models.refused_rows import RefusedRowsError, leave_out_refused
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_jsonl
from veridical.runtime.progress import counted, part_of, say
from veridical.runtime.run_files import SkippedRow
from veridical.train.loop.rows import TrainingRows
from veridical.train.loop.stopping import CHECKED
from veridical.train.options import Training

Result = TypeVar("Result")
Key = tuple[str, int]
"""A row's id and how many images it shows: a conversation is learned in several parts."""

SKIPPED = "skipped.jsonl"
PROCESSOR = "processor"
"""The field of `skipped.jsonl` where a row was refused while it was prepared."""


class LeftOut:
    """The rows of a run that nothing is learned from."""

    def __init__(self, out: Path, rows: TrainingRows, training: Training) -> None:
        """Write `skipped.jsonl` and say how many rows it holds.

        Args:
            out: the run's folder.
            rows: what was read.
            training: says how many rows may be unusable, and whether the run is resumed: then what
                was refused before stays left out.
        """
        self.path, self.listed, self.total = out / SKIPPED, rows.skipped, rows.total
        self.answers = rows.answers
        self.origins = rows.origins
        self.most = training.max_bad_fraction
        self.refused: dict[Key, str] = {}
        self.found: dict[Key, str] = {}
        self.told = False
        # The next batch may be laid out in another thread.
        self._noting = threading.Lock()
        if training.resume:
            self.refused = processes.from_first(lambda: _refused_before(self.path))
        self._write()
        if len(self):
            what = "row is" if len(self) == 1 else "rows are"
            late = [self._late(*entry) for entry in sorted(self.refused.items())]
            one = [*self.listed, *late][0]
            print(
                f"{len(self)} {what} left out; {self.path} says which and why. The first is "
                f"{place_in_words(one)}: {one['reason']}."
            )
            kinds = kinds_in_words([*self.listed, *late])
            for line in kinds if len(kinds) > 1 else ():
                print(line)
        if self.answers:
            what = "answer is" if len(self.answers) == 1 else "answers are"
            first = self.answers[0]
            print(
                f"{len(self.answers)} further rejected {what} left out, and the rest of the row is "
                f"used; {self.path} lists them. The first is of {place_in_words(first)}: "
                f"{first['reason']}."
            )
        if rows.cut:
            print(f"Longer than allowed, and without their end: {counted(rows.cut, 'responses')}.")

    def __len__(self) -> int:
        """How many rows are left out."""
        return len(self.listed) + len({name for name, _ in self.refused})

    def __contains__(self, group: object) -> bool:
        if not isinstance(group, Group):
            return False
        return _key(group) in self.refused or _key(group) in self.found

    def has_prompt(self, name: str) -> bool:
        """Whether a prompt, which has one part, is left out."""
        return any(name == known for known, _ in (*self.refused, *self.found))

    def note(self, found: Mapping[Key, str]) -> None:
        """Remember what this process found; `share` tells the others."""
        with self._noting:
            self.found |= found

    def share(self) -> None:
        """Let every process know what each has found, and list it; all have to take part.

        Raises:
            UserError: more rows are left out than `--max-bad-fraction` allows.
        """
        with self._noting:
            mine = dict(self.found)
        every = {key: why for own in processes.gather(mine) for key, why in own.items()}
        new = {key: every[key] for key in sorted(every) if key not in self.refused}
        with self._noting:
            self.refused |= new
            self.found = {key: why for key, why in self.found.items() if key not in mine}
        if not new:
            return
        self._write()
        if len(self) > self.most * self.total:
            listed = self._late(*next(iter(new.items())))
            raise UserError(
                f"{part_of(len(self), self.total, 'rows')} can't be used; more than "
                f"--max-bad-fraction {self.most:g} allows. The last was "
                f"{place_in_words(listed)}: {listed['reason']}. {self.path} lists all. "
                "Leave them out, or set a higher --max-bad-fraction and go on with --resume true."
            )
        what = "row is" if len(new) == 1 else "rows are"
        one = self._late(*next(iter(new.items())))
        say(
            f"{len(new)} more {what} left out; {self.path} says which and why. The first is "
            f"{place_in_words(one)}: {one['reason']}."
        )

    def require_held_out(self, rows: int, selected: str) -> None:
        """Stop where the processor refuses all that is held out, or say so if nothing goes by it.

        Args:
            rows: how many are held out.
            selected: the figure that chooses the checkpoint.

        Raises:
            UserError: it is one of theirs.
        """
        what = "the held-out row" if rows == 1 else f"all {rows} held-out rows"
        if selected not in CHECKED:
            raise UserError(
                f"The processor refuses {what} ({self.path} says why), so nothing says which "
                "checkpoint is the best one. Hold others out (a larger --held-out, another "
                "--seed), set --held-out 0, or choose by --check-images."
            )
        if not self.told:
            say(f"The processor refuses {what}: their figures are null. {selected} decides.")
        self.told = True

    def lay_out(
        self, groups: Sequence[Group], work: Callable[[list[Group]], Result]
    ) -> tuple[Result | None, list[int]]:
        """Work on the groups that the processor takes, and note the others.

        Returns:
            What `work` gave, None where no group is left; and the places of those that are.
        """
        open_places = [place for place, group in enumerate(groups) if group not in self]
        # A conversation's parts share its name; they are refused by their own pictures.
        named = [dataclasses.replace(groups[p], id=str(p)) for p in open_places]
        plain = [groups[p] for p in open_places]

        def attempt(left: list[int]) -> Result | None:
            if not left:
                return None
            if len(left) == len(plain):
                try:
                    return work(plain)
                except RefusedRowsError:
                    pass  # again with names that tell the parts apart
            return work([named[n] for n in left])

        result, refused = leave_out_refused([group.id for group in named], attempt)
        self.note({_key(plain[n]): why for n, why in refused.items()})
        return result, [place for n, place in enumerate(open_places) if n not in refused]

    def usable(self, policy: Policy, groups: Iterable[Group], count: int) -> list[Group]:
        """The first few groups that the processor takes; all processes look at the same ones.

        Raises:
            UserError: more than `--max-bad-fraction` of the rows are unusable, or no row is left.
        """
        found: list[Group] = []
        for group in groups:
            _, kept = self.lay_out([group], lambda own: _prepare(policy, own[0]))
            found += [group] if kept else []
            self.share()
            if len(found) == count:
                break
        if not found:
            raise UserError(f"The processor of {policy.name} refuses every row; see {self.path}.")
        return found

    def _late(self, key: Key, reason: str) -> SkippedRow:
        """A row of `skipped.jsonl`; `id` and `images` are what a resumed run knows it by."""
        name, images = key
        origin = self.origins.get(name)
        listed: SkippedRow = {"id": name, "field": PROCESSOR, "reason": reason}
        if origin:
            listed = origin.left_out(name, PROCESSOR, reason)
        return {**listed, "images": images}

    def _write(self) -> None:
        late = [self._late(key, reason) for key, reason in sorted(self.refused.items())]
        if processes.is_first():
            write_jsonl(self.path, [*self.listed, *self.answers, *late])


def _key(group: Group) -> Key:
    return group.id, len(group.images)


def _prepare(policy: Policy, group: Group) -> None:
    for images, text in prompts_of(group):
        try:
            process(policy, [images], [text], "right")
        except RefusedRowsError as error:
            raise RefusedRowsError(error.model, error.reasons, [group.id]) from error.__cause__


def _refused_before(path: Path) -> dict[Key, str]:
    """What `skipped.jsonl` says of rows that the processor refused.

    Raises:
        UserError: a row is not as it was written.
    """
    refused: dict[Key, str] = {}
    for number, row in enumerate(read_jsonl(path) if path.is_file() else [], start=1):
        match row:
            case {"id": str(name), "images": int(images), "reason": str(reason)}:
                refused[name, images] = reason
            case dict() if "images" not in row:
                pass
            case _:
                raise UserError(
                    f"{path}, row {number} is not as the run wrote it: id, images and reason have "
                    "to be a text, a number and a text. Restore the file, or train in another "
                    "--out."
                )
    return refused
