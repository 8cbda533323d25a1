"""The exact judge: what is in the image is known, so which answer is better is counted.

For images with object lists (the drawn world's scenes, COCO) and a vocabulary. Fewer invented
objects win, then higher recall of the listed ones, then fewer words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from veridical.data.object_lists import (
    ObjectCounts,
    count_objects,
    judge_answer,
    match_image_id,
    refuse_shared_id,
)
from veridical.data.vocabulary import Vocabulary
from veridical.judges.attributes import EXACT, rate_attributes
from veridical.judges.judging import Case, Judge, Verdict

RECALL_WEIGHT = 0.9
WORD_WEIGHT = 1 / 10_000
MOST_WORDS = 999


@dataclass(frozen=True)
class ExactScore:
    """What the exact judge says of one answer.

    Attributes:
        score: see `exact_score`.
        reason: the counts in words, with the invented objects' names.
        counts: what was counted.
    """

    score: float
    reason: str
    counts: ObjectCounts


def exact_score(counts: ObjectCounts) -> float:
    """-invented + 0.9 recall - words / 10,000: one number that keeps the order (our choice).

    Invented objects come first always: recall and words together move the score by less than 1,
    since words count up to 999 only. Recall comes before words as long as two answers differ by
    fewer than 9,000 / listed words (1,000 words for 9 listed objects, 300 for 30). Objects are
    counted once each, unlike CHAIR's mentions: saying a wrong thing twice is one wrong thing.
    An image with nothing listed has recall 1.
    """
    recall = counts.recalled / counts.listed if counts.listed else 1.0
    words = min(counts.words, MOST_WORDS)
    return RECALL_WEIGHT * recall - counts.invented - WORD_WEIGHT * words


def judge_exactly(answer: str, objects: Sequence[str], vocabulary: Vocabulary) -> ExactScore:
    """Judge one answer.

    Args:
        answer: the text.
        objects: the vocabulary's names of what is in the image.
        vocabulary: which words name which object.
    """
    judged = judge_answer("", answer, objects, vocabulary)
    counts = count_objects(judged)
    named = [mention["name"] for mention in judged["mentions"] if mention["hallucinated"]]
    invented = f"invents {', '.join(dict.fromkeys(named))}" if named else "invents nothing"
    reason = f"{invented}; {counts.recalled} of {counts.listed} objects; {counts.words} words"
    return ExactScore(exact_score(counts), reason, counts)


def exact_judge(
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    verbosity_words: Sequence[int],
) -> Judge:
    """A judge by truth.

    It rates the aspect `exact` and the five attributes of `rate_attributes`. An answer about
    several images is compared with what is in any of them. A case is found by its images' names,
    else by its id.

    Args:
        objects: image id to the vocabulary's names of what is in the image.
        vocabulary: which words name which object.
        verbosity_words: the word counts from which Verbosity is 1, 2, 3, 4.
    """
    stem_of: dict[str, str] = {}

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        for name in (name for case in cases for name in case.image_names):
            refuse_shared_id(stem_of, match_image_id(name, objects), name)
        return [_verdict(case, objects, vocabulary, verbosity_words) for case in cases]

    return judge


def listed_objects(case: Case, objects: Mapping[str, Sequence[str]]) -> list[str] | None:
    """What is in the case's images; None if one of them has no list."""
    found = [match_image_id(name, objects) for name in case.image_names]
    if not found or None in found:
        found = [match_image_id(case.prompt.id, objects)]
    if None in found:
        return None
    return sorted({name for image in found if image is not None for name in objects[image]})


def _verdict(
    case: Case,
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    verbosity_words: Sequence[int],
) -> Verdict:
    listed = listed_objects(case, objects)
    if listed is None:
        return Verdict(problem="the image has no object list")
    scores = [judge_exactly(response, listed, vocabulary) for response in case.responses]
    ratings = [
        {EXACT: score.score} | rate_attributes(response, score.counts, verbosity_words)
        for response, score in zip(case.responses, scores, strict=True)
    ]
    return Verdict(tuple(ratings), tuple(score.reason for score in scores))
