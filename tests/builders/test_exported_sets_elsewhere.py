"""What is exported for other tools is read by their own code, where they are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from PIL import Image

from veridical import cli
from veridical.data.messages import assistant_message, user_message
from veridical.data.records import write_records
from veridical.runtime.files import read_json, read_jsonl
from veridical.world.model import build_processor

TURNS = [user_message("A?"), assistant_message("a"), user_message("B?", images=0)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of one turn with one image, and a pair of several turns, in every format."""
    folder = tmp_path_factory.mktemp("exported")
    rows = [
        {"id": name, "images": [Image.new("RGB", (20, 16), (90, number, 0))], "prompt": prompt}
        | {"chosen": [assistant_message("Yes.")], "rejected": [assistant_message("No.")]}
        for number, (name, prompt) in enumerate((("one", [user_message("Q?")]), ("turns", TURNS)))
    ]
    write_records(rows, folder / "mine.parquet", "preference")
    for to in ("trl", "llamafactory", "ms-swift", "openrlhf", "verl", "webdataset"):
        given = [str(folder / "mine.parquet"), "--to", to, "--out", str(folder / to)]
        kind = "prompt" if to in ("openrlhf", "verl") else "preference"
        assert cli.main(["data", "export", *given, "--kind", kind]) == 0
    return folder


def without_init(package: str, *parts: str) -> None:
    """Let modules of a package be imported without all that its `__init__` imports."""
    found = importlib.util.find_spec(package)
    if found is None or found.submodule_search_locations is None:
        pytest.skip(f"{package} is not installed")
    folder = Path(found.submodule_search_locations[0])
    for part in parts:
        module = types.ModuleType(f"{package}.{part}")
        module.__path__ = [str(folder.joinpath(*part.split(".")))]
        sys.modules.setdefault(module.__name__, module)


def test_trl_prepares_and_trains_on_it(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    spec = importlib.util.spec_from_file_location(
        "records_trl", Path(__file__).parents[1] / "data/test_records_trl.py"
    )
    assert spec is not None
    assert spec.loader is not None
    with_trl = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(with_trl)
    files = str(exported / "trl" / "*.parquet")
    dataset = datasets.load_dataset("parquet", data_files=files, split="train")
    history = with_trl.train_one_step(dataset, tmp_path)
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2, at the start


def test_llamafactory_reads_it_by_its_own_description(exported: Path) -> None:
    without_init("llamafactory", "data")
    converter = importlib.import_module("llamafactory.data.converter")
    parser = importlib.import_module("llamafactory.data.parser")
    folder = exported / "llamafactory"
    (about,) = parser.get_dataset_list(["veridical"], str(folder))
    assert about.ranking
    files = str(folder / about.dataset_name)
    dataset = datasets.load_dataset("json", data_files=files, split="train")
    convert = converter.get_dataset_converter(
        about.formatting, about, SimpleNamespace(media_dir=str(folder))
    )
    one, turns = (convert(row) for row in dataset)
    assert one["_prompt"] == [{"role": "user", "content": "<image>\nQ?"}]
    assert [answer["content"] for answer in one["_response"]] == ["Yes.", "No."]
    assert all(Path(image).is_file() for row in (one, turns) for image in row["_images"])
    assert [turn["role"] for turn in turns["_prompt"]] == ["user", "assistant", "user"]


def test_ms_swift_reads_it(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocessor = pytest.importorskip("swift.dataset.preprocessor.core")
    files = str(exported / "ms-swift/data.jsonl")
    dataset = datasets.load_dataset("json", data_files=files, split="train")
    monkeypatch.chdir(exported / "ms-swift")
    rows = list(preprocessor.AutoPreprocessor()(dataset, num_proc=1, strict=True))
    assert [row["rejected_response"] for row in rows] == ["No.", "No."]
    assert rows[0]["messages"][0]["content"] == "<image>\nQ?"
    assert rows[0]["messages"][-1]["content"] == "Yes."
    assert Path(rows[0]["images"][0]["path"]).is_file()


def test_openrlhf_reads_its_prompts(exported: Path) -> None:
    without_init("openrlhf", "datasets")
    prompts = importlib.import_module("openrlhf.datasets.prompts_dataset")
    template = build_processor().apply_chat_template
    told = [
        prompts.preprocess_data(
            row, input_key="input", label_key="label", apply_chat_template=template
        )
        for row in read_jsonl(exported / "openrlhf/data.jsonl")
    ]
    assert told == [
        ("USER: <image>\nQ? ASSISTANT:", ""),
        ("USER: <image>\nA? ASSISTANT: a</s>USER: B? ASSISTANT:", ""),
    ]


def test_verl_puts_the_images_where_they_belong(exported: Path) -> None:
    without_init("verl", "utils", "utils.dataset")
    reader = pytest.importorskip("verl.utils.dataset.rl_dataset")
    files = str(exported / "verl" / "*.parquet")
    row = datasets.load_dataset("parquet", data_files=files, split="train")[0]
    asking = SimpleNamespace(
        image_key="images", video_key="videos", audio_key="audios", processor=object()
    )
    (message,) = reader.RLHFDataset._build_messages(asking, row, "prompt")
    assert [block["type"] for block in message["content"]] == ["image", "text"]
    assert message["content"][0]["image"].size == (20, 16)


def test_webdataset_reads_its_shards(exported: Path) -> None:
    (shard,) = (exported / "webdataset").glob("*.tar")
    dataset = datasets.load_dataset("webdataset", data_files=str(shard), split="train")
    assert dataset[0]["0.png"].size == (20, 16)
    assert dataset[1]["json"]["id"] == "turns"
    library = pytest.importorskip("webdataset")
    rows = list(library.WebDataset(str(shard), shardshuffle=False).decode("pil"))
    assert rows[0]["0.png"].size == (20, 16)
    assert rows[1]["json"]["chosen"][0]["content"][0]["text"] == "Yes."


def test_the_folder_says_what_it_holds(exported: Path) -> None:
    about = read_json(exported / "verl/export.json")
    assert (about["records"], about["kind"], list(about["files"])) == (
        2,
        "prompt",
        ["train-00000.parquet"],
    )
