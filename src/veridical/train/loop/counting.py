"""Number of optimizer steps, epochs and rows: counted here alone, for every training loop.

An epoch is every row once. Its last step has the rows that are left, so an epoch is a whole number
of steps, and a run of several epochs has that number of steps for each.
"""

from __future__ import annotations

import math


def steps_an_epoch(rows: int, rows_a_step: int) -> int:
    """Optimizer steps in which every row is seen once.

    Args:
        rows: of the data.
        rows_a_step: of a full step: over all processes and accumulated batches.
    """
    return max(1, math.ceil(rows / rows_a_step))


def total_steps(rows: int, rows_a_step: int, epochs: float, max_steps: int) -> int:
    """Optimizer steps of a whole run.

    Args:
        rows: of the data.
        rows_a_step: of a full step.
        epochs: passes over the rows; a fraction gives the steps of that share of an epoch.
        max_steps: above 0 it is the answer.
    """
    if max_steps > 0:
        return max_steps
    # 0.07 x 100 steps is 7.000000000000001 in floating point, and seven steps.
    return max(1, math.ceil(round(epochs * steps_an_epoch(rows, rows_a_step), 6)))


def rows_seen(steps: int, rows: int, rows_a_step: int) -> int:
    """Rows that a number of steps has trained on, each as often as it was seen."""
    epochs, more = divmod(steps, steps_an_epoch(rows, rows_a_step))
    return epochs * rows + min(more * rows_a_step, rows)
