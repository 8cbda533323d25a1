"""What importing, checking and describing a large set of pairs costs, beside a tenth of it.

    VERIDICAL_TEST_DATA=... python benchmarks/large_set.py [--rows 10000 100000] [--out FOLDER]

Pairs as published sets have them: a question, two answers of two to four sentences of real
captions, and one image, a crop of a real photograph (160 x 120 pixels). Every command runs in a
process of its own, whose CPU time and peak memory the system reports. A step that grows faster than
the rows is visible in the column of milliseconds a row.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZE = (160, 120)
NARROWEST, WIDEST = 160, 400  # pixels of a photograph that a crop covers
WRITTEN_AT_ONCE = 1000
QUESTIONS = (
    "Describe the image.",
    "What is in the picture?",
    "What can you see here?",
    "Give a detailed description of this scene.",
    "What is happening?",
)
CAPTIONS = ("Instruction2_llava.json", "Instruction2_mplug.json")
MODELS = "abc"


def make_set(data: Path, out: Path, rows: int) -> None:
    """Write the pairs; a longer set begins with the rows of a shorter one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    names = ("question", "chosen", "rejected", "chosen_model", "rejected_model")
    schema = pa.schema({**dict.fromkeys(names, pa.string()), "image": image})
    made = _rows(data, rows)
    with pq.ParquetWriter(out, schema) as writer:
        while chunk := [row for _, row in zip(range(WRITTEN_AT_ONCE), made, strict=False)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def _rows(data: Path, rows: int) -> Iterator[dict[str, Any]]:
    from PIL import Image

    photographs = []
    for file in sorted((data / "coco128" / "images").glob("*.jpg")):
        with Image.open(file) as opened:
            photographs.append(opened.convert("RGB"))
    sentences = _sentences(data / "captions")
    draw = random.Random(7)
    for number in range(rows):
        photograph = draw.choice(photographs)
        width = draw.randint(NARROWEST, min(photograph.width, WIDEST))
        height = min(photograph.height, width * SIZE[1] // SIZE[0])
        left = draw.randint(0, photograph.width - width)
        top = draw.randint(0, photograph.height - height)
        jpeg = io.BytesIO()
        crop = photograph.crop((left, top, left + width, top + height))
        crop.resize(SIZE).save(jpeg, "JPEG", quality=85)
        answers = [" ".join(draw.sample(sentences, draw.randint(2, 4))) for _ in range(2)]
        yield {
            "question": draw.choice(QUESTIONS),
            "chosen": answers[0],
            "rejected": answers[1],
            "chosen_model": draw.choice(MODELS),
            "rejected_model": draw.choice(MODELS),
            "image": {"bytes": jpeg.getvalue(), "path": f"{number}.jpg"},
        }


def _sentences(captions: Path) -> list[str]:
    texts = [
        json.loads(line)["text"]
        for name in CAPTIONS
        for line in (captions / name).read_text().splitlines()
        if line.strip()
    ]
    return sorted({one for text in texts for one in re.findall(r"[A-Z][^.!?]+[.!?]", text)})


def measure(name: str, rows: int, command: list[str]) -> str:
    """Run a command to its end; its line of the table."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
    if (code := os.waitstatus_to_exitcode(status)) not in (0, 1):  # 1: the check has findings
        raise SystemExit(f"{' '.join(command)} ended with {code}.")
    cells = (name, f"{rows:,}", f"{cpu:.0f} s", f"{wall:.0f} s", f"{1000 * cpu / rows:.2f}",
             f"{used.ru_maxrss * 1024 / 1e9:.2f} GB")  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Make each set, and run the three commands on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path("runs/large_set"))
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    data = Path(os.environ["VERIDICAL_TEST_DATA"])
    given.out.mkdir(parents=True, exist_ok=True)
    if given.make:
        make_set(data, given.out / f"{given.make}.made", given.make)
        return
    print("| command | rows | CPU time | wall time | CPU ms a row | peak memory |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    veridical = [sys.executable, "-m", "veridical", "data"]
    pope = data / "pope" / "coco_pope_random.json"
    for rows in given.rows:
        source, pairs = given.out / f"{rows}.parquet", given.out / f"{rows}.pairs.parquet"
        if not source.exists():  # in a process of its own, or its memory would count below
            made = [sys.executable, __file__, "--out", str(given.out), "--make", str(rows)]
            subprocess.run(made, check=True)
            (given.out / f"{rows}.made").rename(source)
        if not pairs.exists():
            line = measure("import", rows, [*veridical, "import", str(source), "--out", str(pairs)])
            print(line, flush=True)
        asked = {
            "check": [str(pairs), "--benchmarks", str(pope)],
            "describe": [str(pairs), "--out", str(given.out / f"{rows}.html")],
        }
        for name, options in asked.items():
            print(measure(name, rows, [*veridical, name, *options]), flush=True)


if __name__ == "__main__":
    main()
