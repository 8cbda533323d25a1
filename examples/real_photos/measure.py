"""What BDHS and DPO change against more of the same training, on every photograph once.

    python measure.py --photos photos.jsonl --parts FOLDER --out runs/real_photos/measured

Four folds, so that every photograph is held out once, and several seeds. A fold's model is taught
once; a seed changes the views that pairs are made of, the pairs, and the order of training. It
takes hours and goes on where it was stopped. The first cell tells how large a difference the whole
can find; that is written to `power.json` before any other cell is run.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from photos import read_photos, taught_errors
from pooled import BASELINES, power, sum_up
from run import Plan, Steps, measure_arms

from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json

FOLDS, SEEDS = 4, 3


def cell(plan: Plan, fold: int, seed: int) -> Plan:
    """One run: the whole way for the first seed; others start from the model that it taught."""
    first = plan.out / f"fold{fold}-seed0"
    base = str(first / "models" / "base") if seed else None
    own = plan.out / f"fold{fold}-seed{seed}"
    return replace(plan, out=own, fold=fold, seed=seed, base=base, shuffled=("base",))


def take_over(first: Path, own: Path) -> None:
    """Copy what the first seed found out about the model that both start from, and of constants."""
    for name in (*(f"eval/{arm}" for arm in ("base", *BASELINES)), "text/base.json"):
        if not (own / name).exists():
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            partial = own / f"{name}.partial"
            if (first / name).is_dir():
                shutil.copytree(first / name, partial, dirs_exist_ok=True)
            else:
                shutil.copy(first / name, partial)
            partial.rename(own / name)


def measure(plan: Plan, seeds: int) -> None:
    """Run the cells that are missing, seed after seed, and sum up after each.

    Raises:
        UserError: there is no seed.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; give 1 or more.")
    photographs = len(read_photos(plan.photos))
    done: dict[tuple[int, int], Path] = {}
    for seed in range(seeds):
        for fold in range(FOLDS):
            print(f"== fold {fold}, seed {seed}", flush=True)
            own = cell(plan, fold, seed)
            if seed:
                take_over(cell(plan, fold, 0).out, own.out)
            measure_arms(own, Steps(own.out))
            done[fold, seed] = own.out
            if not (plan.out / "power.json").exists():
                write_json(plan.out / "power.json", power(own.out, photographs))
        sum_up(plan.photos, done, plan.out)


def main() -> None:
    """Read the command line; run the cells that are missing, seed after seed."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--photos", type=Path, required=True)
    reader.add_argument("--parts", type=Path, required=True)
    reader.add_argument("--out", type=Path, default=Path("runs/real_photos/measured"))
    reader.add_argument("--seeds", type=int, default=SEEDS)
    given = reader.parse_args()
    with taught_errors():
        measure(Plan(given.photos, given.out, given.parts), given.seeds)
    print((given.out / "measured.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
