"""True answers, cut sentence by sentence, and put together again with what a model completed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from veridical.data.text.languages import guess_language
from veridical.data.text.layout import has_words, marks_end
from veridical.data.text.leading_yes_no import starts_with_yes_or_no, swap_yes_no
from veridical.data.text.sentences import find_sentences
from veridical.data.text.units import bare, cut_units
from veridical.runtime.randomness import generator


@dataclass(frozen=True)
class Cutting:
    """How sentences are cut.

    Attributes:
        cut: `uniform` or `beginning`, see `BDHSSettings`.
        cut_words: the most that `beginning` keeps, in words.
        yes_no_swap: probability that a leading yes or no is swapped.
        seed: of the cuts and swaps.
    """

    cut: Literal["uniform", "beginning"]
    cut_words: int
    yes_no_swap: float
    seed: int


@dataclass(frozen=True)
class Cut:
    """Where one sentence was cut.

    Attributes:
        before: the true text before `lead`, from the answer's start.
        lead: white space, list marks and bullets before the sentence, which are never completed.
        sentence: the true sentence.
        given: the same after a swap of yes and no.
        kept: the beginning of `given` that the model goes on from.
        copied: nothing in it can be completed (code, a rule), so it stays as it is.
    """

    before: str
    lead: str
    sentence: str
    given: str
    kept: str
    copied: bool = False

    @property
    def prefix(self) -> str:
        """What of the answer the model is given; no white space at its ends."""
        return (self.before + self.lead + self.kept).strip()

    @property
    def begun(self) -> str:
        """What of `prefix` belongs to the sentence, its list mark included."""
        return (self.lead + self.kept).strip()

    @property
    def rest(self) -> str:
        """What a completion stands in place of."""
        return self.given[len(self.kept) :]


def cut_sentences(
    answer: str, how: Cutting, keys: tuple[str | int, ...], language: str | None = None
) -> list[Cut]:
    """Swap and cut every sentence of a true answer.

    A word is the unit, or a grapheme in scripts without spaces between words. The last one is
    never kept: a whole sentence leaves nothing to complete (our choice; the paper names no unit).
    After a swap at least the swapped word is kept, or else the swap would not reach the model; of
    a sentence of one word, the word without its full stop.

    Args:
        answer: the true answer, without white space around it.
        how: the constants.
        keys: of the noise, besides the sentence's number.
        language: of the answer (ISO 639-1); guessed if not given.
    """
    cuts, end = [], 0
    known = language or guess_language(answer)
    for number, found in enumerate(find_sentences(answer, known)):
        before, lead = answer[:end], answer[end : found.body]
        sentence, end = answer[found.body : found.end], found.end
        if found.copied:
            cuts.append(Cut(before, lead, sentence, sentence, sentence, copied=True))
            continue
        noise = generator(how.seed, "cut", *keys, number)
        swap, where = noise.random(), noise.random()
        swapped = starts_with_yes_or_no(sentence, known) and swap < how.yes_no_swap
        given = swap_yes_no(sentence, known) if swapped else sentence
        kept = _kept(given, how, where, swapped)
        cuts.append(Cut(before, lead, sentence, given, kept))
    return cuts


def join_completion(cut: Cut, completion: str) -> str:
    """The rejected sentence: what was kept, and what the model made of the rest.

    Where the true answer has white space, or only a full stop, and so has the completion, the true
    one stands: the two answers are to differ in what they say. Empty if nothing was kept or said.
    """
    if cut.copied:
        return cut.sentence
    if not cut.kept:
        said = completion.strip()
        return said[marks_end(said) :]
    rest = cut.rest
    if not has_words(rest) and not has_words(completion):
        return cut.given
    space, true_space = (text[: len(text) - len(text.lstrip())] for text in (completion, rest))
    if space and true_space:
        completion = true_space + completion.lstrip()
    return cut.kept + completion.rstrip()


def join_sentences(cuts: Sequence[Cut], sentences: Sequence[str]) -> str:
    """The rejected answer; the separators are those of the true one.

    Args:
        cuts: of all sentences of an answer.
        sentences: for each what `join_completion` gave. An empty one is left out, with its lead.
    """
    pairs = zip(cuts, sentences, strict=True)
    return "".join(cut.lead + text for cut, text in pairs if text).strip()


def _kept(given: str, how: Cutting, where: float, swapped: bool) -> str:
    units = cut_units(given)
    if swapped and len(units) == 1:
        return bare(given)
    least, most = int(swapped), len(units) - 1
    if how.cut == "beginning":
        most = min(most, how.cut_words)
    return "".join(units[: least + int(where * (most - least + 1))])
