"""`veridical label`, asked without a browser."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import resource
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image
from web_client import Client

from veridical import cli
from veridical.data.records import read_records, write_records
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.scoring.agreement import krippendorff_alpha
from veridical.web import label as command
from veridical.web.guard import Access
from veridical.web.guide import blocks
from veridical.web.label_app import Labeling, labeler
from veridical.web.label_export import Exporting, export_labels
from veridical.web.label_overview import label_table, overview
from veridical.web.label_plan import exchanged, is_turned
from veridical.web.label_state import Judgment
from veridical.web.label_store import LabelStore
from veridical.web.sets import open_sets

KEY = "the-key-of-the-pages"
SEED = 3


def rows(count: int) -> list[dict[str, Any]]:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), "red").save(buffer, "PNG")
    return [
        {"id": f"row-{n}", "images": [buffer.getvalue()], "prompt": "What is there?",
         "chosen": f"There is cup {n}.", "rejected": f"There is dog {n}.",
         "ratings": [{"answer": "chosen", "aspect": "truth", "value": 1.0}]}
        for n in range(count)
    ]  # fmt: skip


class Page:
    """One labeling, and what annotators do on its pages."""

    def __init__(self, folder: Path, *words: str, count: int = 6, kind: Any = "preference") -> None:
        self.out, self.data = folder / "labels", folder / "data.parquet"
        if not self.data.exists():
            write_records(rows(count), self.data, kind)
        self.words = ["label", str(self.data), "--out", str(self.out), "--seed", str(SEED),
                      "--port", "0", *words]  # fmt: skip
        self.keys = itertools.count()
        assert cli.main(self.words) == 0
        self.open()

    def open(self) -> None:
        self.store = LabelStore(self.out / "labels.sqlite")
        viewed = open_sets([self.data], None, None, None)[0]
        exporting = Exporting(self.store, viewed, self.out, SEED, 2.0)
        gold = self.data.with_name("gold.parquet")
        known = open_sets([gold], None, None, None)[0] if gold.exists() else None
        labeling = Labeling(
            self.store, viewed, known, self.out / "guidelines.md", SEED,
            lambda: export_labels(exporting, "pairs"),
        )  # fmt: skip
        self.client = Client(labeler(labeling, Access(key=KEY)))

    def send(self, name: str, **content: Any) -> Any:
        given = {"key": f"the-key-{next(self.keys)}", "seconds": 2.5, **content}
        return self.client.post(f"/a/{name}/event", given, **{"x-veridical-key": KEY})

    def letter(self, name: str, task: int, side: str) -> str:
        """What an annotator sees a side as."""
        return "A" if (side == "first") != is_turned(SEED, name, task) else "B"

    def say(self, name: str, worse: str, better: str = "", task: int | None = None) -> int:
        """Answer the current comparison in terms of `first` and `second`."""
        task = task or self.store.current(name)
        assert task is not None
        for step, side in (("worse", worse), ("better", better)):
            if side:
                value = self.letter(name, task, side) if side in ("first", "second") else side
                reply = self.send(name, task=task, step=step, value=value)
                assert reply.status == 200, reply.text
        return task


def answered(store: LabelStore) -> dict[tuple[str, int], Judgment]:
    """Every judgment with an answer."""
    return {(n, t): j for n, own in store.known.items() for t, j in own.items() if j.worse}


@pytest.fixture(autouse=True)
def _nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "serve", lambda *_: None)


def test_a_comparison_becomes_a_pair_with_who_said_so(tmp_path: Path) -> None:
    page = Page(tmp_path, "--annotators", "anna", "ben", "--overlap", "1")
    by_row = {one.row.id: one.task for one in page.store.comparisons()}
    said = {
        "row-0": (("second", ""), ("second", "")),  # the rejected one is worse: as it was
        "row-1": (("first", ""), ("first", "")),  # exchanged
        "row-2": (("same", "first"), ("second", "")),  # by helpfulness, and by hallucination
        "row-3": (("first", ""), ("second", "")),  # no majority
        "row-4": (("same", "same"), ("same", "same")),  # a tie
        "row-5": (("broken", ""), ("unsure", "")),
    }
    for row, answers in said.items():
        for name, (worse, better) in zip(("anna", "ben"), answers, strict=True):
            page.say(name, worse, better, by_row[row])
    task = by_row["row-1"]
    mark = {page.letter("ben", task, "first"): [[9, 12]], page.letter("ben", task, "second"): []}
    assert page.send("ben", task=task, step="marks", value=mark).status == 200
    reply = page.client.post("/export", {}, **{"x-veridical-key": KEY})
    assert "3 pairs" in reply.json()["told"]
    pairs = {row["id"]: row for row in read_records(page.out / "pairs.parquet", "preference").rows}
    assert sorted(pairs) == ["row-0", "row-1", "row-2"]
    text = {name: row["chosen"][0]["content"][0]["text"] for name, row in pairs.items()}
    assert text["row-0"] == "There is cup 0."
    assert text["row-1"] == "There is dog 1."
    assert pairs["row-1"]["ratings"][0]["answer"] == "rejected"
    assert pairs["row-1"]["span_weights"] == [
        {"answer": "rejected", "start": 9, "end": 12, "weight": 2.0}
    ]
    source = json.loads(pairs["row-2"]["source"])
    assert [(one["name"], one["preferred"], one["by"]) for one in source["annotators"]] == [
        ("anna", "chosen", "helpfulness"), ("ben", "chosen", "hallucination"),
    ]  # fmt: skip
    assert [one["seconds"] for one in source["annotators"]] == [5.0, 2.5]
    assert source["agreement"] == 1.0
    assert source["votes"] == {"chosen": 2, "rejected": 0, "tie": 0, "unsure": 0, "broken": 0}
    skipped = {row["id"]: row["reason"] for row in read_jsonl(page.out / "skipped.jsonl")}
    assert skipped == {
        "row-3": "no majority: 1 for the first answer, 1 for the second",
        "row-4": "no majority: 2 for neither",
        "row-5": "no majority: 1 can't tell, 1 broken",
    }
    assert "Krippendorff" in page.client.get("/overview").text


def test_a_vote_beside_one_who_could_not_tell_is_no_full_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(tmp_path, "--annotators", "anna", "ben", "zoe", "--overlap", "1", count=4)
    by_row = {one.row.id: one.task for one in page.store.comparisons()}
    said = {
        "row-0": ["second", "second", "unsure"],
        "row-1": ["first", "unsure"],
        "row-2": ["second"],  # nobody else has compared it yet
        "row-3": ["second", "unsure", "broken"],
    }
    for row, answers in said.items():
        for name, worse in zip(("anna", "ben", "zoe"), answers, strict=False):
            page.say(name, worse, "", by_row[row])

    def exported(*words: str) -> dict[str, float | None]:
        assert cli.main([*page.words, "--export", "pairs", *words]) == 0
        found = read_records(page.out / "pairs.parquet", "preference").rows
        return {row["id"]: json.loads(row["source"])["agreement"] for row in found}

    assert exported() == {"row-0": 0.6667, "row-1": 0.5, "row-2": None, "row-3": 0.3333}
    assert exported("--min-votes", "2") == {"row-0": 0.6667}
    reasons = {row["id"]: row["reason"] for row in read_jsonl(page.out / "skipped.jsonl")}
    assert reasons["row-3"] == (
        "fewer than 2 votes: 1 for the first answer, 1 can't tell, 1 broken"
    )
    assert read_json(page.out / "summary.json")["min_votes"] == 2
    assert cli.main([*page.words, "--export", "pairs", "--min-votes", "3"]) == 2
    assert "No answer has --min-votes 3 yet" in capsys.readouterr().err
    empty = Page(tmp_path / "none")
    assert cli.main([*empty.words, "--export", "pairs", "--min-votes", "3"]) == 2
    assert "Nothing is decided yet, so there is no pair to write.\n" in capsys.readouterr().err


def test_a_folder_of_images_that_is_a_link_to_itself_ends_in_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    write_jsonl(tmp_path / "data.jsonl", [{**row, "images": ["red.png"]} for row in rows(2)])
    words = ["label", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out")]
    for _ in range(2):
        assert cli.main([*words, "--images-root", str(tmp_path / "loop")]) in (0, 2)


def test_an_answer_with_an_image_of_its_own_is_not_exchanged(tmp_path: Path) -> None:
    own = [row | {"rejected_images": row["images"]} for row in rows(2)]
    write_records(own, tmp_path / "data.parquet", "preference")
    page = Page(tmp_path)
    by_row = {one.row.id: one.task for one in page.store.comparisons()}
    page.say("me", "second", "", by_row["row-0"])
    page.say("me", "first", "", by_row["row-1"])
    assert cli.main([*page.words, "--export", "pairs"]) == 0
    made = read_records(page.out / "pairs.parquet", "preference")
    assert made.ids == ["row-0"]
    assert len(made.rows[0]["rejected_images"]) == 1
    skipped = read_jsonl(page.out / "skipped.jsonl")
    assert [(row["id"], row["field"]) for row in skipped] == [("row-1", "rejected_images")]
    assert read_json(page.out / "summary.json")["pairs"] == 1


def test_pages_do_not_say_where_an_answer_is_from(tmp_path: Path) -> None:
    page = Page(tmp_path, count=40)
    sides = [is_turned(SEED, "me", task) for task in page.store.dealt["me"]]
    assert 8 < sum(sides) < 32
    for _ in range(6):
        task = page.store.current("me")
        assert task is not None
        text = page.client.get("/a/me").text
        assert "chosen" not in text
        assert "rejected" not in text
        shown = [text.index(">A</h2>"), text.index(">B</h2>")]
        cup = text.index(">cup<")
        assert (cup > shown[1]) == is_turned(SEED, "me", task)
        page.say("me", "first")


def test_overlap_is_dealt_by_plan_and_orders_differ(tmp_path: Path) -> None:
    page = Page(tmp_path, "--annotators", "a", "b", "c", "--overlap", "0.25", count=20)
    dealt = page.store.dealt
    together = set(dealt["a"]) & set(dealt["b"]) & set(dealt["c"])
    assert len(together) == 5
    assert {name: len(tasks) for name, tasks in dealt.items()} == {"a": 10, "b": 10, "c": 10}
    assert set().union(*dealt.values()) == set(range(1, 21))
    shared = [[task for task in dealt[name] if task in together] for name in ("a", "b")]
    assert shared[0] != shared[1]


def test_gold_pairs_measure_an_annotator_and_are_not_exported(tmp_path: Path) -> None:
    gold = [{**row, "id": f"gold-{n}"} for n, row in enumerate(rows(3))]
    write_records(gold, tmp_path / "gold.parquet", "preference")
    page = Page(tmp_path, "--gold", str(tmp_path / "gold.parquet"), count=4)
    while (task := page.store.current("me")) is not None:
        known = page.store.comparison(task).gold
        assert page.client.get(f"/a/me/image/{task}/0/large").status == 200
        page.say("me", "first" if known and task == 5 else "second")
    assert "2 of 3 (" in page.client.get("/overview").text
    assert cli.main([*page.words, "--export", "pairs"]) == 0
    ids = read_records(page.out / "pairs.parquet", "preference").ids
    assert sorted(ids) == ["row-0", "row-1", "row-2", "row-3"]


def test_an_answer_that_comes_in_while_others_are_counted_does_no_harm(tmp_path: Path) -> None:
    """As during an export or on the overview, which other threads make."""
    page = Page(tmp_path, "--annotators", "anna", "ben", "--overlap", "1")
    page.say("anna", "first")
    everybody, own = iter(page.store.known.items()), iter(page.store.known["anna"].items())
    assert next(own)
    page.say("anna", "second")
    page.say("ben", "second")
    assert [[name for name, _ in everybody], [*own]] == [["anna"], []]
    assert {name: len(known) for name, known in page.store.known.items()} == {"anna": 2, "ben": 1}


def test_what_a_folder_was_begun_with_is_known_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who sees what, gold pairs and the images' folder need not be named again."""
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "data.jsonl", [
        {**row, "images": ["red.png"]} for row in rows(4)
    ])  # fmt: skip
    (tmp_path / "red.png").write_bytes(rows(1)[0]["images"][0])
    gold = [{**row, "id": f"gold-{n}"} for n, row in enumerate(rows(2))]
    write_records(gold, tmp_path / "set" / "gold.parquet", "preference")
    bare = ["label", str(tmp_path / "set" / "data.jsonl"), "--out", str(tmp_path / "out")]
    plan = ["--overlap", "1", "--seed", "5", "--images-root", str(tmp_path)]
    assert cli.main([*bare, "--export", "pairs"]) == 2
    assert "has no labels to export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([*bare, *plan, "--gold", str(tmp_path / "set" / "gold.parquet")]) == 0
    store = LabelStore(tmp_path / "out" / "labels.sqlite")
    for task in store.dealt["me"]:
        store.add(f"key-{task}", "me", task, "worse", "second", 1.0)
    for more in ([], ["--export", "pairs"], [*plan, "--export", "label-studio"]):
        assert cli.main([*bare, *more]) == 0
    assert read_json(tmp_path / "out" / "summary.json")["pairs"] == 4
    shutil.move(tmp_path / "set", tmp_path / "moved")
    bare[1] = str(tmp_path / "moved" / "data.jsonl")
    assert cli.main([*bare, "--export", "label-studio"]) == 0
    (tmp_path / "moved" / "gold.parquet").rename(tmp_path / "elsewhere.parquet")
    assert cli.main([*bare, "--export", "label-studio"]) == 2
    assert "Say where they are: --gold gold.parquet" in capsys.readouterr().err
    with sqlite3.connect(store.path) as database:  # as older versions wrote it
        database.execute("DELETE FROM about WHERE name IN ('data_file', 'gold_file')")
    for more, told in (
        ([], "was begun with gold pairs. Say where they are: --gold FILE."),
        (["--gold", bare[1]], "is not what"),
    ):
        assert cli.main([*bare, *more, "--export", "label-studio"]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "build").mkdir()
    (tmp_path / "elsewhere.parquet").rename(tmp_path / "build" / "pairs.parquet")
    again = ["--gold", str(tmp_path / "build"), "--export", "label-studio"]
    assert cli.main([*bare, *again]) == 0
    write_jsonl(tmp_path / "moved" / "data.jsonl", [{**rows(1)[0], "images": []}])
    assert cli.main([*bare, *again]) == 2
    assert "was begun with, or has changed since then" in capsys.readouterr().err


