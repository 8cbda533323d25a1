"""Where sentences end, in whole texts and while a text is still being generated.

Our own rules rather than a library's, because both questions must be answered by the same ones:
a splitter of whole texts cannot say whether a sentence has *certainly* ended when the next word
is not known yet. They are made for English descriptions; of other languages the full-width
stops are known.
"""

# ruff: noqa: RUF001 - typographic quotes and full-width stops are meant

from __future__ import annotations

import re
from collections.abc import Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Always followed by the rest of the sentence.
_NEVER_LAST = _words(
    "dr mr mrs ms prof mt gen sen rep capt lt col sgt rev hon messrs "
    "e.g i.e eg ie vs cf approx ca viz incl"
)
# The last word now and then: an end if a capital follows.
_MAYBE_LAST = _words("etc inc ltd co corp jr sr ave rd blvd dept al esp misc")
# Abbreviations only where a number follows.
_BEFORE_NUMBER = _words("no nos fig figs eq vol pp ch sec")
# After initials and "St." ("the U.S. Army", "J. Smith", "St. Louis") only these begin a sentence.
_STARTERS = _words(
    "a an the it its there this that these those he she they we you i his her their in on at to "
    "next behind beside besides near above below under between around overall additionally "
    "however while when as with another several some one two three both each all no yes"
)
_CANDIDATE = re.compile(
    r"(?P<stop>[.!?…]+)(?P<close>[\"'”’»)\]}*_`]*)(?=\s|$)"
    r"|(?P<wide>[。！？]+[」』”’）]*)"
    r"|(?P<line>[^\S\n]*\n\s*)"
)
_LAST_WORD = re.compile(r"[\w.'’-]*$")
_LIST_MARK = re.compile(r"[(\[]?(?:\d{1,3}|[A-Za-z])")
_INITIALS = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_YES_NO = re.compile(r"^(\s*)(Yes|yes|No|no)(?![\w’'-])")
_SWAPPED = {"Yes": "No", "yes": "no", "No": "Yes", "no": "yes"}


def split_sentences(text: str) -> list[str]:
    """Sentences whose concatenation is `text`, character for character.

    White space between two sentences belongs to the second, so that what stands before a
    sentence never ends in a space; white space at the very end belongs to the last sentence.
    A line break ends a sentence unless the next line begins with a small letter.
    """
    ends = [end for end in _sentence_ends(text) if text[end:].strip()]
    starts = [0, *ends]
    return [text[a:b] for a, b in zip(starts, [*ends, len(text)], strict=True) if a < b]


def ends_sentence(text: str, before: str = "") -> bool:
    """Whether the text generated so far certainly holds a sentence's end after `before`.

    False whenever the next characters could show that it was none ("about 3.", "Dr.", "U.S.",
    an ellipsis, an open bracket or quotation), so that generation goes on and they decide.

    Args:
        text: what was generated.
        before: the beginning of the same sentence, if it was given.
    """
    whole = before + text
    start = 0
    for end in _sentence_ends(whole):
        if end > len(before) and (whole[end:].strip() or _certain(whole[start:end])):
            return True
        start = end
    return "\n\n" in text.lstrip("\n") and bool(whole.strip())


def first_sentence(text: str, before: str = "") -> str:
    """`text` up to its first sentence end, without white space after it; all of it if none ends.

    Args:
        text: a continuation.
        before: the beginning of the same sentence, if it was given; its own stops do not count.
    """
    whole = before + text
    for end in _sentence_ends(whole):
        if end > len(before):
            return whole[len(before) : end]
    return text.rstrip()


def starts_with_yes_or_no(sentence: str) -> bool:
    """Whether a sentence begins with Yes, yes, No or no (Amirloo et al. 2024, section 3.4.2).

    Our choice: as a whole word, so that "Nothing" and "Now" and "No-one" do not count.
    """
    return _YES_NO.match(sentence) is not None


def swap_yes_no(sentence: str) -> str:
    """The sentence with Yes for No, or No for Yes, at its beginning; others stay as they are."""
    return _YES_NO.sub(lambda match: match[1] + _SWAPPED[match[2]], sentence)


def _sentence_ends(text: str) -> Iterator[int]:
    """Offsets right after each sentence, before the white space that follows it."""
    start = 0
    for match in _CANDIDATE.finditer(text):
        if match["line"] is not None:
            end, is_end = match.start(), _breaks_line(text, match)
        else:
            end = match.end()
            is_end = match["wide"] is not None or _is_end(text[start : match.start()], match)
        if is_end and text[start:end].strip():
            yield end
            start = end


def _breaks_line(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() :]
    return bool(following) and ("\n\n" in match[0] or not following[0].islower())


def _is_end(sentence: str, match: re.Match[str]) -> bool:
    """Whether the stop after `sentence` ends it, given the text that follows."""
    text = match.string
    following = text[match.end() :].lstrip()
    if not following:
        return True
    if _is_list_mark(sentence, match):
        return False
    if "\n" in text[match.end() : len(text) - len(following)]:
        return True
    if match["stop"] != "." or match["close"]:
        return not following[0].islower()
    word: str = _LAST_WORD.findall(sentence)[0]
    lowered = word.lower()
    if lowered in _NEVER_LAST:
        return False
    if lowered in _BEFORE_NUMBER:
        return not following[0].isdigit()
    if lowered in _MAYBE_LAST:
        return following[0].isupper()
    if word == "St" or (_INITIALS.fullmatch(word) and word != "I"):
        first = re.match(r"\w*", following)
        return first is not None and first[0][:1].isupper() and first[0].lower() in _STARTERS
    return not (word.isdigit() and following[0].islower())


def _is_list_mark(sentence: str, match: re.Match[str]) -> bool:
    """Whether this is the "1." or "a." before an item."""
    return match["stop"] == "." and _LIST_MARK.fullmatch(sentence.strip()) is not None


def _certain(sentence: str) -> bool:
    """Whether a sentence that the text stops after is over, whatever may come."""
    matches = [match for match in _CANDIDATE.finditer(sentence) if match["line"] is None]
    if not matches:
        return False
    last = matches[-1]
    if last["wide"] is not None:
        return True
    body = sentence[: last.start()]
    if last["stop"] not in (".", "!", "?") or _is_open(sentence) or _is_list_mark(body, last):
        return False
    if last["stop"] != ".":
        return not last["close"]
    word: str = _LAST_WORD.findall(body)[0]
    lowered = word.lower()
    if lowered in _BEFORE_NUMBER:
        return word == "no" or body.strip() == "No"
    if lowered in _NEVER_LAST or lowered in _MAYBE_LAST or word == "St":
        return False
    if len(word) == 1:
        return word == "I"
    return not (_INITIALS.fullmatch(word) or word[-1:].isdigit())


def _is_open(sentence: str) -> bool:
    """Whether a bracket or quotation is still open, so that its end may follow the stop."""
    pairs = ("()", "[]", "“”", "«»")
    unpaired = any(sentence.count(pair[0]) > sentence.count(pair[1]) for pair in pairs)
    return bool(unpaired or sentence.count('"') % 2)
