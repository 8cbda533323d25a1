"""Write the tables of `docs/performance.md` from what the benchmarks measured.

python benchmarks/tables.py [runs/benchmark]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from veridical.runtime.files import read_json, write_text_atomic

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
Row = dict[str, Any]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def dpo(rows: list[Row]) -> str:
    """Beside TRL."""
    columns = (
        "case", "tuning", "reference", "pairs/s, TRL = 1", "by CPU time", "peak memory, TRL = 1",
        "s a step", "TRL's", "GB", "TRL's", "first loss off by", "a later one", "log-probs",
    )  # fmt: skip
    repetitions = {row["case"]: row["repetitions"] for row in rows}
    told = ", ".join(f"{case} {number}" for case, number in repetitions.items())
    found = table(
        columns,
        (
            (
                row["case"], row["tuning"], row["reference"].replace("_", " "),
                f"**{row['pairs_per_second_ratio']:.1f}**",
                f"{row['pairs_per_cpu_second_ratio']:.1f}",
                f"**{row['peak_memory_ratio']:.2f}**",
                f"{row['veridical_seconds_a_step']:.2f}", f"{row['trl_seconds_a_step']:.2f}",
                f"{row['veridical_peak_bytes'] / 1e9:.2f}", f"{row['trl_peak_bytes'] / 1e9:.2f}",
                f"{row['max_loss_difference']:.0e}", f"{row['last_loss_difference']:.0e}",
                f"{max(row['max_logps_difference'], row['last_logps_difference']):.0e}",
            )
            for row in rows
        ),
    )  # fmt: skip
    return f"{found}\n\n(Repetitions: {told}.)"


def techniques(rows: list[Row]) -> str:
    """One off at a time, beside everything on."""
    start = rows[0]
    return table(
        ("without", "s a step", "all on = 1", "by CPU time", "peak, GB", "all on = 1"),
        (
            (
                row["without"] or "(all on)",
                f"{row['seconds_a_step']:.2f}",
                f"{row['seconds_a_step'] / start['seconds_a_step']:.2f}",
                f"{row['cpu_seconds_a_step'] / start['cpu_seconds_a_step']:.2f}",
                f"{row['peak_bytes'] / 1e9:.2f}",
                f"{row['peak_bytes'] / start['peak_bytes']:.2f}",
            )
            for row in rows
        ),
    )


def tokens(rows: list[Row]) -> str:
    """Both sides by image tokens."""
    found = {(row["image_tokens"], row["side"]): row for row in rows}
    counts = sorted({row["image_tokens"] for row in rows})

    def line(count: int) -> tuple[str, ...]:
        ours, theirs = found[count, "veridical"], found[count, "trl"]
        return (
            f"{count:,}",
            f"{ours['pairs_per_second']:.3f}",
            f"{theirs['pairs_per_second']:.3f}",
            f"{ours['pairs_per_second'] / theirs['pairs_per_second']:.1f}",
            f"{theirs['cpu_seconds_a_step'] / ours['cpu_seconds_a_step']:.1f}",
            f"{ours['peak_bytes'] / theirs['peak_bytes']:.2f}",
        )

    columns = ("image tokens", "pairs/s", "TRL's", "ratio", "by CPU time", "peak memory, TRL = 1")
    return table(columns, map(line, counts))


def bdhs(rows: list[Row]) -> str:
    """By way of sampling."""
    plain = {row["image_tokens"]: row for row in rows if row["way"] == "plain loop"}
    return table(
        ("image tokens", "masked tokens", "pairs/s", "plain loop = 1", "by CPU time"),
        (
            (
                f"{row['image_tokens']:,}",
                row["way"],
                f"{row['pairs_per_second']:.3f}",
                f"{row['pairs_per_second'] / loop['pairs_per_second']:.1f}",
                f"{loop['cpu_seconds_a_pair'] / row['cpu_seconds_a_pair']:.1f}",
            )
            for row in rows
            for loop in (plain[row["image_tokens"]],)
        ),
    )


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "dpo": dpo,
    "ablation": techniques,
    "tokens": tokens,
    "bdhs": bdhs,
}


def main(folder: Path) -> None:
    """Put every table that was measured between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        path = folder / f"{name}.json"
        if path.is_file():
            begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
            before, rest = page.split(begin)
            page = f"{before}{begin}{make(read_json(path)['rows'])}\n{end}{rest.split(end)[1]}"
    write_text_atomic(PAGE, page)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/benchmark"))
