"""Where sentences end, in whole texts and while a text is still being generated.

`text_layout` finds paragraphs, list items, table rows and code; `sentencex` splits the prose in
them by the rules of the text's language. A splitter of whole texts cannot say whether a sentence
has *certainly* ended while the next word is unknown, so it is asked several times, with different
words behind what there is: where all of them leave an end, it is one.
"""

# ruff: noqa: RUF001 - letters of other scripts, and full width, are meant

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import regex
import sentencex

from veridical.data.text.languages import ABBREVIATIONS, EVERYWHERE, guess_language
from veridical.data.text.layout import TextBlock, flat, has_words, marks_end, text_blocks

_MAY_END = regex.compile(r"[\r\n\u2026\u2028\u2029]|\p{Sentence_Terminal}")
_CLOSE = r"[\p{Pe}\p{Pf}\"'*_`]*"
# Full stops of their own scripts, which end a sentence wherever they stand. The library knows most
# of them, but not in every language's rules.
_WIDE = r"(?![.!?\u2024\u203c\u203d\u2047-\u2049\u2e2e\ufe52\uff0e])\p{Sentence_Terminal}"
_WIDE_END = regex.compile(rf"(?:{_WIDE})+[\p{{Pe}}\p{{Pf}}\"'`]*")
_LAST_STOP = regex.compile(rf"(?P<stop>\p{{Sentence_Terminal}})(?P<close>{_CLOSE})\Z")
# A letter of its own, or letters with stops between them ("J.-C.", "t.ex."). A letter behind a
# vowel sign, or behind the double mark of a Hebrew abbreviation, is the end of a word.
_LETTERS = r"(?:\p{L}\p{M}*){1,2}"
_ABBREVIATION = regex.compile(
    r"(?<![\p{L}\p{M}\d]|\p{L}[\"'\u05f3\u05f4])"
    rf"(?:\p{{L}}\u0640?|(?:{_LETTERS}\.-?)+{_LETTERS})\.\Z"
)
# What ends an enumeration, and Russian years: before a capital they end a sentence too.
_LAST_OF_MANY = regex.compile(
    r"(?<!\p{L})(?:etc|usw|osv|enz|ecc|itd|itp|atd|v\.\s?v|т\.\s?[дп]|\d{3,4}\s?г)\.(?=\s+\p{Lu})"
)
_SHORT = regex.compile(rf"(?<![\p{{L}}\p{{M}}\d]){_LETTERS}\.\Z")
# Symbols of units have no full stop of their own, and what follows one with a capital is not part
# of what was counted. In Arabic, م behind a year means AD.
_UNITS = (
    r"[mcdk]?m[²³]?|k?m/h|[mk]?g|t|[mcd]?l|s|h|°[CF]|ft|lbs?|oz|kr|zł"
    r"|[мсдк]?м[²³]?|км/ч|м?г|кг|т|м?л|с|ч|руб|грн|коп|чел|шт|экз|тыс|млн|млрд"
    r"|[εκ]κ|μ|χλμ|γρ|[سمك]م|كلم|كغ|كجم|جم|غم?|م?ل|(?<!\d{3}\s?)م"
)
_QUANTITY = regex.compile(rf"\d\s?(?:{_UNITS})\.(?=\s+(?:\p{{Lu}}|(?!{_WIDE})\p{{Lo}}))")
# In these languages the library takes a number or month for the rest of a date, whatever the word
# before it is. It is shown another letter in its place.
_DATES_EVERYWHERE = frozenset(("cs", "da", "de", "fi", "kk", "sk"))
_NO_DATE = regex.compile(r"(?<=\p{Ll}{2}\.\s+)[\p{Lu}\d]")
# Inline formulas; a sum of money begins with a digit.
_FORMULA_BEGIN = r"(?<![\w$\\])\$(?=[^\s\d$])"
_FORMULA = regex.compile(_FORMULA_BEGIN + r"[^$\r\n]*(?<=[^\s\\])\$(?!\d)")
_OPEN_FORMULA = regex.compile(_FORMULA_BEGIN + r"[^$]*\Z")
# A straight single quote tells a quotation from an apostrophe only at a sentence's beginning.
_OPEN_SINGLE = regex.compile(r"\A[\s*_]*'(?!.*[^\s]'(?![\p{L}\p{N}]))", regex.DOTALL)
_UNSURE_WORD = regex.compile(r"[./@_\d]|\A\P{L}*(?!I\Z)\p{Lu}\Z|\A\P{L}*[\p{Ll}\p{Lo}]\u0640?\Z")
# What follows decides once its first word is whole ("3. M" may become "3. Mai"); in another line
# the first letter is enough.
_DECIDES = regex.compile(r"\s*\S+\s|\s*\n\s*\S|[^\S\n]*\n[^\S\n]*\n|[\p{Lo}\p{P}]")
_NEXT_WORDS = (" and so", " The next", " 5 more")
_WORD = regex.compile(r"[\p{L}\p{N}]")
_LAST_WORD = regex.compile(r"(?r)[\p{L}\p{N}]")
_FOLLOWING = regex.compile(r"(\s*+)(\S)")
# Marks of emphasis right behind a sentence's end, as in "**Yes.** There is".
_EMPHASIS = regex.compile(r"\*{1,3}|_{1,3}|~~")
# Languages that write ordinals as digits with a full stop.
_ORDINALS = frozenset(
    ("cs", "da", "de", "et", "fi", "hr", "hu", "lt", "lv", "no", "pl", "sk", "sl", "tr")
)
_ORDINAL = regex.compile(r"(?<![\p{L}\d.,])\d{1,4}\.\Z")
# Behind these a German number with a full stop is an ordinal: a count would have none.
_GERMAN_ORDINAL = regex.compile(
    r"\b(?:d(?:er|ie|as|em|en|es)|[aiv][mn]|vom|zum|zur|beim|ins|ans|jede[rsmn]?|diese[rsmn]?"
    r"|(?:[kms]?ein|ihr|unser|euer)e?[rsmn]?)\s+\d{1,4}\.\Z",
    regex.IGNORECASE,
)
PATIENCE = 4
"""Sentence ends that are passed while a quotation or bracket is open (our choice); after that it is
taken for one that is never closed."""
WINDOW = 5_000
"""Characters of a long line that the library gets at once (our choice)."""
_PAIRS = ("()", "[]", "‘’", "«»", "（）", "「」", "『』", "《》", "【】")


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
    an ellipsis, an open bracket or quotation, code), so that generation goes on and they decide;
    and always right behind a stop, where another stop or a closing quote may come.
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
    start, passed = -1, 0
    for sentence in _sentences(whole, known, len(before)):
        if sentence.copied:
            continue
        start = sentence.body if start < 0 else start
        if sentence.end <= len(before):
            continue
        rest = whole[sentence.end :]
        if _DECIDES.match(rest):
            if _goes_on(whole[start : sentence.end], rest) and passed < PATIENCE:
                passed += 1
                continue
            return True
        # Right behind a stop another may come, or the quotation's end: "?!", "..", "'No.'".
        certain = rest[:1].isspace() and not sentence.row
        return certain and _certain(whole[start : sentence.end], known)
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


