"""`build corrupt` from file to file: by rule, and by a model at a server that has faults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.builders import corrupt
from veridical.builders.corrupting.asked import PROMPT, read_corrupted
from veridical.builders.corrupting.objects import habits_of
from veridical.builders.corrupting.rules import MistakeRules
from veridical.builders.corrupting.rules import corrupt as corrupt_answer
from veridical.cli import main
from veridical.data.object_lists import name_objects
from veridical.data.records import read_records, text_of
from veridical.data.vocabulary import read_vocabulary
from veridical.judges.prompts import UnreadableError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.runtime.randomness import generator
from veridical.world.dataset import write_scenes

DATA = Path(os.environ.get("VERIDICAL_TEST_DATA", ""))
needs_data = pytest.mark.skipif(
    not (DATA / "coco128").is_dir(), reason="VERIDICAL_TEST_DATA names no folder of test data"
)


def run(*words: object) -> int:
    return main(["build", "corrupt", *map(str, words)])


def content(folder: Path) -> dict[str, bytes]:
    return {
        n: (folder / n).read_bytes() for n in ("pairs.parquet", "skipped.jsonl", "summary.json")
    }


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_scenes(tmp_path / "scenes", count=150)
    return tmp_path / "scenes"


def by_rule(scenes: Path, out: Path, *more: object) -> int:
    return run(
        scenes / "conversations.jsonl", "--objects", scenes / "objects.json",
        "--vocabulary", scenes / "vocabulary.json", "--out", out, *more,
    )  # fmt: skip


def test_scenes_become_pairs_with_one_mistake_each(scenes: Path, tmp_path: Path) -> None:
    assert by_rule(scenes, tmp_path / "out", "--color-weight", "0") == 0
    words = read_vocabulary(scenes / "vocabulary.json")
    listed = name_objects(read_json(scenes / "objects.json"), words)
    rows = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows
    assert len(rows) == 150
    kinds: Counter[str] = Counter()
    for row in rows:
        (change,) = json.loads(row["source"])["changes"]
        kinds[change["kind"]] += 1
        invented = {m.name for m in words.mentions(text_of(row["rejected"]))} - {*listed[row["id"]]}
        assert invented == ({change["now"]} if change["kind"] == "object" else set())
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["mistakes"] == summary["answers_with_object_list"] == 150
    assert {kind: summary["kinds"][kind]["made"] for kind in kinds} == kinds
    assert kinds["object"] + kinds["position"] == 150
    # Asked one to one where both are offered: 75 each, within 4 sigma (25).
    assert abs(kinds["object"] - 75) < 25


def test_balanced_kinds_have_the_shares_that_are_asked_for(tmp_path: Path) -> None:
    texts = ["A cat is here."] * 120 + ["A cat is on a red bed."] * 80
    write_jsonl(
        tmp_path / "x.jsonl",
        [{"id": str(n), "messages": talk("What?", t)} for n, t in enumerate(texts)],
    )
    asked = ("--object-weight", "3", "--balance")
    assert run(tmp_path / "x.jsonl", "--out", tmp_path / "whole", *asked) == 0
    made = read_json(tmp_path / "whole" / "summary.json")["kinds"]["color"]["made"]
    assert abs(made - 50) < 18  # within 4 sigma; 20 without --balance
    for shard in ("2/2", "1/2"):
        assert (
            run(tmp_path / "x.jsonl", "--out", tmp_path / "shards", *asked, "--shard", shard) == 0
        )
    assert content(tmp_path / "shards") == content(tmp_path / "whole")


def test_killed_and_resumed_and_in_shards_the_bytes_are_the_same(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert by_rule(scenes, tmp_path / "whole") == 0
    expected = content(tmp_path / "whole")
    for shard in ("3/3", "1/3", "2/3"):
        assert by_rule(scenes, tmp_path / "shards", "--shard", shard) == 0
    assert content(tmp_path / "shards") == expected

    ruled, calls = corrupt._ruled, 0

    def killed(*given: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt
        return ruled(*given)

    monkeypatch.setattr(corrupt, "_ruled", killed)
    assert by_rule(scenes, tmp_path / "killed") == 130
    assert not (tmp_path / "killed" / "pairs.parquet").exists()
    assert by_rule(scenes, tmp_path / "killed") == 0
    assert content(tmp_path / "killed") == expected
    # 64 of 150 were kept: 99 before the kill, and the 86 from the second chunk on.
    assert calls == 100 + 86
    assert by_rule(scenes, tmp_path / "other", "--seed", "1") == 0
    assert content(tmp_path / "other") != expected


def test_rules_need_no_model_library() -> None:
    code = "import sys, veridical.builders.corrupt; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_gives_no_pair_is_listed_with_its_reason(tmp_path: Path) -> None:
    answers = {"a": "A red cup.", "b": "A quiet day.", "c": "Ein roter Hund sitzt auf der Wiese."}
    rows = [
        {"id": name, "messages": talk("What is there?", text)} for name, text in answers.items()
    ]
    write_jsonl(tmp_path / "talk.jsonl", rows)
    assert run(tmp_path / "talk.jsonl", "--out", tmp_path / "out") == 0
    skipped = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")}
    assert skipped.keys() == {"b", "c"}
    assert "nothing in it can be changed by rule" in skipped["b"]
    assert "'de', and the rules are for English" in skipped["c"]
    assert read_json(tmp_path / "out" / "summary.json")["other_languages"] == {"de": 1}


def test_of_pairs_the_chosen_answer_stays(tmp_path: Path) -> None:
    row = {"id": "p", "prompt": "Is it red?", "chosen": "Yes.", "rejected": "It is a plane.",
           "expected_answer": "yes", "facts": ["It is red."]}  # fmt: skip
    write_jsonl(tmp_path / "pairs.jsonl", [row])
    words = (tmp_path / "pairs.jsonl", "--kind", "preference", "--out", tmp_path / "out")
    assert run(*words) == 0
    (pair,) = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows
    assert [text_of(pair[branch]) for branch in ("chosen", "rejected")] == ["Yes.", "No."]
    assert (pair["expected_answer"], pair["facts"]) == ("yes", ["It is red."])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--endpoint.url", "http://a/v1"], "--endpoint goes with --by endpoint:MODEL"),
        (["--by", "gpt"], "--by gpt is none of rules, local:MODEL, endpoint:MODEL"),
        (["--by", "rules:x"], "--by rules:x is none of"),
        (["--co-occurrence", "{bad}"], "must be a JSON object"),
        (["--by", "endpoint:m", "--prompt", "{bad}"], "{question} has to stand in it exactly once"),
        (["--by", "endpoint:m", "--longest", "0.5"], "--longest is 0.5; give 1 or more"),
        (["--changes", "0"], "--changes is 0"),
        (["--object-weight", "-1"], "--object-weight is -1"),
        (["--by", "local:m", "--template", "a=1", "--attempts", "0"], "--attempts is 0"),
    ],
)
def test_what_makes_no_sense_ends_in_a_line(
    more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "talk.jsonl", [{"id": "a", "messages": talk("What?", "A red cup.")}])
    write_json(tmp_path / "bad.json", ["dog"])
    words = [word.replace("{bad}", str(tmp_path / "bad.json")) for word in more]
    assert run(tmp_path / "talk.jsonl", "--out", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) <= 2


@needs_data
@pytest.mark.slow
def test_photographs_never_gain_an_object_that_is_there(tmp_path: Path) -> None:
    """A caption from each of the 128 object lists; POPE's own table of co-occurrence."""
    images = read_jsonl(DATA / "coco128" / "coco128.jsonl")
    rows = [
        {"id": str(row["image_id"]), "images": [row["file"]],
         "messages": talk("Describe the image.", f"There is {named(row['chair_objects'])}.", 1)}
        for row in images
        if row["chair_objects"]
    ]  # fmt: skip
    write_jsonl(tmp_path / "talk.jsonl", rows)
    listed = {str(row["image_id"]): row["chair_objects"] for row in images}
    write_json(tmp_path / "objects.json", listed)
    assert run(
        tmp_path / "talk.jsonl", "--images-root", DATA / "coco128", "--objects",
        tmp_path / "objects.json", "--co-occurrence", DATA / "pope" / "coco_co_occur.json",
        "--out", tmp_path / "out", "--changes", 3,
    ) == 0  # fmt: skip
    words = read_vocabulary(None)
    pairs = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows
    assert len(pairs) > 100
    for pair in pairs:
        true = set(listed[pair["id"]])
        for change in json.loads(pair["source"])["changes"]:
            assert change["kind"] == "object"
            assert change["now"] not in true
            assert change["was"] in true
        said = {mention.name for mention in words.mentions(text_of(pair["rejected"]))}
        assert said - true
        assert " a a" not in text_of(pair["rejected"])
    # Only pictures of people alone offer nothing: people stay people.
    people = {row["id"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")}
    assert {name for name in people if set(listed[name]) != {"person"}} == set()


@needs_data
@pytest.mark.slow
def test_captions_of_a_real_model_gain_hallucinations_and_keep_their_grammar() -> None:
    """500 captions by LLaVA with COCO's lists: CHAIR's own counts say what a mistake did."""
    words = read_vocabulary(DATA / "chair" / "vocabulary.json")
    listed = name_objects(
        read_json(DATA / "chair" / "ground_truth_objects.json"), words, warn=False
    )
    habits = habits_of(listed.values(), words)
    text = (DATA / "captions" / "Instruction2_llava.json").read_text()
    rules = MistakeRules(color_weight=0, count_weight=0, position_weight=0, yes_no_weight=0)
    made, wrong_before, wrong_after, all_after = 0, 0, 0, 0
    for row in caption_rows(text, 500):
        own, caption = listed[str(row["image_id"])], row["text"]
        done = corrupt_answer(caption, own, rules, words, habits, generator(0, row["question_id"]))
        if done.text is None:
            continue
        made += 1
        (change,) = done.changes
        assert change.now not in own
        before, after = ([m.name for m in words.mentions(one)] for one in (caption, done.text))
        assert change.now not in before
        assert change.now in after
        wrong_before += sum(name not in own for name in before)
        wrong_after += sum(name not in own for name in after)
        all_after += len(after)
        for bad in (r"\ba [aeio]\w+", r"\ban [bcdfgjklmnpqrstvwxz]\w+"):
            assert len(re.findall(bad, done.text)) <= len(re.findall(bad, caption))
    assert made > 350  # people alone offer no object
    assert wrong_after / all_after > 2 * wrong_before / all_after


def caption_rows(text: str, count: int) -> Iterator[dict[str, Any]]:
    """JSON objects that stand one behind the other."""
    decoder, place = json.JSONDecoder(), 0
    for _ in range(count):
        row, place = decoder.raw_decode(text, place)
        yield row
        place += len(text[place:]) - len(text[place:].lstrip())


def named(objects: list[str]) -> str:
    return " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in objects)


def talk(question: str, answer: str, images: int = 0) -> list[dict[str, Any]]:
    asked = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    said = [{"type": "text", "text": answer}]
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (block,) = request["messages"][0]["content"]
        name = block["text"].rsplit("Cup ", 1)[1].split()[0]
        with self.server.lock:
            before = self.server.asked[name]
            self.server.asked[name] += 1
            self.server.texts.append(block["text"])
        status, text = reply(name, before)
        choice = {"index": 0, "finish_reason": "stop",
                  "message": {"role": "assistant", "content": text}}  # fmt: skip
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        body = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m",
                           "choices": [choice], "usage": usage}).encode()  # fmt: skip
        self.send_response(status)
        self.send_header("retry-after-ms", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.texts: list[str] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-of-ours")
    one = Server()
    threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def reply(name: str, before: int) -> tuple[int, str]:
    """What the server says of each cup, most faults once."""
    good = f"<answer>Cup {name} is blue.</answer>"
    once = {
        "unmarked": f"Cup {name} is blue.",
        "same": f"<answer>cup {name} is RED</answer>",
        "long": f"<answer>{'Cup and ' * 20}</answer>",
        "tells": "<answer>This is factually incorrect: blue.</answer>",
    }
    if name == "never":
        return 200, "I would rather not."
    if name == "busy" and not before:
        return 503, ""
    return 200, once[name] if name in once and not before else good


def test_a_model_corrupts_what_it_reads_and_is_checked(tmp_path: Path, server: Server) -> None:
    names = ("good", "unmarked", "same", "long", "tells", "busy", "never")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    rows = [
        {"id": name, "images": ["red.png"],
         "messages": talk("Which {answer} is it?", f"Cup {name} is red.", 1)}
        for name in names
    ]  # fmt: skip
    write_jsonl(tmp_path / "talk.jsonl", rows)
    out = tmp_path / "out"
    words = (tmp_path / "talk.jsonl", "--by", "endpoint:m", "--out", out, "--attempts", 2,
             "--endpoint.url", f"http://127.0.0.1:{server.server_address[1]}/v1",
             "--endpoint.cache", "none", "--endpoint.concurrency", 2)  # fmt: skip
    assert run(*words) == 0
    pairs = read_records(out / "pairs.parquet", "preference").rows
    assert [row["id"] for row in pairs] == list(names[:-1])
    assert {text_of(row["rejected"]) for row in pairs} == {f"Cup {n} is blue." for n in names[:-1]}
    assert [text_of(row["chosen"]) for row in pairs] == [
        f"Cup {name} is red." for name in names[:-1]
    ]
    (left_out,) = read_jsonl(out / "skipped.jsonl")
    assert left_out["id"] == "never"
    assert "0 passages stand between <answer> and </answer>" in left_out["reason"]
    assert server.asked == Counter(
        {"good": 1, "unmarked": 2, "same": 2, "long": 2, "tells": 2, "busy": 2, "never": 2}
    )
    # The model sees text alone, and a slot's name within a question stays as it is.
    assert all("Question: Which {answer} is it?\nAnswer: Cup" in text for text in server.texts)
    # Paid: 13 questions less the 503.
    assert read_json(out / "summary.json")["cost"]["replies"] == 12


@pytest.mark.parametrize(
    ("reply", "true", "problem"),
    [
        ("<answer>B</answer> <answer>C</answer>", "A", "2 passages"),
        ("<answer> </answer>", "A", "empty"),
        ("<answer>A.</answer>", "A", "not changed"),
        (f"<answer>{'a ' * 31}</answer>", "b " * 20, "had 20 words and now has 31"),
        (f"<answer>{'a ' * 13}</answer>", "b " * 20, "had 20 words and now has 13"),
        ("<answer>I'm sorry, no.</answer>", "A dog.", "gives the mistake away"),
        ("<answer>A cat (a false statement).</answer>", "A dog.", "gives the mistake away"),
        ("<answer>A cat.<|im_end|></answer>", "A dog.", "is a mark of a template"),
        ("<answer><image> A cat.</answer>", "A dog.", "is a mark of a template"),
        ("<answer>A\0 cat.</answer>", "A dog.", "is a mark of a template"),
    ],
)
def test_replies_that_cannot_be_used(reply: str, true: str, problem: str) -> None:
    with pytest.raises(UnreadableError, match=problem):
        read_corrupted(reply, true, 1.5)


def test_a_reply_at_the_limit_is_used() -> None:
    assert (
        read_corrupted(f"So: <answer>{'a ' * 30}</answer>", "b " * 20, 1.5) == ("a " * 30).strip()
    )
    assert (
        read_corrupted("<ANSWER>Two dogs in a park.</ANSWER>", "A.", 1.5) == "Two dogs in a park."
    )
    assert all(PROMPT.read_text().count(slot) == 1 for slot in ("{question}", "{answer}"))
