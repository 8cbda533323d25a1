"""Sets go to a hub and come from it over HTTP, by the hub's client, on this machine alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_hub import COMMIT, EARLIER, FakeHub, HubSet, serving
from PIL import Image

from veridical.data.records import read_records, write_records
from veridical.runtime.files import hash_file, read_json

# In one process, which imports the libraries once. The client reads the token at each call.
RUN = """
import contextlib, io, json, os, sys
from veridical import cli
for token, arguments in json.load(sys.stdin):
    os.environ.pop("HF_TOKEN", None)
    os.environ |= {"HF_TOKEN": token} if token else {}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    print(json.dumps([status, out.getvalue(), err.getvalue()]))
"""
FILE = "data/train-00000-of-00001.parquet"


@dataclass
class Said:
    """What a command ended with and printed."""

    status: int
    out: str
    err: str


def run(hub: FakeHub, home: Path, calls: list[tuple[str, list[str]]]) -> list[Said]:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
    }
    given = [sys.executable, "-c", RUN]
    done = subprocess.run(
        given, input=json.dumps(calls), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [Said(*json.loads(line)) for line in done.stdout.splitlines()]


def published(count: int) -> bytes:
    rows = [{"question": "Q?", "chosen": f"A{n}.", "rejected": "B."} for n in range(count)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeHub, dict[str, Said]]:
    """What every command said, in one process."""
    folder = tmp_path_factory.mktemp("hub")
    row = {"id": "a", "images": [Image.new("RGB", (8, 8))], "prompt": "Q?", "chosen": "A."}
    write_records([row | {"rejected": "B."}], folder / "own.parquet", "preference")
    with serving() as hub:
        hub.sets["some/open"] = HubSet({FILE: published(3)}, {FILE: published(2)})
        hub.sets["some/gated"] = HubSet({FILE: published(3)}, gated=True)
        hub.let_in.add("hf_of_a_member")
        hub.writers.add("hf_of_a_writer")
        given = {
            "newest": ("", ["import", "some/open"]),
            "tag": ("", ["import", "some/open", "--revision", "v1"]),
            "no revision": ("", ["import", "some/open", "--revision", "v9"]),
            "nobody": ("", ["import", "some/gated"]),
            "a stranger": ("hf_of_a_stranger", ["import", "some/gated"]),
            "a member": ("hf_of_a_member", ["import", "some/gated"]),
            "no set": ("", ["import", "some/none"]),
            "pushed": ("hf_of_a_writer", ["export", str(folder / "own.parquet")]),
            "not pushed": ("hf_of_a_member", ["export", str(folder / "own.parquet")]),
            "back": ("", ["import", "me/pairs"]),
        }
        calls = []
        for name, (token, words) in given.items():
            place = str(folder / f"{name}.parquet")
            more = ["--out", place]
            if words[0] == "export":
                more = ["--to", "hub", "--repo", "me/pairs", "--out", str(folder / name)]
            calls.append((token, ["data", *words, *more]))
        said = dict(zip(given, run(hub, folder / "home", calls), strict=True))
    return folder, hub, said


@pytest.mark.parametrize(
    ("name", "rows", "commit"),
    [("newest", 3, COMMIT), ("tag", 2, EARLIER), ("a member", 3, COMMIT)],
)
def test_a_set_is_read_by_its_name_and_its_commit_is_recorded(
    story: tuple[Path, FakeHub, dict[str, Said]], name: str, rows: int, commit: str
) -> None:
    folder, _, said = story
    assert said[name].status == 0, said[name].err
    assert len(read_records(folder / f"{name}.parquet", "preference").rows) == rows
    assert read_json(folder / f"{name}.parquet.import.json")["revision"] == commit


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no revision", "some/open has no revision v9. Set --revision"),
        ("nobody", "some/gated is gated: only accounts that were let in may read it."),
        ("a stranger", "/datasets/some/gated, and set HF_TOKEN to a token of that account."),
        ("no set", "some/none is not a set on the hub that this token may read."),
        ("not pushed", "Set HF_TOKEN to a token that may write"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    story: tuple[Path, FakeHub, dict[str, Said]], name: str, told: str
) -> None:
    folder, _, said = story
    assert said[name].status == 2
    assert told in said[name].err
    assert "hf_of" not in said[name].out + said[name].err
    assert not (folder / f"{name}.parquet").exists()


def test_a_pushed_set_comes_back_with_its_card(
    story: tuple[Path, FakeHub, dict[str, Said]],
) -> None:
    folder, hub, said = story
    assert said["pushed"].status == 0, said["pushed"].err
    assert f"{hub.url}/datasets/me/pairs at {COMMIT}" in said["pushed"].out
    files = hub.sets["me/pairs"].files
    assert sorted(files) == ["README.md", "train-00000.parquet"]
    card = files["README.md"].decode()
    assert hash_file(folder / "own.parquet") in card
    assert said["back"].status == 0, said["back"].err
    [own] = read_records(folder / "own.parquet", "preference").rows
    [back] = read_records(folder / "back.parquet", "preference").rows
    assert own["images"][0].tobytes() == back["images"][0].tobytes()
    same = ("id", "prompt", "chosen", "rejected")
    assert {name: own[name] for name in same} == {name: back[name] for name in same}


def test_a_token_goes_to_the_hub_alone(story: tuple[Path, FakeHub, dict[str, Said]]) -> None:
    folder, hub, _ = story
    assert {token for *_, token in hub.requests} > {"hf_of_a_writer", "hf_of_a_member"}
    for file in folder.rglob("*"):
        assert not file.is_file() or b"hf_of_a" not in file.read_bytes()
