"""The client against servers on loopback that fail in every way we could think of."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.records import read_records
from veridical.data.responses import Response
from veridical.judges.endpoint import endpoint_settings
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_jsonl
from veridical.sampling import Request
from veridical.sampling.engines import client as client_module
from veridical.sampling.engines.address import FailedError, StoppedError, proxy_of, retry_after
from veridical.sampling.engines.chat import Refusal, Server
from veridical.sampling.engines.client import Client
from veridical.sampling.engines.replies import (
    MalformedError,
    encodable,
    error_message,
    read_completion,
)
from veridical.sampling.engines.server import open_client

KEY = "sk-a-secret-of-ours"
QUESTION = {"model": "m", "messages": []}


def reply(text: Any = "A cup.", **changes: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
    whole = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    return json.dumps(whole | changes).encode()


class Web(ThreadingHTTPServer):
    """A server whose `answer` writes what it likes; it counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        web = self
        self.asked: list[tuple[float, str, bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler, int], None] = lambda one, _: say(one)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                web.asked.append((time.monotonic(), self.path, body))
                web.answer(self, len(web.asked))

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def say(
    handler: BaseHTTPRequestHandler, body: bytes = b"", status: int = 200, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body or reply())


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    one = Web()
    yield one
    one.shutdown()
    one.server_close()


def opened(web: Web, **settings: Any) -> Client:
    return open_client(endpoint_settings({"url": web.url, "retries": 0, "timeout": 300} | settings))


INSTEAD = {
    "HTML": b"<!DOCTYPE html><html>Welcome</html>",
    "no JSON": b"All is well.",
    "nothing": b" ",
    "stream": b'data: {"choices": []}\n\ndata: [DONE]\n',
    "it: ": b"null",
    "another form": b"[1, 2]",
    "choices": b'{"choices": {}}',
    "at least 1": b'{"choices": []}',
    "choices.0.message": b'{"choices": [{"message": null}]}',
    "choices.0.message.content": reply(["a", "b"]),
    "usage.prompt_tokens": reply(usage={"prompt_tokens": -5, "completion_tokens": 1}),
    "usage.completion_tokens": reply(usage={"prompt_tokens": 5, "completion_tokens": 1.5}),
    "usage": reply(usage=[1]),
    "JSON": b"[" * 100_000,
    "no JSON ": b"\xff\xfe\x00\x80",
    "choices ": b'{"error": "wrong page"}',
}


@pytest.mark.parametrize("reason", INSTEAD)
def test_what_is_no_completion_is_said(reason: str) -> None:
    with pytest.raises(MalformedError, match=reason.strip()):
        read_completion(INSTEAD[reason])


@pytest.mark.parametrize("reason", INSTEAD)
def test_no_reply_ends_in_a_traceback_or_loses_others(reason: str, web: Web) -> None:
    """The second of three questions is answered so: it is refused, the others are kept."""
    web.answer = lambda one, number: say(one, INSTEAD[reason] if number == 2 else reply())
    server = Server("m", {"url": web.url, "retries": 0, "concurrency": 1})
    asks = [Request(Prompt(f"row/{number}", [], [user_message("What?", 0)])) for number in range(3)]
    said = server.respond(asks, 1.0, 9, 0)
    assert [said[0], said[2]] == [Response("A cup.")] * 2
    assert isinstance(said[1], Refusal) and "answers with" in said[1].reason


def test_half_a_surrogate_is_replaced(web: Web) -> None:
    web.answer = lambda one, _: say(one, reply("half \ud83d, whole \U0001f600"))
    text = opened(web).complete(QUESTION).text
    assert text == "half \ufffd, whole \U0001f600"
    assert encodable("\udc00") == "\ufffd"
    assert error_message(b'{"error": {"message": "half \\ud83d"}}') == "half \ufffd"
    assert error_message(b"[1]") == "[1]"


