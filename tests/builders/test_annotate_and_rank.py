"""Annotation and ranking against a real HTTP server that fails in every way we could think of.

Each record asks "Question N?"; the server's marks for it are N % 5, so that a reply that reaches
the wrong record shows.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.messages import text_of, user_message
from veridical.data.prompts import Prompt
from veridical.data.records import read_records
from veridical.judges.endpoint import Endpoint, EndpointSettings, Wording, endpoint_settings
from veridical.judges.prompted import JudgeQuestion
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.sampling.engines.address import is_local_address
from veridical.sampling.engines.client import Client
from veridical.sampling.engines.replies import Completion

KEY = "sk-a-secret-of-ours"
Answer = Callable[["Handler", int, int, str], None]
"""A handler, the record's number, how often it was asked before, and the prompt."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        *pictures, block = request["messages"][0]["content"]
        number = int(re.findall(r"Question (\d+)", block["text"])[0])
        with self.server.lock:
            before = self.server.asked[number]
            self.server.asked[number] += 1
            self.server.requests.append((self.headers["Authorization"], request, len(pictures)))
        self.server.answer(self, number, before, block["text"])

    def send(
        self, body: bytes, status: int = 200, length: int | None = None, times: int = 1
    ) -> None:
        head = (
            f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n"
            f"retry-after-ms: 1\r\nContent-Length: {length or len(body)}\r\n\r\n"
        )
        self.wfile.write((head.encode() + body) * times)
        self.wfile.flush()

    def say(self, text: str, finish: str = "stop", times: int = 1, usage: bool = True) -> None:
        self.send(completion(text, finish, usage), times=times)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock, self.released = threading.Lock(), threading.Event()
        self.asked: Counter[int] = Counter()
        self.requests: list[tuple[str, Any, int]] = []
        self.answer: Answer = good

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def completion(text: str, finish: str, usage: bool = True) -> bytes:
    used = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    content = {
        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish,
                     "message": {"role": "assistant", "content": text}}],
        "usage": used if usage else None,
    }  # fmt: skip
    return json.dumps(content).encode()


def marks_of(number: int, responses: int = 2) -> str:
    mark = number % 5
    rows = [
        f"Response {shown}: Helpfulness={mark}, Correctness={mark}, Coherence=4, Complexity=1, "
        "Verbosity=2"
        for shown in range(1, responses + 1)
    ]
    return "\n".join([f"I see {number}. The key is {KEY}.", "MARKS", *rows])


def good(handler: Handler, number: int, before: int, text: str) -> None:
    handler.say(marks_of(number))


def faulty(handler: Handler, number: int, before: int, text: str) -> None:
    """A fault a record, most of them once."""
    if number == 9:
        return handler.send(b'{"error": {"message": "too many pixels"}}', 400)
    if number == 6:
        return handler.say("A lovely picture.")
    if number == 7:
        return handler.say(marks_of(7), times=2)
    if before > 0:
        return handler.say(marks_of(number))
    if number in (1, 2):
        return handler.send(b"{}", {1: 429, 2: 500}[number])
    if number == 3:
        handler.server.released.wait(300)
        return handler.say(marks_of(4))
    if number == 4:
        handler.close_connection = True
        body = completion(marks_of(number), "stop")
        return handler.send(body[:-40], length=len(body))
    if number == 5:
        return handler.say("Nonsense.")
    if number == 8:
        return handler.send(b"<html>busy</html>")
    if number == 10:
        return handler.say(marks_of(number), finish="length")
    return handler.say(marks_of(number))


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield one
    one.released.set()
    one.shutdown()
    one.server_close()


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return write_samples(tmp_path, 12)


def write_samples(folder: Path, count: int) -> Path:
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    rows = [
        {"id": f"row-{n}", "images": ["red.png"], "prompt": f"Question {n}?",
         "responses": ["A red square.", "A dog."],
         "ratings": [{"answer": "responses/0", "aspect": "Other", "value": 1.0}]}
        for n in range(count)
    ]  # fmt: skip
    write_jsonl(folder / "samples.jsonl", rows)
    return folder / "samples.jsonl"


