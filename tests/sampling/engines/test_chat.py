"""Responses from a server by real HTTP: what is sent, retried, refused and listed."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.messages import assistant_message, user_message
from veridical.data.prompts import Prompt
from veridical.data.records import read_records
from veridical.data.responses import Response
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl
from veridical.runtime.fingerprint import EMBEDDED_MODEL
from veridical.sampling import Request
from veridical.sampling.engines.chat import Refusal, Server
from veridical.sampling.engines.server import sent_messages


class Talk:
    """A server that answers with what its script says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.finish = "stop"
        self.most = self._now = 0
        self.meet = 0
        self.met = threading.Event()
        lock = threading.Lock()
        talk = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    talk._now += 1
                    talk.most = max(talk.most, talk._now)
                    if talk.most >= talk.meet:
                        talk.met.set()
                    talk.asked.append(body)
                    status = talk.statuses.pop(0) if talk.statuses else 200
                if len(talk.asked) > 1:  # the first question is asked alone
                    talk.met.wait(60)
                message = {"role": "assistant", "content": f" seed {body['seed']}"}
                choice = {"index": 0, "finish_reason": talk.finish, "message": message}
                about = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                found: dict[str, Any] = {**about, "choices": [choice]}
                if status != 200:
                    found = {"error": {"message": "no, my-secret-key"}}
                text = json.dumps(found).encode()
                with lock:
                    talk._now -= 1
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Quietly."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def talk() -> Iterator[Talk]:
    server = Talk()
    yield server
    server.http.shutdown()
    server.http.server_close()


def ask(number: int = 0) -> Request:
    picture = Image.new("RGB", (4, 3), (255, 0, 0))
    return Request(Prompt(f"row/{number}", [picture], [user_message("What is it?")]))


def test_what_is_sent(talk: Talk) -> None:
    earlier = [user_message("What is it?"), assistant_message("A cup."), user_message("Sure?", 0)]
    talk.finish = "length"
    said = Server("m", {"url": talk.url}).respond(
        [Request(Prompt("row", ask().prompt.images, earlier))],
        temperature=0.7,
        max_new_tokens=9,
        seed=1,
    )
    body = talk.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.7, 9)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    image, text = body["messages"][0]["content"]
    data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (4, 3)
    assert text == {"type": "text", "text": "What is it?"}
    assert body["messages"][1]["content"] == "A cup."
    assert said == [Response(f"seed {body['seed']}", stop_reason="length")]


def test_draws_have_seeds_of_their_own_and_keep_their_order(talk: Talk) -> None:
    talk.meet = 3  # nothing is answered until three questions are there
    server = Server("m", {"url": talk.url, "concurrency": 3})
    said = server.respond([ask(i) for i in range(12)], 1.0, 9, seed=1)
    again = server.respond([ask(i) for i in range(12)], 1.0, 9, seed=1)
    assert said == again
    assert len(set(said)) == 12
    assert talk.most == 3


def test_a_busy_server_is_asked_again_and_a_refused_prompt_is_listed(talk: Talk) -> None:
    server = Server("m", {"url": talk.url, "retries": 2})
    talk.statuses = [503, 429]
    assert isinstance(server.respond([ask()], 1.0, 9, 0)[0], Response)
    assert len(talk.asked) == 3
    talk.statuses = [400]
    (refusal,) = server.respond([ask()], 1.0, 9, 0)
    assert isinstance(refusal, Refusal) and "refused" in refusal.reason


def test_what_ends_the_run(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "my-secret-key")
    server = Server("m", {"url": talk.url, "retries": 0})
    talk.statuses = [401]
    with pytest.raises(UserError, match="status 401"):
        server.respond([ask()], 1.0, 9, 0)
    talk.statuses = [500]
    with pytest.raises(UserError, match="does not answer") as met:
        server.respond([ask()], 1.0, 9, 0)
    assert "my-secret-key" not in str(met.value)
    talk.http.shutdown()
    talk.http.server_close()
    with pytest.raises(UserError, match="goes on where it was"):
        server.respond([ask()], 1.0, 9, 0)


def test_images_leave_only_with_a_notice_and_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        Server("m", {"url": "https://example.org/v1"})
    Server("m", {"url": "http://localhost:1/v1"}).tell(3)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    Server("m", {"url": "http://example.org/v1"}).tell(3)
    out = capsys.readouterr().out
    assert "3 images" in out and "example.org" in out and "not encrypted" in out
    with pytest.raises(UserError, match="max_dollars"):
        Server("m", {"url": "http://localhost:1/v1", "max_dollars": 1.0})


def test_a_build_goes_on_after_the_server_was_gone(talk: Talk, tmp_path: Path) -> None:
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    assert main(["world", "make", str(scenes), "--count", "3", "--seed", "1"]) == 0
    words = ["build", "sample", "endpoint:m", "--data", str(scenes / "conversations.jsonl"),
             "--out", str(out), "--k", "2", "--endpoint.url", talk.url,
             "--endpoint.retries", "0"]  # fmt: skip
    talk.statuses = [200, 200, 200, 500]
    assert main(words) == 2
    assert not (out / "samples.parquet").exists()
    assert main(words) == 0
    rows = read_records(out / "samples.parquet", "sample").rows
    assert len(rows) == len(read_jsonl(scenes / "conversations.jsonl"))
    assert all(len(row["responses"]) == 2 for row in rows)
    assert read_json(out / "summary.json")["duplicates"] == 0
    assert read_json(out / "run.json")["status"] == "finished"


def test_text_alone_is_sent_as_text() -> None:
    assert sent_messages([user_message("Hello", 0)], []) == [{"role": "user", "content": "Hello"}]


@pytest.mark.slow
def test_transformers_serve_with_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(EMBEDDED_MODEL),
               "--host", "127.0.0.1", "--port", port, "--device", "cpu"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scenes, out = tmp_path / "scenes", tmp_path / "out"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(1)
        assert main(["world", "make", str(scenes), "--count", "2", "--seed", "1"]) == 0
        words = ["build", "sample", f"endpoint:{EMBEDDED_MODEL}",
                 "--data", str(scenes / "conversations.jsonl"), "--out", str(out), "--k", "2",
                 "--max-new-tokens", "96", "--temperature", "1.0", "--limit", "2",
                 "--endpoint.url", f"http://127.0.0.1:{port}/v1",
                 "--endpoint.concurrency", "1"]  # fmt: skip
        assert main(words) == 0
    finally:
        process.terminate()
        process.wait(timeout=60)
    rows = read_records(out / "samples.parquet", "sample").rows
    texts = [response[0]["content"][0]["text"] for row in rows for response in row["responses"]]
    assert len(rows) == 2 and all(texts)
