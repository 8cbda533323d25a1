"""Malformed input to every command: a clear line and status 2, never a traceback, never silence.

About 1,700 generated cases run in this process. Where a model would be asked or a worker started,
a command is stopped: it has accepted what it was given. The table of outcomes is printed at the end
(`pytest -s`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from amber_files import write_amber
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from published_files import PUBLISHED, write_published

from veridical import cli
from veridical.cli import parsing, signatures
from veridical.cli.signatures import Option, is_number, spelled
from veridical.data.records import read_records, write_records
from veridical.runtime.files import write_json, write_jsonl
from veridical.runtime.fingerprint import EMBEDDED_MODEL
from veridical.study import executing
from veridical.world.dataset import write_scenes

LONGEST_SECONDS = 300
TOLD = r"skipped|left out|refused|ignored|unused|not used|worked through again"
GENERATED = settings(
    phases=[Phase.generate],
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
WORDS = ["--objects", "{objects}", "--vocabulary", "{vocabulary}"]
MODEL = ["--model", "embedded"]
QUICK = ["--prove-first", "true", "--cache", "none"]
JUDGED = ["--judge", "exact", *WORDS]
COMMANDS: dict[str, list[str]] = {
    "align": [*MODEL, "--data", "{conversations}", "--measure", "false"],
    "ask": ["embedded", "{image}", "What is there?"],
    "build bdhs": [*MODEL, "--data", "{conversations}", "--similarity", "edit"],
    "build sample": [*MODEL, "--data", "{conversations}"],
    "build objects": ["{annotations}"],
    "build rate": ["{samples}", *WORDS],
    "build annotate": ["{samples}", "--judge", "local:embedded"],
    "build rank": ["{samples}", *JUDGED],
    "build best": ["{rated}"],
    "build pairs": ["{rated}"],
    "build compose": ["{pairs}"],
    "build contrast": ["--data", "{conversations}"],
    "build corrupt": ["{conversations}", *WORDS],
    "build distort": ["--data", "{pairs}", "--kind", "preference"],
    "build dropout": [*MODEL, "--data", "{samples}"],
    "build facts": ["{pairs}", "--facts", "{facts}"],
    "build instruct": ["--llava", "{conversations}"],
    "build join": ["{pairs}", "{more}"],
    "train dpo": [*MODEL, "--data", "{pairs}", *QUICK],
    "train sft": [*MODEL, "--data", "{conversations}", *QUICK],
    "train steerlm": [*MODEL, "--data", "{rated}", *QUICK],
    "train online": [*MODEL, "--data", "{pairs}", *JUDGED, *QUICK],
    "train reward": [*MODEL, "--data", "{pairs}", *QUICK],
    "train ppo": [*MODEL, "--data", "{conversations}", "--kind", "conversation", *JUDGED, *QUICK],
    "train rloo": [*MODEL, "--data", "{conversations}", "--kind", "conversation", *JUDGED, *QUICK],
    "train grpo": [*MODEL, "--data", "{conversations}", "--kind", "conversation", *JUDGED, *QUICK],
    "eval": [*MODEL, "--benchmarks", "pope", "--images", "{images}", "--objects", "{objects}"],
    "eval pope": ["--questions", "{questions}", "--answers", "{said}"],
    "eval amber": ["--answers", "{replies}", "--files", "{amber}", "--halves", "yes_no"],
    **{
        f"eval {name}": [
            *(["--answers", f"{{{name}_answers}}"] if published.asks else []),
            "--files",
            f"{{{name}_files}}",
            *published.words,
        ]
        for name, published in PUBLISHED.items()
    },
    "eval chair": ["--answers", "{answers}", *WORDS],
    "eval label_free": [*MODEL, "--data", "{pairs}"],
    "eval text_pairs": [*MODEL, "--files", "{text_pairs}"],
    "eval reward": ["{reward_model}", "{pairs}"],
    "eval compare": ["{chair_a}", "{chair_b}"],
    "eval power": ["--differing", "0.2"],
    "eval rules": ["{said}", "--questions", "{questions}"],
    "report": ["{chair_a}", "{chair_b}", "{trained}", "{built}", "{pope}", "{compared}"],
    "data import": ["{pairs}"],
    "data split": ["{pairs}"],
    "data export": ["{pairs}", "--to", "trl"],
    "data check": ["{pairs}"],
    "data describe": ["{pairs}"],
    "label": ["{pairs}", "--port", "0"],
    "view": ["{pairs}", "--port", "0"],
    "world make": ["{out}", "--count", "1"],
    "world pairs": ["{scenes}"],
    "world train": [],
    "study plan": ["{study}", "--out", "{out}"],
    "study run": ["{study}"],
    "study status": ["{study}", "--out", "{out}"],
    "study report": ["{study}", "--out", "{out}"],
}
"""What each command needs to come as far as its work."""
NO_OUT = ("ask", "view", "world make", "study plan", "study status", "study report")
OUT_FILES = {
    "report": "report.html",
    "data import": "records.parquet",
    "data check": "findings.json",
    "data describe": "page.html",
}
"""The commands whose `--out` is a file."""


class TooLong(BaseException):
    """A case took more than `LONGEST_SECONDS`."""


class Accepted(BaseException):
    """A command has come to its work: it took what it was given."""


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        kind: row of the table.
        about: what was done to it.
        words: the command line.
        must_refuse: whether taking it would be wrong.
        named: what the message has to name, if it is refused.
    """

    kind: str
    about: str
    words: list[str]
    must_refuse: bool = False
    named: str = ""


