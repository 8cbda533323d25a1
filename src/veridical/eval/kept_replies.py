"""A judge's replies in the run's folder, so that none is asked for twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from veridical.eval.stored_answers import mend_last_line, stored_lines
from veridical.judges.prompted import Asker, JudgeQuestion, JudgeReply, reply_of
from veridical.runtime.files import hash_file


class KeepingAsker:
    """An asker that writes every reply to a file, and asks nothing whose reply is there."""

    def __init__(self, ask: Asker, path: Path, identity: Sequence[Any]) -> None:
        """Read what the file has.

        Args:
            ask: who is asked.
            path: the file, JSON Lines.
            identity: what decides a reply besides the question, as JSON's types.
        """
        self.ask, self.path, self.identity = ask, path, identity
        self._known = {
            str(row["key"]): reply_of(str(row["reply"]), bool(row["cut"]))
            for row in stored_lines(path)
            if {"key", "reply", "cut"} <= row.keys()
        }
        self._lock = threading.Lock()
        mend_last_line(path)

    def __call__(self, questions: Sequence[JudgeQuestion]) -> list[JudgeReply]:
        """Ask those whose reply is not there."""
        keys = [_key(question, self.identity) for question in questions]
        new = [n for n, key in enumerate(keys) if key not in self._known]
        said = self.ask([questions[n] for n in new]) if new else []
        replies = dict(zip(new, said, strict=True))
        for n, reply in replies.items():
            self.keep(questions[n], reply)
        return [replies[n] if n in replies else self._known[key] for n, key in enumerate(keys)]

    def keep(self, question: JudgeQuestion, reply: JudgeReply) -> None:
        """Write a reply, unless it is there or is none; threads may do so at once."""
        if not reply.text or reply.problem:
            return
        key = _key(question, self.identity)
        row = {
            "key": key, "id": question.prompt.id, "attempt": question.attempt,
            "reply": reply.text, "cut": reply.cut,
        }  # fmt: skip
        with self._lock:
            if key in self._known:
                return
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._known[key] = reply_of(reply.text, reply.cut)


def _key(question: JudgeQuestion, identity: Sequence[Any]) -> str:
    """32 hex digits that change with anything that decides the reply."""
    from veridical.data.messages import text_of

    pictures = [hash_file(image) for image in question.prompt.files]
    asked = question.prompt
    parts = [identity, asked.id, question.attempt, text_of(asked.messages), pictures]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
