"""Answers judged by a real HTTP server that fails, and by a run that is interrupted."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from published_files import alpaca_eval, mmhal

from veridical.cli import main
from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.eval import (
    hallusionbench,
    llava_bench,
    mmvet,
    mt_bench,
    multimodal_rewardbench,
    vl_rewardbench,
)
from veridical.eval import mmhal as mmhal_module
from veridical.eval.given_replies import given_replies
from veridical.eval.grading import Asked, _question, filled
from veridical.eval.kept_replies import KeepingAsker
from veridical.eval.published import natural
from veridical.judges.prompted import JudgeQuestion, JudgeReply, ask_until_read, reply_of
from veridical.judges.prompts import UnreadableError
from veridical.runtime.files import read_json, read_jsonl

FAULTS: dict[int, list[tuple[int, str]]] = {
    0: [(429, ""), (500, ""), (200, "Rating: 6")],
    1: [(200, "No idea."), (200, ""), (200, "Rating: 2")],
    2: [(200, "No idea."), (200, "None."), (200, "Rating: 9")],
}
"""Status and text of each reply about each answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[int]] = Counter()
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        text = json.loads(body)["messages"][0]["content"][-1]["text"]
        number = int(re.findall(r"Question (\d)", text)[0])
        with self.lock:
            before = self.asked[number]
            self.asked[number] += 1
        status, said = FAULTS[number][min(before, 2)]
        message = {"role": "assistant", "content": said}
        content = {
            "id": "x", "object": "chat.completion", "created": 1, "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
        }  # fmt: skip
        out = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} S\r\nContent-Type: application/json\r\nretry-after-ms: 1\r\n"
        self.wfile.write(f"{head}Content-Length: {len(out)}\r\n\r\n".encode() + out)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked.clear()
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()
    served.server_close()