def test_text_of_a_server_reaches_files_whole(web: Web, tmp_path: Path) -> None:
    """Half a surrogate and the key in one reply of a build, and in a refusal."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    rows = [{"id": f"r{n}", "images": ["red.png"], "prompt": f"Q{n}?"} for n in range(4)]
    write_jsonl(tmp_path / "data.jsonl", rows)

    def answer(one: BaseHTTPRequestHandler, number: int) -> None:
        if number == 2:
            return say(one, json.dumps({"error": f"bad \ud83d {KEY}"}).encode(), 400)
        return say(one, reply(f"{number} half \ud83d of {KEY}"))

    web.answer = answer
    words = ["build", "sample", "endpoint:m", "--data", tmp_path / "data.jsonl", "--kind", "prompt",
             "--out", tmp_path / "out", "--k", 1, "--endpoint.url", web.url,
             "--endpoint.concurrency", 1, "--max-bad-fraction", 1.0]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    rows_made = read_records(tmp_path / "out" / "samples.parquet", "sample").rows
    assert rows_made[0]["responses"][0][0]["content"][0]["text"] == "1 half \ufffd of (key)"
    assert len(rows_made) == 3
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_dripping_server_does_not_hold_a_question(part: str, web: Web) -> None:
    ended = threading.Event()

    def drip(one: BaseHTTPRequestHandler, _: int) -> None:
        head = b"HTTP/1.1 200 OK\r\n" + (b"" if part == "head" else b"\r\n")
        one.wfile.write(head)
        for _n in range(3000):  # five minutes, unless the client hangs up
            one.wfile.write(b"a" if part == "head" else b" ")
            one.wfile.flush()
            time.sleep(0.1)
        ended.set()

    web.answer = drip
    with pytest.raises(FailedError, match=r"no reply within 0\.5 s"):
        opened(web, timeout=0.5).complete(QUESTION)
    assert not ended.is_set()


def test_a_reply_without_end_is_cut_off(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MOST_BYTES", 1 << 20)
    sent = []

    def flood(one: BaseHTTPRequestHandler, _: int) -> None:
        one.send_response(500)
        one.end_headers()
        for _n in range(200):
            one.wfile.write(b" " * (1 << 20))
            sent.append(1)

    web.answer = flood
    with pytest.raises(FailedError, match="more than 1 MiB"):
        opened(web).complete(QUESTION)
    assert len(sent) < 100


def test_a_server_is_waited_for_as_long_as_it_asks_by_all(web: Web) -> None:
    """After the first success, one of three gets 429: nobody asks in the second that follows."""
    web.answer = lambda one, number: (
        say(one, b"{}", 429, retry_after="1") if number == 2 else say(one)
    )
    client = opened(web, retries=2)
    client.complete(QUESTION)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.complete, QUESTION)
        while not (client._not_before or first.done()):  # until the 429 has been read
            time.sleep(0.01)
        client.complete(QUESTION)
        first.result()
    moments = [moment for moment, *_ in web.asked]
    assert len(moments) == 4
    assert min(moments[2:]) - moments[1] >= 0.95  # the clock starts after the server's does


def test_a_server_that_asks_for_an_hour_ends_the_run(web: Web) -> None:
    web.answer = lambda one, _: say(one, b"{}", 429, retry_after="3600")
    with pytest.raises(UserError, match=r"asks to wait 3,600 s.*max_wait"):
        opened(web, retries=6).complete(QUESTION)
    assert len(web.asked) == 1


def test_times_to_wait() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert retry_after({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}) > 1e9  # type: ignore[operator]
    assert retry_after({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}) == 0
    for said in ("soon", "nan", "inf", "-1", ""):
        assert retry_after({"retry-after": said}) is None
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("body", "status"), [(b"<html>Welcome</html>", 200), (b"{}", 503), (b"no images here", 400)]
)
def test_a_wrong_address_does_not_get_every_record(body: bytes, status: int, web: Web) -> None:
    """One question at a time until one succeeds, and five alike are enough."""
    web.answer = lambda one, _: say(one, body, status)
    client = opened(web)

    def ask(_: int) -> str:
        try:
            client.complete(QUESTION)
        except UserError as error:
            client.stop()
            return str(error)
        except (FailedError, StoppedError):
            pass
        return ""

    with ThreadPoolExecutor(8) as pool:
        said = [message for message in pool.map(ask, range(40)) if message]
    assert len(web.asked) == 5
    assert "The first 5 questions in a row failed" in said[0]


def test_refused_questions_do_not_end_a_run_that_works(web: Web) -> None:
    web.answer = lambda one, number: say(one) if number == 1 else say(one, b"too long", 400)
    client = opened(web)
    client.complete(QUESTION)
    for _ in range(30):
        with pytest.raises(FailedError, match="status 400: too long"):
            client.complete(QUESTION)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int, web: Web) -> None:
    other = Web()
    web.answer = lambda one, _: say(one, b"{}", status, location=f"{other.url}/chat/completions")
    with pytest.raises(UserError, match=r"redirects to 127\.0\.0\.1.*endpoint\.url"):
        opened(web).complete(QUESTION)
    assert other.asked == []
    other.shutdown()
    other.server_close()


def test_this_machine_is_asked_past_proxies_and_others_are_named(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://me:secret@proxy.example:{probe.getsockname()[1]}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, nowhere)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert opened(web).complete(QUESTION).text == "A cup."
    assert proxy_of("http://localhost:1/v1") is None
    assert proxy_of("http://[::1]:1/v1") is None
    assert proxy_of("http://example.org/v1") == nowhere
    notice = open_client(endpoint_settings({"url": "http://example.org/v1"})).notice("3 images")
    assert "for example.org, through the proxy proxy.example." in notice
    assert "secret" not in notice
    monkeypatch.setenv("no_proxy", "example.org")
    assert proxy_of("http://example.org/v1") is None


def test_keys_are_redacted_in_all_that_a_server_says(web: Web) -> None:
    web.answer = lambda one, _: say(one, f"you sent {KEY}".encode(), 401)
    with pytest.raises(UserError, match=r"status 401 \(you sent \(key\)\).*OPENAI_API_KEY"):
        opened(web).complete(QUESTION)
    web.answer = lambda one, _: say(one, f"<{KEY}>".encode())
    with pytest.raises(FailedError) as failed:
        opened(web).complete(QUESTION)
    assert KEY not in failed.value.problem


@pytest.mark.parametrize("typed", [KEY, "hf_AbCdEfGhIjKl", "AKIAIOSFODNN7EXAMPLE", "a b", "x" * 80])
def test_a_key_typed_as_the_variables_name_is_not_kept(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "data.jsonl", [{"id": "a", "images": [], "prompt": "Q?"}])
    for words in (
        ["sample", "endpoint:m", "--data", str(tmp_path / "data.jsonl"), "--kind", "prompt"],
        ["annotate", str(tmp_path / "data.jsonl"), "--judge", "endpoint:m"],
    ):
        given = ["--endpoint.key_variable", typed, "--endpoint.url", "http://127.0.0.1:1/v1"]
        assert main(["build", *words, "--out", str(tmp_path / "out"), *given]) == 2
        assert typed not in capsys.readouterr().err
        assert not (tmp_path / "out" / "run.json").exists()


def test_a_password_in_the_address_is_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "data.jsonl", [{"id": "a", "images": [], "prompt": "Q?"}])
    words = ["build", "annotate", str(tmp_path / "data.jsonl"), "--judge", "endpoint:m", "--out",
             str(tmp_path / "out"), "--endpoint.url", "http://me:hidden@127.0.0.1/v1"]  # fmt: skip
    assert main(words) == 2
    assert "hidden" not in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()


SPENDER = """
import sys
from pathlib import Path
from veridical.runtime.errors import UserError
from veridical.judges.ledger import Ledger, Limits
ledger = Ledger(Path(sys.argv[1]), Limits(max_tokens=1000))
try:
    for number in range(1000):
        ledger.check()
        ledger.add(f"half \\ud83d {number}", 10, 5)
