"""Images and questions of benchmarks in the training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from veridical.inspection.benchmark_files import BenchmarkContent, name_key
from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row
from veridical.inspection.texts import without_form

NAME = "leakage"


def leakage_check(benchmarks: Sequence[BenchmarkContent]) -> Callable[[Row], Iterator[Finding]]:
    """The check for these benchmarks."""

    def check_leakage(row: Row) -> Iterator[Finding]:
        """No image or question is that of a benchmark."""
        question = without_form(row.prompt)
        for benchmark in benchmarks:
            shown = [(picture, benchmark.shows(picture)) for picture in row.pictures]
            leaked = next(((picture, how) for picture, how in shown if how), None)
            if leaked is not None:
                picture, how = leaked
                asked = (name_key(picture.name), question) in benchmark.asked
                yield Finding(
                    NAME, "error", row.number, row.id,
                    f"{benchmark.name} has {how}"
                    + (f" ({picture.name})" if picture.name else "")
                    + (", with the same question" if asked else ""),
                    f"take the row out, or do not evaluate on {benchmark.name}", "drop",
                )  # fmt: skip
            elif question in benchmark.questions:
                yield Finding(
                    NAME, "warning", row.number, row.id,
                    f"{benchmark.name} asks the same question: {row.prompt.strip()[:80]!r}",
                    "compare the images; take the row out if they are the same",
                )  # fmt: skip

    return check_leakage
