"""The rule of CHAIR-DPO (Compagnoni et al. 2025): fewer hallucinated mentions, weighed with recall.

For images with object lists, those of a detector among them (`build objects`). It differs from the
exact judge, which counts each invented object once and lets recall decide only between answers that
invent equally many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from veridical.data.object_lists import (
    ObjectCounts,
    count_objects,
    judge_answer,
    match_image_id,
    refuse_shared_id,
)
from veridical.data.vocabulary import Vocabulary
from veridical.judges.exact import listed_objects
from veridical.judges.judging import Case, Judge, Verdict
from veridical.runtime.ranges import WEIGHT

CHAIR = "chair"
"""The aspect that holds the score."""


@dataclass(frozen=True, kw_only=True)
class ChairWeights:
    """The judge `chair`.

    Attributes:
        chair_weight: of CHAIR_i, the share of an answer's mentions that are hallucinated.
        recall_weight: of recall, the share of the listed objects that an answer mentions.
    """

    chair_weight: Annotated[float, WEIGHT] = 1.0
    recall_weight: Annotated[float, WEIGHT] = 1.0


def chair_score(counts: ObjectCounts, weights: ChairWeights) -> float:
    """recall_weight x recall - chair_weight x CHAIR_i; higher is better.

    An answer that mentions nothing has CHAIR_i 0, an image with nothing listed recall 1.
    """
    chair = counts.hallucinated / counts.mentions if counts.mentions else 0.0
    recall = counts.recalled / counts.listed if counts.listed else 1.0
    return weights.recall_weight * recall - weights.chair_weight * chair


def chair_judge(
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    weights: ChairWeights = ChairWeights(),
) -> Judge:
    """A judge that marks the aspect `chair` by `chair_score`.

    An answer about several images is compared with what is in any of them. A case is found by its
    images' names, else by its id.

    Args:
        objects: image id to the vocabulary's names of what is in the image.
        vocabulary: which words name which object.
        weights: of the two parts.
    """
    stem_of: dict[str, str] = {}

    def judge(cases: Sequence[Case]) -> list[Verdict]:
        for name in (name for case in cases for name in case.image_names):
            refuse_shared_id(stem_of, match_image_id(name, objects), name)
        return [_verdict(case, objects, vocabulary, weights) for case in cases]

    return judge


def _verdict(
    case: Case,
    objects: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    weights: ChairWeights,
) -> Verdict:
    listed = listed_objects(case, objects)
    if listed is None:
        return Verdict(problem="the image has no object list")
    counts = [
        count_objects(judge_answer("", response, listed, vocabulary)) for response in case.responses
    ]
    return Verdict(
        tuple({CHAIR: chair_score(one, weights)} for one in counts),
        tuple(
            f"{one.hallucinated} of {one.mentions} mentions hallucinated; "
            f"{one.recalled} of {one.listed} objects"
            for one in counts
        ),
    )
