"""Where sentences end, in whole texts and while a text is still being generated.

`text_layout` finds paragraphs, list items, table rows and code; `sentencex` splits the prose in
them by the rules of the text's language. A splitter of whole texts cannot say whether a sentence
has *certainly* ended while the next word is unknown, so it is asked several times, with different
words behind what there is: where all of them leave an end, it is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import regex
import sentencex

from veridical.languages import guess_language
from veridical.text_layout import Block, blocks, flat, has_words, marks_end

_MAY_END = regex.compile(r"[\r\n\u2026\u2028\u2029]|\p{Sentence_Terminal}")
_CLOSE = r"[\p{Pe}\p{Pf}\"'*_`]*"
# Full stops of their own scripts, which end a sentence wherever they stand. The library knows most
# of them, but not in every language's rules.
_WIDE = r"(?![.!?\u2024\u203c\u203d\u2047-\u2049\u2e2e\ufe52\uff0e])\p{Sentence_Terminal}"
_WIDE_END = regex.compile(rf"(?:{_WIDE})+{_CLOSE}")
_LAST_STOP = regex.compile(rf"(?P<stop>\p{{Sentence_Terminal}})(?P<close>{_CLOSE})\Z")
# A letter of its own, or letters with stops between them.
_ABBREVIATION = regex.compile(r"(?<![\p{L}\d])(\p{L}|MM|(?:\p{L}\.)+\p{L})\.\Z")
_UNSURE_WORD = regex.compile(r"[./@_\d]|\A\P{L}*(?!I\Z)\p{Lu}\Z|\A\P{L}*\p{Ll}\Z")
# What follows decides once its first word is whole ("3. M" may become "3. Mai"); in another line
# the first letter is enough.
_DECIDES = regex.compile(r"\s*\S+\s|\s*\n\s*\S|[^\S\n]*\n[^\S\n]*\n|[\p{Lo}\p{P}]")
_NEXT_WORDS = (" and so", " The next", " 5 more")
_PAIRS = ("()", "[]", "“”", "«»", "（）", "「」", "『』")  # noqa: RUF001 - full width is meant
_YES_NO = regex.compile(r"^(\s*)(Yes|yes|No|no)(?![\w’'-])")  # noqa: RUF001 - a real apostrophe
_SWAPPED = {"Yes": "No", "yes": "no", "No": "Yes", "no": "yes"}


@dataclass(frozen=True)
class Sentence:
    """Where a sentence of a text lies.

    Attributes:
        start: offset of its first character that is not white space.
        body: offset after the list mark, bullet or heading mark before it; else `start`.
        end: offset after its last character that is not white space.
        copied: it has no words, or is code: nothing in it can be completed.
        row: it is a table row, which only a line break ends.
    """

    start: int
    body: int
    end: int
    copied: bool = False
    row: bool = False


def find_sentences(text: str, language: str | None = None) -> list[Sentence]:
    """The sentences of `text`, in order; between them, before and behind, is only white space.

    A line break ends a sentence unless the next line begins with a small letter. A code fence or a
    table row is one sentence.

    Args:
        text: any text.
        language: ISO 639-1 code, whose abbreviations and ordinals count; guessed if not given.
    """
    return list(_sentences(text, language, 0))


def split_sentences(text: str, language: str | None = None) -> list[str]:
    """Sentences whose concatenation is `text`, character for character.

    White space between two sentences belongs to the second, so that what stands before a
    sentence never ends in a space; white space at the very end belongs to the last sentence.
    """
    ends = [sentence.end for sentence in find_sentences(text, language)][:-1]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if a < b]


def ends_sentence(text: str, before: str = "", language: str | None = None) -> bool:
    """Whether the text generated so far certainly holds a sentence's end after `before`.

    False whenever the next characters could show that it was none ("about 3.", "Dr.", "U.S.",
    an ellipsis, an open bracket or quotation, code), so that generation goes on and they decide.
    Made to be called at every token: microseconds while `text` holds no stop and no line break.

    Args:
        text: what was generated.
        before: all of the answer before it.
        language: as for `find_sentences`. Give that of the whole answer where it is known.
    """
    if not _MAY_END.search(text):
        return False
    known = language or _language(before, text)
    before = before[_last_start(before, known) :]
    whole = before + text
    for sentence in _sentences(whole, known, len(before)):
        if sentence.copied or sentence.end <= len(before):
            continue
        rest = whole[sentence.end :]
        if _DECIDES.match(rest):
            return True
        certain = not rest.strip() and not sentence.row
        return certain and _certain(whole[sentence.body : sentence.end], known)
    return False


def first_sentence(text: str, before: str = "", language: str | None = None) -> str:
    """`text` up to its first sentence end, without white space after it; all of it if none ends.

    Args:
        text: a continuation.
        before: all of the answer before it; its own stops do not count.
        language: as for `ends_sentence`.
    """
    known = language or _language(before, text)
    before = before[_last_start(before, known) :]
    whole = before + text
    for sentence in _sentences(whole, known, len(before)):
        if sentence.end > len(before) and not sentence.copied:
            return whole[len(before) : sentence.end]
    return text.rstrip()


def starts_with_yes_or_no(sentence: str) -> bool:
    """Whether a sentence begins with Yes, yes, No or no (Amirloo et al. 2024, section 3.4.2).

    Our choice: as a whole word, so that "Nothing" and "Now" and "No-one" do not count.
    """
    return _YES_NO.match(sentence) is not None


def leading_yes_or_no(sentence: str) -> str | None:
    """`yes` or `no`, if a sentence begins with one of them; else None."""
    match = _YES_NO.match(sentence)
    return None if match is None else match[2].lower()


def swap_yes_no(sentence: str) -> str:
    """The sentence with Yes for No, or No for Yes, at its beginning; others stay as they are."""
    return str(_YES_NO.sub(lambda match: match[1] + _SWAPPED[match[2]], sentence))


def _language(before: str, text: str) -> str:
    # What was given changes at no token, so that its guess is made once.
    return guess_language(before if len(before) >= 40 else before + text)


@lru_cache(maxsize=4096)
def _last_start(before: str, language: str) -> int:
    """Where the last sentence of `before` starts: what is further back decides nothing."""
    found = list(_sentences(before, language, 0))
    return found[-1].start if found else 0


def _sentences(text: str, language: str | None, after: int) -> Iterator[Sentence]:
    """The sentences of all blocks that end after an offset."""
    known = language
    for block in blocks(text):
        if block.end <= after:
            continue
        if block.kind != "prose":
            copied, row = block.kind == "copied", block.kind == "row"
            yield Sentence(block.start, block.body, block.end, copied, row)
            continue
        known = known or guess_language(text)
        yield from _of_block(text, block, known)


def _of_block(text: str, block: Block, language: str) -> Iterator[Sentence]:
    start, first = block.start, True
    for end in [*_ends(flat(text[block.body : block.end]), language), block.end - block.body]:
        end += block.body
        start += len(text[start:end]) - len(text[start:end].lstrip())
        body = block.body if first else min(marks_end(text, start), end)
        copied = not has_words(text[body:end])
        yield Sentence(start, start if copied else body, end, copied)
        start, first = end, False


@lru_cache(maxsize=4096)
def _ends(line: str, language: str) -> tuple[int, ...]:
    """Offsets after each sentence of a block but the last, white space not included."""
    found, at = {match.end() for match in _WIDE_END.finditer(line)}, 0
    for piece in sentencex.segment(language, line):
        at += len(piece)
        found.add(len(line[:at].rstrip()))
    ends: list[int] = []
    for end in sorted(found):
        begin = ends[-1] if ends else 0
        # Not a stop or an emoji without a sentence of its own, and not inside `inline code`.
        whole = has_words(line[begin:end]) and has_words(line[end:])
        if whole and line[:end].count("`") % 2 == 0 and not _abbreviated(line, end, language):
            ends.append(end)
    return tuple(ends)


def _abbreviated(line: str, end: int, language: str) -> bool:
    """Whether the stop before `end` belongs to an abbreviation that the library does not know."""
    match = _ABBREVIATION.search(line, max(0, end - 12), end)
    if match is None:
        return False
    following = line[end:].lstrip()[:1]
    return following.islower() or (language == "fr" and match[1] in ("M", "MM"))


def _certain(sentence: str, language: str) -> bool:
    """Whether a sentence that the text stops after is over, whatever may come."""
    match = _LAST_STOP.search(sentence)
    if match is None or _is_open(sentence):
        return False
    if match["stop"] not in ".!?":
        return True
    body = sentence[: match.start()]
    if body[-1:] in (*".!?", ""):
        return False
    word = body.split()[-1]
    if "://" in word or (match["stop"] == "." and _UNSURE_WORD.search(word)):
        return False
    line = flat(sentence)
    return all(len(line) in _ends(line + word, language) for word in _NEXT_WORDS)


def _is_open(sentence: str) -> bool:
    """Whether a bracket or quotation is still open, so that its end may follow the stop."""
    unpaired = any(sentence.count(pair[0]) > sentence.count(pair[1]) for pair in _PAIRS)
    return bool(unpaired or sentence.count('"') % 2)
