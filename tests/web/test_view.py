"""`veridical view`, asked without a browser."""

from __future__ import annotations

import html
import io
import json
import os
import random
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image
from web_client import Client

from veridical import cli
from veridical.builders.composing.flags import read_flags
from veridical.data.records import read_records, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, read_jsonl, write_json, write_jsonl
from veridical.web.differences import word_places
from veridical.web.guard import Access
from veridical.web.index import Index, open_index
from veridical.web.notes import Notes, notes_path
from veridical.web.query import OPERATORS
from veridical.web.record_rows import light_rows
from veridical.web.sets import open_sets, with_gaps
from veridical.web.viewer import Opened, viewer

SCRIPT = "<script>alert(1)</script>"
KEY = "the-key-of-this-start"


def picture(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (120, 90), color).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    source = {"builder": "bdhs", "cuts": [
        {"sentence": "There is a cup.", "kept": "There is", "completion": " a dog."}
    ], "chosen_logp": -10.0, "rejected_logp": -12.5}  # fmt: skip
    return [
        {"id": "a", "images": [picture("red")], "prompt": "What is there?",
         "chosen": "There is a cup.", "rejected": "There is a dog.", "source": json.dumps(source),
         "ratings": [{"answer": "chosen", "aspect": "truth", "value": 4.5}]},
        {"id": "b", "images": [picture("blue")], "prompt": f"Say {SCRIPT}",
         "chosen": f"Never {SCRIPT} at all", "rejected": f"{SCRIPT}\N{PILE OF POO}",
         "source": json.dumps({"builder": "made", "model": "x"})},
        {"id": "c", "images": [picture("green")], "prompt": "\u4f60\u770b\u5230\u4ec0\u4e48?",
         "chosen": "\u4e00\u53ea\u732b", "rejected": "\u4e00\u53ea\u72d7"},
    ]  # fmt: skip


def application(*sets: Path, access: Access | None = None, **more: Any) -> Client:
    opened = []
    for one in open_sets(sets, more.get("root"), more.get("objects"), more.get("vocabulary")):
        index = open_index(one.key())
        index.start(one.rows(), background=False)
        opened.append(Opened(one, index, Notes(notes_path(one.file), one.file)))
    return Client(viewer(opened, access or Access(key=KEY)))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    write_records(rows(), tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


def shown(client: Client, address: str) -> list[int]:
    """The rows on a page of a list."""
    reply = client.get(address)
    assert reply.status == 200, reply.text
    return [int(number) for number in re.findall(r'aria-label="Row (\d+)"', reply.text)]


def test_a_pair_is_shown_with_what_is_known_of_it(pairs: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "objects.json", {"a": ["cup"]})
    write_json(tmp_path / "words.json", {"cup": ["cup"], "dog": ["dog"]})
    client = application(
        pairs, objects=tmp_path / "objects.json", vocabulary=tmp_path / "words.json"
    )
    page = client.get("/s/0/row/1").text
    assert '<mark class="different real">cup</mark>' in page
    assert '<mark class="completed different made_up">dog</mark>' in page
    assert "truth: 4.5" in page
    assert "<dt>logp_gap</dt><dd>2.5</dd>" in page
    assert "<dt>rejected_made_up</dt><dd>1</dd>" in page
    image = client.get("/s/0/row/1/image/0/large")
    assert image.status == 200
    assert Image.open(io.BytesIO(image.body)).getpixel((0, 0)) == pytest.approx((254, 0, 0), abs=3)


def test_differences_of_a_language_without_spaces_are_letters(pairs: Path) -> None:
    page = application(pairs).get("/s/0/row/3").text
    assert '\u4e00\u53ea<mark class="different">\u732b</mark>' in page


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
FLAGS = ["\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]
PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (f"{FAMILY} ok", [FAMILY, "ok"]),
        ("".join(FLAGS), FLAGS),
        ("\U0001f44d\U0001f3fd!", ["\U0001f44d\U0001f3fd", "!"]),
        (f"{PERSIAN} a", [PERSIAN, "a"]),
        ("a\r\n(b).", ["a", "(", "b", ")", "."]),
        ("don't e\u0301t x_1", ["don't", "e\u0301t", "x_1"]),
    ],
)
def test_what_is_read_as_one_is_marked_as_one(text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in word_places(text)] == pieces


