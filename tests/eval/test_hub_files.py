"""Questions from a copy on the hub, or from a folder of its files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from veridical.cli import main
from veridical.cli.named_files import check_named_file
from veridical.data.importers import sources
from veridical.eval.benchmark import find_benchmark
from veridical.eval.benchmarks import BENCHMARKS
from veridical.eval.dash_b import by_set, read_dash_b
from veridical.eval.evaluation import Subject
from veridical.eval.hub_files import with_hub_files
from veridical.eval.pope_questions import read_questions
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl


def picture(color: str) -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


RED, BLUE = picture("red"), picture("blue")
MMVET = [
    {"question_id": f"v1_{n}", "question": f"Question {n}?", "image": image, "answer": "-1",
     "capability": "ocr,math"}
    for n, image in enumerate((RED, RED, BLUE))
]  # fmt: skip
PLACE = {"category": "VS", "subcategory": "chart", "set_id": "0", "question_id": "0",
         "question": "Is it?", "gt_answer": "1", "gt_answer_details": "Details."}  # fmt: skip
DASH_B = "Can you see a cup in this image? Please answer only with yes or no."
ROWS: dict[str, list[list[dict[str, Any]]]] = {
    "mmvet": [MMVET],
    "mmhal": [[
        {"question_type": "counting", "question_topic": "food", "image_id": "i0", "question": "Q?",
         "image_content": ["Cup"], "gt_answer": "Truth.", "image": RED}
    ]],
    "hallusionbench": [
        [{**PLACE, "visual_input": "1", "figure_id": "1", "filename": "./VS/chart/0_1.png",
          "image": RED}],
        [{**PLACE, "visual_input": "0", "figure_id": "0", "filename": None}],
    ],
    "textvqa": [[{"question_id": 1, "image_id": "t0", "question": "Q?", "answers": ["a"] * 10,
                  "image": RED}]],
    "vqav2": [[{"question_id": 5, "image_id": 9, "question": "Q?", "answer_type": "other",
                "answers": [{"answer": "a", "answer_id": 1}], "image": RED}]],
    "gqa": [
        [{"id": "7", "question": "Q?", "imageId": "n1", "answer": "cup",
          "types": {"structural": "query"}}],
        [{"id": "n1", "image": RED}],
    ],
    "mmbench": [[{"index": 1, "question": "Q?", "hint": None, "A": "a", "B": "b", "C": None,
                  "D": None, "answer": "A", "category": "c", "l2-category": "l", "image": RED}]],
    "mt_bench": [[{"prompt_id": 81, "category": "writing", "prompt": ["One?", "Two?"]}]],
    "vl_rewardbench": [[{"id": "x", "query": "Q?", "image": RED, "response": ["a", "b"],
                         "human_ranking": [0, 1], "judge": "human"}]],
    "llava_bench": [[{"question_id": 3, "question": "Q?", "caption": "A cup.", "gpt_answer": "Red.",
                      "category": "conv", "image_id": "001.jpg", "image": RED}]],
    "dash_b": [[{"question_id": n, "question": DASH_B, "answer": said, "image": picture}
                for n, said, picture in ((0, "No", RED), (1, "yes", BLUE))]],
    "pope": [[{"id": "0", "question_id": "1", "question": f"Is there a {split} cup in the image?",
               "answer": "yes", "image_source": "COCO_val2014_000000000009", "image": RED,
               "category": split}] for split in ("random", "popular", "adversarial")],
}  # fmt: skip
IDS = {
    "mmvet": ["v1_0", "v1_1", "v1_2"], "mmhal": ["0"],
    "hallusionbench": ["VS/chart/0_1_0", "VS/chart/0_0_0"], "textvqa": ["1"], "vqav2": ["5"],
    "gqa": ["7"],
    "mmbench": ["1", "1000001"], "mt_bench": ["81/1", "81/2"], "vl_rewardbench": ["x"],
    "llava_bench": ["3"], "dash_b": ["0", "1"], "pope": ["1", "1", "1"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIDICAL_BENCHMARKS", str(tmp_path / "benchmarks"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A stand-in for the hub; what Datasets was asked for."""
    calls: list[tuple[Any, ...]] = []

    class Info:
        sha = "c0ffee"

    class Api:
        def dataset_info(self, name: str, revision: str | None) -> Info:
            return Info()

    def load(name: str, config: str | None, **more: Any) -> Any:
        parts = ROWS[name.split("/")[1]]
        known = find_benchmark(name.split("/")[1]).asks
        assert known is not None and known.hub is not None and more["streaming"]
        calls.append((name, config, more["split"], more["revision"]))
        place = list(known.hub.parts).index((config, more["split"]))
        rows = datasets.Dataset.from_list(parts[place])
        if "image" in rows.column_names:
            rows = rows.cast_column("image", datasets.Image())
        return rows.to_iterable_dataset()

    monkeypatch.setattr(sources, "HfApi", Api)
    monkeypatch.setattr(sources, "can_look_up", lambda host: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return calls


def options_of(name: str, files: str) -> Any:
    asks = find_benchmark(name).asks
    assert asks is not None
    if name == "pope":
        return asks.options(questions=[Path(files)])
    others = {"vqav2": ["questions_file"], "llava_bench": ["context", "references"]}
    return asks.options(**dict.fromkeys(["files", *others.get(name, [])], Path(files)))


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_the_published_file(name: str, asked: list[tuple[Any, ...]]) -> None:
    asks = find_benchmark(name).asks
    assert asks is not None and asks.hub is not None
    options, subject, read = with_hub_files(asks.hub, options_of(name, f"owner/{name}"), Subject())
    assert read == f"owner/{name}@c0ffee" and {call[3] for call in asked} == {"c0ffee"}
    questions = read_questions(options.questions) if name == "pope" else options.questions
    assert [question.question_id for question in questions] == IDS[name]
    assert subject.images is not None
    shown = [question.image for question in questions if question.image]
    if name != "mmbench":  # whose images are in its file
        assert all((subject.images / image).is_file() for image in shown)
    calls = len(asked)
    with_hub_files(asks.hub, options_of(name, f"owner/{name}"), Subject())
    assert len(asked) == calls  # read once for each commit


def test_every_benchmark_with_a_hub_set_is_tested() -> None:
    known = {name for name in BENCHMARKS if (asks := find_benchmark(name).asks) and asks.hub}
    assert known == ROWS.keys()


def test_a_model_answers_and_the_commit_is_recorded(
    tmp_path: Path, asked: list[tuple[Any, ...]]
) -> None:
    out = tmp_path / "out"
    words = ["eval", "hallusionbench", "embedded", "--files", "owner/hallusionbench",
             "--max-new-tokens", "4", "--out", str(out)]  # fmt: skip
    assert main(words) == 0
    assert len(read_jsonl(out / "answers.jsonl")) == 2
    record = read_json(out / "run.json")
    assert record["published"] == "owner/hallusionbench@c0ffee" and "files" in record["inputs"]
    assert record["configuration"]["files"] == "owner/hallusionbench"
    assert read_json(out / "scores.json")["about"]["files"] == "owner/hallusionbench@c0ffee"


def test_a_folder_of_parquet_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "copy" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(MMVET), folder / "test-00000-of-00001.parquet")
    asks = find_benchmark("mmvet").asks
    assert asks is not None
    options, subject, read = with_hub_files(
        asks.hub, options_of("mmvet", str(folder.parent)), Subject()
    )
    assert len(options.questions) == 3 and read.startswith(f"{folder.parent}@")
    assert len({question.image_id for question in options.questions}) == 2  # two share an image
    assert subject.images is not None and len(list(subject.images.iterdir())) == 2


