"""What is in the images of an answer, by object lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from veridical.builders._answers import ChosenAnswer
from veridical.data.prompts import Prompt
from veridical.judges.exact import listed_objects
from veridical.judges.judging import Case


def objects_of(answer: ChosenAnswer, listed: Mapping[str, Sequence[str]]) -> list[str] | None:
    """What is in an answer's images, by image id; None if one of them has no list."""
    case = Case(Prompt(answer.record, (), answer.prompt), (), answer.image_names)
    return listed_objects(case, listed)