@dataclass
class Tally:
    """What came of the cases."""

    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    slowest: float = 0.0

    def run(self, case: Case) -> None:
        began, busy = time.monotonic(), time.process_time()
        outcome, text = outcome_of(case)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.seconds[case.kind] += time.process_time() - busy
        self.table[case.kind, outcome] += 1
        if outcome not in ("refused", "accepted"):
            shown = " ".join(case.words)
            self.wrong.append(f"{outcome}: {case.about}\n  {shown[:300]}\n  {text[-700:]}")


def outcome_of(case: Case) -> tuple[str, str]:
    """How one call ended, and what it said."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors=e) for e in ("strict", "backslashreplace")
    )
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_SECONDS)
    ending: str = ""
    status: int | None = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(case.words)
    except Accepted:
        status = 0
    except TooLong:
        ending = f"over {LONGEST_SECONDS} s"
    except (Exception, SystemExit):
        ending = "traceback"
        err.write(traceback.format_exc())
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        ending = "traceback"
        err.write(traceback.format_exc())
    finally:
        signal.alarm(0)
    said = [stream.buffer.getvalue().decode() for stream in _flushed(out, err)]  # type: ignore[attr-defined]
    if ending:
        return ending, said[1]
    if status == 0:
        told = re.search(TOLD, said[0] + said[1])
        return ("silent" if case.must_refuse and not told else "accepted"), said[0] + said[1]
    if status == 1 and case.words[:2] == ["data", "check"]:
        return "refused", said[0] + said[1]  # Its report says what is wrong with which row.
    line = said[1].rstrip().rpartition("veridical: ")[2]
    if status != 2 or not line or len(line) > 3000 or line.count("\n") > 12:
        return f"unclear (status {status})", said[1]
    if case.named and case.named not in line:
        return "unclear (names nothing)", said[1]
    return "refused", line


def _flushed(*streams: io.TextIOWrapper) -> Iterator[io.TextIOWrapper]:
    for stream in streams:
        stream.flush()
        yield stream


def _too_long(*_: Any) -> None:
    raise TooLong


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """Collects outcomes over the module's tests, and prints them."""
    found = Tally()
    yield found
    kinds = sorted({kind for kind, _ in found.table})
    outcomes = sorted({outcome for _, outcome in found.table})
    with contextlib.redirect_stdout(sys.__stdout__):
        print(f"\n{'':24}" + "".join(f"{o:>26}" for o in [*outcomes, "seconds of CPU"]))
        for kind in [*kinds, "all"]:
            row = [
                sum(n for (k, o), n in found.table.items() if o == outcome and kind in (k, "all"))
                for outcome in outcomes
            ]
            spent = sum(found.seconds.values()) if kind == "all" else found.seconds[kind]
            print(f"{kind:24}" + "".join(f"{n:>26}" for n in row) + f"{spent:>26.1f}")
        print(f"slowest: {found.slowest:.1f} s")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small files that are right, by the names of `COMMANDS`."""
    folder = tmp_path_factory.mktemp("ground")
    scenes = folder / "scenes"
    write_scenes(scenes, count=2, questions=2)
    conversations = [json.loads(line) for line in (scenes / "conversations.jsonl").open()]
    for row in conversations:
        row["images"] = [f"scenes/{name}" for name in row["images"]]
    pairs = [
        {"id": row["id"], "images": row["images"], "prompt": row["messages"][:1],
         "chosen": row["messages"][1:],
         "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}]}
        for row in conversations
    ]  # fmt: skip
    samples = [
        {"id": row["id"], "images": row["images"], "prompt": "What is there?",
         "responses": ["There is a red cup.", "There is a blue dog."], "source": "mine"}
        for row in conversations
    ]  # fmt: skip
    aspects = ("Helpfulness", "Correctness", "Coherence", "Complexity", "Verbosity")
    ratings = [
        {"aspect": aspect, "answer": f"responses/{k}", "value": 4.0 - 3 * k}
        for k in range(2) for aspect in aspects
    ]  # fmt: skip
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "id": 1}]
    coco = {
        "images": [{"id": 1, "file_name": "1.png", "width": 9, "height": 9}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": boxes,
    }
    write_json(folder / "annotations.json", coco)
    write_jsonl(folder / "conversations.jsonl", conversations)
    write_jsonl(folder / "pairs.jsonl", pairs)
    more = [row | {"rejected": [{"role": "assistant", "content": "A cat."}]} for row in pairs]
    write_jsonl(folder / "more.jsonl", more)
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(folder / "rated.jsonl", [row | {"ratings": ratings} for row in samples])
    images = [row["id"] for row in conversations]
    questions = [
        {"question_id": n, "image": f"{image}.png", "text": f"Is there a {kind} in the image?",
         "label": label}
        for n, (image, kind, label) in enumerate(
            (image, kind, label)
            for image in images
            for kind, label in (("cup", "yes"), ("dog", "no"))
        )
    ]  # fmt: skip
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "said.jsonl", [{"question_id": n, "answer": "Yes."} for n in range(4)])
    write_jsonl(folder / "answers.jsonl", [{"image_id": i, "answer": "A red cup."} for i in images])
    write_jsonl(folder / "other.jsonl", [{"image_id": i, "answer": "A blue dog."} for i in images])
    write_jsonl(folder / "replies.jsonl", [{"id": n, "response": "No"} for n in (4, 5, 6)])
    names = ("conversations", "pairs", "more", "samples", "rated", "questions", "said", "answers",
             "replies")  # fmt: skip
    found = {name: folder / f"{name}.jsonl" for name in names}
    found["text_pairs"] = scenes / "text_pairs.jsonl"
    found["annotations"] = folder / "annotations.json"
    found |= {name: scenes / f"{name}.json" for name in ("objects", "vocabulary", "facts")}
    found |= {"images": scenes / "images", "amber": write_amber(folder / "amber")}
    found |= write_published(folder / "published")
    found |= {"scenes": scenes, "image": scenes / "images" / f"{images[0]}.png", "folder": folder}
    found |= _run_folders(folder, found)
    found["study"] = folder / "study.yaml"
    evaluation = {"objects": str(found["objects"]), "answers": [str(found["answers"])]}
    content = {
        "steps": [{"name": "eval", "command": "eval chair", "options": evaluation}],
        "outcome": {"evaluations": ["eval"], "metric": "chair/chair_i", "difference": 0.1},
    }
    found["study"].write_text(yaml.safe_dump(content))
    return found


def _run_folders(folder: Path, found: dict[str, Path]) -> dict[str, Path]:
    runs = {
        "chair_a": COMMANDS["eval chair"],
        "chair_b": ["--answers", str(folder / "other.jsonl"), *WORDS],
        "pope": COMMANDS["eval pope"],
        "compared": ["{chair_a}", "{chair_b}"],
        "built": ["{rated}"],
        "trained": [*COMMANDS["train sft"], "--max-steps", "1", "--lora-rank", "1"],
        "reward": [*COMMANDS["train reward"], "--max-steps", "1", "--tuning", "full"],
    }
    commands = {
        "chair_a": "eval chair", "chair_b": "eval chair", "pope": "eval pope",
        "compared": "eval compare", "built": "build pairs", "trained": "train sft",
        "reward": "train reward",
    }  # fmt: skip
    made = dict(found)
    for name, words in runs.items():
        out = folder / "runs" / name
        given = [word.format_map(made) for word in words]
        assert cli.main([*commands[name].split(), *given, "--out", str(out)]) == 0
        made[name] = out
    for name, command in UNFINISHED.items():
        made[name] = folder / "runs" / name
        words = [*command.split(), *(w.format_map(made) for w in COMMANDS[command])]
        with pytest.MonkeyPatch.context() as patched:
            for one in FORGETTING:
                patched.setattr(f"veridical.builders.{one}.forget", _interrupt)
            assert cli.main([*words, "--out", str(made[name])]) == 130
        assert (made[name] / "parts" / CHUNKS[name]).is_file()
    made["reward_model"] = made["reward"] / "model"
    made["adapter"] = made["trained"] / "adapter"
    return made


UNFINISHED = {"sampling": "build sample", "ranking": "build rank", "composing": "build compose"}
CHUNKS = {"sampling": "00000000.jsonl", "ranking": "00000000.jsonl", "composing": "00000000.arrow"}
FORGETTING = ("_parts.Parts", "_row_parts.RowParts")


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that comes to its work has accepted its input."""

    def stop(*_: Any, **__: Any) -> None:
        # A command that asks the model while it loads it has not read its data yet.
        callers = {frame.f_code.co_name for frame, _ in traceback.walk_stack(None)}
        assert "load_policy" not in callers
        raise Accepted

    monkeypatch.setattr(torch.nn.Linear, "forward", stop)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", stop)
    monkeypatch.setattr("veridical.web.label.serve", stop)
    monkeypatch.setattr("veridical.web.view.serve", stop)
    monkeypatch.setattr("veridical.web.sample_page.write_text_atomic", stop)
    monkeypatch.setattr(executing, "Process", stop)
    monkeypatch.setattr("veridical.models.load.require_usable", lambda policy: None)
    monkeypatch.setattr("veridical.runtime.hub.can_look_up", lambda *_: False)
    # What each process does once would be half of the time of two thousand calls in this one.
    monkeypatch.setattr(signatures, "read_options", read_once)
    monkeypatch.setattr(parsing, "parser_of", made_once)
    monkeypatch.setattr("veridical.runtime.runs._git", lambda _: {"git_hash": None})


