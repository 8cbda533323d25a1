"""The blocks of a text: paragraphs, list items, table rows, code; what of them is layout alone.

Sentences lie inside blocks. Markdown is read loosely, since answers are not always valid Markdown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import regex

_LINE = regex.compile(r"[^\n\r\u2028\u2029]*(?:\r\n|[\n\r\u2028\u2029]|\Z)")
_MARKS = regex.compile(
    r"""(?:
        [-*+\u2022\u2023\u25e6\u2043\u25aa\u25cf\u25cb\u2013\u2014\u00b7]\s+  # bullets, dashes
      | [(\[\uff08]?\d{1,3}[.)\]\uff09]\s+                   # 1. (2) [3]; letters may be answers
      | [(\uff08]?\d{1,3}(?:[\u3001\uff0e\uff09]\s*)         # the same in full width
      | [\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341]{1,3}\u3001\s*
      | [\u2460-\u2473]\s*                                   # circled numbers
      | \#{1,6}\s+ | >\s* | \|\s*
      | \[[ xX]\]\s+                                         # tasks
    )++""",
    regex.VERBOSE,
)
_FENCE = regex.compile(
    r"[^\S\r\n]*(?:(?:>|[-*+]|\d{1,3}[.)])[^\S\r\n]*+)*+(`{3,}(?!.*`)|~{3,}|\$\$(?!.*\$\$))"
)
_INDENT = regex.compile(r" {0,3}\t| {4}")
_LISTED = regex.compile(r"(?:[-*+\u2022]|\d{1,3}[.)])\s")
_WORDS = regex.compile(r"[\p{L}\p{N}]")


@dataclass(frozen=True)
class TextBlock:
    """A part of a text that no sentence crosses.

    Attributes:
        start: offset of its first character that is not white space.
        body: offset after its list mark, bullet, heading or quotation mark; else `start`.
        end: offset after its last character that is not white space.
        kind: `prose` holds sentences; `row` is a table row, one sentence; `copied` has nothing to
            complete: code, formulas, rules, and lines without a letter or digit.
    """

    start: int
    body: int
    end: int
    kind: str


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit, of any script."""
    return _WORDS.search(text) is not None


def marks_end(text: str, start: int = 0, end: int | None = None) -> int:
    """Offset after the layout marks at `start`, the white space behind them included.

    `start` itself where there are none, or where nothing but marks is left.

    Args:
        text: any text.
        start: where to look.
        end: where what they belong to ends; the result is at most that. The end of `text` if None.
    """
    stop = len(text) if end is None else end
    # A mark counts by the space behind it, which may be the first beyond the end.
    match = _MARKS.match(text, start, min(len(text), stop + 1))
    return start if match is None or match.end() == len(text) else min(match.end(), stop)


def text_blocks(text: str) -> list[TextBlock]:
    """The blocks of `text`, in order; between them there is only white space.

    A line that begins with a small letter goes on the paragraph before. A fence that is not closed
    runs to the end of the text. Behind an empty line, lines that are indented by four spaces or a
    tab are code, but not in a list, where they go on an item.
    """
    found: list[TextBlock] = []
    open_fence, joins, after_empty, in_list, in_code = "", False, False, False, False
    for line, start, end in _lines(text):
        if open_fence:
            last = found[-1]
            found[-1] = TextBlock(last.start, last.start, max(end, last.end), "copied")
            if _closes(text[start:end], open_fence):
                open_fence, joins = "", False
            continue
        if start == end:
            joins, after_empty = False, True
            continue
        fence = _FENCE.match(text, start, end)
        if fence is not None:
            open_fence, after_empty, in_code = fence[1], False, False
            found.append(TextBlock(start, start, end, "copied"))
            continue
        lead = text[line:start]
        indented = _INDENT.match(lead) is not None
        in_list = (in_list and bool(lead)) or _LISTED.match(text, start, end) is not None
        in_code = indented and (in_code or (after_empty and bool(found) and not in_list))
        after_empty = False
        if in_code:
            found.append(TextBlock(start, start, end, "copied"))
            continue
        if joins and text[start].islower() and marks_end(text, start, end) == start:
            last = found[-1]
            found[-1] = TextBlock(last.start, last.body, end, last.kind)
            continue
        found.append(_block(text, start, end))
        joins = found[-1].kind == "prose" and text[start] != "#"
    return found


def flat(text: str) -> str:
    """`text` with a space for each character of a line break, so that offsets stay."""
    return str(regex.sub(r"[\r\n\u2028\u2029]", " ", text))


def _lines(text: str) -> Iterator[tuple[int, int, int]]:
    """Offsets of each line, and of it without the white space around it."""
    for match in _LINE.finditer(text):
        line = match[0]
        start = match.start() + len(line) - len(line.lstrip())
        yield match.start(), start, max(start, match.start() + len(line.rstrip()))


def _block(text: str, start: int, end: int) -> TextBlock:
    body = marks_end(text, start, end)
    if not has_words(text[body:end]):
        return TextBlock(start, start, end, "copied")
    return TextBlock(start, body, end, "row" if text[start] == "|" else "prose")


def _closes(line: str, fence: str) -> bool:
    bare = line.lstrip("> \t")
    if fence == "$$":
        return bare.endswith("$$")
    return len(bare) >= len(fence) and set(bare) == {fence[0]}
