"""CSV and TSV files: every cell is a text, and what is not a row is named with its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.data.importers.tables import table_rows
from veridical.data.record_kinds import RowError
from veridical.runtime.errors import UserError


def read(path: Path, content: str | bytes) -> list[object]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [str(row) if isinstance(row, RowError) else row for _, row in table_rows(path)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.csv", 'q,a\n"1, 2","two\nlines"\n007,NA\ntrue,\n',
         [{"q": "1, 2", "a": "two\nlines"}, {"q": "007", "a": "NA"}, {"q": "true", "a": None}]),
        ("x.csv", "\ufeffq;a\r\nnaïve;2,3\r\n\r\n猫;x\r\n",
         [{"q": "naïve", "a": "2,3"}, {"q": "猫", "a": "x"}]),
        ("x.TSV", 'q\ta\n1,5\t"say ""no"""\n', [{"q": "1,5", "a": 'say "no"'}]),
        ("x.csv", "q,a\nshort\n1,2\nlong,2,3\n3,4\nlast\n",
         ["row: has 1 cell, and the header 2", {"q": "1", "a": "2"},
          "row: has 3 cells, and the header 2", {"q": "3", "a": "4"},
          "row: has 1 cell, and the header 2"]),
        ("x.csv", "q, a \n1, 2\n", [{"q": "1", "a": " 2"}]),
        ("x.csv", "q,a\n", []),
        ("x.csv", "q\n1\n", [{"q": "1"}]),
    ],
)  # fmt: skip
def test_cells_are_texts_and_rows_of_another_length_are_named(
    name: str, content: str, expected: list[object], tmp_path: Path
) -> None:
    assert read(tmp_path / name, content) == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        ("q,a\ncafé,x\n".encode("latin-1"), "is not UTF-8 text"),
        ("q,a\n1,2\n".encode("utf-16"), "is not UTF-8 text"),
        (b"q,a\n" + b"1,2\n" * 9000 + b"caf\xe9,x\n", "is not UTF-8 text"),
        (b"q,q\n1,2\n", "two columns named 'q'"),
        (b"q,a,,\n1,2,,\n", "2 columns without a name"),
        # A quote that is never closed, and one that is doubled by a backslash.
        (b'q,a\n1,2\n3,"4\n5,6\n', "begins in line 3: unexpected end of data"),
        (b'q,a\n1,"say \\"no\\""\n', "begins in line 2: ',' expected after '\"'"),
    ],
)
def test_what_is_no_table_is_said_in_a_line(content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.csv") as refusal:
        read(tmp_path / "x.csv", content)
    assert told in str(refusal.value)