def test_texts_are_escaped(pairs: Path, tmp_path: Path) -> None:
    client = application(pairs)
    for address in ("/s/0", "/s/0/row/2", f"/s/0?q={SCRIPT}", f"/s/0?where=model={SCRIPT}"):
        reply = client.get(address)
        assert "<script>" not in reply.text
        assert "script-src 'self'" in reply.headers["content-security-policy"]
    assert client.get("/s/0/row/2/text/0").headers["content-type"].startswith("text/plain")
    cli.main(["view", str(pairs), "--export", str(tmp_path / "page.html")])
    assert "<script" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3]),
        ("q=CUP", [1]),
        ("q=\u732b", [3]),
        ("q=%25", []),
        ("where=model=x", [2]),
        ("where=model!=x", [1, 3]),
        ("where=builder~AD", [2]),
        ("where=chosen_words>3", [1, 2]),
        ("where=chosen_words>3&where=builder=bdhs", [1]),
        ("where=logp_gap>=2.5", [1]),
        ("where=id=c", [3]),
        ("where=nothing=", [1, 2, 3]),
        ("where=x'\"]=1", []),
        ("sort=chosen_words&down=1", [2, 1, 3]),
        ("sort=logp_gap", [1, 2, 3]),
        ("sort=id&down=1", [3, 2, 1]),
        ("sort=x'\")--", [1, 2, 3]),
        ("sort=\\", [1, 2, 3]),
        ("marked=flagged", [2]),
        ("marked=unflagged", [1, 3]),
        ("marked=noted", [3]),
        ("page=99", [1, 2, 3]),
    ],
)
def test_rows_are_found_filtered_and_sorted_by_the_address(
    pairs: Path, query: str, expected: list[int]
) -> None:
    notes = Notes(notes_path(pairs), pairs)
    notes.change("b", 2, True, None)
    notes.change("c", 3, None, "look again")
    assert shown(application(pairs), f"/s/0?{query}") == expected


def test_an_order_by_a_field_that_no_row_has_says_so(pairs: Path) -> None:
    """As where a metric, such as an area under a curve, has no value for one answer."""
    client = application(pairs)
    assert "No row has the field auc, so" in client.get("/s/0?sort=auc").text
    for sort in ("", "row", "id", "logp_gap"):
        assert "No row has" not in client.get(f"/s/0?sort={sort}").text


@pytest.mark.parametrize(
    "query",
    ["page=0", "page=x", "marked=x", "where=x", "where=%3D1", "down=yes", "problems=2",
     f"q={'x' * 401}", f"where=x={'x' * 400}", "&".join(f"where=x={n}" for n in range(13))],
)  # fmt: skip
def test_an_address_that_makes_no_sense_is_refused(pairs: Path, query: str) -> None:
    client = application(pairs)
    for place in ("/s/0", "/s/0/row/1"):
        reply = client.get(f"{place}?{query}")
        assert reply.status == 400
        assert '<a class="button" href="/s/0">Show all rows</a>' in reply.text


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (
            "where=bulder=bdhs",
            "no row has a field bulder. Did you mean builder? The fields are images,",
        ),
        ("where=chosen_words>many", "chosen_words is a number, and many is not"),
        ("where=chosen_words=many", "chosen_words is a number, and many is not"),
        ("where=model>5", "model is a text, of which none is above a number"),
        ("sort=chosen_word", "No row has the field chosen_word, so they are not sorted by it. Did"),
        ("wher=x=1", "wher is not part of an address and does nothing. Did you mean where?"),
        ("where=x%27%22%5D=1", "no row has a field"),
        ("where=chosen_words>3&where=model=x&where=model=&where=images=yes&q=x&sort=id&page=1", ""),
    ],
)
def test_a_filter_that_can_not_be_applied_is_told(pairs: Path, query: str, told: str) -> None:
    text = html.unescape(application(pairs).get(f"/s/0?{query}").text)
    assert told in text
    assert ('role="alert"><span class="tag failed">address' in text) == bool(told)


