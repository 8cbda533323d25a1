"""Work that several processes or machines share by folder alone, without ever meeting.

Each makes its shard and leaves the pieces in the run's folder, which all of them see. Whoever finds
every piece there puts the result together; so none waits for another, and one that failed is
simply started again.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.run_record import is_finished

CLAIM = "claimed"


@dataclass(frozen=True)
class Shard:
    """One process's shard of numbered pieces.

    Attributes:
        index: which shard, from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def has(self, piece: int) -> bool:
        """Whether this piece is in the shard."""
        return piece % self.count == self.index

    def claim(self, folder: Path) -> bool:
        """Whether this process is the one that puts the result together.

        Two that finish at once both find every piece; the first to claim does it. A run that is
        not shared does it whatever was claimed: that is how to go on after a claimant has died.
        """
        if self.count == 1:
            return True
        try:
            (folder / CLAIM).touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):
            return False
        return True

    def is_late(self, folder: Path) -> bool:
        """Whether other shards have finished the run in this folder; says so if they have."""
        if self.count == 1 or not is_finished(folder):
            return False
        print(
            f"{folder} is finished: nothing is left for shard {self.index + 1}/{self.count}. The "
            "same command in one process, without --shard, builds it again."
        )
        return True


ALL = Shard()
"""The whole of it: what a process that shares with nobody does."""


def read_shard(option: str | None) -> Shard:
    """The shard that `--shard` names, else the one that a launcher gave this process.

    Args:
        option: such as "2/8", counted from 1.

    Raises:
        UserError: it is not a shard, or a launcher has said something else.
    """
    launched = Shard(processes.rank(), processes.world_size())
    if option is None:
        return launched
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", option.strip())
    shard = Shard(int(found[1]) - 1, int(found[2])) if found else None
    if shard is None or not 0 <= shard.index < shard.count:
        raise UserError(f"--shard is {option!r}; give which of how many, as in 2/8 (1/8 to 8/8).")
    if launched.count > 1:
        raise UserError("A launcher has shared this run out already; leave --shard out.")
    return shard


def leave_to_others(shard: Shard, folder: Path, done: int, total: int) -> None:
    """Say that the rest is not here yet, and who will finish."""
    print(
        f"Shard {shard.index + 1}/{shard.count} of {folder} is done ({done} of {total} pieces are "
        "there). The last shard to finish writes the result; the same command in one process, "
        "without --shard, makes what is missing and writes it too."
    )


def print_result(line: str) -> None:
    """Print a result, from whichever process had the last shard."""
    print(line, file=sys.stdout if processes.is_first() else sys.__stdout__)