def test_an_event_that_is_sent_again_counts_once_and_undo_takes_one_back(tmp_path: Path) -> None:
    page = Page(tmp_path)
    first = page.say("me", "second")
    for _ in range(3):
        page.send("me", key="the-same-key", task=first, step="worse", value="A")
    assert len(page.store.events("me")) == 2
    second = page.say("me", "same")
    assert "more helpful" in page.client.get("/a/me").text
    for _ in range(2):
        page.send("me", key="undo-this-one", step="undo")
    assert "hallucinates more?" in page.client.get("/a/me").text
    assert page.store.current("me") == second
    page.send("me", step="undo")
    assert page.store.judgment("me", first).worse == "second"
    page.send("me", step="undo")
    assert page.store.current("me") == first
    assert page.send("me", step="undo").status == 200  # there is nothing left
    before = answered(page.store)
    page.open()
    assert before == answered(page.store)


def test_what_was_stored_is_the_same_after_any_number_of_events(tmp_path: Path) -> None:
    """The state in memory, kept event by event, and the one read from the log agree."""
    page = Page(tmp_path, "--annotators", "a", "b", "--overlap", "1", count=5)
    chance = random.Random(1)
    for _ in range(60):
        name = chance.choice("ab")
        task = page.store.current(name) or chance.choice(page.store.dealt[name])
        match chance.choice(["worse", "worse", "better", "undo", "marks"]):
            case "undo":
                page.send(name, step="undo")
            case "marks":
                start = chance.randrange(5)
                page.send(name, task=task, step="marks", value={"A": [[start, start + 3]]})
            case step:
                page.send(name, task=task, step=step, value=chance.choice(["A", "B", "same"]))
    now = {n: {t: j for t, j in own.items() if j.worse} for n, own in page.store.known.items()}
    page.open()
    assert now == {
        n: {t: j for t, j in own.items() if j.worse} for n, own in page.store.known.items()
    }


