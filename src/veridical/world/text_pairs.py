"""Right and wrong texts that differ little: what the model knows of its language and world.

No image decides between the two, so that a model can be asked without one (`eval text_pairs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from veridical.runtime.randomness import generator
from veridical.world.language import DESCRIPTION_PROMPTS, PLACES, describe_scene, with_article
from veridical.world.scenes import (
    COLOURS,
    KINDS,
    KINDS_OF_SETTING,
    PARTNER,
    PREFERRED_COLOUR,
    Scene,
    Thing,
)

Item = TypeVar("Item")
Texts = tuple[str, str]
_OTHER_PREPOSITION = {"at": "in", "on": "at", "in": "on"}


def _with_wrong_phrase(scene: Scene, right: str, wrong: str) -> Texts:
    """The scene's description, and the same with another phrase in one place."""
    text = describe_scene(scene)
    return text, text.replace(right, wrong, 1)


def _word_order(scene: Scene, rng: np.random.Generator) -> Texts:
    thing = _pick(rng, scene.objects)
    return _with_wrong_phrase(scene, f"{thing.colour} {thing.kind}", f"{thing.kind} {thing.colour}")


def _article(scene: Scene, rng: np.random.Generator) -> Texts:
    thing = _pick(rng, scene.objects)
    noun = f"{thing.colour} {thing.kind}"
    right = with_article(noun)
    return _with_wrong_phrase(scene, right, f"{'a' if right.startswith('an ') else 'an'} {noun}")


def _preposition(scene: Scene, rng: np.random.Generator) -> Texts:
    thing = _pick(rng, scene.objects)
    place = PLACES[thing.cell]
    word, _, rest = place.partition(" ")
    return _with_wrong_phrase(
        scene, f"{thing.kind} {place}.", f"{thing.kind} {_OTHER_PREPOSITION[word]} {rest}."
    )


def _sentence_order(scene: Scene, rng: np.random.Generator) -> Texts:
    """Objects are described in reading order; the wrong text has them backwards."""
    return describe_scene(scene), describe_scene(replace(scene, objects=scene.objects[::-1]))


def _setting(scene: Scene, rng: np.random.Generator) -> Texts:
    """A kind that belongs to the setting, and one that does not."""
    own = KINDS_OF_SETTING[scene.setting]
    thing = _pick(rng, scene.objects)
    right, wrong = _pick(rng, own), _pick(rng, [kind for kind in KINDS if kind not in own])
    return _described(scene, [replace(thing, kind=right)], [replace(thing, kind=wrong)])


def _partner(scene: Scene, rng: np.random.Generator) -> Texts:
    """The kind that comes along with another, and one of the same setting that does not."""
    own = KINDS_OF_SETTING[scene.setting]
    kind = _pick(rng, own)
    others = [other for other in own if other not in (kind, PARTNER[kind])]
    first, second = replace(scene.objects[0], kind=kind), scene.objects[-1]
    sides = [replace(second, kind=other) for other in (PARTNER[kind], _pick(rng, others))]
    return _described(scene, [first, sides[0]], [first, sides[1]])


def _colour(scene: Scene, rng: np.random.Generator) -> Texts:
    """The colour that a kind mostly has, and another."""
    thing = replace(_pick(rng, scene.objects), kind=_pick(rng, KINDS_OF_SETTING[scene.setting]))
    usual = PREFERRED_COLOUR[thing.kind]
    other = _pick(rng, [colour for colour in COLOURS if colour != usual])
    return _described(scene, [replace(thing, colour=usual)], [replace(thing, colour=other)])


def _described(scene: Scene, right: Sequence[Thing], wrong: Sequence[Thing]) -> Texts:
    good, bad = (describe_scene(replace(scene, objects=tuple(own))) for own in (right, wrong))
    return good, bad


TYPES: Mapping[str, Callable[[Scene, np.random.Generator], Texts]] = {
    "word_order": _word_order,
    "article": _article,
    "preposition": _preposition,
    "sentence_order": _sentence_order,
    "setting": _setting,
    "partner": _partner,
    "colour": _colour,
}
"""What the two texts differ in: four rules of the language, and three habits of the world."""


def text_pair_rows(scenes: Sequence[Scene], seed: int) -> list[dict[str, str]]:
    """A pair for each scene, of the types in turn."""
    rows = []
    for number, scene in enumerate(scenes):
        kind = list(TYPES)[number % len(TYPES)]
        good, bad = TYPES[kind](scene, generator(seed, "text pair", scene.id))
        rows.append(
            {
                "id": scene.id,
                "type": kind,
                "prompt": DESCRIPTION_PROMPTS[0],
                "good": good,
                "bad": bad,
            }
        )
    return rows


def _pick(rng: np.random.Generator, choices: Sequence[Item]) -> Item:
    return choices[int(rng.integers(len(choices)))]