def test_what_can_not_be_read(asked: list[tuple[Any, ...]], monkeypatch: Any) -> None:
    asks = find_benchmark("mmvet").asks
    assert asks is not None
    monkeypatch.setitem(ROWS, "mmvet", [[{"question": "Q?", "image": RED}]])
    with pytest.raises(UserError, match="row 1: has no 'capability' as lmms-lab/MMVet"):
        with_hub_files(asks.hub, options_of("mmvet", "owner/mmvet"), Subject())
    with pytest.raises(UserError, match="read from its published files only"):
        with_hub_files(None, options_of("mmvet", "owner/amber"), Subject())
    plain = options_of("mmvet", "absent/mm-vet.json")
    assert with_hub_files(asks.hub, plain, Subject())[0] is plain


def test_what_a_copy_does_not_have_is_not_made_up(asked: list[tuple[Any, ...]]) -> None:
    """DASH-B's copy has no sets of objects and its own questions; LLaVA-Bench's has references."""
    asks = find_benchmark("dash_b").asks
    assert asks is not None
    options, *_ = with_hub_files(asks.hub, options_of("dash_b", "owner/dash_b"), Subject())
    assert [(q.expected, q.about) for q in options.questions] == [
        ("no", {"set": "", "object": "cup"}), ("yes", {"set": "", "object": "cup"}),
    ]  # fmt: skip
    assert by_set([q.row for q in options.questions]) == {}
    with pytest.raises(UserError, match="a copy has its own questions"):
        read_dash_b(options.files, "Is there a {object}?")
    asks = find_benchmark("llava_bench").asks
    assert asks is not None
    options, *_ = with_hub_files(
        asks.hub, options_of("llava_bench", "owner/llava_bench"), Subject()
    )
    (question,) = options.questions
    assert (question.expected, question.about["context"]) == ("Red.", "A cup.")


def test_the_command_line_lets_names_on_the_hub_through() -> None:
    check_named_file("files", Path("owner/set"), "--files")
    for name, path in (("files", "absent/set.json"), ("files", "absent"), ("images", "owner/set")):
        with pytest.raises(UserError, match="does not exist"):
            check_named_file(name, Path(path), f"--{name}")
