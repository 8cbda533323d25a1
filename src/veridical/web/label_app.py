"""The application behind `veridical label`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.web import pages
from veridical.web.differences import word_places
from veridical.web.guard import Access, Guard
from veridical.web.guide import blocks
from veridical.web.label_overview import overview
from veridical.web.label_plan import Comparison, is_turned
from veridical.web.label_state import (
    BETTER,
    OTHER,
    WORSE,
    Judgment,
    Spans,
    possible_seconds,
    read_spans,
)
from veridical.web.label_store import LabelStore, StoreError
from veridical.web.label_words import agreement_label, agreement_words, annotator_words
from veridical.web.pictures import SIZES, Pictures
from veridical.web.requests import sent, text_in
from veridical.web.sets import ViewedSet
from veridical.web.viewer import picture_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MOST_WORDS = 3000
"""Of an answer, beyond which words can't be marked (each is an element of the page)."""
SHOWN_LETTERS = 60_000
SHOWN_IMAGES = 100
SIDES = {"A": "first", "B": "second"}
WORDS = {
    "annotator_words": annotator_words,
    "agreement_label": agreement_label,
    "agreement_words": agreement_words,
}


@dataclass(frozen=True)
class Labeling:
    """What the pages work on.

    Attributes:
        store: the log.
        viewed: the set that is compared.
        gold: the set of which the better answers are known.
        guidelines: the Markdown file that is shown; it is read again for each page.
        seed: of the sides.
        export: writes what was labeled so far, and says where.
    """

    store: LabelStore
    viewed: ViewedSet
    gold: ViewedSet | None
    guidelines: Path
    seed: int
    export: Callable[[], str]


@dataclass(frozen=True)
class Word:
    """A word of an answer, or what stands between two (`start` is None)."""

    text: str
    start: int | None
    end: int
    marked: bool


@dataclass(frozen=True)
class Side:
    """An answer as it is shown: `letter` is all that the page says of it."""

    letter: str
    words: list[Word]
    hidden: int


