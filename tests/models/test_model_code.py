"""Python files that a checkpoint brings are never run: not by default, not when asked on stdin."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from veridical import cli
from veridical.models.load import load_policy, load_processor
from veridical.runtime.errors import UserError
from veridical.runtime.fingerprint import EMBEDDED_MODEL

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers import PreTrainedTokenizerFast, CLIPImageProcessor

class Config(LlavaConfig):
    model_type = "own"

class Model(LlavaForConditionalGeneration):
    config_class = Config

class Processor(LlavaProcessor): ...

class Tokenizer(PreTrainedTokenizerFast): ...

class ImageProcessor(CLIPImageProcessor): ...

def generate(model, **inputs):
    return None
"""
BOTH = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
CHANGES: dict[str, dict[str, Any]] = {
    "config.json": {"auto_map": BOTH, "model_type": "own"},
    "processor_config.json": {
        "auto_map": {"AutoProcessor": "code.Processor"},
        "processor_class": "Processor",
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]},
        "tokenizer_class": "Tokenizer",
    },
    "preprocessor_config.json": {
        "auto_map": {"AutoImageProcessor": "code.ImageProcessor"},
        "image_processor_type": "ImageProcessor",
    },
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Appears if a checkpoint's code runs, while standard input says yes to everything."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    return tmp_path / "it ran"


def checkpoint(folder: Path, marker: Path, changed: str) -> Path:
    shutil.copytree(EMBEDDED_MODEL, folder)
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    path = folder / changed
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | CHANGES[changed]))
    return folder


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize("load", [load_policy, load_processor])
def test_the_code_of_a_checkpoint_does_not_run(
    changed: str, load: Any, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint(tmp_path / "model", marker, changed)
    try:
        load(str(folder))
    except UserError as error:
        assert "--import FILE.py" in str(error)
    else:
        assert changed != "config.json" or load is load_processor
    assert not marker.exists()
    assert "y/N" not in capsys.readouterr().out


def test_generation_code_does_not_run(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED_MODEL, folder)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(marker=str(marker)))
    try:
        load_policy(str(folder))
    except UserError as error:
        assert "--import FILE.py" in str(error)
    assert not marker.exists()


def test_four_bits_refuse_it_too(tmp_path: Path, marker: Path, monkeypatch: Any) -> None:
    folder = checkpoint(tmp_path / "model", marker, "config.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match=r"--import FILE\.py"):
        load_policy(str(folder), four_bit=True)
    assert not marker.exists()


def test_the_command_ends_with_status_2(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint(tmp_path / "model", marker, "config.json")
    assert cli.main(["ask", str(folder), str(tmp_path / "x.png"), "What?"]) == 2
    assert not marker.exists()


def test_everything_that_loads_says_no() -> None:
    """A call of Transformers' `from_pretrained` that says nothing asks on standard input."""
    source = Path(cli.__file__).parents[1]
    calls = re.compile(
        r"(?:Auto\w+\.from_pretrained|SentenceTransformer)\((?!\))(.*?)\)", re.DOTALL
    )
    found = [
        (path.name, match)
        for path in source.rglob("*.py")
        for match in calls.findall(path.read_text())
    ]
    assert len(found) >= 6
    assert [name for name, call in found if "trust_remote_code=False" not in call] == []
