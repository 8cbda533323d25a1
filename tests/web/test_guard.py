"""What is refused before a page sees it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from web_client import Client

from veridical import cli
from veridical.data.records import write_records
from veridical.web.guard import MOST_BYTES, Access
from veridical.web.index import open_index
from veridical.web.notes import Notes, notes_path
from veridical.web.serving import Serving
from veridical.web.sets import open_sets
from veridical.web.viewer import Opened, viewer

KEY, TOKEN = "the-key-of-this-start", "token-0123456789abcdef"
NOTE = "/s/0/row/1/note"


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    row = {"id": "1", "prompt": "What?", "chosen": "A.", "rejected": "B."}
    write_records([row], tmp_path / "pairs.jsonl", "preference")
    one = open_sets([tmp_path / "pairs.jsonl"], None, None, None)[0]
    index = open_index(one.key())
    index.start(one.rows(), background=False)
    return Opened(one, index, Notes(notes_path(one.file), one.file))


def client(opened: Opened, *tokens: str, root_path: str = "") -> Client:
    return Client(viewer([opened], Access(dict.fromkeys(tokens, ""), root_path, KEY)))


def test_only_a_page_of_this_server_changes_something(opened: Opened) -> None:
    asks = client(opened)
    right = {"x-veridical-key": KEY, "origin": "http://127.0.0.1:8600",
             "sec-fetch-site": "same-origin"}  # fmt: skip
    wrong: list[tuple[dict[str, str], int]] = [
        ({"x-veridical-key": ""}, 403),
        ({"x-veridical-key": KEY[:-1]}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:8600"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-length": str(MOST_BYTES + 1)}, 413),
        ({"content-length": "-1"}, 411),
    ]
    for change, status in wrong:
        assert asks.post(NOTE, {"flagged": True}, **(right | change)).status == status, change
    assert asks.ask("DELETE", NOTE, b"", right).status == 405
    assert opened.notes.all() == {}
    assert asks.post(NOTE, {"flagged": True}, **right).status == 200
    assert opened.notes.all()["1", 1].flagged


OWN_ORIGIN, EVIL = "http://127.0.0.1:8600", "https://evil.example"
FOREIGN: list[dict[str, str]] = [
    {"origin": EVIL},
    {"origin": EVIL, "Origin": OWN_ORIGIN},
    {"origin": EVIL, "referer": f"{OWN_ORIGIN}/s/0"},
    {"origin": EVIL, "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"},
    {"origin": EVIL, "x-forwarded-host": "evil.example", "x-forwarded-port": "443"},
    {"origin": EVIL, "x-original-host": "evil.example", "x-host": "evil.example"},
    {"origin": EVIL, "forwarded": "for=127.0.0.1;host=evil.example;proto=https"},
    {"origin": EVIL, "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1"},
    {"origin": EVIL, "x-forwarded-server": "evil.example", "x-forwarded-prefix": "/"},
    {"referer": f"{EVIL}/page", "x-forwarded-host": "evil.example"},
    {"referer": f"{OWN_ORIGIN}.evil.example/", "x-forwarded-host": ""},
    {"origin": OWN_ORIGIN, "referer": f"{EVIL}/"},
    {"origin": f"{OWN_ORIGIN}.evil.example"},
    {"origin": f"{OWN_ORIGIN}@evil.example"},
    {"origin": "http://127.0.0.1:9600"},
    {"origin": "http://["},
    {"origin": "null", "x-forwarded-host": ""},
    {"origin": "null", "host": "", "x-forwarded-host": ""},
    {"origin": "", "host": ""},
    {"origin": OWN_ORIGIN, "sec-fetch-site": "cross-site"},
    {"origin": OWN_ORIGIN, "sec-fetch-site": "same-site"},
    {"origin": OWN_ORIGIN, "sec-fetch-site": "none"},
    {"origin": OWN_ORIGIN, "sec-fetch-site": "same-origin", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("root_path", ["", "/pairs"])
@pytest.mark.parametrize("tokens", [[], [TOKEN]], ids=["free", "token"])
def test_no_header_makes_a_page_of_another_site_one_of_this_server(
    opened: Opened, tokens: list[str], root_path: str
) -> None:
    """Each request has the right key and cookie, which a page elsewhere does not know."""
    asks = client(opened, *tokens, root_path=root_path)
    own = {"x-veridical-key": KEY, "cookie": f"{Access(dict.fromkeys(tokens, '')).cookie}={TOKEN}"}
    for forged in FOREIGN:
        reply = asks.post(root_path + NOTE, {"note": "FUZZ"}, **own, **forged)
        assert reply.status == 403, forged
    assert opened.notes.all() == {}
    for right in ({}, {"origin": OWN_ORIGIN}, {"referer": f"{OWN_ORIGIN}/s/0/row/1?q=a"}):
        assert asks.post(root_path + NOTE, {"note": "mine"}, **own, **right).status == 200, right


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"host": "pairs.example"}, 200),
        ({"host": "pairs.example:443"}, 200),
        ({"host": "pairs.example:80"}, 403),
        ({"host": "127.0.0.1:8600", "sec-fetch-site": "same-origin"}, 200),  # the proxy's own name
        ({"host": "127.0.0.1:8600", "x-forwarded-host": "pairs.example"}, 403),
    ],
)
def test_pages_behind_a_proxy_with_tls_change_something(
    opened: Opened, given: dict[str, str], status: int
) -> None:
    asks = client(opened, TOKEN, root_path="/pairs")
    own = {"x-veridical-key": KEY, "origin": "https://pairs.example",
           "cookie": f"{Access({TOKEN: ''}).cookie}={TOKEN}"}  # fmt: skip
    reply = asks.post("/pairs" + NOTE, {"flagged": True}, **own, **given)
    assert reply.status == status
    assert status == 200 or "`Host`" in reply.text


def test_a_length_in_other_digits_is_refused(opened: Opened) -> None:
    reply = client(opened).post(NOTE, b"{}", **{"x-veridical-key": KEY, "content-length": "\xb2"})
    assert reply.status in (400, 411)


def test_a_body_longer_than_it_says_is_cut_off(opened: Opened) -> None:
    body = json.dumps({"note": "x" * 2 * MOST_BYTES}).encode()
    try:
        reply = client(opened).post(NOTE, body, **{"x-veridical-key": KEY, "content-length": "10"})
        assert reply.status >= 400
    except Exception as error:  # Starlette ends a request whose client is gone
        assert "Disconnect" in type(error).__name__
    assert opened.notes.all() == {}


def test_a_token_is_in_the_address_once_and_then_in_a_cookie(opened: Opened) -> None:
    asks = client(opened, TOKEN)
    asks.headers["host"] = "pairs.example"
    assert asks.get("/s/0").status == 401
    assert asks.get("/s/0?token=wrong").status == 401
    assert asks.get("/static/style.css").status == 401
    entered = asks.get(f"/s/0?q=a&token={TOKEN}")
    assert (entered.status, entered.headers["location"]) == (303, "/s/0?q=a")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert asks.get("/s/0", cookie=cookie.partition(";")[0]).status == 200
    assert asks.get("/s/0", cookie=cookie.partition(";")[0] + "x").status == 401
    foreign = f'prefs={{"a": "b"}}; =; {cookie.partition(";")[0]}'  # of another program
    assert asks.get("/s/0", cookie=foreign).status == 200
    elsewhere = asks.get(f"//evil.example/?token={TOKEN}")
    assert elsewhere.headers["location"] == "/evil.example/"
    secure = asks.get(f"/s/0?token={TOKEN}", **{"x-forwarded-proto": "https"})
    assert "; Secure" in secure.headers["set-cookie"]


@pytest.mark.parametrize("address", ["/pairs/s/0", "/s/0"])
def test_behind_a_proxy_every_address_begins_with_its_path(opened: Opened, address: str) -> None:
    """Proxies that take the path off, and those that leave it."""
    asks = client(opened, TOKEN, root_path="/pairs")
    cookie = asks.get(f"{address}?token={TOKEN}").headers["set-cookie"]
    assert "Path=/pairs;" in cookie
    page = asks.get(address, cookie=cookie.partition(";")[0]).text
    assert 'href="/pairs/s/0/row/1?"' in page
    assert 'href="/s/' not in page


def test_five_hundred_bad_requests_let_nothing_through(opened: Opened, tmp_path: Path) -> None:
    """Traversal, wrong tokens, other sites, huge and odd bodies: refused, and nothing changes."""
    (tmp_path / "secret.txt").write_text("the secret of the folder")
    chance = random.Random(0)
    free, locked = client(opened), client(opened, TOKEN)
    own = {"x-veridical-key": KEY}
    climbs = ["../", "..%2f", "%2e%2e/", "....//", "..\\", "%00", "/", "\u202e"]
    bodies: list[Any] = [[], "x", {"flagged": 1}, {"note": 7}, {"note": "x" * 5000}, b"{", b"\xff",
                         {"note": "\ud800"}, b"[" * 9000, b'{"note": "\\ud800"}', b""]  # fmt: skip
    count = 0
    for _ in range(125):
        climb = "".join(chance.choice(climbs) for _ in range(chance.randint(1, 9))) + "secret.txt"
        place = chance.choice(["/static/", "/s/", "/s/0/row/", "/s/0/row/1/image/", "/", "/s/0/"])
        replies = [
            free.get(place + climb),
            locked.get(f"{place}0?token={chance.randbytes(12).hex()}", host="pairs.example"),
            free.post(NOTE, {"flagged": True}, **own, origin=f"http://{chance.randbytes(4).hex()}"),
            free.post(NOTE, chance.choice(bodies), **own),
        ]
        count += len(replies)
        for reply in replies:
            assert 400 <= reply.status < 500, reply
            assert b"the secret of" not in reply.body
            assert "traceback" not in reply.text.lower()
            assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    assert count == 500
    assert opened.notes.all() == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--token", "short"], "16 to 200"),
        (["--root-path", "pairs"], "begin with a slash"),
        (["--root-path", "/a/../b"], ""),
        (["--port", "70000"], "--port"),
        (["--host", "no.such.host.invalid"], "--host"),
    ],
)
def test_what_can_not_be_served_is_refused(
    opened: Opened, given: list[str], told: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("veridical.web.view.serve", lambda *_: None)
    status = cli.main(["view", str(opened.viewed.file), "--port", "0", *given])
    assert status == (2 if told else 0)
    assert told in capsys.readouterr().err


def test_a_token_is_demanded_wherever_others_could_ask() -> None:
    assert Serving().chosen_token() is None
    assert Serving(token=TOKEN).chosen_token() == TOKEN
    assert len(Serving(host="0.0.0.0").chosen_token() or "") > 20
    assert len(Serving(root_path="/x").chosen_token() or "") > 20