def test_no_field_is_called_unknown_while_rows_are_still_read(pairs: Path) -> None:
    one = open_sets([pairs], None, None, None)[0]
    index = open_index(one.key())
    client = Client(viewer([Opened(one, index, Notes(notes_path(pairs), pairs))], Access(key=KEY)))
    for query, told in (("where=auc>1&sort=auc", False), ("wher=x", True)):
        text = client.get(f"/s/0?{query}").text
        assert "still being read" in text
        assert ('<span class="tag failed">address' in text) == told
    index.start(one.rows(), background=False)
    assert "no row has a field auc" in client.get("/s/0?where=auc>1").text


def test_fields_that_are_called_as_those_of_every_row_have_names_of_their_own(
    tmp_path: Path,
) -> None:
    """Otherwise they stood twice in the menus, and could not be asked for."""
    source = json.dumps({"row": 7, "id": "x", "made": True, "answer": "true"})
    row = {"id": "a", "prompt": "?", "chosen": "A.", "rejected": "B.", "source": source}
    plain = {**row, "id": "b", "source": json.dumps({"made": False, "answer": 1})}
    write_records([row, plain], tmp_path / "pairs.parquet", "preference")
    client = application(tmp_path / "pairs.parquet")
    assert client.get("/s/0").text.count('<option value="row">') == 1
    assert client.get("/s/0").text.count('<option value="id">') == 2
    for query, found in (
        ("source.row=7", [1]), ("source.id=x", [1]), ("row=2", [2]), ("made=yes", [1]),
        ("made=false", [2]), ("answer=true", [1]), ("made!=no", [1]), ("answer=1", [2]),
    ):  # fmt: skip
        assert shown(client, f"/s/0?where={query}") == found, query


def test_a_field_beyond_the_menu_is_known(tmp_path: Path) -> None:
    source = json.dumps({f"field_{n}": n for n in range(80)})
    row = {"id": "a", "prompt": "?", "chosen": "A.", "rejected": "B.", "source": source}
    write_records([row], tmp_path / "pairs.parquet", "preference")
    client = application(tmp_path / "pairs.parquet")
    assert shown(client, "/s/0?where=field_79=79") == [1]
    for field, known in (("field_79", True), ("field_99", False), ("%5C", False)):
        text = client.get(f"/s/0?where={field}=79&sort={field}").text
        assert ("be applied" not in text) == known


@pytest.mark.parametrize("address", ["/s/x", "/s/0/row/x", "/s/0/row/1/image/x/small"])
def test_an_address_of_no_number_is_not_found(pairs: Path, address: str) -> None:
    reply = application(pairs).get(address)
    assert (reply.status, reply.text) == (404, "There is no such page.")


def test_a_filter_of_the_form_becomes_a_part_of_the_address(pairs: Path) -> None:
    reply = application(pairs).get("/s/0?q=&sort=&field=model&op=%3D&value=x&where=images%3D1")
    assert reply.status == 303
    assert reply.headers["location"] == "/s/0?where=images%3D1&where=model%3Dx"


@pytest.mark.parametrize("name", ["p>0.5", "a=b", "!", "x!", "100%", "%3E", "<b>~", "a b"])
def test_a_field_with_the_sign_of_an_operator_in_its_name_is_filtered_by(
    tmp_path: Path, name: str
) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [
        {"id": f"r{n}", "images": [], "prompt": "?", "chosen": "cup", "rejected": f"dog {n}",
         "source": json.dumps({name: n})}
        for n in range(4)
    ])  # fmt: skip
    client = application(tmp_path / "pairs.jsonl")
    for operator, value, rows in ((">=", "2", [3, 4]), ("=", "1", [2]), ("!=", "0", [2, 3, 4])):
        form = urlencode({"field": name, "op": operator, "value": value})
        address = client.get(f"/s/0?{form}").headers["location"]
        assert shown(client, address) == rows
        assert f"{html.escape(name)} {OPERATORS[operator]} {value}" in client.get(address).text


def test_next_and_previous_follow_the_order_of_the_list(pairs: Path) -> None:
    page = application(pairs).get("/s/0/row/1?sort=chosen_words&down=1").text
    assert re.findall(r'rel="(prev|next)" href="/s/0/row/(\d)', page) == [
        ("prev", "2"), ("next", "3"),
    ]  # fmt: skip