def _language(before: str, text: str) -> str:
    # What was given changes at no token, so that its guess is made once.
    return guess_language(before if len(before) >= 40 else before + text)


@lru_cache(maxsize=4096)
def _last_start(before: str, language: str) -> int:
    """Where the last sentence of `before` starts: what is further back decides nothing.

    A quotation or bracket that is still open is one with it.
    """
    start, end = 0, 0
    for sentence in _sentences(before, language, 0):
        if sentence.copied or not _goes_on(before[start:end], before[end : sentence.end]):
            start = sentence.start
        end = sentence.end
    return start


def _sentences(text: str, language: str | None, after: int) -> Iterator[Sentence]:
    """The sentences of all blocks that end after an offset."""
    known = language
    for block in text_blocks(text):
        if block.end <= after:
            continue
        if block.kind != "prose":
            copied, row = block.kind == "copied", block.kind == "row"
            yield Sentence(block.start, block.body, block.end, copied, row)
            continue
        known = known or guess_language(text)
        yield from _of_block(text, block, known)


def _goes_on_small(text: str, start: int, end: int, language: str) -> bool:
    """Whether a sentence that began with a capital goes on with a small letter behind its stop.

    Who writes the one writes the other, so the stop is an abbreviation's. Not in English, most of
    whose abbreviations are known, and where other marks than a full stop or a line break decide.
    """
    if not _may_go_on_small(text, start, end, language):
        return False
    space, following = _following(text, end)
    return following.islower() and flat(space) == space


def _may_go_on_small(text: str, start: int, end: int, language: str) -> bool:
    first = _next_word(text, start)
    return language != "en" and text[end - 1] == "." and text[first : first + 1].isupper()


def _of_block(text: str, block: TextBlock, language: str) -> Iterator[Sentence]:
    start, first = block.start, True
    for end in [*_ends(flat(text[block.body : block.end]), language), block.end - block.body]:
        end += block.body
        if _goes_on_small(text, block.body if first else start, end, language):
            continue
        start += len(text[start:end]) - len(text[start:end].lstrip())
        body = block.body if first else marks_end(text, start, end)
        copied = not has_words(text[body:end])
        yield Sentence(start, start if copied else body, end, copied)
        start, first = end, False


@lru_cache(maxsize=4096)
def _ends(line: str, language: str) -> tuple[int, ...]:
    """Offsets after each sentence of a block but the last, white space not included.

    Time grows with the length of the line: nothing looks at all of it for each sentence.
    """
    marks = _Marks(line)
    found, at = {marks.after_emphasis(match.end()) for match in _WIDE_END.finditer(line)}, 0
    certain = {match.end() for match in _QUANTITY.finditer(line)}
    found |= certain | {match.end() for match in _LAST_OF_MANY.finditer(line)}
    shown = _NO_DATE.sub("X", line) if language in _DATES_EVERYWHERE else line
    for piece in _pieces(shown, language):
        if said := len(piece.rstrip()):
            found.add(marks.after_emphasis(at + said))
        at += len(piece)
    ends: list[int] = []
    last = _LAST_WORD.search(line)
    first = _next_word(line, 0)
    for end in sorted(found):
        # Not a stop or an emoji without a sentence of its own.
        whole = first < end and last is not None and end < last.end()
        if not whole or marks.inside(end):
            continue
        if end in certain or not _abbreviated(line, end, language):
            ends.append(end)
            first = _next_word(line, end)
    return tuple(ends)