read_once = functools.cache(signatures.read_options)
make_parser = parsing.parser_of
PARSERS: dict[tuple[Any, ...], ArgumentParser] = {}


def made_once(program: str, options: Mapping[str, Option]) -> ArgumentParser:
    """The parser of these very options, which `read_once` keeps."""
    key = (program, *map(id, options.values()))
    if key not in PARSERS:
        PARSERS[key] = make_parser(program, options)
    return PARSERS[key]


def function_of(command: str) -> Callable[..., Any]:
    module, name = cli.COMMANDS[command].function.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def options_of(command: str) -> dict[str, Option]:
    return read_once(function_of(command))


def call(
    command: str, ground: dict[str, Path], folder: Path, *more: str, **instead: Path
) -> list[str]:
    """The words of a right call, with other files in place of some."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    given = ground | {"out": folder / "out"} | instead
    words = [*command.split(), *(word.format_map(given) for word in COMMANDS[command])]
    if command not in NO_OUT and "--out" not in more:
        words += ["--out", str(folder / "out" / OUT_FILES.get(command, "run"))]
        (folder / "out").mkdir(exist_ok=True)
    return [*words, *more]


def slots(command: str) -> list[str]:
    return [word[1:-1] for word in COMMANDS[command] if word.startswith("{") and word != "{out}"]


CASES = {
    "option": 190, "yaml": 190, "place": 300, "content": 220, "changed value": 140,
    "parquet": 110, "run folder": 90, "unfinished": 55, "resumed": 40, "model": 130,
    "output": 270, "full disk": 150,
}  # fmt: skip
"""At least how many of each kind are run: tests of this file may be in different processes."""


def test_enough_cases_are_run() -> None:
    assert sum(CASES.values()) >= 1500


def judge(tally: Tally, *kinds: str) -> None:
    """Fail with what went wrong, or if there were too few cases of these kinds."""
    wrong, tally.wrong = tally.wrong, []
    run = {k: sum(n for (kind, _), n in tally.table.items() if kind == k) for k in kinds}
    assert all(run[kind] >= CASES[kind] for kind in kinds), run
    limit = int(os.environ.get("VERIDICAL_FUZZ_SHOWN", "10"))
    assert not wrong, f"{len(wrong)} cases\n" + "\n".join(wrong[:limit])


def test_right_calls_are_accepted(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """Else nothing that follows would mean anything."""
    assert COMMANDS.keys() == cli.COMMANDS.keys()
    for command in COMMANDS:
        case = Case("right", command, call(command, ground, tmp_path))
        assert outcome_of(case)[0] == "accepted", outcome_of(case)


# --- options ---------------------------------------------------------------------------------

TEXTS = [
    "", "null", "x", "[1, 2]", "{a: 1}", "[[[[", "true", "1e999", "9" * 5000, "'", "\udcff",
    "&a [*a]", "!!python/object/apply:os.system [ls]", "\N{PILE OF POO}", "a\nb", "$x", "=",
    "n" * 300,
    "[" * 3000, "{a: &a [1,1,1,1], b: &b [*a,*a,*a,*a], c: &c [*b,*b,*b,*b], d: [*c,*c,*c,*c]}",
]  # fmt: skip
VALUES: list[Any] = [
    None, "", "x", -1, 0, 10**30, 1.5, True, [], [None], {}, {"a": 1}, [[1]], {"a": {"b": []}},
    float("nan"), "\0", "n" * 300, ["\0"], "\N{PILE OF POO}",
]  # fmt: skip


def is_wrong_type(option: Option, value: Any) -> bool:
    """Whether a value of YAML can't be one of the option's."""
    if value is None:
        return not option.optional
    if option.is_flag:
        return not isinstance(value, bool)
    if is_number(option) and not option.is_list:
        return not isinstance(value, int | float) or isinstance(value, bool)
    if option.is_mapping:
        return not isinstance(value, dict)
    if option.is_list:
        return not isinstance(value, list)
    if get_origin(option.hint) is Literal:
        return True
    return isinstance(value, list | dict)


def test_values_of_options(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """On the command line and in a YAML file."""
    pairs = [(command, name) for command in COMMANDS for name in options_of(command)]

    @seed(1)
    @settings(GENERATED, max_examples=200)
    @given(st.sampled_from(pairs), st.sampled_from(TEXTS))
    def on_the_command_line(pair: tuple[str, str], text: str) -> None:
        command, name = pair
        option = options_of(command)[name]
        wrong = text in ("x", "[[[[", "$x") and (option.is_flag or is_number(option))
        more = [f"{spelled(name)}={text}"]
        words = call(command, ground, tmp_path, *more)
        tally.run(Case("option", f"{name}={text[:40]!r}", words, wrong))

    @seed(2)
    @settings(GENERATED, max_examples=200)
    @given(st.sampled_from(pairs), st.sampled_from(VALUES))
    def in_a_file(pair: tuple[str, str], value: Any) -> None:
        command, name = pair
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({name: value}, allow_unicode=True))
        wrong = is_wrong_type(options_of(command)[name], value)
        given_there = (
            spelled(name) in COMMANDS[command] or name in cli.COMMANDS[command].positionals
        )
        words = call(command, ground, tmp_path, "--config", str(path))
        words = words if not given_there and name != "out" else words[:-2]
        must = wrong and not given_there and name != "out"
        tally.run(Case("yaml", f"{command} {name}: {str(value)[:40]}", words, must))

    on_the_command_line()
    in_a_file()
    judge(tally, "option", "yaml")


# --- files -----------------------------------------------------------------------------------

CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "not UTF-8": b"\xff\xfe\x00broken\xff",
    "zeros": bytes(1000),
    "deep JSON": b"[" * 100_000 + b"]" * 100_000,
    "deep in a row": b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a long number": b'{"id": ' + b"9" * 10_000 + b"}",
    "a number": b"3",
    "null": b"null",
    "a text": b'"x"',
    "a list of lists": b"[[]]",
    "a list of nulls": b"[null]",
    "an object of null": b'{"a": null}',
    "an object of objects": b'{"a": {"b": {}}}',
    "half a surrogate": b'{"id": "\\ud800", "answer": "\\ud800"}',
    "a tar": b"ustar\0\0" * 100,
}


def odd_place(kind: str, folder: Path, name: str) -> Path:
    """A path at which there is no file that could be read."""
    place = folder / "odd" / name
    shutil.rmtree(folder / "odd", ignore_errors=True)
    place.parent.mkdir()
    match kind:
        case "missing":
            return place
        case "folder":
            place.mkdir()
        case "fifo":
            os.mkfifo(place)
        case "loop":
            place.symlink_to(place)
        case "unreadable":
            place.symlink_to("/proc/self/mem")
        case "long name":
            return place.with_name("n" * 300 + place.suffix)
        case "long path":
            return folder / ("d/" * 3000) / name
        case "null byte":
            return Path(f"{folder}/a\0b{place.suffix}")
        case "not UTF-8":
            place = place.with_name(f"\udcff{place.suffix}")
            place.write_bytes(b"\xff")
        case "below a file":
            place.write_bytes(b"x")
            return place / name
        case "device":
            return Path("/dev/full")
    return place


PLACES = (
    "missing", "folder", "fifo", "loop", "unreadable", "long name", "long path", "null byte",
    "not UTF-8", "below a file", "device",
)  # fmt: skip


def test_files_and_places(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """Every file of every command, with every third fault in turn."""
    turn = itertools.count()
    for command in COMMANDS:
        for slot in dict.fromkeys(slots(command)):
            right = ground[slot]
            for kind in PLACES:
                if next(turn) % 2:
                    continue
                if kind == "folder" and right.is_dir():
                    kind = "missing"
                place = odd_place(kind, tmp_path, right.name)
                words = call(command, ground, tmp_path, **{slot: place})
                tally.run(Case("place", f"{slot}: {kind}", words, True))
            if right.is_dir() or right.suffix == ".png":
                continue
            for kind, content in CONTENTS.items():
                if next(turn) % 3:
                    continue
                path = tmp_path / right.name
                path.write_bytes(content)
                words = call(command, ground, tmp_path, **{slot: path})
                tally.run(Case("content", f"{slot}: {kind}", words, True, path.name))
    judge(tally, "place", "content")


ODD_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from([10**400, "\0", "\ud800", "n" * 300, -1, [None], {"type": "image"}]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)  # fmt: skip


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield from places_in(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any, remove: bool) -> Any:
    """A copy of a JSON value with another value at a place, or without that place."""
    if not path:
        return new
    copy = value.copy()
    if remove and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(value[path[0]], path[1:], new, remove)
    return copy


def change_file(draw: Callable[..., Any], source: Path, target: Path) -> str:
    """Write a copy of a JSON or JSON Lines file with one value changed; tell what."""
    text = source.read_text()
    rows = source.suffix == ".jsonl"
    value = [json.loads(line) for line in text.splitlines()] if rows else json.loads(text)
    path = draw(st.sampled_from(list(places_in(value))[1:] or [()]))
    new, remove = draw(ODD_JSON), draw(st.integers(0, 3)) == 0
    after = changed(value, path, new, remove)
    if rows and isinstance(after, list):
        target.write_text("".join(json.dumps(row) + "\n" for row in after))
    else:
        target.write_text(json.dumps(after))
    return f"{source.name} {list(path)} " + ("removed" if remove else f"= {str(new)[:60]!r}")


def test_changed_values_in_files(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """A row's or a list's values, one at a time."""
    pairs = [
        (command, slot)
        for command in COMMANDS
        for slot in slots(command)
        if ground[slot].suffix in (".json", ".jsonl")
    ]

    @seed(3)
    @settings(GENERATED, max_examples=150)
    @given(st.sampled_from(pairs), st.data())
    def check(pair: tuple[str, str], data: st.DataObject) -> None:
        command, slot = pair
        target = ground["folder"] / f"changed-{ground[slot].name}"
        about = change_file(data.draw, ground[slot], target)
        words = call(command, ground, tmp_path, **{slot: target})
        tally.run(Case("changed value", about, words))

    check()
    judge(tally, "changed value")


def test_parquet(ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None) -> None:
    """Pages and metadata with other bytes, and tables of other types."""
    source = tmp_path / "pairs.parquet"
    write_records_of(ground["pairs"], source)
    content = source.read_bytes()
    commands = ("build distort", "build join", "build facts", "train dpo", "eval reward")

    @seed(4)
    @settings(GENERATED, max_examples=80)
    @given(st.sampled_from(commands), st.data())
    def check(command: str, data: st.DataObject) -> None:
        broken = bytearray(content)
        # Images are most of the file; their bytes are the last to find anything.
        for _ in range(data.draw(st.integers(1, 20))):
            at = data.draw(st.integers(0, 400) | st.integers(len(content) - 4000, len(content) - 1))
            broken[at] = data.draw(st.integers(0, 255))
        if data.draw(st.integers(0, 4)) == 0:
            del broken[data.draw(st.integers(0, len(broken))) :]
        target = tmp_path / "broken.parquet"
        target.write_bytes(broken)
        tally.run(Case("parquet", "bytes", call(command, ground, tmp_path, pairs=target)))

    check()
    for number, column in enumerate(
        [
            [1, 2],
            ["x", "y"],
            [None, None],
            [b"\xff", b"\0"],
            [[1], [2]],
            [{"a": 1}, {"a": 2}],
            [1.5, 2],
        ]
    ):
        for name in ("id", "images", "prompt", "chosen", "rejected", "source"):
            table = pq.read_table(source)
            place = table.column_names.index(name)
            target = tmp_path / "other.parquet"
            pq.write_table(table.set_column(place, name, pa.array(column)), target)
            words = call(commands[number % 5], ground, tmp_path, pairs=target)
            tally.run(Case("parquet", f"{name}: {column}", words))
    judge(tally, "parquet")


def write_records_of(rows: Path, target: Path) -> None:
    write_records(read_records(rows, "preference").rows, target, kind="preference")


# --- folders ---------------------------------------------------------------------------------

RUN_FILES = {
    "chair_a": ("run.json", "scores.json", "answers.jsonl", "details.jsonl"),
    "pope": ("run.json", "scores.json", "answers.jsonl", "questions.jsonl"),
    "compared": ("run.json", "comparison.json"),
    "built": ("run.json", "summary.json"),
    "trained": ("run.json", "log.jsonl", "proofs.json"),
}


def copy_of(source: Path, target: Path) -> Path:
    """A copy whose large files are links."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link)
    return target