def test_flags_and_notes_are_kept_exported_and_left_out_by_compose(
    pairs: Path, tmp_path: Path
) -> None:
    client = application(pairs)
    own = {"x-veridical-key": KEY}
    assert client.post("/s/0/row/2/note", {"flagged": True}, **own).json()["flagged"]
    assert client.post("/s/0/row/1/note", {"note": "fine"}, **own).status == 200
    kept = read_jsonl(tmp_path / "pairs.notes.jsonl")
    assert [(row["id"], row["flagged"], row["note"]) for row in kept] == [
        ("a", False, "fine"), ("b", True, ""),
    ]  # fmt: skip
    assert not list(tmp_path.glob("*.lock"))
    assert client.get("/s/0/notes.jsonl").text == (tmp_path / "pairs.notes.jsonl").read_text()
    flags = read_flags(tmp_path / "pairs.notes.jsonl", "warning")
    assert [(flag.row, flag.id, flag.sha256) for flag in flags] == [(2, "b", hash_file(pairs))]
    given = ["build", "compose", str(pairs), "--out", str(tmp_path / "out")]
    assert cli.main([*given, "--without-flagged", str(tmp_path / "pairs.notes.jsonl")]) == 0
    left = read_records(tmp_path / "out" / "pairs.parquet", "preference").ids
    assert sorted(left) == ["a", "c"]
    client.post("/s/0/row/2/note", {"flagged": False}, **own)
    assert [row["id"] for row in read_jsonl(tmp_path / "pairs.notes.jsonl")] == ["a"]


def same_ids(path: Path, ids: Sequence[str]) -> Path:
    write_jsonl(path, [
        {"id": id, "images": [], "prompt": "?", "chosen": f"cup {n}", "rejected": f"dog {n}"}
        for n, id in enumerate(ids)
    ])  # fmt: skip
    return path


def test_a_flag_of_a_row_is_none_of_another_row_with_the_same_id(tmp_path: Path) -> None:
    """The second row would take the first one's flag away, and `compose` keep what is flagged."""
    path = same_ids(tmp_path / "pairs.jsonl", ["a", "same", "same", "nul\0"])
    client = application(path)
    for number in (3, 2, 4):
        client.post(f"/s/0/row/{number}/note", {"flagged": True}, **{"x-veridical-key": KEY})
    client.post("/s/0/row/3/note", {"flagged": False}, **{"x-veridical-key": KEY})
    assert [row["row"] for row in read_jsonl(tmp_path / "pairs.notes.jsonl")] == [2, 4]
    assert shown(client, "/s/0?marked=flagged") == [2, 4]
    assert shown(client, "/s/0?marked=unflagged") == [1, 3]
    assert 'aria-pressed="false"' in client.get("/s/0/row/3").text
    assert 'aria-pressed="true"' in client.get("/s/0/row/2").text
    given = ["build", "compose", str(path), "--out", str(tmp_path / "out")]
    given += ["--without-flagged", str(tmp_path / "pairs.notes.jsonl")]
    assert cli.main([*given, "--max-bad-fraction", "0.9"]) == 0
    left = read_records(tmp_path / "out" / "pairs.parquet", "preference").rows
    assert [row["chosen"][0]["content"][0]["text"] for row in left] == ["cup 0", "cup 2"]
    cli.main(["view", str(path), "--export", str(tmp_path / "page.html"), "--port", "0"])
    assert (tmp_path / "page.html").read_text().count('class="tag failed">flagged') == 2


def test_a_note_stays_with_its_row_where_a_set_was_changed(tmp_path: Path) -> None:
    path = same_ids(tmp_path / "pairs.jsonl", ["a", "b", "c"])
    own = {"x-veridical-key": KEY}
    application(path).post("/s/0/row/2/note", {"note": "odd", "flagged": True}, **own)
    client = application(same_ids(path, ["new", "a", "b", "c"]))
    assert shown(client, "/s/0?marked=noted") == [3]
    assert shown(client, "/s/0?marked=unflagged") == [1, 2, 4]
    assert "odd" in client.get("/s/0").text
    cli.main(["view", str(path), "--export", str(tmp_path / "page.html"), "--port", "0"])
    assert "odd" in (tmp_path / "page.html").read_text()
    client.post("/s/0/row/3/note", {"flagged": False}, **own)
    kept = [
        (row["id"], row["row"], row["note"]) for row in read_jsonl(path.with_suffix(".notes.jsonl"))
    ]
    assert kept == [("b", 3, "odd")]


