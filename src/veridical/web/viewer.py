"""The application behind `veridical view`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from veridical.data.pixels import ImageError
from veridical.runtime.errors import UserError
from veridical.web import pages
from veridical.web.cards import card_of, sets_legend
from veridical.web.guard import Access, Guard
from veridical.web.index import Index
from veridical.web.notes import LONGEST_NOTE, Notes, RowNote
from veridical.web.pictures import SIZES, Pictures, encoded
from veridical.web.query import MARKED, OPERATORS, Query, read_query
from veridical.web.query_faults import query_faults
from veridical.web.requests import sent, text_in
from veridical.web.sets import ViewedSet
from veridical.web.shown_rows import ShownRow

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ROWS_A_PAGE = 10


@dataclass(frozen=True)
class Opened:
    """A set with its index and its notes."""

    viewed: ViewedSet
    index: Index
    notes: Notes

    def marked(self, query: Query) -> list[int]:
        """The numbers of the rows that a query with `marked` asks for, or leaves out."""
        places = self.index.places(self.notes.marked(query.marked))
        return sorted({number for own in places.values() for number in own})

    def notes_of(self, rows: Sequence[ShownRow]) -> dict[int, RowNote]:
        """The notes of some rows, by the row's number."""
        ids = {row.id for row in rows}
        known = {key: note for key, note in self.notes.all().items() if key[0] in ids}
        here = {row.number for row in rows}
        found: dict[int, RowNote] = {}
        # A note of this very row is put in last: it counts before one of another number.
        places = self.index.places([*known])
        for key, numbers in sorted(places.items(), key=lambda item: item[1] == [item[0][1]]):
            found |= {number: known[key] for number in numbers if number in here}
        return found