def test_every_answer_is_rated_or_unread_and_no_reply_is_asked_for_twice(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ratings 6 and 2, and one that is never readable: mean 4, one of two hallucinates."""
    mmhal(tmp_path)
    rows = [json.dumps({"question_id": str(n), "answer": f"Answer {n}."}) for n in range(3)]
    (tmp_path / "answers.jsonl").write_text("\n".join(rows))
    words = ["eval", "mmhal", "--files", str(tmp_path / "template.json"), "--answers",
             str(tmp_path / "answers.jsonl"), "--judge", "endpoint:judge", "--endpoint.url", server,
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 0
    first = read_json(tmp_path / "out" / "scores.json")["scores"]
    found = {name: first[name]["value"] for name in ("score", "hallucination", "unread")}
    assert found == pytest.approx({"score": 4.0, "hallucination": 1 / 2, "unread": 1 / 3})
    problems = [row["judged"][0]["problem"] for row in read_jsonl(tmp_path / "out/answers.jsonl")]
    assert problems[:2] == ["", ""] and "'Rating: 9'" in problems[2]
    asked = sum(Handler.asked.values())
    spent = read_json(tmp_path / "out" / "run.json")["results"]
    assert spent["judge_input_tokens"] == spent["judge_paid_input_tokens"] == 10 * 7  # no 429, 500
    assert main(words) == 0
    assert read_json(tmp_path / "out" / "scores.json")["scores"] == first
    # Of the second answer one reply was empty, which is not kept and asked for again.
    more = sum(Handler.asked.values()) - asked
    assert more <= 1
    spent = read_json(tmp_path / "out" / "run.json")["results"]
    assert spent["judge_paid_replies"] == 7 + more and spent["judge_untold"] == 0
    assert spent["judge_input_tokens"] == 10 * more
    told = capsys.readouterr().out
    assert "The judge replied 7 times (70 tokens read, 14 written)." in told
    assert f"With what was asked before for this folder: {7 + more} times (" in told


def test_what_a_judge_on_this_machine_reads_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the fields of an endpoint, with what earlier runs into the folder have cost."""
    alpaca_eval(tmp_path)
    rows = [{"instruction": f"Do {n}.", "output": "Done.", "generator": "x"} for n in range(2)]
    (tmp_path / "outputs.json").write_text(json.dumps(rows))
    words = ["eval", "alpaca_eval", "--files", str(tmp_path / "baseline.json"), "--answers",
             str(tmp_path / "outputs.json"), "--judge", "local:embedded", "--judge-tokens", "3",
             "--attempts", "2", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    estimate = capsys.readouterr().out
    assert "would be asked 4 questions" in estimate and "at most 12 written" in estimate
    found = []
    for _ in range(2):
        assert main(words) == 0
        found.append(read_json(tmp_path / "out" / "run.json")["results"])
    first, again = found
    assert first["judge_replies"] == first["judge_paid_replies"] == 8  # nothing can be read
    assert first["judge_input_tokens"] > 8 * 40 and first["judge_output_tokens"] <= 24
    assert first["judge_untold"] == first["judge_dollars"] == 0
    assert again["judge_replies"] == again["judge_input_tokens"] == 0  # kept in replies.jsonl
    assert again["judge_paid_input_tokens"] == first["judge_input_tokens"]
    assert f"The judge replied 8 times ({first['judge_input_tokens']:,} tokens read" in (
        capsys.readouterr().out
    )


def test_replies_to_the_same_question_show_how_much_the_judge_varies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First replies 6, 2 and none, then 4, 2 and 3: the score is (6 + 2) / 2.

    Of the two questions with two replies one got the same. Inside: 1 + 1 + 0 over 2 = 1. Means 5
    and 2 about 3.5: 2 x 4.5 = 9; between (9 - 1) / 2 = 4. Agreement 4 / 5.
    """
    mmhal(tmp_path)
    said = {"0": (6, 4), "1": (2, 2), "2": (9, 3)}
    answers = [json.dumps({"question_id": id, "answer": f"Answer {id}."}) for id in said]
    (tmp_path / "answers.jsonl").write_text("\n".join(answers))
    rows = [{"question_id": id, "reply": f"Rating: {n}"} for id, two in said.items() for n in two]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["eval", "mmhal", "--files", str(tmp_path / "template.json"), "--answers",
             str(tmp_path / "answers.jsonl"), "--out", str(tmp_path / "out")]  # fmt: skip
    asked = ["--judge", "endpoint:judge", "--dry-run", "--judge-repeats"]
    for repeats, questions in (("1", "3 questions"), ("2", "6 questions")):
        assert main([*words, *asked, repeats]) == 0
        assert f"would be asked {questions}" in capsys.readouterr().out
    words += ["--replies", str(tmp_path / "replies.jsonl")]
    assert main(words) == 2
    assert "has 2 replies to question 0, and 1 are needed" in capsys.readouterr().err
    assert main([*words, "--judge-repeats", "2"]) == 0
    scores = read_json(tmp_path / "out" / "scores.json")
    assert scores["scores"]["score"]["value"] == pytest.approx(4.0)
    assert scores["scores"]["unread"]["value"] == pytest.approx(1 / 3)
    found = {name: scores["about"][f"judge_again/{name}"] for name in (
        "questions", "same_share", "disagreement", "agreement", "standard_error"
    )}  # fmt: skip
    assert found == pytest.approx({
        "questions": 2, "same_share": 0.5, "disagreement": 1, "agreement": 0.8,
        "standard_error": 1 / 2**0.5,
    })  # fmt: skip
    assert "in the same order, it said the same to 50.0%" in capsys.readouterr().out


def test_an_interrupted_judge_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls: list[str] = []

    def ask(questions: Any) -> list[JudgeReply]:
        calls.extend(question.prompt.id for question in questions)
        return [
            JudgeReply(problem="down")
            if question.prompt.id == "b"
            else reply_of(f"said {question.prompt.id}")
            for question in questions
        ]

    def question(id: str) -> JudgeQuestion:
        return JudgeQuestion(Prompt(id, [], [user_message(id, 0)]))

    path = tmp_path / "replies.jsonl"
    some = [question("a"), question("b")]
    KeepingAsker(ask, path, ["judge"])(some)
    with path.open("a") as file:
        file.write('{"key": "cut of')
    replies = KeepingAsker(ask, path, ["judge"])([*some, question("c")])
    assert calls == ["a", "b", "b", "c"]
    assert [reply.text for reply in replies] == ["said a", "", "said c"]
    KeepingAsker(ask, path, ["another judge"])(some)
    assert calls[4:] == ["a", "b"]


def test_a_run_that_ends_in_the_middle_has_paid_for_no_reply_in_vain(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third question ends it, without a cache; only that one is asked again."""
    replies = {n: [(200, f"Rating: {n}")] * 3 for n in range(2)}
    stopped = {**replies, 2: [(401, "No."), (200, "Rating: 5"), (200, "")]}
    for n, own in stopped.items():
        monkeypatch.setitem(FAULTS, n, own)
    mmhal(tmp_path)
    rows = [json.dumps({"question_id": str(n), "answer": f"Answer {n}."}) for n in range(3)]
    (tmp_path / "answers.jsonl").write_text("\n".join(rows))
    words = ["eval", "mmhal", "--files", str(tmp_path / "template.json"), "--answers",
             str(tmp_path / "answers.jsonl"), "--judge", "endpoint:judge", "--endpoint.url", server,
             "--endpoint.concurrency", "1", "--endpoint.cache", "none",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(words) != 0
    assert dict(Handler.asked) == {0: 1, 1: 1, 2: 1}
    assert main(words) == 0
    assert dict(Handler.asked) == {0: 1, 1: 1, 2: 2}
    scores = read_json(tmp_path / "out" / "scores.json")["scores"]
    assert scores["score"]["value"] == pytest.approx((0 + 1 + 5) / 3)


def test_values_fill_names_once() -> None:
    assert filled("{a} {b} {c}", {"a": "{b}", "b": "x"}) == "{b} x {c}"


def test_a_question_asked_again_is_another_draw() -> None:
    asked = [Asked("x"), Asked("y"), Asked("x"), Asked("x")]
    found = [_question({"question_id": "q"}, number, asked) for number in range(4)]
    assert [one.draw for one in found] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "module", [vl_rewardbench, multimodal_rewardbench, hallusionbench, mt_bench]
)
def test_published_scorers_read_replies_that_were_cut(module: ModuleType) -> None:
    asks = module.BENCHMARK.asks
    assert asks is not None and asks.grader is not None
    for rule in ("official", "corrected"):
        assert asks.grader.may_be_cut(SimpleNamespace(rule=rule)) == (rule == "official")


def test_names_are_counted_as_people_count() -> None:
    assert sorted(["100", "9", "a10", "81", "a9"], key=natural) == ["9", "81", "100", "a9", "a10"]


def test_the_replies_of_another_run_are_read(tmp_path: Path) -> None:
    """Their ids have the question's number; of two attempts the last counts."""
    said = [("q/1", 0, "second"), ("q/0", 0, "?"), ("q/0", 1, "first"), ("a/b/0", 0, "third")]
    rows = [
        {"key": "k", "id": id, "attempt": attempt, "reply": text, "cut": text == "second"}
        for id, attempt, text in said
    ]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = given_replies([tmp_path / "replies.jsonl"], ["q", "q", "a/b"])
    assert [one.text for one in found.replies] == ["first", "second", "third"]
    assert [one.cut for one in found.replies] == [False, True, False]
    assert found.ids == ["q", "a/b"]


def test_a_judge_that_said_nothing_gave_no_score_by_any_rule() -> None:
    """The published rules score texts that can't be read; where nothing came there is none."""

    def read(index: int, reply: JudgeReply) -> Any:
        raise UnreadableError("no rating")

    replies = [JudgeReply(problem="status 503"), JudgeReply(fault="no JSON"), reply_of("No idea.")]
    question = JudgeQuestion(Prompt("0/0", [], [user_message("Rate.", 0)]))
    outcomes = ask_until_read(lambda _: replies, [question] * 3, read, 1)
    assert [outcome.failed for outcome in outcomes] == [True, True, False]
    file = Path("x")
    for judge_rows, options, field, unreadable in (
        (mmhal_module.judge_rows, mmhal_module.MmhalOptions(file, rule="official"), "rating", 0),
        (mmvet.judge_rows, mmvet.MmvetOptions(file, "official"), "mark", 0.0),
        (
            multimodal_rewardbench.judge_rows,
            multimodal_rewardbench.MultimodalRewardbenchOptions(file, "official"), "right", 1.0,
        ),
        (
            llava_bench.judge_rows, llava_bench.LlavaBenchOptions(file, file, file, "official"),
            "orders", [{"second": True, "scores": [-1.0, -1.0]}],
        ),
    ):  # fmt: skip
        for failed, expected in ((True, None), (False, unreadable)):
            judged = [{"reply": "", "read": None, "problem": "p", "failed": failed}]
            row = {"question_id": "0", "judged": judged, "expected": 0}
            found = judge_rows(options, SimpleNamespace(), [row])[0][field]  # type: ignore
            assert (found or None) == expected if failed else found == expected