def test_a_flag_that_can_not_be_stored_is_not_shown(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise UserError("No space left on device")

    client = application(pairs)
    monkeypatch.setattr("veridical.web.notes.write_jsonl", full)
    assert (
        client.post("/s/0/row/2/note", {"flagged": True}, **{"x-veridical-key": KEY}).status == 400
    )
    assert shown(client, "/s/0?marked=flagged") == []


def test_servers_that_share_a_file_of_notes_keep_every_flag(tmp_path: Path) -> None:
    path, rows_file = tmp_path / "pairs.notes.jsonl", tmp_path / "pairs.jsonl"
    rows_file.touch()

    def flag(server: int) -> None:
        own = Notes(path, rows_file)
        for number in range(20):
            own.change(f"{server}-{number}", number, True, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(flag, range(4)))
    assert len(read_jsonl(path)) == 80


def test_a_set_that_is_changed_meanwhile_says_so(pairs: Path) -> None:
    client = application(pairs)
    write_records(rows()[1:], pairs, "preference")
    for address in ("/s/0", "/s/0/row/1", "/s/0/row/1/image/0/small"):
        assert "was changed" in client.get(address).text
    reply = client.post("/s/0/row/2/note", {"flagged": True}, **{"x-veridical-key": KEY})
    assert (reply.status, "was changed" in reply.text) == (400, True), "row 2 is another row now"


def test_gaps_of_a_description_are_shown_and_sorted_by(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "describe", str(pairs), "--out", str(tmp_path / "d.html"), "--model"]
    assert cli.main([*words, "embedded", "--model-pairs", "2"]) == 0
    file = tmp_path / "d.gaps.jsonl"
    assert f"veridical view {pairs} --gaps {file}" in capsys.readouterr().out
    own = {one["row"]: one["logp_gap"] for one in read_jsonl(file)}
    assert len(own) == 2
    [viewed] = open_sets([pairs], None, None, None)
    fields = {row.number: row.fields for row in with_gaps(viewed, file).rows()}
    assert {n: f["logp_gap"] for n, f in fields.items() if "logp_gap_without_image" in f} == own
    assert with_gaps(viewed, file).key() != viewed.key()
    write_records(rows()[1:], pairs, "preference")
    for given in (file, pairs.with_name("d.json")):
        assert cli.main(["view", str(pairs), "--gaps", str(given)]) == 2
    said = capsys.readouterr().err
    assert "none of" in said
    assert "is no" in said


def test_a_file_that_is_cut_while_it_is_read_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "pairs.parquet"
    texts = [random.Random(n).randbytes(2000).hex() for n in range(2000)]
    write_records(
        ({"id": text[:20], "images": [], "prompt": "?", "chosen": text, "rejected": text[:9]}
         for text in texts), file, "preference",
    )  # fmt: skip
    reading = light_rows(file, "preference")
    next(reading)
    os.truncate(file, 100)  # mapped into memory, the rest of it would be a bus error
    with pytest.raises(UserError):
        list(reading)


def test_rows_have_the_ids_that_commands_know_them_by(tmp_path: Path) -> None:
    same = [{"images": [picture("red")], "prompt": "What?", "chosen": "A.", "rejected": "B."}] * 2
    path = tmp_path / "pairs.jsonl"
    write_records([{**one, "id": str(n)} for n, one in enumerate(same)], path, "preference")
    bare = [{k: v for k, v in row.items() if k != "id"} for row in read_jsonl(path)]
    write_jsonl(path, bare)
    viewed = open_sets([path], None, None, None)[0]
    assert [row.id for row in viewed.rows()] == read_records(path, "preference").ids


def test_a_row_that_commands_leave_out_is_shown_with_the_reason(tmp_path: Path) -> None:
    good = {"id": "1", "prompt": "What?", "chosen": "A.", "rejected": "B."}
    lines = [good, {**good, "id": "2", "rejected": "A."}, good, {**good, "chosen": "\ud800"}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "no JSON\n[1]\n"
    (tmp_path / "pairs.jsonl").write_text(text)
    client = application(tmp_path / "pairs.jsonl")
    assert "not whole Unicode" in client.get("/s/0/row/4").text
    assert "is not JSON" in client.get("/s/0/row/5").text
    assert "is the same as chosen" in client.get("/s/0/row/2").text
    assert "is that of row 1 too" in client.get("/s/0/row/3").text
    assert shown(client, "/s/0?problems=1") == [2, 3, 4, 5, 6]


def test_images_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture("red"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "own.png").write_bytes(picture("blue"))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "page.png").write_text("<svg onload=alert(1)>")
    paths = ["own.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "page.png",
             "http://localhost/x.png", "a\0b", "../" * 900]  # fmt: skip
    write_jsonl(
        folder / "pairs.jsonl",
        [{"id": "1", "images": paths, "prompt": "?", "chosen": "A.", "rejected": "B."}],
    )
    client = application(folder / "pairs.jsonl")
    found = [client.get(f"/s/0/row/1/image/{n}/small") for n in range(len(paths))]
    assert [reply.status for reply in found] == [200] + [404] * (len(paths) - 1)
    assert all(reply.headers["content-type"].startswith("text/plain") for reply in found[1:])


def test_long_texts_and_many_images_do_not_hang_a_page(tmp_path: Path) -> None:
    long = "word " * 2_000_000
    row = {"id": "1", "images": [{"bytes": picture("red"), "path": None}] * 200,
           "prompt": "What? " * 100_000, "chosen": "short", "rejected": long + "x"}  # fmt: skip
    write_records([row], tmp_path / "pairs.parquet", "preference")
    client = application(tmp_path / "pairs.parquet")
    for address in ("/s/0", "/s/0/row/1", "/s/0/row/1?images=all"):
        assert len(client.get(address).body) < 200_000
    assert "[200 images]" in client.get("/s/0").text
    assert client.get("/s/0/row/1/image/199/small").status == 200
    assert len(client.get("/s/0/row/1/text/1").body) == len(long) + 1


def test_answers_of_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").write_bytes(picture("red"))
    for name, said in (("base", "A dog."), ("dpo", "A cup.")):
        folder = tmp_path / name / "chair"
        folder.mkdir(parents=True)
        answer = {"image_id": "1", "answer": said, "image": str(images / "1.png"), "prompt": "?"}
        write_jsonl(folder / "answers.jsonl", [answer, {"image_id": "2", "answer": "Same."}])
        mention = {"start": 2, "end": 5, "name": said[2:5], "hallucinated": name == "base"}
        detail = {"image_id": "1", "answer": said, "mentions": [mention], "objects": ["cup"]}
        write_jsonl(folder / "details.jsonl", [detail])
    sets = [tmp_path / "base" / "chair", tmp_path / "dpo" / "chair"]
    client = application(*sets, root=images)
    page = client.get("/s/0/row/1").text
    assert '<mark class="different made_up">dog</mark>' in page
    assert '<mark class="different real">cup</mark>' in page
    assert "<h2>base</h2>" in page
    assert client.get("/s/0/row/1/image/0/small").status == 200
    assert shown(client, "/s/0?where=answers_differ=true") == [1]
    assert application(*sets).get("/s/0/row/1/image/0/small").status == 404


def test_answers_are_sorted_by_a_metric(tmp_path: Path) -> None:
    """Image 1: one of two mentions wrong, then none. Image 2: none, then one of one."""
    objects = {"1": ["cup"], "2": ["dog"], "3": ["cat"]}
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    said = {"base": ("A cup and a dog.", "A dog.", "Nothing."), "dpo": ("A cup.", "A cat.", "Hm.")}
    for name, answers in said.items():
        rows = [{"image_id": id, "answer": own} for id, own in zip("123", answers, strict=True)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        given = ["--answers", str(tmp_path / f"{name}.jsonl"),
                 "--objects", str(tmp_path / "objects.json")]  # fmt: skip
        assert cli.main(["eval", "chair", *given, "--out", str(tmp_path / name)]) == 0
    client = application(tmp_path / "base", tmp_path / "dpo")
    assert shown(client, "/s/0?sort=change_chair_i&down=1") == [2, 1, 3]  # 3 mentions nothing
    assert shown(client, "/s/0?sort=change_recall&where=before_recall=1") == [2, 1]
    page = client.get("/s/0/row/1").text
    assert "<dt>change_chair_i</dt><dd>-0.5</dd>" in page
    assert "<dt>before_chair_i</dt><dd>0.5</dd>" in page
    shutil.copytree(tmp_path / "base", tmp_path / "sft")
    three = application(tmp_path / "base", tmp_path / "sft", tmp_path / "dpo")
    assert '<h2 class="part">dpo' in three.get("/s/0").text  # the change is the last run's
    alone = application(tmp_path / "dpo")
    assert shown(alone, "/s/0?sort=answer_chair_i&down=1") == [2, 1, 3]


def test_a_link_of_a_report_leads_to_one_set_whatever_its_runs_are_called(tmp_path: Path) -> None:
    """A title that changed between two runs must not shift the links behind it."""
    (tmp_path / "objects.json").write_text(json.dumps({"1": ["cup"]}))
    write_jsonl(tmp_path / "answers.jsonl", [{"image_id": "1", "answer": "A cup."}])
    given = ["--answers", str(tmp_path / "answers.jsonl"),
             "--objects", str(tmp_path / "objects.json")]  # fmt: skip
    assert cli.main(["eval", "chair", *given, "--out", str(tmp_path / "old")]) == 0
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    scores = read_json(tmp_path / "old" / "scores.json")
    scores["benchmark"]["title"] = "CHAIR as it was"
    write_json(tmp_path / "old" / "scores.json", scores)
    page = tmp_path / "page.html"
    page.write_text("""<meta name="veridical-sets" content='[["old", "new"], ["new"]]'>""")
    found = open_sets([page], None, None, None)
    assert [len(one.files) for one in found] == [2, 1]
    assert len(open_sets([tmp_path / "old", tmp_path / "new"], None, None, None)) == 2


@pytest.mark.parametrize("kind", ["sample", "conversation"])
def test_other_kinds_are_shown(tmp_path: Path, kind: Any) -> None:
    row: dict[str, Any] = {"id": "1", "images": [picture("red")]}
    if kind == "sample":
        row |= {"prompt": "What?", "responses": ["A cup.", "A dog.", "A cat."]}
    else:
        row["messages"] = [{"role": "user", "content": "What?"},
                           {"role": "assistant", "content": "A cat."}]  # fmt: skip
    write_records([row], tmp_path / "rows.parquet", kind)
    page = application(tmp_path / "rows.parquet").get("/s/0/row/1").text
    assert "What?" in page
    assert "A cat." in page


def test_the_sample_is_one_page_and_replaces_nothing_else(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    given = ["view", str(pairs), "--export", str(out), "--count", "2"]
    assert cli.main(given) == 0
    text = out.read_text()
    assert text.count("<article") == 2
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert cli.main(given) == 0
    assert out.read_text() == text
    out.write_text("mine")
    assert cli.main(given) == 2
    assert "would be lost" in capsys.readouterr().err


def test_a_sample_with_half_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    row = {"id": "1", "images": [], "prompt": "?", "chosen": "\ud83d!", "rejected": "B."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    words = ["view", str(tmp_path / "pairs.jsonl"), "--export", str(tmp_path / "page.html")]
    assert cli.main(words) == 0
    assert "not whole Unicode" in (tmp_path / "page.html").read_text()


def test_an_index_gives_way_to_a_page(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_sets([pairs], None, None, None)[0]
    index = open_index(one.key())
    waited: list[float] = []
    monkeypatch.setattr(index._stopping, "wait", waited.append)
    with index.page(), index.page():
        index._fill(list(one.rows())[:2], 1, once=True)
    assert len(waited) == 1
    index._fill(list(one.rows())[1:], 1)
    assert (len(waited), index.count) == (1, 3)


def test_an_index_is_made_once_and_again_after_an_interruption(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERIDICAL_CACHE", str(tmp_path / "cache"))
    one = open_sets([pairs], None, None, None)[0]
    half = open_index(one.key())
    half._insert(list(one.rows())[:1])
    half.close()
    assert isinstance(half, Index)
    index = open_index(one.key())
    index.start(one.rows(), background=False)
    assert (index.count, index.done) == (3, True)
    other = open_index(one.key())  # while the first is open
    assert other.done
    again = open_index(one.key())
    assert again.done
    again.start(iter(()))
    assert again.count == 3