def viewer(sets: list[Opened], access: Access) -> ASGIApp:
    """The pages of some sets."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    pictures = Pictures()
    root = access.root_path

    async def as_text(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, AnyHTTPException) else 400
        text = str(error.detail) if isinstance(error, AnyHTTPException) else str(error)
        return PlainTextResponse(text, status)

    async def no_number(request: Request, error: Exception) -> Response:
        return PlainTextResponse("There is no such page.", 404)

    app.add_exception_handler(RequestValidationError, no_number)
    app.add_exception_handler(UserError, as_text)
    app.add_exception_handler(AnyHTTPException, as_text)

    def refused(place: int, error: UserError) -> Response:
        values = {"place": place, "name": sets[place].viewed.name, "told": str(error)}
        return _page("refused.html.j2", values, access, 400)

    @app.get("/")
    def home(request: Request) -> Response:
        return RedirectResponse(f"{root}/s/0", 303)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        found = pages.static_file(name)
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return Response(found[0], media_type=found[1], headers=pages.KEPT)

    @app.get("/s/{place}")
    def rows(place: int, request: Request) -> Response:
        one = _opened(sets, place)
        try:
            query, others = _query(request)
        except UserError as error:
            return refused(place, error)
        if others & {"field", "op", "value"}:
            return RedirectResponse(f"{root}/s/{place}?{query.address()}", 303)
        with one.index.page():
            return _page("rows.html.j2", _list_values(sets, place, one, query, others), access)

    @app.get("/s/{place}/row/{number}")
    def row(place: int, number: int, request: Request) -> Response:
        one = _opened(sets, place)
        try:
            query, _ = _query(request)
        except UserError as error:
            return refused(place, error)
        everything = request.query_params.get("images") == "all"
        with one.index.page():
            values = _row_values(sets, place, one, number, query, everything)
            return _page("row.html.j2", values, access)

    @app.get("/s/{place}/row/{number}/text/{answer}")
    def text(place: int, number: int, answer: int) -> Response:
        found = _row(_opened(sets, place), number)
        if not 0 <= answer < len(found.answers):
            raise HTTPException(404, "There is no such answer.")
        return PlainTextResponse(found.answers[answer].text)

    @app.get("/s/{place}/row/{number}/prompt")
    def prompt(place: int, number: int) -> Response:
        found = _row(_opened(sets, place), number)
        return PlainTextResponse("\n\n".join(f"{t.role}: {t.text}" for t in found.prompt))

    @app.get("/s/{place}/row/{number}/image/{image}/{size}")
    def picture(place: int, number: int, image: int, size: str) -> Response:
        one = _opened(sets, place)
        if size not in SIZES:
            raise HTTPException(404, "There is no such size.")
        return picture_response(one.viewed, _row(one, number), image, size, pictures)

    @app.post("/s/{place}/row/{number}/note")
    async def note(place: int, number: int, request: Request) -> Mapping[str, object]:
        one = _opened(sets, place)
        content = await sent(request)
        flagged = content.get("flagged")
        words = text_in(content, "note", LONGEST_NOTE) if "note" in content else None
        if not isinstance(flagged, bool | None):
            raise UserError("flagged must be true or false.")
        found = _row(one, number)
        if not found.id:
            raise UserError("This row has no id, so nothing can be noted of it.")
        if one.viewed.change:  # its row of this number may be another one now
            raise UserError(one.viewed.change)

        def change() -> RowNote:
            shown = one.notes_of([found]).get(number)
            key = None if shown is None else shown.key
            return one.notes.change(found.id, number, flagged, words, key)

        return (await run_in_threadpool(change)).as_json()

    @app.get("/s/{place}/notes.jsonl")
    def notes(place: int) -> Response:
        one = _opened(sets, place)
        ordered = sorted(one.notes.all().values(), key=lambda note: note.row)
        lines = [json.dumps(note.as_json(), ensure_ascii=False) + "\n" for note in ordered]
        name = one.notes.path.name.encode("ascii", "replace").decode().replace('"', "")
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response("".join(lines), media_type="application/jsonl", headers=headers)

    return Guard(app, access)


def picture_response(
    viewed: ViewedSet, row: ShownRow, image: int, size: str, pictures: Pictures
) -> Response:
    """An image of a row, or why there is none."""
    if not 0 <= image < len(row.images):
        return PlainTextResponse("There is no such image.", 404)
    key = (viewed.file, row.number, image, size)
    found = pictures.get(key)
    if found is None:
        try:
            found = encoded(viewed.image(row, row.images[image]), size)
        except ImageError as error:
            return PlainTextResponse(f"No image: {error}", 404)
        pictures.put(key, found)
    headers = {"cache-control": "private, max-age=600"}
    return Response(found[0], media_type=found[1], headers=headers)


def _page(
    template: str, values: Mapping[str, object], access: Access, status: int = 200
) -> Response:
    common = {"root": access.root_path, "key": access.key, "longest_note": LONGEST_NOTE}
    return HTMLResponse(pages.render(template, {**common, **values}), status)


def _opened(sets: list[Opened], place: int) -> Opened:
    if not 0 <= place < len(sets):
        raise HTTPException(404, f"There are {len(sets)} sets, counted from 0.")
    return sets[place]


def _row(one: Opened, number: int) -> ShownRow:
    found = one.index.rows([number]) if 0 < number < 2**62 else []
    if not found:
        raise HTTPException(404, f"{one.viewed.name} has no row {number} (or not yet).")
    return found[0]


def _query(request: Request) -> tuple[Query, set[str]]:
    """The query of an address, and the names of all of its parameters that have a value."""
    values: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        values.setdefault(name, []).append(value)
    query = read_query(values)
    return query, {name for name, own in values.items() for value in own if value}


def _common(sets: list[Opened], place: int, one: Opened, query: Query) -> dict[str, object]:
    return {
        "sets": [each.viewed.name for each in sets],
        "place": place,
        "name": one.viewed.name,
        "kind": one.viewed.kind,
        "query": query,
        "address": query.address(),
        "indexed": one.index.count,
        "done": one.index.done,
        "failure": one.viewed.change or one.index.failure,
        "notes_file": str(one.notes.path),
    }


def _list_values(
    sets: list[Opened], place: int, one: Opened, query: Query, asked: set[str]
) -> dict[str, object]:
    numbers = one.index.find(query, one.marked(query))
    pages_there = max(1, -(-len(numbers) // ROWS_A_PAGE))
    page = min(query.page, pages_there)
    first = (page - 1) * ROWS_A_PAGE
    shown = one.index.rows(numbers[first : first + ROWS_A_PAGE].tolist())
    cards = [card_of(row, whole=False) for row in shown]
    fields, reading = one.index.fields(), not one.index.done and not one.index.failure

    def has_field(name: str) -> bool:
        return reading or one.index.has_field(name)  # a row that is not read yet may have it

    return {
        **_common(sets, place, one, query),
        "cards": cards,
        "notes": one.notes_of(shown),
        "found": len(numbers),
        "page": page,
        "pages": pages_there,
        "fields": fields,
        "faults": query_faults(query, fields, has_field, sorted(asked)),
        "operators": OPERATORS,
        "marked": MARKED,
        "marks": sets_legend(cards),
    }


def _row_values(
    sets: list[Opened], place: int, one: Opened, number: int, query: Query, everything: bool
) -> dict[str, object]:
    row = _row(one, number)
    card = card_of(row, whole=True, all_images=everything)
    numbers = one.index.find(query, one.marked(query))
    try:
        at: int | None = numbers.index(number)
    except ValueError:
        at = None  # its flag, say, has changed since

    def step(by: int) -> int | None:
        inside = at is not None and 0 <= at + by < len(numbers)
        return numbers[at + by] if at is not None and inside else None

    return {
        **_common(sets, place, one, query),
        "card": card,
        "notes": one.notes_of([row]),
        "previous": step(-1),
        "next": step(1),
        "at": None if at is None else at + 1,
        "found": len(numbers),
        "page": 1 if at is None else at // ROWS_A_PAGE + 1,
        "marks": sets_legend([card]),
    }
