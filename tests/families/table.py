"""Run the tests of families and make the table of `docs/families.md` from what came out.

python tests/families/table.py            # run; fail too if the table is not up to date
python tests/families/table.py --write    # run, then write the table
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# Before anything imports Transformers, which looks for torchvision once.
import torchvision_beside
from every_family import FAMILIES

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"
COLUMNS = {
    "shared prefix": ["test_shared_prefix_equals_the_stock_forward"],
    "masked image tokens": ["test_dropping_masked_image_tokens_is_masking_them"],
    "log-probs": ["test_two_rows_equal_the_stock_forward"],
    "batches": [
        "test_a_row_alone_equals_the_row_in_a_batch",
        "test_placeholders_are_features_after_truncation",
    ],
    "several images": ["test_images_are_told_apart_by_their_placeholder"],
    "gradients, LoRA": ["test_gradients_are_equal_and_stay_in_the_language_model"],
    "generation": [
        "test_generation_in_a_batch_is_generation_one_by_one",
        "test_our_decoding_is_the_models_own_generate",
    ],
    "vision cache": ["test_generation_from_kept_features_is_generation_from_pictures"],
    "DPO, float32 and bfloat16": ["test_dpo_learns_in_single_and_half_precision"],
    "save, load": ["test_save_and_load"],
}


class Outcomes:
    """What each test said of each family: `yes`, `no`, or why the family is refused."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what is a verdict on a family."""
        if "[" not in report.nodeid or (report.when != "call" and report.passed):
            return
        test, family = report.nodeid.rsplit("::", 1)[1].rstrip("]").split("[")
        verdict = dict(report.user_properties).get("refused")
        passed = f"no ({verdict})" if verdict else "yes"
        self.cells[test, family] = passed if report.passed else "not tested"


def table(outcomes: Outcomes) -> str:
    """Markdown."""
    lines = [
        "| family | " + " | ".join(COLUMNS) + " | wants torchvision |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for family in FAMILIES:
        cells = []
        if family.refused is not None:
            cells = [f"no ({family.refused})", *["no"] * (len(COLUMNS) - 1)]
        for tests in COLUMNS.values() if family.refused is None else ():
            found = [outcomes.cells.get((test, family.name), "no") for test in tests]
            cells.append(next((cell for cell in found if cell != "yes"), "yes"))
        wants = "yes" if family.torchvision else "no"
        lines.append(f"| {family.name} | {' | '.join(cells)} | {wants} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Returns the exit status."""
    outcomes = Outcomes()
    # A thread for each worker, as for the unit tests. Tests come in the order of families, and
    # worksteal gives each worker a run of them, so that few families are built twice.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    workers = ["-n", os.environ.get("WORKERS", "2"), "--dist", "worksteal"]
    beside = ["-p", torchvision_beside.__name__]
    status = int(pytest.main(["-q", *workers, *beside, str(HERE)], plugins=[outcomes]))
    if status:
        return status
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    current = before + BEGIN + table(outcomes) + END + after
    if "--write" in sys.argv:
        PAGE.write_text(current)
    elif current != page:
        print(f"The table of {PAGE} is not what the tests say; run this with --write.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
