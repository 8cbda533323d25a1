"""The tests marked `gpu`, as a part of the benchmark: what they found, test by test.

Without a card the same tests run on the CPU, to see whether they run.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from measuring import ROOT, Figures, Settings, installed, run_part

RESERVE = 3.0
"""Seconds that the last test may still take."""
PROCESSES = min(16, os.cpu_count() or 1)
"""Beside each other on a card, where pytest-xdist is installed: tiny models leave it idle."""


class Outcomes:
    """Keeps every test's outcome, and stops when the time is over."""

    def __init__(self, figures: Figures) -> None:
        """Take the figures' file."""
        self.figures = figures
        self.failed = 0
        self.session: Any = None

    def pytest_sessionstart(self, session: Any) -> None:
        """The session can be asked to stop."""
        self.session = session

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A row for a test, with what it measured; one for a failure outside the test too."""
        if report.when == "call" or report.failed or report.skipped:
            row: dict[str, Any] = {
                "test": report.nodeid.rsplit("::", 1)[-1],
                "outcome": report.outcome,
                "seconds": round(report.duration, 2),
                "measured": ", ".join(f"{n} {v}" for n, v in report.user_properties),
            }
            if report.skipped:
                row = {"test": row["test"], "skipped": str(report.longrepr[-1])[:200]}
            if report.failed:
                self.failed += 1
                row = {"test": row["test"], "failed": _reason(report)}
            self.figures.add(row)
        if self.session is not None and self.figures.left() < RESERVE:
            self.session.shouldstop = "no time left"


def measure_tests(settings: Settings, figures: Figures) -> None:
    """Run them here, in this process."""
    outcomes = Outcomes(figures)
    marked = ["-m", "gpu"] if settings.device == "cuda" else ["-m", "not gpu and not slow"]
    arguments = [
        "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"),
        f"--rootdir={ROOT}", *marked, str(ROOT / "tests" / "gpu"),
    ]  # fmt: skip
    if settings.device == "cuda" and installed("xdist"):
        arguments += ["-n", str(PROCESSES)]
        os.environ["OMP_NUM_THREADS"] = "1"  # the CPU's side: a core for each process
    if os.environ.get("VERIDICAL_TORCHVISION"):
        arguments += ["-p", "torchvision_beside"]
    status = pytest.main(arguments, plugins=[outcomes])
    ran = len(figures.rows)
    if ran == 0:
        raise RuntimeError(f"pytest ran no test (exit status {int(status)})")
    if status == pytest.ExitCode.INTERRUPTED:
        figures.note(f"stopped after {ran} tests: no time left")
    figures.note(f"{ran - outcomes.failed} of {ran} tests passed or were skipped")
    if outcomes.failed:
        raise RuntimeError(f"{outcomes.failed} of {ran} tests failed")


def _reason(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0][:300]


if __name__ == "__main__":
    run_part(measure_tests)