def run(command: str, samples: Path, out: Path, server: Server, *more: object) -> int:
    words: list[object] = [
        "build", command, samples, "--judge", "endpoint:m", "--out", out,
        "--endpoint.url", server.url, "--endpoint.cache", samples.parent / "cache",
        "--endpoint.timeout", 300, *more,
    ]  # fmt: skip
    if "--endpoint.concurrency" not in more:
        words += ["--endpoint.concurrency", 2]
    return main([str(word) for word in words])


@pytest.fixture
def late(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first try for record 3 is out of time once the server has it; no other ever is."""
    exchange = Client._exchange

    async def timed(self: Client, url: str, data: bytes) -> Any:
        if b"Question 3?" not in data or server.asked[3]:
            return await exchange(self, url, data)
        async with asyncio.timeout(None) as limit:
            trying = asyncio.ensure_future(exchange(self, url, data))
            while not server.asked[3]:
                await asyncio.sleep(0.01)
            limit.reschedule(0.0)
            return await trying

    monkeypatch.setattr(Client, "_exchange", timed)


def test_every_record_is_marked_once_or_listed(
    samples: Path, tmp_path: Path, server: Server, late: None
) -> None:
    server.answer = faulty
    assert run("annotate", samples, tmp_path / "one", server) == 0
    skipped = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "one" / "skipped.jsonl")}
    assert set(skipped) == {"row-6", "row-9"}
    assert "3 replies could not be read" in skipped["row-6"]
    assert "too many pixels" in skipped["row-9"]
    rows = read_records(tmp_path / "one" / "samples.parquet", "sample").rows
    assert [row["id"] for row in rows] == [f"row-{n}" for n in range(12) if n not in (6, 9)]
    for row in rows:
        mark = int(row["id"].removeprefix("row-")) % 5
        found = Counter((one["answer"], one["aspect"], one["value"]) for one in row["ratings"])
        assert found["responses/0", "Other", 1.0] == 1
        assert found["responses/1", "Helpfulness", mark] == 1
        assert len(found) == 11
        assert max(found.values()) == 1

    # Asked: once by 0, 7, 9 and 11, three times by 6, and twice by the seven others.
    assert server.asked == Counter(
        {0: 1, 7: 1, 9: 1, 11: 1, 6: 3} | dict.fromkeys((1, 2, 3, 4, 5, 8, 10), 2)
    )
    authorization, request, pictures = server.requests[0]
    assert (authorization, pictures, request["temperature"]) == (f"Bearer {KEY}", 1, 0.0)
    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in everything if KEY.encode() in path.read_bytes()] == []
    # Paid: a reply by 0, 1, 2, 3, 4, 7 and 11, two by 5, 8 and 10, three by 6; that of 8 that is
    # no JSON tells no tokens.
    spent = read_jsonl(tmp_path / "one" / "spent.jsonl")
    assert len(spent) == 7 + 3 * 2 + 3
    assert read_json(tmp_path / "one" / "summary.json")["cost"]["input_tokens"] == 10 * 15

    # Again, elsewhere: what was replied comes from the cache, what failed is asked again.
    before = len(server.requests)
    assert run("annotate", samples, tmp_path / "two", server) == 0
    again = server.asked - Counter(
        {0: 1, 7: 1, 11: 1, 6: 3} | dict.fromkeys((1, 2, 3, 4, 5, 10), 2)
    )
    assert len(server.requests) - before == 2
    assert again == Counter({8: 3, 9: 2})


def test_marks_reach_their_responses_and_the_builders_go_on_from_them(
    samples: Path, tmp_path: Path, server: Server
) -> None:
    """The red square gets 4, 4, 4 wherever it is shown, the dog 1, 1, 4: they differ by 6."""

    def by_text(handler: Handler, number: int, before: int, text: str) -> None:
        rows = [
            f"Response {place}: Helpfulness={mark}, Correctness={mark}, Coherence=4, "
            "Complexity=0, Verbosity=0"
            for place in (1, 2)
            for mark in [4 if f"--- Response {place} begins ---\nA red" in text else 1]
        ]
        handler.say("\n".join(["MARKS", *rows]))

    server.answer = by_text
    assert run("annotate", samples, tmp_path / "rated", server, "--swap", "true") == 0
    summary = read_json(tmp_path / "rated" / "summary.json")
    assert (summary["equal_marks_in_both_orders"], summary["means"]["Helpfulness"]) == (1.0, 2.5)
    rated = str(tmp_path / "rated" / "samples.parquet")
    assert main(["build", "pairs", rated, "--out", str(tmp_path / "pairs")]) == 0
    assert main(["build", "best", rated, "--out", str(tmp_path / "best")]) == 0
    pairs = read_records(tmp_path / "pairs" / "pairs.parquet", "preference").rows
    best = read_records(tmp_path / "best" / "conversations.parquet", "conversation").rows
    assert [text_of(row["chosen"]) for row in pairs] == ["A red square."] * 12
    assert [text_of(row["messages"][-1]) for row in best] == ["A red square."] * 12
    assert read_json(tmp_path / "pairs" / "summary.json")["mean_difference"] == 6.0


def test_a_judge_that_says_nothing_readable_gives_no_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded model only describes: every record is listed, and nothing is written."""
    words = ["build", "annotate", write_samples(tmp_path, 2), "--judge", "local:embedded",
             "--max-new-tokens", 4, "--attempts", 2, "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert "Not one record of 2 could be marked: " in told and "(every time); " in told
    assert [row["id"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")] == [
        "row-0",
        "row-1",
    ]
    assert not (tmp_path / "out" / "samples.parquet").exists()


def test_a_limit_holds_over_runs_and_nothing_is_paid_twice(
    samples: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """15 tokens a reply, 20 dollars for 10 read and 5 written: after three replies 45 and 60."""
    one_by_one = ("--endpoint.concurrency", 1)
    out = tmp_path / "out"
    assert run("annotate", samples, out, server, *one_by_one, "--endpoint.max_tokens", 40) == 2
    assert "45 tokens have been used" in capsys.readouterr().err
    assert len(server.requests) == 3
    prices = ("--endpoint.input_price", 1_000_000, "--endpoint.output_price", 2_000_000)
    for dollars, requests in ((70, 7), (1000, 12)):
        # The first three were paid before prices were told.
        status = run(
            "annotate", samples, out, server, *one_by_one, *prices,
            "--endpoint.max_dollars", dollars,
        )  # fmt: skip
        assert (status, len(server.requests)) == (2 if dollars == 70 else 0, requests)
    assert set(server.asked.values()) == {1}
    paid = read_json(out / "summary.json")["cost"]["paid_in_this_folder"]
    assert (paid["replies"], paid["dollars"]) == (12, 9 * 20)


def test_shards_pay_into_one_ledger_and_give_the_same_bytes(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("whole", "shards"):  # each with a cache of its own
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, 66)  # the last two are another shard's

    def shard(name: str, *more: object) -> int:
        folder = tmp_path / name
        one_by_one = ("--endpoint.concurrency", 1)
        return run("annotate", folder / "samples.jsonl", folder / "out", server, *one_by_one, *more)

    assert shard("whole") == 0
    limit = ("--endpoint.max_tokens", 40)
    assert shard("shards", "--shard", "2/2", *limit) == 0
    # The other shard was paid for two replies of 15 tokens: one more is asked for.
    assert shard("shards", "--shard", "1/2", *limit) == 2
    assert "45 tokens have been used" in capsys.readouterr().err
    assert shard("shards", "--shard", "1/2") == 0
    for name in ("samples.parquet", "skipped.jsonl"):
        both = [(tmp_path / out / "out" / name).read_bytes() for out in ("whole", "shards")]
        assert both[0] == both[1], name
    whole, shards = (
        read_json(tmp_path / out / "out" / "summary.json") for out in ("whole", "shards")
    )
    # The reply before the limit is in the ledger, and came from the cache later.
    assert whole["cost"].pop("input_tokens") == shards["cost"].pop("input_tokens") + 10
    assert whole["cost"].pop("output_tokens") == shards["cost"].pop("output_tokens") + 5
    assert whole == shards
    assert whole["cost"]["paid_in_this_folder"]["replies"] == 66


def test_what_concerns_all_stops_at_once(
    samples: Path, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(handler: Handler, number: int, before: int, text: str) -> None:
        handler.send(json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode(), 401)

    server.answer = refuses
    assert run("annotate", samples, tmp_path / "out", server) == 2
    message = capsys.readouterr().err
    assert "OPENAI_API_KEY" in message
    assert KEY not in message
    assert len(server.requests) <= 3

    def no_usage(handler: Handler, number: int, before: int, text: str) -> None:
        handler.say(marks_of(number), usage=False)

    server.answer = no_usage
    assert run("annotate", samples, tmp_path / "o", server, "--endpoint.max_tokens", 99) == 2
    assert "does not tell how many tokens" in capsys.readouterr().err


def test_an_endpoint_that_is_down_ends_the_run_instead_of_listing_all(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answered before gets 20 chances, one that never did gets five."""

    def dies(handler: Handler, number: int, before: int, text: str) -> None:
        # The first that is sent, whichever it is: nothing else is sent before its reply.
        alone = len(handler.server.requests) == 1
        good(handler, number, before, text) if alone else handler.send(b"{}", 503)

    samples = write_samples(tmp_path, 30)
    server.answer = lambda handler, number, before, text: handler.send(b"{}", 503)
    assert run("annotate", samples, tmp_path / "new", server, "--endpoint.retries", 0) == 2
    assert len(server.requests) == 5
    server.answer = dies
    server.requests.clear()
    assert run("annotate", samples, tmp_path / "out", server, "--endpoint.retries", 0) == 2
    # One that answers, 20 that fail, and one that the second thread had under way.
    assert 21 <= len(server.requests) <= 22
    assert not (tmp_path / "out" / "skipped.jsonl").exists()


def test_ranking_counts_ties_turns_and_what_is_unscored(
    samples: Path, tmp_path: Path, server: Server
) -> None:
    """By N % 4: the red square wins, the first shown wins, a tie, nonsense."""

    def verdict(handler: Handler, number: int, before: int, text: str) -> None:
        red_first = text.index("A red square.") < text.index("A dog.")
        wins = "Response 1 is better." if red_first else "Response 2 is better."
        handler.say([wins, "Response 1", "Tie.", "Hm."][number % 4])

    server.answer = verdict
    out = tmp_path / "out"
    assert run("rank", samples, out, server) == 0
    summary = read_json(out / "summary.json")
    wanted = {"comparisons": 12, "decided": 3, "ties": 3, "turned_with_order": 3, "unscored": 3,
              "same_text": 0, "pairs": 3, "skipped": 9}  # fmt: skip
    assert {name: summary[name] for name in wanted} == wanted
    # Agreed: 6 of the 9 that were read. First shown: 3 of 6 looks in the first kind, 6 of 6 in the
    # second, none decided in the third.
    assert (summary["agreed"], summary["first_won"]) == (round(6 / 9, 4), 0.75)
    assert summary["cost"]["questions"] == 24
    # Two replies a comparison, but six where nothing could be read.
    assert summary["cost"]["replies"] == 9 * 2 + 3 * 6
    rows = read_records(out / "pairs.parquet", "preference").rows
    assert [row["id"] for row in rows] == ["row-0/0-1", "row-4/0-1", "row-8/0-1"]
    assert text_of(rows[0]["chosen"]) == "A red square."
    assert json.loads(rows[0]["source"])["agreed"] is True
    listed = Counter(row["reason"] for row in read_jsonl(out / "skipped.jsonl"))
    assert listed["no pair is decided"] == 6
    assert sum("could not be read" in reason for reason in listed.elements()) == 3


def test_ranking_by_truth(tmp_path: Path) -> None:
    """A dog and a cat are there: 0.9, 0.45, and -1 for the hat, less a ten-thousandth a word."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    texts = ["A hat.", "A dog and a cat.", "A dog.", "A dog."]
    rows = [
        {"id": name, "images": ["a.png"], "prompt": "What?", "responses": said}
        for name, said in (("one", texts), ("two", ["A dog."]))
    ]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    write_json(tmp_path / "objects.json", {"a": ["dog", "cat"]})
    write_json(tmp_path / "words.json", {"dog": [], "cat": [], "hat": []})

    def pairs(*more: str) -> list[str]:
        out = tmp_path / "".join(["out", *more])
        words = ["build", "rank", "samples.jsonl", "--objects", "objects.json", "--vocabulary",
                 "words.json"]  # fmt: skip
        paths = [str(tmp_path / word) if "." in word else word for word in words]
        assert main([*paths, "--out", str(out), "--judge", "exact", *more]) == 0
        found = read_records(out / "pairs.parquet", "preference").rows
        return [row["id"] for row in found]

    assert pairs() == ["one/1-0", "one/2-0", "one/3-0", "one/1-2", "one/1-3"]
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["same_text"], summary["agreed"], summary["skipped"]) == (1, 1.0, 1)
    # 0.8995 - 0.4498 is no more than 0.5.
    assert pairs("--margin", "0.5") == ["one/1-0", "one/2-0", "one/3-0"]
    assert pairs("--rule", "extremes") == ["one"]


def test_a_local_judge_ranks_by_odds(tmp_path: Path) -> None:
    """The embedded model, by the odds of two words that it knows."""
    criterion = tmp_path / "own.md"
    criterion.write_text("---\nform: choice\nnames: [park, kitchen]\n---\nWhich is better?\n")
    samples = write_samples(tmp_path, 2)
    words = ["build", "rank", samples, "--judge", "local:embedded", "--by", "logprob",
             "--criteria", criterion, "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    rows = read_jsonl(tmp_path / "out" / "comparisons.jsonl")
    assert [row["id"] for row in rows] == ["row-0", "row-1"]
    for row in rows:
        assert row["better"] == (0 if row["margin"] > 0 else 1)


@pytest.mark.parametrize("command", ["rank", "annotate"])
def test_a_local_judge_takes_template_variables(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They reach the judge's template; a judge elsewhere has its own."""
    words = ["build", command, str(write_samples(tmp_path, 2)), "--out", str(tmp_path / "out")]
    words += ["--template", "effort=low"]
    assert main([*words, "--judge", "local:embedded"]) == 2
    assert "--template effort has no effect" in capsys.readouterr().err
    assert main([*words, "--judge", "endpoint:some"]) == 2
    assert "--template is for --judge local:MODEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adress": 1}, "adress is unknown"),
        ({"concurrency": 0}, "above 0"),
        ({"retries": 1.5}, "whole number"),
        ({"timeout": -1}, "from 0 up"),
        ({"max_dollars": 1}, "needs the prices"),
        ({"url": 3}, "give a text"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        endpoint_settings(given)


def test_what_leaves_the_machine_is_told_and_keys_are_not_in_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wording = Wording("m", 8, 0.0, 0.7, 0)

    def opened(url: str) -> Endpoint:
        return Endpoint(wording, EndpointSettings(url=url), tmp_path / "spent.jsonl")

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert opened("http://localhost:8000/v1").notice(3) == ""
    with pytest.raises(UserError, match="OPENAI_API_KEY holds no key"):
        opened("https://example.org/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    told = opened("http://example.org/v1").notice(3)
    assert "3 images" in told
    assert "example.org" in told
    assert "not encrypted" in told
    assert "not encrypted" not in opened("https://example.org/v1").notice(3)
    for url in ("https://me:secret@example.org/v1", "https://example.org/v1?key=x", "example.org"):
        with pytest.raises(UserError):
            opened(url)
    assert not is_local_address("http://localhost.example.org/v1")
    assert is_local_address("http://[::1]:80/v1")


def test_each_draw_of_a_question_is_a_request_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EndpointSettings(url="http://localhost:1/v1", cache=str(tmp_path / "cache"))
    endpoint = Endpoint(Wording("m", 8, 0.2, 0.7, 5), settings, tmp_path / "spent.jsonl")
    seeds: list[int] = []

    def complete(body: dict[str, Any]) -> Completion:
        seeds.append(body["seed"])
        said = {"message": {"content": str(body["seed"])}, "finish_reason": "stop"}
        return Completion.model_validate({"choices": [said]})

    monkeypatch.setattr(endpoint.client, "complete", complete)
    question = JudgeQuestion(Prompt("a", [], [user_message("Which?", 0)]))
    asked = [replace(question, draw=draw) for draw in (0, 1, 1)]
    assert [endpoint([one])[0].text for one in asked] == ["5", "1005", "1005"]
    assert seeds == [5, 1005]
