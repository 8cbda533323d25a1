"""Nothing that is kept of a model is taken for another's of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from veridical import sampling
from veridical.builders._parts import Parts
from veridical.cli.dispatch import main
from veridical.data.records import assistant_message, user_message, write_records
from veridical.data.responses import Response
from veridical.models.policy import Policy
from veridical.runtime.files import read_jsonl
from veridical.sampling import Decoding, Request
from veridical.study.keys import Keys
from veridical.study.plan import Plan, Step

Commit = Callable[[str, str, Mapping[str, bytes]], None]
HUB_NAME = "org/tiny"


class KeyFoundError(Exception):
    """A key that a command would look for what is kept by; it goes no further."""


@pytest.fixture
def files(policy: Policy, tmp_path: Path) -> dict[str, bytes]:
    """A model's files."""
    policy.model.save_pretrained(tmp_path / "saved")
    policy.processor.save_pretrained(tmp_path / "saved")
    return {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Drawn scenes and responses; commands stop where they know their key."""
    assert main(["world", "make", str(tmp_path / "data"), "--count", "2", "--seed", "1"]) == 0
    rows = [
        {
            "id": str(number), "images": [], "prompt": [user_message("What?", 0)],
            "responses": [[assistant_message("A cup.")], [assistant_message("A cat.")]],
        }
        for number in range(2)
    ]  # fmt: skip
    write_records(rows, tmp_path / "data" / "samples.parquet", "sample")

    def stop(self: Parts[Any], out: Path, identity: Mapping[str, Any], kind: Any) -> None:
        raise KeyFoundError(repr(sorted(identity.items(), key=str)))

    def answer(
        policy: Policy, requests: list[Request], decoding: Decoding, label: str = ""
    ) -> list[Response]:
        return [Response("A cup.") for _ in requests]

    monkeypatch.setattr(Parts, "__init__", stop)
    monkeypatch.setattr(sampling, "respond", answer)
    return tmp_path / "data"


def key_of(*words: Any) -> str:
    with pytest.raises(KeyFoundError) as found:
        main([str(word) for word in words])
    return str(found.value)


def built(command: str, source: str, *more: Any) -> Callable[[str, Path, Path], str]:
    def key(name: str, data: Path, out: Path) -> str:
        given = [name if word == "NAME" else word.format(name) for word in more]
        return key_of("build", command, *given, *option(source, data), "--out", out)

    return key


def option(source: str, data: Path) -> list[Any]:
    return [data / source] if source.startswith("samples") else ["--data", data / source]


def answered(name: str, data: Path, out: Path) -> str:
    words = ["eval", "chair", name, "--objects", data / "objects.json", "--out", out,
             "--vocabulary", data / "vocabulary.json", "--images", data / "images"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    return str([row["key"] for row in read_jsonl(out / "answers.jsonl")])


def planned(name: str, data: Path, out: Path) -> str:
    rows = str(data / "conversations.jsonl")
    step = Step("train", "train dpo", {"model": name, "data": rows, "out": str(out)})
    return Keys(Plan(data, (step,)), {"train": ["data"]}).key(step, {})


KEPT = {
    "build sample": built("sample", "conversations.jsonl", "NAME", "--limit", "1"),
    "build bdhs": built("bdhs", "conversations.jsonl", "NAME", "--similarity", "edit"),
    "build annotate": built("annotate", "samples.parquet", "--judge", "local:{}"),
    "build rank": built("rank", "samples.parquet", "--judge", "local:{}"),
    "eval chair": answered,
    "a plan": planned,
}


@pytest.mark.parametrize("place", ["folder", "hub"])
@pytest.mark.parametrize("command", KEPT)
def test_other_weights_have_other_keys(
    command: str, place: str, files: dict[str, bytes], data: Path, tmp_path: Path, commit: Commit
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    name = HUB_NAME if place == "hub" else str(folder)

    def put(content: Mapping[str, bytes], revision: str) -> None:
        if place == "hub":
            commit(HUB_NAME, revision, content)
        for file, own in content.items():
            (folder / file).write_bytes(own)

    put(files, "one")
    first = KEPT[command](name, data, tmp_path / "first")
    assert KEPT[command](name, data, tmp_path / "again") == first
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, tmp_path / "changed", {"format": "pt"})
    put({**files, "model.safetensors": (tmp_path / "changed").read_bytes()}, "two")
    assert KEPT[command](name, data, tmp_path / "changed-weights") != first
    put(files, "one")
    assert KEPT[command](name, data, tmp_path / "back") == first
    if place == "folder":
        put({"chat_template.jinja": files["chat_template.jinja"] + b" "}, "")
        assert KEPT[command](name, data, tmp_path / "template") != first
