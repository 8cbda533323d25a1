"""A hub on this machine: sets are read, gated and pushed over HTTP, as the hub's client asks.

Start it in the test's process, and give commands in other processes `HF_ENDPOINT=fake.url`: the
client reads the address when it is imported.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"
EARLIER = "0dd" + 37 * "0"


@dataclass
class HubSet:
    """A set of the hub.

    Attributes:
        files: by name, at the newest commit.
        earlier: the same at the commit before, which the tag "v1" names.
        gated: whether its files need a token of somebody who was let in.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    earlier: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision; None if there is none."""
        if revision in ("main", COMMIT):
            return COMMIT, self.files
        return (EARLIER, self.earlier) if revision in ("v1", EARLIER) else None


@dataclass
class FakeHub:
    """What the server knows.

    Attributes:
        url: its address.
        sets: by name.
        let_in: tokens that may read gated sets.
        writers: tokens that may push.
        requests: method, path and token of each request.
    """

    url: str = ""
    sets: dict[str, HubSet] = field(default_factory=dict)
    let_in: set[str] = field(default_factory=set)
    writers: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub that answers until the block ends."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        self._note(path)
        if found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        elif found := re.fullmatch(
            r"/api/datasets/([^/]+/[^/]+)(?:/(tree|revision)/([^/]+)(?:/(.*))?)?", path
        ):
            self._about(found[1], found[2] or "revision", found[3] or "main", found[4] or "")
        else:
            self._refuse(404, "EntryNotFound", "Entry not found")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self._note(path)
        paths = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path)
        if paths:
            text = body.decode()
            wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
            self._about(paths[1], "tree", paths[2], "", wanted)
        elif self._token() not in self.hub.writers:
            self._refuse(403 if self._token() else 401, "", "You may not write here.")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.hub.sets.setdefault(name if "/" in name else f"me/{name}", HubSet())
            self._say({"url": f"{self.hub.url}/datasets/me/{asked['name']}"})
        elif "/preupload/" in path:
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            asked = json.loads(body)["files"]
            self._say({"files": [{"path": one["path"], **modes} for one in asked]})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.sets[found[1]].files[line["value"]["path"]] = content
            url = f"{self.hub.url}/datasets/{found[1]}/commit/{COMMIT}"
            self._say({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True})
        else:
            self._say({"warnings": [], "errors": []})  # of the check of a card's header

    def _about(
        self, name: str, what: str, revision: str, under: str, wanted: list[str] | None = None
    ) -> None:
        known = self.hub.sets.get(name)
        if known is None:
            # The hub does not tell a stranger whether there is a private one.
            status = 404 if self._token() else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
            return
        found = known.at(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "revision":  # what is said of a gated set is public
            shown = {"_id": "1", "id": name, "sha": found[0], "private": False, "tags": [],
                     "gated": "manual" if known.gated else False, "disabled": False,
                     "downloads": 0, "likes": 0, "siblings": [{"rfilename": n} for n in found[1]],
                     "lastModified": "2026-01-01T00:00:00.000Z",
                     "createdAt": "2026-01-01T00:00:00.000Z"}  # fmt: skip
            self._say(shown)
        elif not self._is_let_in(known, name):
            return
        else:
            folder = f"{under}/" if under else ""
            here = {file: one for file, one in found[1].items() if file.startswith(folder)}
            if under and not here:
                self._refuse(404, "EntryNotFound", f"{under} does not exist")
                return
            deep = wanted is not None or "recursive=true" in self.path.lower()
            folders = {file.removeprefix(folder).partition("/")[0]
                       for file in here if "/" in file.removeprefix(folder)}  # fmt: skip
            self._say([
                *({"type": "directory", "path": folder + one, "oid": "0"}
                  for one in sorted(folders) if wanted is None or one in wanted),
                *({"type": "file", "path": file, "size": len(content), "oid": _sha1(content)}
                  for file, content in here.items()
                  if (file in wanted if wanted is not None
                      else deep or "/" not in file.removeprefix(folder))),
            ])  # fmt: skip

    def _file(self, name: str, revision: str, file: str) -> None:
        known = self.hub.sets.get(name, HubSet())
        if not self._is_let_in(known, name):
            return
        commit, files = known.at(revision) or ("", {})
        if file not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        content, status = files[file], 200
        head = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
            head["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
            content, status = content[begin : end + 1], 206
        self._send(status, content, head)

    def _is_let_in(self, known: HubSet, name: str) -> bool:
        if not known.gated or self._token() in self.hub.let_in:
            return True
        status = 403 if self._token() else 401
        self._refuse(status, "GatedRepo", f"Access to dataset {name} is restricted.")
        return False

    def _token(self) -> str:
        return str(self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _note(self, path: str) -> None:
        self.hub.requests.append((self.command, path, self._token()))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _refuse(self, status: int, code: str, message: str) -> None:
        head = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, json.dumps({"error": message}).encode(), head)

    def _say(self, answer: object) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, head: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **head}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
