"""The pages in a real browser: keys, a killed server, accessibility. Skipped without Chromium."""

from __future__ import annotations

import importlib
import json
import queue
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import uvicorn
from PIL import Image

from veridical import cli
from veridical.data.records import read_records, write_records
from veridical.runtime.files import read_json, read_jsonl, write_jsonl
from veridical.web.label_store import LabelStore
from veridical.world.dataset import write_scenes

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MEMORY = resource.getrlimit(resource.RLIMIT_AS)[0]
ROOM = 64 * 2**30
"""Bytes of addresses without which Chromium does not start, however few of them it uses."""
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(
        MEMORY != resource.RLIM_INFINITY and MEMORY < ROOM, reason="ulimit -v is too low"
    ),
]
LOOKS = ((1280, "light"), (390, "dark"))  # by hand, the other two as well
SERIOUS = ("serious", "critical")
LINES_OF_SHORT_NAMES = """[...document.querySelectorAll("dt")]
    .filter((one) => one.textContent.length < 20).map((one) => {
      const text = document.createRange();
      text.selectNodeContents(one);
      return new Set([...text.getClientRects()].map((line) => Math.round(line.top))).size;
    })"""
PATIENCE = 600
"""Seconds after which a page is taken to hang; the machine may be busy with other tests."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE * 1000
        )
        yield found
        found.close()


@dataclass
class Traffic:
    """What a page said and asked, for the message of a test that gives up on it."""

    pending: dict[Any, str] = field(default_factory=dict)
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=12))

    def follow(self, page: Any) -> None:
        page.on("console", lambda said: self.ended.append(f"console: {said.text}"))
        page.on("pageerror", lambda error: self.ended.append(f"error: {error}"))
        page.on("request", self.begin)
        page.on("requestfinished", lambda one: self.end(one, "finished"))
        page.on("requestfailed", lambda one: self.end(one, f"failed, {one.failure}"))

    @property
    def summary(self) -> str:
        pending = [f"pending: {one}" for one in self.pending.values()]
        return "\n".join([*pending, *self.ended])

    def begin(self, request: Any) -> None:
        self.pending[request] = f"{request.method} {request.url}"

    def end(self, request: Any, how: str) -> None:
        self.ended.append(f"{self.pending.pop(request, request.url)}: {how}")


TRAFFIC: WeakKeyDictionary[Any, Traffic] = WeakKeyDictionary()


def tab(browser: Any, **look: Any) -> Any:
    """An empty page that waits with patience."""
    page = browser.new_page(**look)
    page.set_default_timeout(PATIENCE * 1000)
    TRAFFIC[page] = Traffic()
    TRAFFIC[page].follow(page)
    return page


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A command that serves pages, which can be killed and started again on the same port."""

    def __init__(self, *words: str) -> None:
        self.port = free_port()
        self.words = [*words, "--port", str(self.port)]
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "veridical", *self.words]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ctrl-C" in line:
                return
        raise AssertionError("the server ended")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