@pytest.mark.parametrize(
    "content",
    [
        {"task": 99}, {"task": True}, {"task": "1"}, {"step": "x"}, {"value": "C"}, {"value": None},
        {"step": "better"}, {"step": "marks", "value": {"A": [[0, 999]]}}, {"key": "short"},
        {"step": "marks", "value": {"A": [[3, 1]]}}, {"step": "marks", "value": [1]},
        {"seconds": "1"}, {"key": 7}, {"value": "C", "seconds": 10**400},
        {"step": "marks", "value": {"A": [[0.5, 1]]}},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_not_stored(tmp_path: Path, content: dict[str, Any]) -> None:
    page = Page(tmp_path, count=1)
    reply = page.send("me", **({"task": 1, "step": "worse", "value": "A"} | content))
    assert reply.status == 400
    assert page.store.events() == []


def test_annotators_see_their_own_pages_alone(tmp_path: Path) -> None:
    page = Page(tmp_path, "--annotators", "anna", "ben")
    labeling = Labeling(page.store, open_sets([page.data], None, None, None)[0], None,
                        page.out / "guidelines.md", SEED, lambda: "")  # fmt: skip
    access = Access({"owner-token-0123456": "", "anna-token-0123456": "anna"}, key=KEY)
    client = Client(labeler(labeling, access))
    cookie = client.get("/?token=anna-token-0123456").headers["set-cookie"].partition(";")[0]
    assert client.get("/", cookie=cookie).headers["location"] == "/a/anna"
    for address, status in (("/a/anna", 200), ("/a/ben", 404), ("/overview", 403)):
        assert client.get(address, cookie=cookie).status == status
    own = {"cookie": cookie, "x-veridical-key": KEY}
    assert client.post("/export", {}, **own).status == 403
    assert client.post("/a/ben/event", {"key": "12345678", "step": "undo"}, **own).status == 404
    other = next(t for t in page.store.dealt["ben"] if t not in page.store.dealt["anna"])
    assert client.get(f"/a/anna/image/{other}/0/small", cookie=cookie).status == 404


def test_the_log_is_synced_at_every_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(tmp_path, count=1)
    said: list[str] = []
    connect = sqlite3.connect

    def traced(*given: Any, **named: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*given, **named)
        database.set_trace_callback(said.append)
        return database

    monkeypatch.setattr(sqlite3, "connect", traced)
    page.say("me", "first")
    insert = next(n for n, line in enumerate(said) if line.startswith("INSERT"))
    assert "PRAGMA synchronous=FULL" in said[:insert]
    assert "COMMIT" in said[insert:]
    mode = connect(page.out / "labels.sqlite").execute("PRAGMA journal_mode").fetchone()
    assert mode == ("wal",)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--seed", "4"], "was begun with --seed 3, and --seed 4 is asked for"),
        (["--annotators", "zoe"], "new at the end: --annotators me zoe"),
        (["--annotators", "me", "zoe", "--overlap", "0"], "with --overlap 0.2, and --overlap 0.0"),
        (["--limit", "2"], "was begun without --limit, and --limit 2"),
        (["--gold", "data.parquet"], "was begun without --gold, and --gold data.parquet"),
        (["--annotators", "a b"], "English letters"),
        (["--annotators", "a", "A"], "twice"),
        (["--export", "pairs"], "Nothing is decided yet"),
    ],
)
def test_what_can_not_be_is_refused(
    tmp_path: Path,
    change: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Page(tmp_path)
    monkeypatch.chdir(tmp_path)
    seed = page.words.index("--seed")
    assert cli.main([*page.words[:seed], *page.words[seed + 2 :], *change]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_of_other_files_and_records_without_two_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert cli.main(["label", str(page.data), "--out", str(tmp_path / "mine")]) == 2
    assert "is not empty" in capsys.readouterr().err
    talk = [{"id": "1", "messages": [{"role": "user", "content": "?"},
                                     {"role": "assistant", "content": "A."}]}]  # fmt: skip
    write_records(talk, tmp_path / "talk.jsonl", "conversation")
    assert cli.main(["label", str(tmp_path / "talk.jsonl"), "--out", str(tmp_path / "x")]) == 2
    assert "two answers are needed" in capsys.readouterr().err


def test_images_and_questions_that_take_much_room_scroll_by_themselves(tmp_path: Path) -> None:
    row = rows(1)[0]
    much = {**row, "images": row["images"] * 120, "prompt": "What? " * 300}
    write_records([much], tmp_path / "data.parquet", "preference")
    text = Page(tmp_path).client.get("/a/me").text
    assert text.count("<img") == 100
    assert "20 images more, not shown" in text
    assert text.count('long" tabindex="0" role="region"') == 2
    (tmp_path / "few").mkdir()
    assert 'long" tabindex' not in Page(tmp_path / "few").client.get("/a/me").text


def test_samples_are_compared_two_responses_at_a_time(tmp_path: Path) -> None:
    samples = [{"id": "1", "prompt": "?", "responses": ["One.", "Two.", "Three."]},
               {"id": "2", "prompt": "?", "responses": ["Same.", "Same."]}]  # fmt: skip
    write_records(samples, tmp_path / "data.parquet", "sample")
    page = Page(tmp_path)
    assert "its two answers are the same" in (page.out / "left_out.txt").read_text()
    one = next(page.store.comparisons())
    page.say("me", "first")
    assert cli.main([*page.words, "--export", "pairs"]) == 0
    pair = read_records(page.out / "pairs.parquet", "preference").rows[0]
    assert pair["chosen"][0]["content"][0]["text"] == one.text("second")


@pytest.mark.parametrize("form", ["label-studio", "argilla"])
def test_labels_go_to_other_tools_and_back(tmp_path: Path, form: str) -> None:
    words = ["--annotators", "anna", "ben", "--overlap", "1"]
    (tmp_path / "a").mkdir()
    page = Page(tmp_path / "a", *words)
    for name in ("anna", "ben"):
        for worse, better in (("first", ""), ("same", "second"), ("unsure", ""), ("broken", "")):
            page.say(name, worse, better)
    if form == "label-studio":
        task = page.store.dealt["anna"][0]
        page.send("anna", task=task, step="marks", value={"A": [[0, 5]], "B": [[9, 12]]})
    assert cli.main([*page.words, "--export", form]) == 0
    exported = page.out / f"{form}.json"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "data.parquet").write_bytes(page.data.read_bytes())
    other = Page(tmp_path / "b", *words)
    for _ in range(2):
        assert cli.main([*other.words, "--import-labels", str(exported)]) == 0
    other.open()
    assert "data:image/jpeg;base64," in json.dumps(read_json(exported)[0])
    bare = [
        {(n, t): (j.worse, j.better, j.first_spans, j.second_spans)
         for n, own in store.known.items() for t, j in own.items()}
        for store in (page.store, other.store)
    ]  # fmt: skip
    assert bare[0] == bare[1]
    content = read_json(exported)
    content[0] |= {"fields": {}} if form == "argilla" else {"data": {}}
    write_json(tmp_path / "broken.json", content)
    assert cli.main([*other.words, "--import-labels", str(tmp_path / "broken.json")]) == 2


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"from_name": "wrong_a", "value": {"start": 5, "end": 1}}, "a start and an end"),
        ({"from_name": "wrong_b", "value": {"start": 0, "end": 10**9}}, "ends behind"),
        ({"from_name": "wrong_a", "value": {"start": 0, "end": 5, "text": "cups"}}, "cups"),
        ({"from_name": "worse", "value": {"choices": ["Neither"]}}, "Neither"),
    ],
)
def test_a_file_that_makes_no_sense_leaves_the_labels_as_they_were(
    tmp_path: Path, result: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(tmp_path)
    content = [studio_task(page, [{"from_name": "worse", "value": {"choices": ["A"]}}, result])]
    write_json(tmp_path / "labels.json", content)
    assert cli.main([*page.words, "--import-labels", str(tmp_path / "labels.json")]) == 2
    assert told in capsys.readouterr().err
    assert LabelStore(page.out / "labels.sqlite").events() == []


def test_what_other_tools_add_of_their_own_is_passed_over(tmp_path: Path) -> None:
    page = Page(tmp_path)
    content = [studio_task(page, [
        {"type": "relation", "from_id": "x", "to_id": "y"},
        {"from_name": "stars", "value": {"rating": 3}},
        {"from_name": "better", "value": {"choices": []}},
        {"from_name": "worse", "value": {"choices": ["A"]}},
    ], lead_time="nan")]  # fmt: skip
    write_json(tmp_path / "studio.json", content)
    assert cli.main([*page.words, "--import-labels", str(tmp_path / "studio.json")]) == 0
    [event] = LabelStore(page.out / "labels.sqlite").events()
    assert (event.value, event.seconds) == ("first", 0.0)
    assert cli.main([*page.words, "--export", "argilla"]) == 0
    draft = read_json(page.out / "argilla.json")
    for record in draft:
        record["responses"] = {"worse": [{"value": "B", "user_id": "me", "status": "draft"}]}
    write_json(tmp_path / "draft.json", draft)
    assert cli.main([*page.words, "--import-labels", str(tmp_path / "draft.json")]) == 0
    assert len(LabelStore(page.out / "labels.sqlite").events()) == 1


def studio_task(page: Page, result: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    one = page.store.comparison(1)
    answers = {"answer_a": one.text("first"), "answer_b": one.text("second")}
    annotation = {"completed_by": {"email": "me"}, "result": result, **more}
    return {"data": {"task": 1, **answers}, "annotations": [annotation]}


def test_label_studio_gets_users_as_it_knows_them(tmp_path: Path) -> None:
    """By number; an unknown e-mail address would make it refuse the whole file."""
    page = Page(tmp_path, "--annotators", "7", "anna", "--overlap", "1")
    task = page.say("7", "first")
    page.store.add("the-key-of-anna", "anna", task, "worse", "first", 1.0)
    assert cli.main([*page.words, "--export", "label-studio"]) == 0
    [exported] = [own for own in read_json(page.out / "label-studio.json") if own["id"] == task]
    assert [(own.get("completed_by"), own.get("annotator")) for own in exported["annotations"]] == [
        (7, None), (None, "anna"),
    ]  # fmt: skip


def test_a_browser_may_keep_the_script(tmp_path: Path) -> None:
    """A page that loads while its server is killed is dead without it, and says so."""
    page = Page(tmp_path)
    text = page.client.get("/a/me").text
    [script] = re.findall(r'src="(/static/label\.js\?v=\w+)"', text)
    assert page.client.get(script).headers["cache-control"] == "private, max-age=86400"
    assert "did not load whole" in text


def test_argilla_gets_users_as_it_knows_them(tmp_path: Path) -> None:
    """By UUID: its client refuses a record with a response of anybody else."""
    known = "0b1c2d3e-1111-4222-8333-944444444444"
    page = Page(tmp_path, "--annotators", known, "7", "anna", "--overlap", "1", count=1)
    for name in (known, "7", "anna"):
        page.say(name, "first")
    assert cli.main([*page.words, "--export", "argilla"]) == 0
    [record] = read_json(page.out / "argilla.json")
    assert [own["user_id"] for own in record["responses"]["worse"]] == [known]
    assert [own["user_id"] for own in record["other_responses"]["worse"]] == ["7", "anna"]


def test_a_full_disk_is_said_and_keeps_what_was_given(tmp_path: Path) -> None:
    """The limit on the size of files stands for the disk's end."""
    page = Page(tmp_path)
    task = page.say("me", "first")
    given = {"key": "the-key-of-this", "task": page.store.current("me"), "step": "worse",
             "value": "A"}  # fmt: skip
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    try:
        refused = page.send("me", **given)
        pages = [page.client.get(place).status for place in ("/a/me", "/overview")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert refused.status == 503
    assert "Make room" in refused.text
    assert pages == [200, 200]
    assert [own.task for own in page.store.events()] == [task]
    for _ in range(2):  # the page tries again
        assert page.send("me", **given).status == 200
    page.open()
    assert [own.task for own in page.store.events()] == [task, given["task"]]


def test_a_log_that_is_locked_or_gone_is_said_and_the_page_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(tmp_path, count=1)
    monkeypatch.setattr("veridical.web.label_store.PATIENCE", 0.01)
    given = {"key": "the-key-of-this", "task": 1, "step": "worse", "value": "A"}
    other = sqlite3.connect(page.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = page.send("me", **given)
    assert refused.status == 503
    assert "Another program has it open" in refused.text
    assert page.client.get("/a/me").status == 200
    other.execute("ROLLBACK")
    other.close()
    page.out.rename(tmp_path / "elsewhere")
    refused = page.send("me", **given)
    assert refused.status == 503
    assert "is gone. Put it back" in refused.text
    (tmp_path / "elsewhere").rename(page.out)
    assert page.send("me", **given).status == 200
    assert len(page.store.events()) == 1


def test_labels_are_not_taken_in_while_the_page_is_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(tmp_path)
    write_json(tmp_path / "none.json", [])
    with FileLock(page.out / "labels.lock"):
        assert cli.main([*page.words, "--import-labels", str(tmp_path / "none.json")]) == 2
    assert "is open in another" in capsys.readouterr().err


def test_an_annotator_who_comes_later_gets_what_everybody_gets(tmp_path: Path) -> None:
    page = Page(tmp_path, "--annotators", "anna", "ben", "--overlap", "0.5", count=8)
    page.say("anna", "first")
    before = {name: list(tasks) for name, tasks in page.store.dealt.items()}
    later = [*page.words, "--annotators", "zoe"]  # each adds to the ones before
    unnamed = [word for word in page.words if word not in ("--annotators", "anna", "ben")]
    for words in (later, later, unnamed):
        assert cli.main(words) == 0
    page.open()
    zoe = page.store.dealt.pop("zoe")
    assert page.store.dealt == before
    assert set(zoe) == set(before["anna"]) & set(before["ben"])
    assert len(page.store.events()) == 1


def test_a_set_that_is_changed_under_the_page_is_not_shown_with_other_images(
    tmp_path: Path,
) -> None:
    page = Page(tmp_path)
    page.say("me", "first")
    task = page.store.current("me")
    assert page.client.get(f"/a/me/image/{task}/0/small").status == 200
    write_records(rows(7), page.data, "preference")
    assert "was changed" in page.client.get(f"/a/me/image/{task}/0/large").text
    assert page.client.get("/a/me").status == 400
    exported = page.client.post("/export", {}, **{"x-veridical-key": KEY})
    assert "was changed" in exported.text


def test_agreement_does_not_depend_on_which_answer_the_set_prefers(tmp_path: Path) -> None:
    """Eight of nine the same, and always for the chosen answer.

    By the names of the set, both labels but one would be `first`: an alpha of 0. Drawn names are
    exchanged in five of nine comparisons, here in the one that they differ about too: 2 x 4 + 1 = 9
    labels of each. Observed disagreement 1/9, expected 2 x 9 x 9 / (18 x 17): alpha .790. For
    kappa both names have shares 5/9 and 4/9 for anna, 4/9 and 5/9 for ben: chance 40/81, so
    (8/9 - 40/81) / (1 - 40/81) = 32/41 = .780.
    """
    page = Page(tmp_path, "--annotators", "anna", "ben", "--overlap", "1", count=9)
    differing = min(exchanged(page.store.dealt, set(), SEED))
    for task in range(1, 10):
        page.say("anna", "second", "", task)
        page.say("ben", "first" if task == differing else "second", "", task)
    both, alpha = ["anna", "ben"], "krippendorff_alpha"
    assert [
        (row.coefficient, row.question, row.annotators, round(row.value or 0, 3), row.units)
        for row in overview(page.store, SEED).agreement
    ] == [
        (alpha, "preferred", both, 0.790, 9),
        (alpha, "worse", both, 0.790, 9),
        ("cohen_kappa", "preferred", both, 0.780, 9),
    ]
    text = page.client.get("/overview").text
    assert 'All annotators: Krippendorff&#39;s alpha</th><td data-column="Value">0.79</td>' in text
    assert 'anna and ben: Cohen&#39;s kappa</th><td data-column="Value">0.78</td>' in text
    assert text.count('<td data-column="Same label">89 %</td>') == 3


def test_figures_of_an_export_are_numbers(tmp_path: Path) -> None:
    """Two people, six comparisons, two gold ones: every figure can be computed with."""
    gold = [{**row, "id": f"gold-{n}"} for n, row in enumerate(rows(2))]
    write_records(gold, tmp_path / "gold.parquet", "preference")
    page = Page(tmp_path, "--annotators", "anna", "ben", "zoe", "--overlap", "1",
                "--gold", str(tmp_path / "gold.parquet"))  # fmt: skip
    for task, (worse, better) in enumerate(
        [("second", ""), ("first", ""), ("same", "same"), ("unsure", ""), ("broken", "")], start=1
    ):
        page.say("anna", worse, better, task)
        page.say("ben", "second", "", task)
    page.say("anna", "second", "", 7)
    page.say("anna", "first", "", 8)
    page.client.post("/export", {}, **{"x-veridical-key": KEY})
    found = read_json(page.out / "summary.json")
    anna, ben, zoe = found["annotators"]
    assert (anna["done"], anna["total"], anna["gold_done"], anna["gold_right"]) == (7, 8, 2, 1)
    assert anna["answers"] == {"decided": 4, "tie": 1, "unsure": 1, "broken": 1}
    assert anna["median_seconds"] == 2.5
    assert anna["per_hour"] == pytest.approx(3600 * 7 / 20)  # a tie took two answers
    assert anna["gold_low"] == pytest.approx(0.0945, abs=1e-4)  # Wilson: 1 of 2
    assert [ben["gold_low"], zoe["median_seconds"], zoe["per_hour"]] == [None, None, None]
    numbers = [value for row in found["agreement"] for value in (row["value"], row["same"])]
    assert len(numbers) == 10
    assert not [value for value in numbers if isinstance(value, str)]
    assert [found["pairs"], found["skipped"], found["unlabeled"]] == [2, 3, 1]


def test_answers_at_random_agree_as_chance_would() -> None:
    chance = random.Random(1)
    labels = {
        name: {task: chance.choice(["first", "second", "tie"]) for task in range(1000)}
        for name in ("anna", "ben", "zoe")
    }
    turned = exchanged({name: [*own] for name, own in labels.items()}, {1, 2}, SEED)
    assert len(turned) == 499
    assert not turned & {1, 2}
    found = krippendorff_alpha(label_table(labels, turned))
    assert found.value == pytest.approx(0, abs=0.06)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0 < found.high


def test_guidelines_are_read_again_and_shown_as_text(tmp_path: Path) -> None:
    page = Page(tmp_path)
    (page.out / "guidelines.md").write_text(
        "# New <b>\n\n- one **two**\n  more\n\n<script>x</script>"
    )
    text = page.client.get("/a/me").text
    assert "<h2>New &lt;b&gt;</h2>" in text
    assert "<li>one <strong>two</strong> more</li>" in text
    assert "<script>x" not in text
    (page.out / "guidelines.md").write_text(
        "1. **first**\n   more\n2) second\n+ other\n\n1.5 is not an item"
    )
    text = page.client.get("/a/me").text
    assert "<ol><li><strong>first</strong> more</li><li>second</li></ol>" in text
    assert "<ul><li>other</li></ul><p>1.5 is not an item</p>" in text
    assert [block.kind for block in blocks("a\nb\n\n* c\n# d")] == [
        "paragraph",
        "list",
        "paragraph",
    ]


def test_numbers_of_guidelines_stay_where_lists_are_apart(tmp_path: Path) -> None:
    """Annotators say "rule 2" to each other."""
    page = Page(tmp_path)
    (page.out / "guidelines.md").write_text("Rules:\n1. first\n   - why\n2. second\n\n3. third\n")
    text = page.client.get("/a/me").text
    assert "<p>Rules:</p><ol><li>first</li></ol><ul><li>why</li></ul>" in text
    assert '<ol start="2"><li>second</li></ol><ol start="3"><li>third</li></ol>' in text
    kinds = [block.kind for block in blocks("We began in\n12. May\n- a\nb")]
    assert kinds == ["paragraph", "list", "paragraph"]
