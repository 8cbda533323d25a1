"""One page about one or several runs, self-contained."""

from __future__ import annotations

from veridical.report.page import write_report

__all__ = ["write_report"]
