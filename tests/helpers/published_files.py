"""Small files in the published forms of benchmarks."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


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


MMBENCH = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\tl2-category\timage"


def mmbench(folder: Path) -> None:
    """A question with three options, and one with two about the same image."""
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(picture, "PNG")
    image = base64.b64encode(picture.getvalue()).decode()
    rows = [
        f"1\tWhat is it?\tLook.\ta dog\ta cat\ta cup\t\tB\tidentity\tperception\t{image}",
        "2\tIs it red?\tnan\tyes\tno\t\t\tA\tcolor\tperception\t1",
    ]
    (folder / "mmbench.tsv").write_text("\n".join([MMBENCH, *rows]) + "\n", encoding="utf-8")


def llava_bench(folder: Path) -> None:
    """Two questions about one image."""
    asked = [
        {"question_id": n, "image": "001.jpg", "text": f"Question {n}?", "category": category}
        for n, category in enumerate(("conv", "detail"))
    ]
    write(folder / "questions.jsonl", asked)
    write(folder / "context.json", [{"id": "001", "image": "001.jpg", "caption": "A red cup."}])
    references = [{"question_id": n, "text": f"Reference {n}."} for n in range(2)]
    write(folder / "references.json", references)


def mt_bench(folder: Path) -> None:
    """Two questions of two turns, one with references."""
    asked = [
        {"question_id": n, "category": category, "turns": [f"First {n}?", f"Second {n}?"]}
        for n, category in ((81, "writing"), (111, "math"))
    ]
    write(folder / "question.jsonl", asked)
    turns = ["Reference one.", "Reference two."]
    write(folder / "references.json", [{"question_id": 111, "choices": [{"turns": turns}]}])


def alpaca_eval(folder: Path) -> None:
    """Two instructions."""
    rows = [
        {"dataset": "x", "instruction": f"Do {n}.", "output": f"Done {n}.", "generator": "baseline"}
        for n in range(2)
    ]
    write(folder / "baseline.json", rows)


def vl_rewardbench(folder: Path) -> None:
    """A pair of each part; of two the first answer is better; the ids of the last two are one."""
    rows = [
        {"id": id, "query": f"Question {n}?", "response": ["A longer answer.", "Short."],
         "image": "images/1.png", "human_ranking": [n % 2, 1 - n % 2], "judge": "human"}
        for n, id in enumerate(("RLHF-V-1", "mathverse_1", "wildvision-1", "wildvision-1"))
    ]  # fmt: skip
    write(folder / "data.json", rows)
    ids = ("RLHF-V-1", "mathverse_1", "wildvision-1", "wildvision-1#2")
    write(folder / "replies.json", [{"question_id": i, "reply": "Better: 1"} for i in ids * 2])


def multimodal_rewardbench(folder: Path) -> None:
    """Three pairs of three categories."""
    rows = [
        {"ID": id, "Text": "Question?", "Image": "1.png", "Output1": "One.", "Output2": "Two two.",
         "Better": better, "Category": category}
        for id, better, category in (
            ("pairs_1", "Output1", "safety"), ("math_1", "Output2", "reasoning"),
            ("x", "Output2", "vqa"),
        )
    ]  # fmt: skip
    write(folder / "pairs.json", rows)
    ids = [row["ID"] for row in rows] * 2
    write(folder / "replies.json", [{"question_id": i, "reply": "Better: 1"} for i in ids])


SYNONYMS = "person, girl, man\ndog, puppy\ntraffic light, stoplight\ndining table, table\n"


def object_halbench(folder: Path) -> None:
    """Three images: of a person with a dog, of a dog, and of a table."""
    rows = [{"image_id": n, "question": f"Describe image {n}."} for n in (7, 8, 9)]
    write(folder / "obj_halbench.jsonl", rows)
    (folder / "synonyms.txt").write_text(SYNONYMS, encoding="utf-8")
    lists = {"7": ["person", "dog"], "8": ["dog"], "COCO_val2014_000000000009": ["dining table"]}
    write(folder / "objects.json", lists)


@dataclass(frozen=True)
class Published:
    """A benchmark's files.

    Attributes:
        write_files: writes them into a folder.
        named: what `--files` names of that folder.
        ids: its questions, in order.
        words: more options that its command needs to score answers.
        asks: whether it asks a model, or has the answers in its files.
    """

    write_files: Callable[[Path], None]
    named: str
    ids: Sequence[str]
    words: Sequence[str] = ()
    asks: bool = True


PUBLISHED: Mapping[str, Published] = {
    "dash_b": Published(dash_b, "", DASH_IDS),
    "hallusionbench": Published(
        hallusionbench, "HallusionBench.json",
        [f"{row[0]}/{row[1]}/{row[3]}_{row[4]}_{row[5]}" for row in HALLUSION_ROWS],
    ),
    "object_halbench": Published(
        object_halbench, "obj_halbench.jsonl", ["7", "8", "9"],
        ["--synonyms", "{object_halbench_synonyms}", "--objects", "{object_halbench_objects}"],
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
    "mmbench": Published(
        mmbench, "mmbench.tsv", ["1", "1000001", "2000001", "2", "1000002"]
    ),
    "llava_bench": Published(
        llava_bench, "questions.jsonl", ["0", "1"],
        ["--context", "{llava_bench_context}", "--references", "{llava_bench_references}",
         "--judge", "local:embedded"],
    ),
    "mt_bench": Published(
        mt_bench, "question.jsonl", ["81/1", "81/2", "111/1", "111/2"],
        ["--references", "{mt_bench_references}", "--judge", "local:embedded"],
    ),
    "alpaca_eval": Published(
        alpaca_eval, "baseline.json", ["0", "1"], ["--judge", "local:embedded"]
    ),
    "vl_rewardbench": Published(
        vl_rewardbench, "data.json", [], ["--replies", "{vl_rewardbench_replies}"], asks=False
    ),
    "multimodal_rewardbench": Published(
        multimodal_rewardbench, "pairs.json", [], ["--replies", "{multimodal_rewardbench_replies}"],
        asks=False,
    ),
}  # fmt: skip


def file_of(name: str, word: str) -> str:
    """The file of a benchmark that a word such as vqav2_questions names."""
    stem = word.removeprefix(f"{name}_")
    return f"{stem}.txt" if stem == "synonyms" else f"{stem}.json"


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
                found[more] = own / file_of(name, more)
        found[f"{name}_answers"] = folder / f"{name}_answers.jsonl"
        rows = [{"question_id": id, "answer": "Yes."} for id in published.ids]
        write(found[f"{name}_answers"], rows)
    return found


def write(path: Path, content: Any) -> None:
    """JSON, or JSON Lines where the suffix says so."""
    lines = path.suffix == ".jsonl"
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(text, encoding="utf-8")
