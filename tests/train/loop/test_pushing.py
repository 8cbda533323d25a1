"""The finished model on the hub: a local server answers the real client of huggingface_hub."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.train.dpo import train_dpo
from veridical.train.loop import pushing
from veridical.train.loop.pushing import check_push, how_to_push
from veridical.train.options import Training

NAME = "somebody/aligned-model"
SECRET = "hf_quite_secret"
TRAINING = Training(
    learning_rate=1e-3, max_steps=1, batch_size=4, accumulation=1, held_out=0.0,
    lora_rank=4, lora_alpha=8, push_to_hub=NAME,
)  # fmt: skip


@dataclass
class Hub:
    """What the server says, and what it was told."""

    who: dict[str, Any] = field(default_factory=lambda: {"name": "somebody", "orgs": []})
    private: bool | None = None  # of the repository; None where there is none
    broken: list[int] = field(default_factory=list)  # answers of the next times it is to create
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            return 200, self.who
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            if self.broken:
                return self.broken.pop(0), {"error": "not now"}
            self.created.append(json.loads(body))
            return 200, {"url": f"https://huggingface.co/{NAME}"}
        if path == f"/api/models/{NAME}/preupload/main":
            files = json.loads(body)["files"]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{"path": one["path"], **plain} for one in files]}
        if path == f"/api/models/{NAME}/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {
                "commitUrl": f"https://huggingface.co/{NAME}/commit/abc",
                "commitOid": "abc",
            }
        if path == f"/api/models/{NAME}" and self.private is not None:
            return 200, {"id": NAME, "private": self.private, "siblings": [], "tags": []}
        return 404, {"error": "Repository not found"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_all(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            state.asked.append((self.command, path, self.headers.get("Authorization")))
            status, content = state.answer(self.command, path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_all  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pushing, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    yield state
    server.shutdown()
    server.server_close()


def test_the_finished_model_is_uploaded_privately_with_its_card(
    saved: str, pairs: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    train_dpo(saved, pairs, out, training=TRAINING)
    [made] = hub.created
    assert (made["organization"], made["name"]) == ("somebody", "aligned-model")
    assert made["visibility"] == "private"
    assert hub.files == {p.name: p.read_bytes() for p in (out / "model").iterdir()}
    card = hub.files["README.md"].decode()
    # The model that it was made from is a folder here: no name on the hub.
    assert card.startswith("---\nlibrary_name: transformers\n") and "base_model:" not in card
    record = read_json(out / "run.json")
    assert record["pushed"] == {"repository": NAME, "folder": "model", "commit": "abc"}
    assert record["status"] == "finished" and record["results"]["steps"] == 1
    about = [token for _, path, token in hub.asked if NAME in path or "whoami" in path]
    assert len(about) > 3 and set(about) == {f"Bearer {SECRET}"}
    written = [p.read_bytes() for p in out.rglob("*") if p.is_file()]
    assert not any(SECRET.encode() in content for content in written)
    assert f"{NAME} (private)" in capsys.readouterr().out


@pytest.mark.parametrize(("broken", "created"), [([503, 500], 1), ([503, 500, 502], 0), ([403], 0)])
def test_a_failed_upload_is_tried_again_and_leaves_the_run_finished(
    saved: str, pairs: Path, tmp_path: Path, hub: Hub, broken: list[int], created: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub.broken = list(broken)
    out = tmp_path / "out"
    training = replace(TRAINING, save_merged=False, push_public=True)
    train_dpo(saved, pairs, out, training=training)
    record, told = read_json(out / "run.json"), capsys.readouterr().out
    assert record["status"] == "finished" and len(hub.created) == created
    assert hub.broken == []
    if created:
        assert "adapter_model.safetensors" in hub.files
        assert hub.created[0]["visibility"] == "public"
        assert record["pushed"]["commit"] == "abc"
    else:
        assert not hub.files and "failed" in record["pushed"]
        assert f"Push it later: hf upload {NAME} {out / 'adapter'} ." in told
        assert "--private" not in told


def test_the_command_for_later_does_it(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "my model" / "config.json").write_text("{}")
    words = shlex.split(how_to_push(NAME, tmp_path / "my model", public=False))
    program = Path(sys.executable).with_name(words[0])
    variables = {"HF_ENDPOINT": constants.ENDPOINT, "HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "0"}
    subprocess.run([program, *words[1:]], env=os.environ | variables, check=True, timeout=600)
    assert hub.files == {"config.json": b"{}"} and hub.created[0]["visibility"] == "private"


def refused(**change: Any) -> str:
    with pytest.raises(UserError) as found:
        check_push(replace(TRAINING, **change))
    return str(found.value)


def fine_grained(*scoped: tuple[str, str, list[str]]) -> dict[str, Any]:
    """What the hub says of a fine-grained token."""
    entities = [
        {"entity": {"_id": "6", "type": type, "name": name}, "permissions": permissions}
        for type, name, permissions in scoped
    ]
    rights = {"canReadGatedRepos": True, "global": ["discussion.write"], "scoped": entities}
    return {"accessToken": {"displayName": "t", "role": "fineGrained", "fineGrained": rights}}


READ_ONLY = ["repo.content.read", "inference.serverless.write"]


@pytest.mark.parametrize(
    "scoped",
    [
        [],
        [("user", "somebody", READ_ONLY)],
        [("org", "else", ["repo.write"]), ("user", "somebody", READ_ONLY)],
        [("dataset", NAME, ["repo.write"])],
        [("model", "somebody/other", ["repo.write"])],
    ],
)
def test_a_fine_grained_token_that_may_not_write_is_refused(hub: Hub, scoped: Any) -> None:
    hub.who["auth"] = fine_grained(*scoped)
    assert "fine-grained token in HF_TOKEN may not write there" in refused()
    assert not hub.created


def test_a_fine_grained_token_that_may_write_is_taken(hub: Hub) -> None:
    for one in (("user", "Somebody", ["repo.write"]), ("org", "somebody", ["repo.write"])):
        hub.who["auth"] = fine_grained(one)
        check_push(TRAINING)
    # One repository alone: it has to be there.
    hub.who["auth"] = fine_grained(("model", NAME, [*READ_ONLY, "repo.write"]))
    assert "which does not exist" in refused()
    hub.private = True
    check_push(TRAINING)
    # A hub that does not say what is granted is asked at the end.
    hub.who["auth"] = {"accessToken": {"role": "fineGrained"}}
    check_push(TRAINING)


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/b--c", "/tmp/model", "a/b c", ""])
def test_what_is_no_repository_is_refused(name: str, hub: Hub) -> None:
    assert "is not a repository" in refused(push_to_hub=name)
    assert not hub.asked


def test_what_can_not_work_is_refused_before_training(
    pairs: Path, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_push(TRAINING)
    check_push(replace(TRAINING, push_to_hub=None))
    assert "give --push-to-hub" in refused(push_to_hub=None, push_public=True)
    assert "can't write to else" in refused(push_to_hub="else/model")
    hub.who["orgs"] = [{"name": "Else"}]
    check_push(replace(TRAINING, push_to_hub="else/model"))
    hub.who["auth"] = {"accessToken": {"role": "read"}}
    assert "may only read" in refused()
    del hub.who["auth"]
    hub.private = False
    assert "--push-public true" in refused()
    check_push(replace(TRAINING, push_public=True))
    hub.private = True
    check_push(TRAINING)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="HF_TOKEN holds no token"):
        train_dpo("embedded", pairs, tmp_path / "out", training=TRAINING)
    assert not (tmp_path / "out").exists() and not hub.created
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "hf upload" in refused()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "can't be reached" in refused()