@contextmanager
def in_thread(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a command's pages, served by a thread: imports take seconds otherwise."""
    module = importlib.import_module(f"veridical.web.{words[0]}")
    ready: queue.Queue[tuple[Any, socket.socket]] = queue.Queue()
    ended = threading.Event()

    def serve(app: Any, listening: socket.socket) -> None:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        ready.put((server, listening))
        server.run(sockets=[listening])
        ended.set()

    monkeypatch.setattr(module, "serve", serve)
    command = threading.Thread(target=cli.main, args=([*words, "--port", "0"],))
    # The command line takes over the signals of the main thread only.
    monkeypatch.setattr("veridical.runtime.interruptions.terminable", nullcontext)
    command.start()
    server, listening = ready.get(timeout=PATIENCE)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    command.join(PATIENCE)
    assert ended.is_set()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def started(*words: str) -> Server:
        running.append(Server(*words))
        return running[-1]

    yield started
    for one in running:
        one.stop()


def scene_pairs(folder: Path, count: int) -> Path:
    write_scenes(folder / "scenes", count=count)
    rows = read_jsonl(folder / "scenes" / "conversations.jsonl")
    pairs = [
        {"id": row["id"], "images": [str(folder / "scenes" / name) for name in row["images"]],
         "prompt": row["messages"][:1], "chosen": row["messages"][1:],
         "rejected": "There is a giraffe. It is not in the picture."}
        for row in rows
    ]  # fmt: skip
    write_records(pairs[:count], folder / "pairs.parquet", "preference")
    return folder / "pairs.parquet"


def faults(page: Any) -> list[str]:
    """What axe-core finds that is serious or worse."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found
        if one["impact"] in SERIOUS
    ]  # fmt: skip


def until(page: Any, expression: str) -> None:
    """Wait until something holds on a page. The pages' policy forbids Playwright's own way."""
    deadline, problem = time.monotonic() + PATIENCE, ""
    while time.monotonic() < deadline:
        try:
            if page.evaluate(expression):
                return
            problem = ""
        except sync_api.Error as error:
            problem = str(error)  # between two pages
        page.wait_for_timeout(30)  # which lets events in, unlike time.sleep
    told = [f"{page.url}: {expression} did not come true", problem, TRAFFIC[page].summary]
    with suppress(sync_api.Error):
        told.append(
            page.evaluate("document.readyState + ': ' + document.documentElement.outerHTML")
        )
    raise AssertionError("\n".join(told))


def press(page: Any, key: str) -> None:
    """Answer by a key, and wait for the page that follows."""
    page.evaluate("document.body.dataset.shown = 'old'")
    page.keyboard.press(key)
    until(page, "document.readyState === 'complete' && document.body.dataset.shown !== 'old'")


def test_pairs_are_found_flagged_and_labeled_by_keys(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = scene_pairs(tmp_path, 6)
    out, sample = tmp_path / "labels", tmp_path / "sample.html"
    assert cli.main(["view", str(pairs), "--export", str(sample), "--count", "3"]) == 0
    people = ["--annotators", "me", "ben", "--overlap", "1"]
    with (
        in_thread(["view", str(pairs)], monkeypatch) as view,
        in_thread(["label", str(pairs), "--out", str(out), *people], monkeypatch) as label,
    ):
        look_at_every_page(browser, view, label, sample.as_uri())
        post_from_another_site(browser, view, tmp_path / "pairs.notes.jsonl")
        flag_and_note(browser, view, tmp_path / "pairs.notes.jsonl")
        compare(browser, label, out)


def test_odd_pictures_and_names_fit_a_page(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 30 x 5,000 was shown 35,000 pixels high, and long names made pages too wide."""
    sizes = {"tall.png": (30, 5000), "wide.png": (6000, 40), "thin.png": (8, 90)}
    for file, size in sizes.items():
        Image.new("RGB", size, "green").save(tmp_path / file)
    name = "a" * 150
    rows = [
        {"id": f"{names}", "images": names, "prompt": "What?", "chosen": "cup", "rejected": "dog",
         "source": json.dumps({name: name, "b": 1}),
         "ratings": [{"answer": "chosen", "aspect": name, "value": 1.0}]}
        for names in ([*sizes], *([file] for file in sizes))
    ]  # fmt: skip
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    sample = tmp_path / "sample.html"
    assert cli.main(["view", str(tmp_path / "pairs.jsonl"), "--export", str(sample)]) == 0
    label = ["label", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out")]
    with (
        in_thread(["view", str(tmp_path / "pairs.jsonl")], monkeypatch) as view,
        in_thread(label, monkeypatch) as compare_at,
    ):
        pages = [f"{view}/s/0", *(f"{view}/s/0/row/{n}" for n in (1, 2, 3, 4)), compare_at]
        for width, scheme in LOOKS:
            page = tab(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
            for address in (*pages, sample.as_uri()):
                page.goto(address)
                until(page, "[...document.images].every((i) => i.complete || i.loading == 'lazy')")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, address
                heights = page.evaluate("[...document.images].map((i) => i.clientHeight)")
                assert max(heights) <= 800, (address, heights)
                fits = page.evaluate(
                    "[...document.images].map((i) => getComputedStyle(i).objectFit)"
                )
                assert set(fits) == {"contain"}, "else it would be distorted"
                lines = page.evaluate(LINES_OF_SHORT_NAMES)
                assert max(lines, default=0) <= 1, "short names of fields are on one line"
            page.close()


def look_at_every_page(browser: Any, view: str, label: str, sample: str) -> None:
    said: list[str] = []
    for width, scheme in LOOKS:
        page = tab(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda one: said.append(one.text))
        page.on("pageerror", lambda one: said.append(str(one)))
        for address in (
            f"{view}/s/0?q=giraffe&where=images%3D1", f"{view}/s/0/row/2",
            label, f"{label}/a/me", f"{label}/overview", sample,
        ):  # fmt: skip
            page.goto(address)
            page.wait_for_load_state("networkidle")
            assert faults(page) == [], (address, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert said == []


def post_from_another_site(browser: Any, view: str, notes: Path) -> None:
    """A form is what a page elsewhere can send without asking; Chromium asks before the rest."""
    page = tab(browser)
    page.route(
        "http://evil.example/**",
        lambda route: route.fulfill(body="<form method=post>", content_type="text/html"),
    )
    page.goto("http://evil.example/page")
    form = """address => {
      const form = document.forms[0], field = document.createElement('input');
      [form.enctype, form.action] = ['text/plain', address];
      [field.name, field.value] = ['{"flagged": true, "x": "', '"}'];
      form.append(field);
      form.submit();
    }"""
    with page.expect_response("**/note") as reply:
        page.evaluate(form, f"{view}/s/0/row/2/note")
    assert reply.value.status == 403
    assert not notes.exists()
    page.close()


def flag_and_note(browser: Any, view: str, notes: Path) -> None:
    page = tab(browser)
    page.goto(f"{view}/s/0")
    for key in ("j", "j", "f"):
        page.keyboard.press(key)
    page.wait_for_selector("[data-row*='/row/2?'] .flag[aria-pressed=true]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#note")
    page.wait_for_load_state()  # before that, nobody listens to keys
    page.keyboard.press("m")
    page.keyboard.type("a giraffe, really")
    page.keyboard.press("Escape")
    until(page, "document.querySelector('#saved').textContent === 'Kept.'")
    page.keyboard.press("j")
    page.wait_for_url("**/row/3?*")
    kept = read_jsonl(notes)
    assert [(one["row"], one["flagged"], one["note"]) for one in kept] == [
        (2, True, "a giraffe, really")
    ]


def compare(browser: Any, label: str, out: Path) -> None:
    page = tab(browser)
    page.goto(f"{label}/a/me")
    for key in ("w", "ArrowRight", " ", "Escape"):
        page.keyboard.press(key)
    page.wait_for_selector(".word.wrong")
    # A server that ends within its answer once left an empty page.
    page.route("**/a/me", lambda route: route.abort("connectionreset"), times=1)
    press(page, "1")
    assert page.url == f"{label}/a/me"
    for key in ("u", "2", "3", "1", "5", "4"):
        press(page, key)
    store = LabelStore(out / "labels.sqlite")
    first = store.dealt["me"][0]
    assert len(store.judgment("me", first).first_spans + store.judgment("me", first).second_spans)
    done = [store.judgment("me", task) for task in store.dealt["me"][:4]]
    assert [one.is_done for one in done] == [True] * 4
    assert done[1].worse == "same"
    assert [one.worse for one in done[2:]] == ["broken", "unsure"]


@pytest.mark.slow
def test_a_server_that_is_killed_ten_times_loses_and_doubles_nothing(
    browser: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Twenty pairs by two annotators, by keyboard; then DPO on what was exported."""
    pairs, out = scene_pairs(tmp_path, 20), tmp_path / "labels"
    words = ("label", str(pairs), "--out", str(out), "--annotators", "anna", "ben",
             "--overlap", "1")  # fmt: skip
    server, chance = serve(*words), random.Random(0)
    given: dict[str, list[str]] = {"anna": [], "ben": []}
    kills = sorted(chance.sample(range(40), 10))
    pages = {name: tab(browser) for name in given}
    for name, page in pages.items():
        page.goto(f"{server.address}/a/{name}")
    for turn in range(40):
        name = ("anna", "ben")[turn % 2]
        page, key = pages[name], chance.choice("12")
        shown = page.get_attribute("body", "data-task")
        page.evaluate("document.body.dataset.shown = 'old'")
        if turn in kills:
            # The key is pressed just before, while, or after the server dies.
            moment = chance.choice((0.0, 0.002, 0.01, 0.05))
            page.keyboard.press(key)
            time.sleep(moment)
            server.kill()
            time.sleep(chance.random())
            server.start()
        else:
            page.keyboard.press(key)
        until(page, "document.readyState === 'complete' && document.body.dataset.shown !== 'old'")
        assert page.url == f"{server.address}/a/{name}"
        given[name].append(f"{shown}={key}")
    store = LabelStore(out / "labels.sqlite")
    for name, answers in given.items():
        events = [one for one in store.events(name) if one.step == "worse"]
        assert [str(one.task) for one in events] == [one.partition("=")[0] for one in answers]
        assert len({one.task for one in events}) == 20
    server.stop()
    assert cli.main([*words, "--export", "pairs"]) == 0
    made = read_records(out / "pairs.parquet", "preference")
    summary = read_json(out / "summary.json")
    assert len(made.rows) == summary["pairs"]
    assert summary["pairs"] + summary["skipped"] == 20
    trained = ["train", "dpo", "embedded", "--data", str(out / "pairs.parquet"), "--max-steps", "2",
               "--out", str(tmp_path / "dpo"), "--cache", "none"]  # fmt: skip
    assert cli.main(trained) == 0


@contextmanager
def told(step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{step}: {time.perf_counter() - start:.2f} s")


@pytest.mark.slow
def test_a_hundred_thousand_pairs_are_found_and_flagged(
    browser: Any, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "image.png"
    write_scenes(tmp_path / "scenes", count=1)
    shutil.copy(next((tmp_path / "scenes" / "images").glob("*.png")), image)
    rows = (
        {"id": str(n), "images": [image.read_bytes()], "prompt": f"What is in picture {n}?",
         "chosen": f"There is a cup of size {n}.", "rejected": f"There is a dog of size {n % 97}."}
        for n in range(100_000)
    )  # fmt: skip
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    server = serve("view", str(tmp_path / "pairs.parquet"))
    page = tab(browser)
    page.goto(f"{server.address}/s/0")
    assert page.query_selector("[data-row]")
    for _ in range(600):
        if "of 100,000 rows" in page.inner_text("[role=status]"):
            break
        time.sleep(1)
        page.reload()
    # Times are printed for docs/web.md, and not checked: the machine may be busy.
    with told("first page"):
        page.goto(f"{server.address}/s/0")
    with told("search"):
        page.fill("input[name=q]", "size 99999.")
        page.press("input[name=q]", "Enter")
        page.wait_for_url("**q=size*")
    assert "1 of 100,000 rows found" in page.inner_text("[role=status]")
    with told("order by a field"):
        page.goto(f"{server.address}/s/0?sort=chosen_words")
    with told("another page of it"):
        page.goto(f"{server.address}/s/0?sort=chosen_words&page=7")
    page.goto(f"{server.address}/s/0?q=size+99999.")
    with told("flag a row"):
        page.keyboard.press("j")
        page.keyboard.press("f")
        page.wait_for_selector(".flag[aria-pressed=true]")
    with told("export"), page.expect_download() as found:
        page.click("text=Export flags and notes")
    assert [one["id"] for one in read_jsonl(Path(found.value.path()))] == ["99999"]
