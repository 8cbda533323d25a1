"""Five attributes of an answer, 0 to 4, derived from what is known to be true.

The names and the scale are those of HelpSteer, which Li et al. (2024) had a large model rate; the
rules here are our choice, for images whose objects are known, so that methods that need
attributes (SteerLM, pairs by their sum) can be studied without an annotator.
"""

from __future__ import annotations

from collections.abc import Sequence

from veridical.data.object_lists import ObjectCounts
from veridical.data.steering import ATTRIBUTES, MOST
from veridical.data.text.sentences import split_sentences

EXACT = "exact"
"""The aspect that holds the exact judge's score."""
SHORT = 3
"""Words up to which an answer needs no full stop to be whole ("Yes", "A red car")."""
_CLOSING = "\"'\u201d\u2019\u00bb)]}*_`\u300d\u300f\uff09"
_STOPS = ".!?\u2026\u3002\uff01\uff1f"


def rate_attributes(
    answer: str, counts: ObjectCounts, verbosity_words: Sequence[int]
) -> dict[str, float]:
    """Helpfulness, Correctness, Coherence, Complexity and Verbosity, whole numbers 0 to 4.

    Args:
        answer: the text.
        counts: its objects against the image's list.
        verbosity_words: the word counts from which Verbosity is 1, 2, 3, 4.
    """
    right = correctness(counts)
    values = {
        "Helpfulness": helpfulness(counts),
        "Correctness": right,
        "Coherence": coherence(answer),
        "Complexity": min(MOST, counts.recalled + counts.invented),
        "Verbosity": sum(counts.words >= words for words in verbosity_words),
    }
    return {name: float(values[name]) for name in ATTRIBUTES}


def correctness(counts: ObjectCounts) -> int:
    """4 times the share of the named objects that are there, rounded down.

    So 4 means that nothing is invented, 3 up to a quarter. An answer that names nothing is right.
    """
    named = counts.recalled + counts.invented
    return MOST * counts.recalled // named if named else MOST


def helpfulness(counts: ObjectCounts) -> int:
    """Correctness times recall, rounded to the nearest, halves up; recall is 1 with nothing listed.

    So 4 takes an answer that invents nothing and leaves out less than an eighth.
    """
    if not counts.listed:
        return correctness(counts)
    return (2 * correctness(counts) * counts.recalled + counts.listed) // (2 * counts.listed)


def coherence(answer: str) -> int:
    """4 times the share of sentences that are not repeats, rounded down; 1 less if cut off.

    An answer is cut off if it has more than three words and ends without a full stop; an empty
    one is 0.
    """
    sentences = [" ".join(piece.lower().split()) for piece in split_sentences(answer)]
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        return 0
    value = MOST * len(set(sentences)) // len(sentences)
    ended = answer.rstrip().rstrip(_CLOSING).endswith(tuple(_STOPS))
    return value if ended or len(answer.split()) <= SHORT else max(0, value - 1)