except UserError:
    sys.exit(7)
"""


def test_one_limit_for_all_processes(tmp_path: Path) -> None:
    """1,000 tokens at 15 a reply: 67 replies, and at most one more under way in each process."""
    spent = tmp_path / "spent.jsonl"
    spent.write_bytes(b'{"id": "x", "cost": {"input_tok')  # an interruption cut this off
    others = [subprocess.Popen([sys.executable, "-c", SPENDER, str(spent)]) for _ in range(4)]
    assert [one.wait(600) for one in others] == [7] * 4
    lines = spent.read_text().splitlines()[1:]
    assert 67 <= len(lines) <= 67 + 3
    assert all(json.loads(line)["cost"]["input_tokens"] == 10 for line in lines)


def test_interrupting_does_not_wait_for_replies(web: Web) -> None:
    released = threading.Event()
    replied: list[int] = []

    def slow(one: BaseHTTPRequestHandler, number: int) -> None:
        if number > 1:
            released.wait(60)
            replied.append(number)
        say(one)

    web.answer = slow
    client = opened(web)
    client.complete(QUESTION)
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(client.complete, QUESTION) for _ in range(2)]
        while len(web.asked) < 3:
            time.sleep(0.01)
        client.stop(now=True)
        for one in under_way:
            with pytest.raises(StoppedError):
                one.result()
    assert replied == []
    released.set()


def test_the_error_that_stopped_the_others_is_raised(web: Web) -> None:
    """The second item fails; the first, which that stops, is not what is told."""
    client = opened(web, concurrency=2)
    failed = threading.Event()

    def ask(item: int) -> str:
        if item == 1:
            failed.set()
            raise UserError("the cause")
        assert failed.wait(60) and client._stopped.wait(60)
        try:
            return client.complete(QUESTION).text
        except StoppedError:
            raise UserError("a consequence") from None

    with pytest.raises(UserError, match="the cause"):
        client.ask_all(ask, range(2))
    assert web.asked == []


def test_one_that_was_only_stopped_does_not_hide_what_stopped_it(web: Web) -> None:
    client = opened(web, concurrency=2)
    gone = threading.Event()

    def ask(item: int) -> str:
        if item == 1:
            client.stop()
            assert gone.wait(60)
            raise UserError("the cause")
        assert client._stopped.wait(60)
        try:
            return client.complete(QUESTION).text
        finally:
            gone.set()

    with pytest.raises(UserError, match="the cause"):
        client.ask_all(ask, range(2))


def test_marks_of_a_page_are_asked_for_again_and_named(web: Web, tmp_path: Path) -> None:
    """A judge that answers once, then with pages: records are listed with what came."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    rows = [{"id": f"r{n}", "images": ["red.png"], "prompt": "Q?", "responses": ["A.", "B."]}
            for n in range(2)]  # fmt: skip
    write_jsonl(tmp_path / "samples.jsonl", rows)
    marks = "MARKS\n" + "\n".join(
        f"Response {n}: Helpfulness=1, Correctness=1, Coherence=1, Complexity=1, Verbosity=1"
        for n in (1, 2)
    )
    web.answer = lambda one, number: say(one, reply(marks) if number == 1 else b"<html>")
    words = ["build", "annotate", tmp_path / "samples.jsonl", "--judge", "endpoint:m", "--out",
             tmp_path / "out", "--endpoint.url", web.url, "--endpoint.cache", "none",
             "--endpoint.concurrency", 1, "--endpoint.retries", 0, "--attempts", 2]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    skipped = (tmp_path / "out" / "skipped.jsonl").read_text()
    assert "an HTML page" in skipped
    assert read_json(tmp_path / "out" / "summary.json")["cost"]["replies"] == 3