def _link(source: str, target: str) -> None:
    if Path(source).stat().st_size > 100_000:
        Path(target).symlink_to(source)
    else:
        shutil.copy(source, target)


def reading(command: str, name: str, folder: Path, ground: dict[str, Path], out: Path) -> list[str]:
    """A call that reads a changed run, beside one more: plots of all would be most of the time."""
    if command != "report":
        return call(command, ground, out, **{name: folder})
    return ["report", str(folder), str(ground["chair_b"]), "--out", str(out / "report.html")]


def readers(name: str) -> list[str]:
    return ["report", *(["eval compare"] if name == "chair_a" else [])]


def test_run_folders_changed_by_hand(
    ground: dict[str, Path],
    tmp_path: Path,
    tally: Tally,
    stopped: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Valid JSON of another shape, in every file that another command reads."""
    draw, turn = Figure.savefig, itertools.count()

    def draw_some(self: Figure, *given: Any, **named: Any) -> None:
        # Plots are most of a report's time.
        if next(turn) % 3 == 0:
            draw(self, *given, **named)

    monkeypatch.setattr(Figure, "savefig", draw_some)
    trios = [
        (command, name, file)
        for name, files in RUN_FILES.items()
        for file in files
        if (ground[name] / file).is_file()
        for command in readers(name)
    ]
    assert len(trios) >= 14

    @seed(5)
    @settings(GENERATED, max_examples=60)
    @given(st.sampled_from(trios), st.data())
    def check(trio: tuple[str, str, str], data: st.DataObject) -> None:
        command, name, file = trio
        folder = copy_of(ground[name], tmp_path / name)
        about = change_file(data.draw, ground[name] / file, folder / file)
        words = reading(command, name, folder, ground, tmp_path)
        tally.run(Case("run folder", f"{name} {about}", words))

    check()
    for command, name, file in trios:
        for number, (kind, content) in enumerate(CONTENTS.items()):
            if number % 6:
                continue
            folder = copy_of(ground[name], tmp_path / name)
            (folder / file).write_bytes(content)
            words = reading(command, name, folder, ground, tmp_path)
            tally.run(Case("run folder", f"{name}/{file}: {kind}", words))
    judge(tally, "run folder")


def damaged(content: bytes, draw: Callable[..., Any]) -> bytes:
    """Bytes with some removed, doubled or replaced."""
    at, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 200))
    put: bytes = draw(
        st.sampled_from([b"", b"{", b"\n", b"\xff", b"null", content[at : at + length] * 2])
    )
    return content[:at] + put + content[at + length :]


def test_chunks_of_unfinished_builds_changed_by_hand(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """They are worked through again, and said so; the key that is another refuses."""

    def check(name: str, file: str, about: str, content: bytes, must: bool) -> None:
        folder = copy_of(ground[name], tmp_path / name)
        (folder / "parts" / file).write_bytes(content)
        words = call(UNFINISHED[name], ground, tmp_path, "--out", str(folder))
        tally.run(Case("unfinished", f"{name} {file}: {about}", words, must))

    # Without a model the command ends and has told all.
    ends = {"ranking", "composing"}
    for number, (name, (kind, content)) in enumerate(
        itertools.product(UNFINISHED, CONTENTS.items())
    ):
        check(name, ("key.json", CHUNKS[name])[number % 2], kind, content, name in ends)
        if name == "composing" and number % 2:
            check(name, "00000000.json", kind, content, True)

    @seed(7)
    @settings(GENERATED, max_examples=30)
    @given(st.sampled_from(sorted(UNFINISHED)), st.data())
    def generated(name: str, data: st.DataObject) -> None:
        whole = (ground[name] / "parts" / CHUNKS[name]).read_bytes()
        content = damaged(whole, data.draw)
        check(name, CHUNKS[name], "bytes", content, name in ends and content != whole)

    generated()
    judge(tally, "unfinished")


def test_folders_of_resumed_training_changed_by_hand(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """A checkpoint that is not as it was written is not used; other files are refused by name."""
    source = ground["trained"]
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    files = [file for file in files if file.suffix in (".json", ".jsonl", ".pt", ".pth", ".bin")]
    more = ["--max-steps", "2", "--lora-rank", "1", "--resume", "true", "--extend", "true"]
    assert any(file.name == "manifest.json" for file in files)

    def check(file: Path, about: str, content: bytes) -> None:
        folder = copy_of(source, tmp_path / "trained")
        (folder / file).unlink()
        (folder / file).write_bytes(content)
        words = call("train sft", ground, tmp_path, *more, "--out", str(folder))
        tally.run(Case("resumed", f"{file}: {about}", words))

    for number, (file, (kind, content)) in enumerate(itertools.product(files, CONTENTS.items())):
        if number % 8 == 0:
            check(file, kind, content)

    @seed(8)
    @settings(GENERATED, max_examples=25)
    @given(
        st.sampled_from([file for file in files if file.suffix in (".json", ".jsonl")]), st.data()
    )
    def changed_value(file: Path, data: st.DataObject) -> None:
        if (source / file).stat().st_size > 50_000:
            return
        about = change_file(data.draw, source / file, tmp_path / file.name)
        check(file, about, (tmp_path / file.name).read_bytes())

    changed_value()
    judge(tally, "resumed")


def test_model_folders(
    ground: dict[str, Path],
    tmp_path: Path,
    tally: Tally,
    stopped: None,
) -> None:
    """Weights, configuration, tokenizer, template, adapter and reward head."""
    models: dict[str, tuple[Path, Callable[[Path], list[str]]]] = {
        "model": (EMBEDDED_MODEL, lambda f: ["ask", str(f), str(ground["image"]), "What?"]),
        "adapter": (ground["adapter"], lambda f: ["ask", str(f), str(ground["image"]), "What?"]),
        "reward": (
            ground["reward_model"],
            lambda f: ["eval", "reward", str(f), str(ground["pairs"]), "--out", f"{tmp_path}/o"],
        ),
    }  # fmt: skip
    pickle = (
        b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    )
    files = [
        (name, file.name)
        for name, (folder, _) in models.items()
        for file in sorted(folder.iterdir())
        if file.suffix in (".json", ".jinja", ".safetensors") and file.is_file()
    ]

    def check(name: str, file: str, kind: str, content: bytes, must_refuse: bool) -> None:
        source, words = models[name]
        folder = copy_of(source, tmp_path / name)
        (folder / file).unlink()
        (folder / file).write_bytes(content)
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        tally.run(Case("model", f"{name}/{file}: {kind}", words(folder), must_refuse))

    turn = itertools.count()
    for name, file in files:
        whole = (models[name][0] / file).read_bytes()
        needed = file.endswith(".safetensors") or file in ("config.json", "tokenizer.json")
        needed = needed and (name, file) != ("adapter", "tokenizer.json")
        for kind, content in CONTENTS.items():
            if next(turn) % (4 if needed else 7) == 0:
                check(name, file, kind, content, needed)
        check(name, file, "half", whole[: len(whole) // 2], needed)
        check(name, file, "pickle", pickle, needed)
        check(name, file, "template", b"{{ raise_exception('no') }}{% for %}", needed)

    @seed(6)
    @settings(GENERATED, max_examples=60)
    @given(st.sampled_from([each for each in files if each[1].endswith(".json")]), st.data())
    def changed_value(each: tuple[str, str], data: st.DataObject) -> None:
        name, file = each
        source = models[name][0] / file
        if source.stat().st_size > 50_000:
            return
        about = change_file(data.draw, source, tmp_path / file)
        check(name, file, about, (tmp_path / file).read_bytes(), False)

    changed_value()
    judge(tally, "model")


def test_where_it_is_written(
    ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None
) -> None:
    """Outputs that can't be, and arms with odd names."""
    for command in COMMANDS:
        if command in NO_OUT:
            continue
        for kind in (
            "fifo",
            "loop",
            "long name",
            "long path",
            "null byte",
            "below a file",
            "device",
        ):
            out = odd_place(kind, tmp_path, "run")
            words = call(command, ground, tmp_path, "--out", str(out))
            tally.run(Case("output", f"{command}: {kind}", words, True))
    for name in ("a$b$", "$x^2", "n" * 200, "a b", "<b>", "\udcff", "{x}", "%s", "\\frac", "_"):
        first = copy_of(ground["chair_a"], tmp_path / name)
        second = copy_of(ground["chair_b"], tmp_path / "other")
        words = ["report", str(first), str(second), "--out", str(tmp_path / "r.html")]
        tally.run(Case("output", f"arm {name[:20]!r}", words))
    (tmp_path / "folder.html").mkdir()
    words = ["report", str(ground["chair_a"]), "--out", str(tmp_path / "folder.html")]
    tally.run(Case("output", "report onto a folder", words, True))
    judge(tally, "output")


def test_full_disks(ground: dict[str, Path], tmp_path: Path, tally: Tally, stopped: None) -> None:
    """No file may grow beyond a few hundred bytes, or beyond what the first ones need."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for command in COMMANDS:
            for size in (0, 100, 1000, 2500):
                words = call(command, ground, tmp_path)
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
                tally.run(Case("full disk", f"{command}: {size} bytes", words))
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    judge(tally, "full disk")
