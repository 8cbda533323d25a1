"""How a run over rows is trained and closed: saved, described, and counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from veridical.checks.prefix_sharing import Sharing
from veridical.checks.proofs import Proof
from veridical.runtime.runs import Run
from veridical.train.loop.card import write_cards
from veridical.train.loop.items import usable_rows
from veridical.train.loop.training_set import TrainingSet


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        figures: steps, seconds, rows per second and losses, as `run_trainer` returns them.
        files: what was saved; the first is what to load.
    """

    figures: dict[str, object]
    files: list[str]

    @property
    def name(self) -> str:
        """What to load, in the run's folder."""
        return next(iter(self.files), "model")


def finish_run(
    run: Run,
    method: str,
    rows: TrainingSet,
    sharing: Sharing,
    proofs: Sequence[Proof],
    trained: Trained,
    noun: Literal["pairs", "rows"] = "pairs",
) -> None:
    """Write the model card and the run's results.

    Args:
        run: as started.
        method: what the model card calls it.
        rows: what was trained on.
        sharing: whether prefixes were shared.
        proofs: of the start.
        trained: what came out.
        noun: what the rows are.
    """
    used, held_out = usable_rows(rows.train), usable_rows(rows.held_out)
    counts = {noun: used, f"held-out {noun}": held_out}
    write_cards(run, trained.files, method, counts, proofs, trained.figures)
    run.finish(
        **{noun: used, f"held_out_{noun}": held_out},
        skipped=len(rows.left_out),
        cut_responses=rows.cut,
        prefix_sharing=dataclasses.asdict(sharing),
        **trained.figures,
    )
