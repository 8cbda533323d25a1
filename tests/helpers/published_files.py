"""Small files in the published forms of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def dash_b(folder: Path) -> None:
    """Two objects of one set, each with an image that shows it and one that does not."""
    for kind in ("neg", "pos"):
        names = {"bed": [f"{kind}1.png"], "cup": [f"{kind}2.png"]}
        write(folder / f"dash_benchmark_{kind}.json", {"coco": names})


DASH_IDS = [
    f"{kind}/coco/{object}/{kind}{n}.png"
    for kind in ("neg", "pos")
    for n, object in ((1, "bed"), (2, "cup"))
]
HALLUSION = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id",
             "gt_answer", "filename")  # fmt: skip
HALLUSION_ROWS = [
    # A set without a figure at first: the figure itself, and an edited copy.
    ("VS", "chart", "0", "0", "0", "0", "1", None),
    ("VS", "chart", "1", "0", "1", "0", "1", "./VS/chart/0_1.png"),
    ("VS", "chart", "2", "0", "2", "0", "0", "./VS/chart/0_2.png"),
    # A figure and its edited copy, with two questions on each.
    ("VD", "ocr", "1", "0", "0", "0", "1", "./VD/ocr/0_0.png"),
    ("VD", "ocr", "1", "0", "0", "1", "0", "./VD/ocr/0_0.png"),
    ("VD", "ocr", "2", "0", "1", "0", "0", "./VD/ocr/0_1.png"),
    ("VD", "ocr", "2", "0", "1", "1", "0", "./VD/ocr/0_1.png"),
]


def hallusionbench(folder: Path) -> None:
    """Seven questions: three pairs, four figures."""
    rows = [dict(zip(HALLUSION, row, strict=True)) for row in HALLUSION_ROWS]
    for row in rows:
        row |= {"question": f"Is it {row['question_id']}?", "gt_answer_details": "Details."}
    write(folder / "HallusionBench.json", rows)


def mmhal(folder: Path) -> None:
    """Three questions of two types."""
    rows = [
        {"question_type": type, "question_topic": "food", "image_id": f"i{n}", "image_src": "u",
         "image_content": ["Cup", "Dog"], "question": f"Question {n}?", "gt_answer": f"Truth {n}.",
         "model_answer": ""}
        for n, type in enumerate(("attribute", "counting", "attribute"))
    ]  # fmt: skip
    write(folder / "template.json", rows)


def mmvet(folder: Path) -> None:
    """Three questions about two images."""
    needed = (["ocr", "math"], ["rec"], ["ocr"])
    rows = {
        f"v1_{n}": {"imagename": f"v1_{n % 2}.png", "question": f"Question {n}?",
                    "answer": "-1<AND>-5", "capability": own, "imagesource": "web"}
        for n, own in enumerate(needed)
    }  # fmt: skip
    write(folder / "mm-vet.json", rows)


def textvqa(folder: Path) -> None:
    """Three questions about two images."""
    rows = [
        {"question_id": n + 1, "image_id": f"t{n // 2}", "question": f"What is {n}?",
         "answers": ["Coke"] * 2 + ["the cola."] * 8, "image_classes": []}
        for n in range(3)
    ]  # fmt: skip
    write(folder / "textvqa.json", {"dataset_name": "textvqa", "data": rows})


def vqav2(folder: Path) -> None:
    """Two questions about one image."""
    asked = [{"question_id": n, "image_id": 9, "question": f"What is {n}?"} for n in (1, 2)]
    people = [{"answer": "two", "answer_id": n} for n in range(4)]
    people += [{"answer": "a few", "answer_id": n} for n in range(4, 10)]
    rows = [
        {"question_id": n, "image_id": 9, "answer_type": type, "answers": people}
        for n, type in ((1, "number"), (2, "other"))
    ]
    write(folder / "questions.json", {"questions": asked})
    write(folder / "annotations.json", {"annotations": rows})


def gqa(folder: Path) -> None:
    """A question of either kind."""
    rows = {
        f"{n}": {"question": f"What is {n}?", "imageId": "n1", "answer": answer,
                 "types": {"structural": type}}
        for n, (answer, type) in enumerate((("cup", "query"), ("yes", "verify")))
    }  # fmt: skip
    write(folder / "gqa.json", rows)


@dataclass(frozen=True)
class Published:
    """A benchmark's files.

    Attributes:
        write_files: writes them into a folder.
        named: what `--files` names of that folder.
        ids: its questions, in order.
        words: more options that its command needs to score answers.
    """

    write_files: Callable[[Path], None]
    named: str
    ids: Sequence[str]
    words: Sequence[str] = ()


PUBLISHED: Mapping[str, Published] = {
    "dash_b": Published(dash_b, "", DASH_IDS),
    "hallusionbench": Published(
        hallusionbench, "HallusionBench.json",
        [f"{row[0]}/{row[1]}/{row[3]}_{row[4]}_{row[5]}" for row in HALLUSION_ROWS],
    ),
    "mmhal": Published(mmhal, "template.json", ["0", "1", "2"], ["--judge", "local:embedded"]),
    "mmvet": Published(
        mmvet, "mm-vet.json", ["v1_0", "v1_1", "v1_2"], ["--judge", "local:embedded"]
    ),
    "textvqa": Published(textvqa, "textvqa.json", ["1", "2", "3"]),
    "vqav2": Published(
        vqav2, "annotations.json", ["1", "2"], ["--questions-file", "{vqav2_questions}"]
    ),
    "gqa": Published(gqa, "gqa.json", ["0", "1"]),
}  # fmt: skip


def write_published(folder: Path) -> dict[str, Path]:
    """The files of every benchmark as NAME_files, and answers to its questions as NAME_answers."""
    found = {}
    for name, published in PUBLISHED.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        published.write_files(own)
        found[f"{name}_files"] = own / published.named if published.named else own
        for word in published.words:
            if word.startswith("{"):
                more = word[1:-1]
                found[more] = own / f"{more.removeprefix(f'{name}_')}.json"
        found[f"{name}_answers"] = folder / f"{name}_answers.jsonl"
        rows = [{"question_id": id, "answer": "Yes."} for id in published.ids]
        write(found[f"{name}_answers"], rows)
    return found


def write(path: Path, content: Any) -> None:
    """JSON, or JSON Lines where the suffix says so."""
    lines = path.suffix == ".jsonl"
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(text, encoding="utf-8")
