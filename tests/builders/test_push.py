"""A set with its card goes to the hub; the hub is stubbed at the border, HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import close_session, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from PIL import Image

from veridical import cli
from veridical.data.records import write_records

COMMIT = "c0ffee" + 34 * "0"


class Hub:
    """Takes a commit apart; refuses everything with a status if it has one."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.refusal = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.requests.append((request.method, path))
        assert request.headers.get("authorization") == "Bearer hf_of_a_test"
        if self.refusal == 200:
            return httpx2.Response(200, text="<html>log in</html>", request=request)
        if self.refusal:
            return httpx2.Response(self.refusal, json={"error": "no"}, request=request)
        if path.endswith("/repos/create"):
            self.created = json.loads(request.read())
            answer: Any = {"url": "https://huggingface.co/datasets/me/pairs"}
        elif "/preupload/" in path:
            asked = json.loads(request.read())["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            answer = {"files": [{"path": one["path"], **modes} for one in asked]}
        elif "/commit/" in path:
            for line in request.read().splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    value = one["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"https://huggingface.co/datasets/me/pairs/commit/{COMMIT}"
            answer = {"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True}
        else:
            answer = {"warnings": [], "errors": [], "siblings": [], "id": "me/pairs", "sha": COMMIT}
        return httpx2.Response(200, json=answer, request=request)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    stub = Hub()
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(stub)))
    yield stub
    close_session()
    set_client_factory(default_client_factory)


def export(folder: Path) -> list[str]:
    row = {"id": "a", "images": [Image.new("RGB", (8, 8))], "prompt": "Q?", "chosen": "A."}
    write_records([row | {"rejected": "B."}], folder / "pairs.parquet", "preference")
    given = [str(folder / "pairs.parquet"), "--to", "hub", "--out", str(folder / "hub")]
    return ["data", "export", *given, "--repo", "me/pairs"]


def test_data_and_card_are_committed(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(export(tmp_path)) == 0
    assert (hub.created["name"], hub.created["type"]) == ("pairs", "dataset")
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert sorted(hub.files) == ["README.md", "train-00000.parquet"]
    for name, content in hub.files.items():
        assert content == (tmp_path / "hub" / name).read_bytes()
    told = capsys.readouterr().out
    assert "Texts and images leave this machine" in told
    assert COMMIT in told


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "HF_TOKEN"), (500, "later"), (200, "proxy")],
)
def test_a_refusal_is_a_line(
    status: int, advice: str, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refusal = status
    assert cli.main(export(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "me/pairs can't be pushed to" in told
    assert advice in told
    assert "hf_of_a_test" not in told
    assert (tmp_path / "hub/README.md").is_file()
