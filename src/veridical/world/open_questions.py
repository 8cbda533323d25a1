"""Open questions about drawn scenes: MMHal-Bench's eight types, with what answers them exactly.

Each has the phrases that answer it (`asked`) and those that would be untrue of the scene (`false`),
in the words that the embedded model knows. So `eval mmhal --rule exact` rates answers without a
judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from veridical.runtime.json_types import JsonObject
from veridical.runtime.randomness import generator
from veridical.world.language import (
    NUMBERS,
    PLACES,
    colour_question,
    count_question,
    describe_scene,
    existence_question,
    position_question,
)
from veridical.world.scenes import COLOURS, KINDS, SETTINGS, Scene, explained_by_prior


@dataclass(frozen=True)
class OpenQuestion:
    """A question, its reference answer, and what answers it.

    Attributes:
        text: the question.
        answer: a reference answer.
        asked: phrases that it asks for; each that is said informs.
        false: phrases that hallucinate.
    """

    text: str
    answer: str
    asked: Sequence[str]
    false: Sequence[str]


def _attribute(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    asked = colour_question(thing)
    others = [colour for colour in COLOURS if colour != thing.colour]
    return OpenQuestion(asked.text, asked.answer, [thing.colour], others)


def _adversarial(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    """Ask for the color of what is not there, but what habit suggests if there is such a kind."""
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    likely = [kind for kind in absent if explained_by_prior(kind, scene)] or absent
    kind = likely[int(rng.integers(len(likely)))]
    return OpenQuestion(
        f"What colour is the {kind}?", f"There is no {kind}.", ["no"], [*COLOURS, "yes"]
    )


def _comparison(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    first, second = (scene.objects[int(n)] for n in rng.permutation(len(scene.objects))[:2])
    right = bool(rng.integers(2))
    others = [colour for colour in COLOURS if colour != second.colour]
    colour = second.colour if right else others[int(rng.integers(len(others)))]
    text = f"Is the {first.kind} {first.colour} and the {second.kind} {colour}?"
    return OpenQuestion(
        text, "Yes." if right else "No.", ["yes" if right else "no"], ["no" if right else "yes"]
    )


def _counting(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    asked = count_question(scene)
    number = NUMBERS[len(scene.objects)]
    return OpenQuestion(
        asked.text, asked.answer, [number.lower()], [n.lower() for n in NUMBERS if n != number]
    )


def _relation(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    asked = position_question(thing)
    place = PLACES[thing.cell]
    return OpenQuestion(asked.text, asked.answer, [place], [p for p in PLACES if p != place])


def _environment(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    others = [setting for setting in SETTINGS if setting != scene.setting]
    return OpenQuestion(
        "What is in this picture?", f"This is a {scene.setting}.", [scene.setting], others
    )


def _holistic(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    """Everything about the scene; a kind that is not there, or has another color, is untrue."""
    true = [f"{thing.colour} {thing.kind}" for thing in scene.objects]
    false = [f"{colour} {kind}" for colour in COLOURS for kind in KINDS]
    others = [setting for setting in SETTINGS if setting != scene.setting]
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    return OpenQuestion(
        "Describe this image in detail.", describe_scene(scene), [scene.setting, *true],
        [*others, *absent, *(phrase for phrase in false if phrase not in true)],
    )  # fmt: skip


def _other(scene: Scene, rng: np.random.Generator) -> OpenQuestion:
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    pool = scene.kinds if rng.integers(2) else absent
    asked = existence_question(pool[int(rng.integers(len(pool)))], scene)
    right = asked.answer.lower().rstrip(".")
    return OpenQuestion(asked.text, asked.answer, [right], ["no" if right == "yes" else "yes"])


TYPES: Mapping[str, Callable[[Scene, np.random.Generator], OpenQuestion]] = {
    "attribute": _attribute,
    "adversarial": _adversarial,
    "comparison": _comparison,
    "counting": _counting,
    "relation": _relation,
    "environment": _environment,
    "holistic": _holistic,
    "other": _other,
}
"""MMHal-Bench's types, in its order."""


def open_question_rows(scenes: Sequence[Scene], seed: int) -> list[JsonObject]:
    """A question about each scene, of the types in turn, as MMHal-Bench's template has them."""
    rows: list[JsonObject] = []
    for number, scene in enumerate(scenes):
        kind = list(TYPES)[number % len(TYPES)]
        question = TYPES[kind](scene, generator(seed, "open question", scene.id))
        rows.append(
            {
                "question_type": kind, "question_topic": scene.setting, "image_id": scene.id,
                "image_content": list(scene.kinds), "question": question.text,
                "gt_answer": question.answer, "model_answer": "",
                "asked": list(question.asked), "false": list(question.false),
            }
        )  # fmt: skip
    return rows
