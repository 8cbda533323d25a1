"""The table of checks, in the order in which their findings are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from veridical.inspection.checks.answers import check_empty, check_equal, check_refusals
from veridical.inspection.checks.duplicates import (
    check_duplicates,
    check_near_images,
    check_near_texts,
)
from veridical.inspection.checks.form import check_form
from veridical.inspection.checks.formats import check_formats
from veridical.inspection.checks.ids import check_ids
from veridical.inspection.checks.images import check_image_files
from veridical.inspection.checks.placeholders import check_placeholders
from veridical.inspection.checks.questions import check_questions
from veridical.inspection.checks.special_tokens import check_special_tokens
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row
from veridical.inspection.traces import Traces

RowCheck: TypeAlias = Callable[[Row], Iterator[Finding]]
SetCheck: TypeAlias = Callable[[Traces], Iterator[Finding]]

ROW_CHECKS: tuple[RowCheck, ...] = (
    check_placeholders,
    check_special_tokens,
    check_image_files,
    check_questions,
    check_empty,
    check_equal,
    check_refusals,
)
"""Each looks at one row. `check_leakage` and `check_truncation` join them where they are asked for:
they need a benchmark or a model."""

SET_CHECKS: tuple[SetCheck, ...] = (
    check_ids,
    check_duplicates,
    check_near_texts,
    check_near_images,
    check_formats,
)
"""Each compares all rows, by their traces."""


def check_row(row: Row, checks: tuple[RowCheck, ...]) -> list[Finding]:
    """Everything that is wrong with a row.

    `check_form` reports why commands would leave a row out, where no other check does.
    """
    found = [finding for check in checks for finding in check(row)]
    if not any(finding.level == "error" for finding in found):
        found += check_form(row)
    return found