def _pieces(line: str, language: str) -> Iterator[str]:
    """The library's pieces of a line, whose concatenation it is.

    The library's time grows with the square of a line without spaces, so from twice `WINDOW`
    characters on it gets a part at a time. The last two pieces of a part belong to the next one,
    as what decides them may be cut off.
    """
    start, width = 0, WINDOW
    while len(line) - start > 2 * width:
        found = sentencex.segment(language, line[start : start + width])[:-2]
        if not found:
            width *= 2
            continue
        yield from found
        start, width = start + sum(map(len, found)), WINDOW
    yield from sentencex.segment(language, line[start:])


def _next_word(line: str, start: int) -> int:
    match = _WORD.search(line, start)
    return len(line) if match is None else int(match.start())


class _Marks:
    """Where a line has `inline code`, $formulas$ and emphasis; each is looked for once."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._ends: dict[str, list[int]] = {}
        self._formulas = [match.span() for match in _FORMULA.finditer(line)]

    def inside(self, end: int) -> bool:
        """Whether an offset lies inside `inline code`, or a $formula$."""
        if self._odd("`", end):
            return True
        place = bisect_left(self._formulas, (end, 0)) - 1
        return place >= 0 and end < self._formulas[place][1]

    def after_emphasis(self, end: int) -> int:
        """A sentence's end, behind the marks that close its emphasis."""
        match = _EMPHASIS.match(self._line, end)
        return int(match.end()) if match is not None and self._odd(match[0], end) else end

    def _odd(self, mark: str, end: int) -> bool:
        """Whether `mark` stands an odd number of times before `end`."""
        if mark not in self._ends:
            found = regex.finditer(regex.escape(mark), self._line)
            self._ends[mark] = [match.end() for match in found]
        return bisect_right(self._ends[mark], end) % 2 == 1


def _following(line: str, end: int) -> tuple[str, str]:
    """The white space behind an offset and the sign behind that; both empty at the end."""
    match = _FOLLOWING.match(line, end)
    return (match[1], match[2]) if match is not None else ("", "")


def _abbreviated(line: str, end: int, language: str) -> bool:
    """Whether the stop before `end` belongs to what the library does not know.

    An abbreviation, or the number of an ordinal.
    """
    space, following = _following(line, end)
    if language in _ORDINALS and _ORDINAL.search(line, max(0, end - 8), end):
        german = language == "de" and _GERMAN_ORDINAL.search(line, max(0, end - 40), end)
        return following.islower() or bool(german)
    around = (max(0, end - 16), end)
    known = _known_abbreviation(language)
    if following == "-" or known.search(line, *around):
        return True
    if not space and regex.match(r"\p{Lo}", following) and _SHORT.search(line, *around):
        return True
    # In a script without capitals nothing tells a name from a new sentence.
    small = following.islower() or regex.match(r"\p{Lo}", following)
    return bool(small and _ABBREVIATION.search(line, *around))


@lru_cache(maxsize=64)
def _known_abbreviation(language: str) -> regex.Pattern[str]:
    words = "|".join(filter(None, (ABBREVIATIONS.get(language), EVERYWHERE)))
    return regex.compile(rf"(?<![\p{{L}}\p{{M}}])(?:{words})\.\Z")


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
    if match["stop"] == "." and _may_go_on_small(sentence, 0, len(sentence), language):
        return False
    line = flat(sentence)
    return all(len(line) in _ends(line + word, language) for word in _NEXT_WORDS)


def _goes_on(said: str, rest: str) -> bool:
    """Whether a quotation or bracket that began in `said` may still be closed in the same line."""
    space = rest[: len(rest) - len(rest.lstrip())]
    return _quotes_open(said) and not regex.search(r"[\r\n\u2028\u2029]", space)


def _is_open(sentence: str) -> bool:
    """Whether bracket, quotation or emphasis is still open, so that its end may follow the stop."""
    emphasis = any(sentence.count(mark) % 2 for mark in ("**", "__", "~~", "*", "_"))
    return emphasis or _quotes_open(sentence)


def _quotes_open(sentence: str) -> bool:
    unpaired = any(sentence.count(pair[0]) > sentence.count(pair[1]) for pair in _PAIRS)
    low, left, right = (sentence.count(mark) for mark in "„“”")
    # The sign that opens in English closes in German.
    unpaired = unpaired or (low > left + right if low else left > right)
    unpaired = unpaired or _OPEN_SINGLE.match(sentence) is not None
    return bool(unpaired or sentence.count('"') % 2 or _OPEN_FORMULA.search(sentence))
