"""run.json says what was asked, with what and how it ended, and holds no key."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from veridical.runtime import runs
from veridical.runtime.runs import json_types, start_run


@dataclass(frozen=True)
class Options:
    beta: float = 0.1
    output: Path = Path("runs/x")


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def test_a_started_run_is_running_with_everything_needed_to_repeat_it(tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("{}\n")
    configuration = {"model": tmp_path, "options": Options(), "seed": 7, "data": {"split_seed": 3}}
    inputs = {"pairs": data, "model": Path("someone/on-a-hub")}
    start_run(tmp_path / "run", "train dpo", configuration, inputs)
    record = read(tmp_path / "run")
    assert record["status"] == "running"
    assert record["wall_time_seconds"] is None
    assert record["command"] == "train dpo"
    assert record["configuration"]["model"] == str(tmp_path)
    # The fields of a group of options are options.
    assert record["configuration"]["beta"] == 0.1
    assert record["configuration"]["output"] == "runs/x"
    assert record["seeds"] == {"seed": 7, "data.split_seed": 3}
    assert record["inputs"]["pairs"]["sha256"] == hashlib.sha256(b"{}\n").hexdigest()
    assert record["inputs"]["model"] == {"path": "someone/on-a-hub", "sha256": None}
    names = {"python", "veridical", "torch", "transformers", "peft", "datasets"}
    names |= {"sentencex", "py3langid"}
    assert set(record["versions"]) == names
    assert record["hardware"]["cores"] >= 1
    assert record["started_utc"].endswith("+00:00")
    assert datetime.fromisoformat(record["prompt_time"]) <= datetime.now()


def test_finish_adds_results_and_wall_time(tmp_path: Path) -> None:
    run = start_run(tmp_path, "eval pope", {})
    run.finish(accuracy=np.float32(0.5), worst=float("nan"))
    record = read(tmp_path)
    assert record["status"] == "finished"
    assert record["wall_time_seconds"] >= 0
    assert record["results"] == {"accuracy": 0.5, "worst": "nan"}


def test_an_exception_is_recorded_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no memory"), start_run(tmp_path, "train dpo", {}):
        raise RuntimeError("no memory")
    assert read(tmp_path)["status"] == "failed"
    assert read(tmp_path)["reason"] == "RuntimeError: no memory"


def test_neither_keys_nor_the_environment_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    start_run(tmp_path, "eval", {"judge": {"api_key": "sk-given"}, "max_new_tokens": 9})
    text = (tmp_path / "run.json").read_text()
    assert "sk-" not in text
    assert read(tmp_path)["configuration"]["max_new_tokens"] == 9


def test_git_hash_is_of_the_code_and_none_for_an_installed_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git("init", "-q")
    code = tmp_path / "code.py"
    code.write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "-q", "-m", "x")
    assert runs._git(code) == {"git_hash": git("rev-parse", "HEAD"), "git_dirty": False}
    code.write_text("x = 2\n")
    assert runs._git(code)["git_dirty"] is True
    # A file that was touched alone makes a status refresh the index, which takes a lock.
    code.write_text("x = 1\n")
    os.utime(code, (1, 1))
    index = (tmp_path / ".git" / "index").read_bytes()
    assert runs._git(code)["git_dirty"] is False
    assert (tmp_path / ".git" / "index").read_bytes() == index
    installed = tmp_path / ".venv" / "code.py"
    installed.parent.mkdir()
    installed.write_text("x = 1\n")
    assert runs._git(installed) == {"git_hash": None, "git_dirty": None}


def test_plain_gives_json_types() -> None:
    assert json_types({"a": (Path("x"), {2, 1}, np.int64(3))}) == {"a": ["x", [1, 2], 3]}
    assert json_types([float("inf"), True, None]) == ["inf", True, None]
