"""Whether an answer to a yes/no question says yes or no."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["yes", "no"]
Parsing: TypeAlias = Literal["strict", "official"]

_WORD = re.compile(r"[a-z]+(?:['\u2019][a-z]+)?")
_NEGATIONS = frozenset({"no", "not", "none", "cannot"})
_STATEMENT = re.compile(r"\bthere(?: is| are|['\u2019]s)\b")


def parse_answer(answer: str, parsing: Parsing = "strict") -> Verdict | None:
    """What an answer says.

    Official: the text before the first full stop, split at spaces with commas removed, is a no if
    it has the word "No", "no" or "not" in it, and a yes otherwise, whatever it is. Strict (our
    choice): in the first sentence, a leading yes or no decides; else a negation ("no", "not",
    "isn't", ...) is a no; else "yes" or a statement "there is ..." is a yes; anything else is
    None, unparsed.
    """
    if parsing == "official":
        words = set(answer.split(".")[0].replace(",", "").split(" "))
        return "no" if words & {"No", "no", "not"} else "yes"
    sentence = re.split(r"[.!?\n]", answer.strip().lower(), maxsplit=1)[0]
    found = _WORD.findall(sentence)
    if found and found[0] in ("yes", "no"):
        return "yes" if found[0] == "yes" else "no"
    if any(word in _NEGATIONS or word.endswith(("n't", "n\u2019t")) for word in found):
        return "no"
    return "yes" if "yes" in found or _STATEMENT.search(sentence) else None