def labeler(labeling: Labeling, access: Access) -> ASGIApp:
    """The pages of a labeling."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    store, pictures, root = labeling.store, Pictures(), access.root_path

    async def as_text(request: Request, error: Exception) -> Response:
        if isinstance(error, AnyHTTPException):
            return PlainTextResponse(str(error.detail), error.status_code)
        return PlainTextResponse(str(error), 503 if isinstance(error, StoreError) else 400)

    async def no_number(request: Request, error: Exception) -> Response:
        return PlainTextResponse("There is no such page.", 404)

    app.add_exception_handler(RequestValidationError, no_number)
    app.add_exception_handler(UserError, as_text)
    app.add_exception_handler(AnyHTTPException, as_text)

    def page(template: str, values: Mapping[str, object]) -> Response:
        common = {"root": root, "key": access.key, "title": labeling.viewed.name}
        return HTMLResponse(pages.render(template, {**common, **values}))

    def allowed(request: Request, name: str) -> None:
        who = request.scope["state"]["who"]
        if name not in store.dealt or who not in ("", name):
            raise HTTPException(404, "There is no such annotator.")

    def for_everything(request: Request) -> None:
        if request.scope["state"]["who"]:
            raise HTTPException(403, "This page needs the address that was printed for it.")

    @app.get("/")
    def home(request: Request) -> Response:
        who = request.scope["state"]["who"]
        if who or len(store.dealt) == 1:
            return RedirectResponse(f"{root}/a/{who or next(iter(store.dealt))}", 303)
        progress = {name: _progress(store, name) for name in store.dealt}
        return page("label_home.html.j2", {"progress": progress})

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        found = pages.static_file(name)
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return Response(found[0], media_type=found[1], headers=pages.KEPT)

    @app.get("/a/{name}")
    def label(name: str, request: Request) -> Response:
        allowed(request, name)
        _refuse_changed(labeling)
        guide = blocks(read_text(labeling.guidelines))
        values = {**_label_values(labeling, name), "name": name, "guide": guide,
                  "owner": not request.scope["state"]["who"]}  # fmt: skip
        return page("label.html.j2", values)

    @app.get("/a/{name}/image/{task}/{image}/{size}")
    def image(name: str, task: int, image: int, size: str, request: Request) -> Response:
        allowed(request, name)
        if size not in SIZES or task not in store.dealt[name]:
            raise HTTPException(404, "There is no such image.")
        one = store.comparison(task)
        viewed = labeling.gold if one.gold and labeling.gold else labeling.viewed
        return picture_response(viewed, one.row, image, size, pictures)

    @app.post("/a/{name}/event")
    async def event(name: str, request: Request) -> Mapping[str, object]:
        allowed(request, name)
        content = await sent(request)
        key = text_in(content, "key", 80)
        if len(key) < 8:
            raise UserError("key must have at least 8 letters.")
        # In a thread: while a disk is slow or the log is locked, other pages are served.
        if content.get("step") == "undo":
            await run_in_threadpool(store.undo, key, name)
        else:
            await run_in_threadpool(_store_event, labeling, name, key, content)
        done, total = _progress(store, name)
        return {"stored": key, "done": done, "total": total}

    @app.get("/overview")
    def about(request: Request) -> Response:
        for_everything(request)
        values = {"overview": overview(store, labeling.seed), **WORDS}
        return page("label_overview.html.j2", values)

    @app.post("/export")
    async def export(request: Request) -> Mapping[str, object]:
        for_everything(request)
        await sent(request)
        _refuse_changed(labeling)
        return {"told": await run_in_threadpool(labeling.export)}

    return Guard(app, access)


def _refuse_changed(labeling: Labeling) -> None:
    """Refuse to go on with images and texts that may be of other rows now.

    Raises:
        UserError: a set's file was changed.
    """
    for viewed in (labeling.viewed, labeling.gold):
        if viewed is not None and viewed.change:
            raise UserError(viewed.change)


def _progress(store: LabelStore, name: str) -> tuple[int, int]:
    own = store.known.get(name, {})
    return sum(own[task].is_done for task in store.dealt[name] if task in own), len(
        store.dealt[name]
    )


def _store_event(labeling: Labeling, name: str, key: str, content: Mapping[str, object]) -> None:
    """Store what a page sent about A and B as what it says of the first and second answer.

    Raises:
        UserError: it makes no sense.
    """
    store = labeling.store
    task, step, value = content.get("task"), content.get("step"), content.get("value")
    seconds = content.get("seconds")
    if not isinstance(task, int) or isinstance(task, bool) or task not in store.dealt[name]:
        raise UserError("task is not a comparison of this annotator.")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise UserError("seconds must be a number.")
    spent = possible_seconds(seconds)
    turned = is_turned(labeling.seed, name, task)
    if step == "marks":
        stored = _marks(store.comparison(task), value, turned)
    elif step in ("worse", "better") and isinstance(value, str):
        stored = unblinded(value, turned)
        if stored not in (WORSE if step == "worse" else BETTER):
            raise UserError("value is none of the answers.")
        if step == "better" and store.judgment(name, task).worse != "same":
            raise UserError("The first question comes before the second.")
    else:
        raise UserError("step must be worse, better, marks or undo.")
    store.add(key, name, task, str(step), stored, round(spent, 3))


def unblinded(value: str, turned: bool) -> str:
    """`A` and `B` as `first` and `second`; anything else as it is."""
    side = SIDES.get(value)
    if side is None:
        return value
    return OTHER[side] if turned else side


def _marks(comparison: Comparison, value: object, turned: bool) -> str:
    if not isinstance(value, Mapping) or not set(value) <= set(SIDES):
        raise UserError("Marks are an object with A and B.")
    try:
        spans = read_spans({unblinded(side, turned): own for side, own in value.items()})
    except ValueError as error:
        raise UserError(f"Marks can't be read: {error}.") from error
    for side, own in spans.items():
        if own and own[-1][1] > len(comparison.text(side)):
            raise UserError("A mark ends behind its answer.")
    return json.dumps(spans)


def _label_values(labeling: Labeling, name: str) -> dict[str, object]:
    store = labeling.store
    done, total = _progress(store, name)
    values: dict[str, object] = {"done": done, "total": total, "can_undo": bool(done)}
    task = store.current(name)
    if task is None:
        return {**values, "task": None}
    one, judgment = store.comparison(task), store.judgment(name, task)
    turned = is_turned(labeling.seed, name, task)
    second_question = judgment.worse == "same"
    prompt = [(turn.role, turn.text[:SHOWN_LETTERS]) for turn in one.row.prompt]
    return {
        **values,
        "can_undo": bool(done) or second_question,
        "task": task,
        "prompt": prompt,
        "images": list(range(min(len(one.row.images), SHOWN_IMAGES))),
        "hidden_images": max(0, len(one.row.images) - SHOWN_IMAGES),
        "sides": [_side(letter, one, judgment, turned) for letter in SIDES],
        "second_question": second_question,
    }


def _side(letter: str, one: Comparison, judgment: Judgment, turned: bool) -> Side:
    which = unblinded(letter, turned)
    text = one.text(which)
    spans = judgment.first_spans if which == "first" else judgment.second_spans
    return Side(letter, words(text[:SHOWN_LETTERS], spans), max(0, len(text) - SHOWN_LETTERS))


def words(text: str, spans: Spans) -> list[Word]:
    """A text as words, and what stands between them; a long text's end as one piece."""
    found: list[Word] = []
    place = 0
    for start, end in word_places(text)[:MOST_WORDS]:
        if start > place:
            found.append(Word(text[place:start], None, start, False))
        marked = any(first <= start and end <= last for first, last in spans)
        found.append(Word(text[start:end], start, end, marked))
        place = end
    if place < len(text):
        found.append(Word(text[place:], None, len(text), False))
    return found
