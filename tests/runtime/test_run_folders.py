"""Whose a folder is: an output is never an input, and a folder belongs to one run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from amber_files import write_amber
from published_files import PUBLISHED, file_of, write_published

from veridical import cli
from veridical.cli.dispatch import find_function
from veridical.cli.signatures import read_options, spelled
from veridical.runtime import runs
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.runtime.run_folders import claim_folder, remove_run, remove_written
from veridical.runtime.run_record import is_finished, read_record, this_process
from veridical.runtime.runs import Run, start_run
from veridical.scoring.object_scores import CHAIR
from veridical.world.dataset import write_scenes

EMBEDDED = ["--model", "{model}"]
SCENES = ["--images", "{data}/images", "--objects", "{data}/objects.json"]
WORDS = ["--objects", "{data}/objects.json", "--vocabulary", "{data}/vocabulary.json"]
PAIRS = ["--data", "{data}/pairs.jsonl"]
ROWS = ["--data", "{data}/conversations.jsonl"]
JUDGED = ["--judge", "exact", *WORDS]
AMBER = ["--files", "{data}/amber", "--halves", "yes_no"]


def in_folder(name: str, words: Sequence[str]) -> list[str]:
    """Words with the files that they name, such as {vqav2_questions}."""
    own = f"{{data}}/published/{name}"
    return [f"{own}/{file_of(name, w[1:-1])}" if w.startswith("{") else w for w in words]


ARGUMENTS: dict[str, list[str]] = {
    "align": [*EMBEDDED, *ROWS],
    "build bdhs": [*EMBEDDED, *ROWS, "--similarity", "edit"],
    "build sample": [*EMBEDDED, *ROWS],
    "build rate": ["{data}/samples.jsonl", *WORDS],
    "build annotate": ["{data}/samples.jsonl", "--judge", "local:embedded"],
    "build rank": ["{data}/samples.jsonl", *JUDGED],
    "build best": ["{data}/samples.jsonl"],
    "build pairs": ["{data}/samples.jsonl"],
    "build compose": ["{data}/pairs.jsonl"],
    "build contrast": ROWS,
    "build corrupt": ROWS,
    "build distort": PAIRS,
    "build dropout": [*EMBEDDED, "--data", "{data}/samples.jsonl"],
    "build facts": ["{data}/conversations.jsonl", "--facts", "{data}/facts.json"],
    "build objects": ["{data}/annotations.json"],
    "build instruct": ["--llava", "{data}/conversations.jsonl"],
    "build join": ["{data}/pairs.jsonl", "{data}/more.jsonl"],
    "train dpo": [*EMBEDDED, *PAIRS],
    "train sft": [*EMBEDDED, *ROWS],
    "train steerlm": [*EMBEDDED, "--data", "{data}/samples.jsonl"],
    "train online": [*EMBEDDED, *ROWS, *JUDGED],
    "train reward": [*EMBEDDED, *PAIRS],
    "train ppo": [*EMBEDDED, *ROWS, *JUDGED],
    "train rloo": [*EMBEDDED, *ROWS, *JUDGED],
    "train grpo": [*EMBEDDED, *ROWS, *JUDGED],
    "eval": [*EMBEDDED, *SCENES, "--benchmarks", "pope"],
    "eval pope": [*EMBEDDED, *SCENES],
    "data split": ["{data}/conversations.jsonl"],
    "eval label_free": [*EMBEDDED, *PAIRS],
    "eval text_pairs": [*EMBEDDED, "--files", "{data}/text_pairs.jsonl"],
    "eval chair": [*EMBEDDED, *SCENES],
    "eval amber": [*EMBEDDED, "--images", "{data}/images", *AMBER],
    **{
        f"eval {name}": [
            *(EMBEDDED if published.asks else []),
            "--images",
            "{data}/images",
            "--max-bad-fraction",
            "1",
            "--files",
            f"{{data}}/published/{name}/{published.named}",
            *in_folder(name, published.words),
        ]
        for name, published in PUBLISHED.items()
    },
    "eval reward": ["{data}/model", "{data}/pairs.jsonl"],
    "eval compare": ["{data}/model", "{data}/more"],
    "eval power": ["--baseline", "{data}/model", "--candidate", "{data}/more"],
    "eval rules": ["{data}/answers.jsonl", "--questions", "{data}/answers.jsonl"],
    "world pairs": ["{data}"],
    "world train": [],
    "study run": ["{data}/study.yaml"],
}
"""What each command needs to come as far as its folder."""
OTHERS = {
    "ask": "writes nothing",
    "data check": "writes a file",
    "data describe": "writes files",
    "data export": "into a new folder",
    "data import": "writes a file",
    "label": "into a folder of its own kind",
    "report": "writes a file",
    "study plan": "writes nothing",
    "study report": "writes pages beside a study",
    "study status": "writes nothing",
    "view": "writes notes beside the set",
    "world make": "into a new folder",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files for every command, and files that a user keeps, under names that commands write."""
    folder = tmp_path_factory.mktemp("data") / "data"
    write_scenes(folder, count=2)
    write_amber(folder / "amber")
    write_published(folder / "published")
    evaluation = {"objects": str(folder / "objects.json"), "model": "embedded",
                  "images": str(folder / "images")}  # fmt: skip
    study = {
        "steps": [{"name": "eval", "command": "eval chair", "options": evaluation}],
        "outcome": {"evaluations": ["eval"], "metric": "chair/chair_i", "difference": 0.1},
    }
    (folder / "study.yaml").write_text(json.dumps(study))
    for name in ("pairs.jsonl", "more.jsonl", "samples.jsonl", "parts/00000000.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('{"id": "1"}\n')
    for name in (
        "model/model.safetensors",
        "summary.json",
        "answers.jsonl",
        "annotations.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("[]")
    for name in ("model", "more"):
        (folder / name).mkdir(exist_ok=True)
        row = {"image_id": "1", "mentions": [], "objects": []}
        (folder / name / "details.jsonl").write_text(json.dumps(row) + "\n")
        scores = {"benchmark": CHAIR.as_json(), "scores": {}, "about": {}}
        write_json(folder / name / "scores.json", scores)
    return folder


def words(command: str, data: Path, out: Path, model: str = "embedded") -> list[str]:
    given = [word.format(data=data, model=model) for word in ARGUMENTS[command]]
    return [*command.split(), *given, "--out", str(out)]


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_every_command_that_writes_is_tested() -> None:
    assert ARGUMENTS.keys() | OTHERS.keys() == cli.COMMANDS.keys()


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_folder_of_the_user_is_refused_and_stays_as_it_is(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(data, mine)
    assert cli.main(words(command, data, mine)) == 2
    told = capsys.readouterr().err
    assert "and no run. Name a new" in told or "is not empty. Name a new" in told
    assert content(mine) == content(data)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_folder_of_another_command_is_refused_and_stays_as_it_is(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_run(tmp_path / "run", "another command", {}).finish()
    before = content(tmp_path / "run")
    assert cli.main(words(command, data, tmp_path / "run")) == 2
    told = capsys.readouterr().err
    assert "holds a run of `another command`" in told or "is not empty. Name a new" in told
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("command", [name for name in ARGUMENTS if ARGUMENTS[name]])
def test_an_output_is_never_an_input(
    command: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    shutil.copytree(data, both)
    (both / "run.json").write_text(json.dumps({"command": command, "status": "finished"}))
    before = content(both)
    assert cli.main(words(command, both, both, str(both / "model"))) == 2
    assert "An output is never an input" in capsys.readouterr().err
    assert content(both) == before


class RecordedError(Exception):
    """A command has come to its record."""


RECORDING = [name for name in ARGUMENTS if name.split()[0] in ("build", "eval")]


@pytest.mark.parametrize("command", [*RECORDING, "world pairs"])
def test_a_run_records_each_option_of_its_command_under_its_own_name(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, a parameter would be forgotten, and a finished build replaced by another."""
    found: dict[str, Any] = {}

    def claim(folder: Path, command: str, configuration: dict[str, Any], *_: object) -> None:
        found.update(configuration)
        raise RecordedError

    monkeypatch.setattr(runs, "claim_folder", claim)
    given = words(command, data, tmp_path / "out")
    with pytest.raises(RecordedError):
        cli.main(given)
    options = read_options(find_function(cli.COMMANDS[command]))
    assert found.keys() == options.keys()
    bare = cli.COMMANDS[command].positionals
    left = [name for name in options if spelled(name) not in given and name not in bare]
    for name in left:
        if options[name].default is not None:  # else the command may have found a value for it
            assert found[name] == options[name].default, name


def test_an_input_in_a_run_within_the_folder_is_none_of_its_outputs(tmp_path: Path) -> None:
    start_run(tmp_path / "all" / "pairs", "build bdhs", {}).finish()
    pairs = tmp_path / "all" / "pairs" / "pairs.parquet"
    pairs.touch()
    start_run(tmp_path / "all", "train dpo", {"data": pairs}, {"data": pairs}).finish()
    assert read_json(tmp_path / "all" / "run.json")["files"] == []


@pytest.mark.parametrize("given", ["a question?", "x" * 5000, "a\0b", "", ".", "/", "../" * 3000])
def test_a_text_that_is_no_path_is_no_input(tmp_path: Path, given: str) -> None:
    start_run(tmp_path / "run", "ask", {"prompt": given, "more": [given, {"deep": given}]})


def test_notes_and_logs_may_lie_in_a_new_folder(tmp_path: Path) -> None:
    for name in ("slurm-1.out", "notes.md", "job.sh", "config.yaml", ".hidden", "report.html"):
        (tmp_path / name).touch()
    start_run(tmp_path, "train dpo", {}).finish()
    assert read_json(tmp_path / "run.json")["files"] == []


def test_a_run_that_left_an_empty_folder_can_be_started_again(tmp_path: Path) -> None:
    """As a training that is stopped before its first checkpoint does, or a step that fails."""
    first = start_run(tmp_path, "train dpo", {})
    (tmp_path / "checkpoints").mkdir()
    first.interrupt("Ctrl-C")
    assert read_json(tmp_path / "run.json")["files"] == []
    second = start_run(tmp_path, "train dpo", {})
    (tmp_path / "checkpoints" / "checkpoint-1").touch()
    second.finish()
    assert read_json(tmp_path / "run.json")["files"] == ["checkpoints/checkpoint-1"]
    (tmp_path / "run.json").unlink()
    with pytest.raises(UserError, match="holds checkpoints and no run"):
        start_run(tmp_path, "train dpo", {})


def test_the_record_names_what_was_written_and_a_second_run_replaces_only_that(
    tmp_path: Path,
) -> None:
    run = start_run(tmp_path, "eval chair", {})
    write_json(tmp_path / "scores.json", 1)
    write_json(tmp_path / "parts" / "key.json", 1)
    run.finish()
    files = ["parts/key.json", "scores.json"]
    assert read_json(tmp_path / "run.json")["files"] == files
    (tmp_path / "plot.png").touch()
    start_run(tmp_path, "eval chair", {}).finish()
    assert read_json(tmp_path / "run.json")["files"] == files
    (tmp_path / "details.jsonl").write_text("a user's own")
    with pytest.raises(UserError, match=r"details\.jsonl was not written by the run"):
        start_run(tmp_path, "eval chair", {})


def _ticks(process: int) -> str:
    """When a process began."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_finished_build_is_not_replaced_by_one_with_other_options(tmp_path: Path) -> None:
    first = {"out": tmp_path / "b", "seed": 0, "limit": 4, "batch_size": 1}
    with start_run(tmp_path / "b", "build bdhs", first) as run:
        run.finish()
    for other in ({"seed": 3}, {"limit": 3}):
        name, value = next(iter(other.items()))
        with pytest.raises(UserError, match=rf"another --{name} \(\d, now {value}\)"):
            start_run(tmp_path / "b", "build bdhs", first | other)
    for same in ({}, {"batch_size": 8}, {"limit": 5}, {"limit": None}):
        start_run(tmp_path / "b", "build bdhs", first | same).finish()


def test_a_shard_does_not_set_back_what_another_has_finished(tmp_path: Path) -> None:
    out, data = tmp_path / "b", tmp_path / "data"
    data.write_text("1")

    def start(shard: str, **more: object) -> Run:
        asked = {"out": out, "seed": 0, "limit": 4, "shard": shard, **more}
        return start_run(out, "build bdhs", asked, {"data": data}, any_process=True)

    def status() -> str:
        return str(read_json(out / "run.json")["status"])

    early, last = start("1/3"), start("2/3")
    last.finish(pairs=1)
    finished = (out / "run.json").read_bytes()
    late = start("3/3")
    for run in (early, late):
        run.note(models={})
        run.fail("it was not needed")
        assert (out / "run.json").read_bytes() == finished
    # What changes the result begins anew.
    start("3/3", limit=5)
    assert status() == "running"
    start("3/3", limit=5).finish()
    data.write_text("2")
    start("3/3", limit=5)
    assert status() == "running"


def test_another_process_that_is_writing_is_left_alone(tmp_path: Path) -> None:
    start_run(tmp_path / "run", "eval chair", {"model": "a"}, any_process=True)
    record = read_json(tmp_path / "run" / "run.json")
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        process = this_process() | {"id": sleeper.pid, "began": _ticks(sleeper.pid)}
        write_json(tmp_path / "run" / "run.json", record | {"process": process})
        with pytest.raises(UserError, match=rf"Process {sleeper.pid} is writing"):
            start_run(tmp_path / "run", "eval chair", {"model": "b"}, any_process=True)
        with pytest.raises(UserError, match=rf"Process {sleeper.pid} is writing"):
            start_run(tmp_path / "run", "eval chair", {"model": "a"})
        # Shares of one run, and a process that has only taken over the number.
        start_run(tmp_path / "run", "eval chair", {"model": "a"}, any_process=True)
        process["began"] = "1"
        write_json(tmp_path / "run" / "run.json", record | {"process": process})
        start_run(tmp_path / "run", "eval chair", {"model": "b"}, any_process=True)
    finally:
        sleeper.kill()


def test_a_note_undoes_nothing_that_another_shard_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One finishes between the other's look at the record and its note: it waits for the note."""
    first, second = (
        start_run(tmp_path / "run", "eval chair", {"model": "a"}, any_process=True)
        for _ in range(2)
    )
    finishing = threading.Thread(target=first.finish)
    look = is_finished

    def slow(folder: Path) -> bool:
        found = look(folder)
        finishing.start()
        finishing.join(0.5)
        return found

    monkeypatch.setattr(runs, "is_finished", slow)
    second.note(later=1)
    finishing.join()
    assert read_record(tmp_path / "run").status == "finished"


def test_of_two_commands_at_once_one_gets_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other begins between this one's look at the empty folder and its first word there."""
    out, theirs = tmp_path / "run", this_process() | {"id": os.getppid()}
    theirs["began"] = _ticks(os.getppid())

    def claim(*given: Any) -> frozenset[str]:
        found = claim_folder(*given)
        if not out.exists():
            record = {"command": "eval chair", "status": "running", "process": theirs}
            write_json(out / "run.json", record)
        return found

    monkeypatch.setattr(runs, "claim_folder", claim)
    with pytest.raises(UserError, match=rf"Process {os.getppid()} is writing"):
        start_run(out, "eval chair", {})
    assert read_json(out / "run.json")["process"] == theirs
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_run_that_can_not_read_its_inputs_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise UserError("unreadable")

    monkeypatch.setattr(runs, "_input", fail)
    out = tmp_path / "run"
    with pytest.raises(UserError, match="unreadable"):
        start_run(out, "eval chair", {}, {"data": tmp_path})
    assert not list(out.iterdir())


def test_a_run_that_can_not_read_its_inputs_leaves_what_another_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two shards the one that came first fails; meanwhile the other did everything."""
    out, asked, honest = tmp_path / "run", {"limit": 4}, runs._input

    def fail(path: Path) -> None:
        monkeypatch.setattr(runs, "_input", honest)
        start_run(out, "build bdhs", asked, any_process=True).finish()
        raise UserError("unreadable")

    monkeypatch.setattr(runs, "_input", fail)
    with pytest.raises(UserError, match="unreadable"):
        start_run(out, "build bdhs", asked, {"data": tmp_path}, any_process=True)
    assert read_json(out / "run.json")["status"] == "finished"


def test_only_what_the_record_names_is_removed(tmp_path: Path) -> None:
    demo = start_run(tmp_path / "demo", "demo", {})
    inner = start_run(tmp_path / "demo" / "train" / "dpo", "train dpo", {})
    write_json(tmp_path / "demo" / "train" / "dpo" / "model" / "config.json", 1)
    inner.finish()
    write_json(tmp_path / "demo" / "summary.json", 1)
    demo.finish()
    mine = {"notes.md", "train/dpo/mine.png", "eval/mine/run.json", "eval/mine/scores.json"}
    for name in mine:
        (tmp_path / "demo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "demo" / name).write_text("{}")
    remove_run(tmp_path / "demo")
    assert content(tmp_path / "demo").keys() == mine


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_user_puts_beside_a_saved_model_stays(tmp_path: Path, killed: bool) -> None:
    def save() -> None:
        remove_written(tmp_path, "model")
        write_json(tmp_path / "model" / f"part-{len(list(tmp_path.rglob('*')))}.json", 1)

    run = start_run(tmp_path, "train dpo", {})
    save()
    run.finish()
    (tmp_path / "model" / "quantized").mkdir()
    (tmp_path / "model" / "quantized" / "mine.gguf").write_text("hours of work")
    if killed:
        start_run(tmp_path, "train dpo", {})
    run = start_run(tmp_path, "train dpo", {})
    save()
    run.finish()
    files = read_json(tmp_path / "run.json")["files"]
    assert len(files) == 1
    assert files[0].startswith("model/part-")
    assert content(tmp_path).keys() == {*files, "run.json", "model/quantized/mine.gguf"}
    remove_run(tmp_path)
    assert content(tmp_path).keys() == {"model/quantized/mine.gguf"}
    (tmp_path / "adapter" / "inner").mkdir(parents=True)
    remove_written(tmp_path, "adapter")
    assert not (tmp_path / "adapter").exists()


def test_a_run_that_was_killed_is_not_removed_by_guessing(tmp_path: Path) -> None:
    demo = start_run(tmp_path / "demo", "demo", {})
    start_run(tmp_path / "demo" / "pairs", "build bdhs", {})  # and no word of its end
    demo.finish()
    before = content(tmp_path / "demo")
    with pytest.raises(UserError, match=r"pairs/run\.json does not say which files"):
        remove_run(tmp_path / "demo")
    assert content(tmp_path / "demo") == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", 3),
        ("command", None),
        ("status", "done"),
        ("status", []),
        ("configuration", []),
        ("inputs", {"data": "path"}),
        ("inputs", {"data": {"path": 1, "sha256": None}}),
        ("files", "all"),
        ("files", ["../../home"]),
        ("files", ["/etc/passwd"]),
        ("results", 1),
        ("process", {"host": "x", "id": "1"}),
        ("process", {"host": "x", "id": -1}),
        ("prompt_time", "yesterday"),
        ("wall_time_seconds", "1"),
    ],
)
def test_a_record_that_was_edited_names_file_and_field(
    tmp_path: Path, field: str, value: Any
) -> None:
    start_run(tmp_path, "eval chair", {}).finish()
    record = read_json(tmp_path / "run.json")
    write_json(tmp_path / "run.json", record | {field: value})
    with pytest.raises(UserError, match=rf"run\.json: {field} has to be"):
        start_run(tmp_path, "eval chair", {})


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{", "", "[" * 100_000, "9" * 5000])
def test_a_record_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json is n"):
        start_run(tmp_path, "eval chair", {})


def test_a_report_replaces_nothing_but_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_run(tmp_path / "run", "eval chair", {}).finish()
    (tmp_path / "thesis.html").write_text("<p>years of work")
    told = []
    for out in (tmp_path / "thesis.html", tmp_path / "run", tmp_path / "run" / "run.json"):
        before = content(tmp_path)
        assert cli.main(["report", str(tmp_path / "run"), "--out", str(out)]) == 2
        assert content(tmp_path) == before
        told.append(capsys.readouterr().err)
    assert "is not a report" in told[0]
    assert "is a folder" in told[1]
    for _ in range(2):
        assert cli.main(["report", str(tmp_path / "run")]) == 0


def prompts(scenes: Path) -> Path:
    """The scenes' questions without answers."""
    rows = read_jsonl(scenes / "conversations.jsonl")
    without = [{"prompt" if k == "messages" else k: v for k, v in row.items()} for row in rows]
    write_jsonl(scenes / "prompts.jsonl", [row | {"prompt": row["prompt"][:1]} for row in without])
    return scenes / "prompts.jsonl"


TRAINING = ["--max-steps", "400", "--batch-size", "2", "--accumulation", "1"]
RLOO = [*TRAINING, "--samples", "2", "--max-new-tokens", "8", "--standardize", "false", *JUDGED]


@pytest.mark.parametrize(
    ("command", "ready", "kept"),
    [
        (["build", "sample", "--k", "8", "--max-new-tokens", "60"], "parts/0*", "parts/0*.jsonl"),
        (["train", "sft", *TRAINING], "log.jsonl", "checkpoints/*/manifest.json"),
        (["train", "rloo", *RLOO], "log.jsonl", "checkpoints/*/manifest.json"),
    ],
)
def test_sigterm_says_interrupted_and_keeps_what_there_is(
    command: list[str], ready: str, kept: str, tmp_path: Path
) -> None:
    scenes, out = tmp_path / "scenes", tmp_path / "run"
    # More than one part of a build; a training needs few rows, and reads each before it begins.
    write_scenes(scenes, count=200 if "build" in command else 16)
    rows = prompts(scenes) if "rloo" in command else scenes / "conversations.jsonl"
    words = [word.format(data=scenes) for word in command]
    words += ["--model", "embedded", "--data", str(rows), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "veridical", *words],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"VERIDICAL_CACHE": "none"},
    )  # fmt: skip
    while process.poll() is None:
        found = [path.read_text() for path in out.glob(ready)]
        if any('"train"' in text or ready != "log.jsonl" for text in found):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=1200)
    assert process.returncode == 143, told
    assert "SIGTERM" in told
    assert "Traceback" not in told
    record = read_json(out / "run.json")
    assert (record["status"], record["reason"]) == ("interrupted", "SIGTERM")
    assert list(out.glob(kept))
    assert any(Path(name).match(kept) for name in record["files"])


def test_a_thread_may_call_the_command_too() -> None:
    import threading

    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(cli.main(["--version"])))
    thread.start()
    thread.join()
    assert statuses == [0]
    with contextlib.suppress(ValueError):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
