"""What is said about scenes: descriptions, questions with their answers, and the exact judge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from veridical.runtime.randomness import generator
from veridical.world.scenes import KINDS, PARTNER, SETTING_OF_KIND, Scene, Thing, explained_by_prior

QuestionKind = Literal["existence", "count", "colour", "position"]

PLACES: tuple[str, ...] = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the middle",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
NUMBERS: tuple[str, ...] = ("Zero", "One", "Two", "Three", "Four", "Five")
DESCRIPTION_PROMPTS: tuple[str, ...] = (
    "Describe the image.",
    "Describe this image in detail.",
    "What do you see in the image?",
    "What is in this picture?",
)
_PLURALS = {"bench": "benches", "bus": "buses", "fish": "fishes"}


@dataclass(frozen=True)
class SceneQuestion:
    """A question about one scene and its only right answer."""

    kind: QuestionKind
    text: str
    answer: str
    about: str


def describe_scene(scene: Scene) -> str:
    """Several sentences: the setting, then one object a sentence in reading order."""
    return " ".join(facts(scene))


def facts(scene: Scene) -> list[str]:
    """True sentences: the setting, and each object."""
    return [f"This is a {scene.setting}.", *map(object_sentence, scene.objects)]


def object_sentence(thing: Thing) -> str:
    """One object's sentence: its colour, its kind and its place."""
    return f"There is {with_article(f'{thing.colour} {thing.kind}')} {PLACES[thing.cell]}."


def with_article(noun: str) -> str:
    """The noun behind "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def kind_plural(kind: str) -> str:
    """The kind's plural."""
    return _PLURALS.get(kind, f"{kind}s")


def existence_question(kind: str, scene: Scene) -> SceneQuestion:
    """POPE's question form, with its answer."""
    answer = "Yes." if kind in scene.kinds else "No."
    return SceneQuestion("existence", f"Is there {with_article(kind)} in the image?", answer, kind)


def count_question(scene: Scene) -> SceneQuestion:
    """How many objects the scene holds."""
    answer = f"{NUMBERS[len(scene.objects)]}."
    return SceneQuestion("count", "How many objects are there in the image?", answer, "")


def colour_question(thing: Thing) -> SceneQuestion:
    """The colour of an object that is there."""
    answer = f"{thing.colour.capitalize()}."
    return SceneQuestion("colour", f"What colour is the {thing.kind}?", answer, thing.kind)


def position_question(thing: Thing) -> SceneQuestion:
    """The place of an object that is there."""
    place = PLACES[thing.cell]
    return SceneQuestion(
        "position", f"Where is the {thing.kind}?", f"{place[0].upper()}{place[1:]}.", thing.kind
    )


def sample_questions(
    scene: Scene, count: int, seed: int, existence_share: float = 0.7, hard_share: float = 0.5
) -> list[SceneQuestion]:
    """Draw questions about a scene, keyed by its id.

    Existence questions are answered "Yes." half of the time; `hard_share` of the negatives ask
    for what habit suggests (a kind of the setting, or one that a present kind brings along).
    """
    rng = generator(seed, "questions", scene.id)
    questions = []
    for _ in range(count):
        thing = scene.objects[int(rng.integers(len(scene.objects)))]
        if rng.random() < existence_share:
            kind = thing.kind if rng.random() < 0.5 else _absent_kind(rng, scene, hard_share)
            questions.append(existence_question(kind, scene))
            continue
        form = int(rng.integers(3))
        asked = (colour_question(thing), position_question(thing), count_question(scene))
        questions.append(asked[form])
    return questions


def objects(scene: Scene) -> list[str]:
    """The kinds that are there, in reading order."""
    return list(scene.kinds)


def vocabulary() -> dict[str, list[str]]:
    """Surface forms of each kind, as CHAIR needs them."""
    return {kind: [kind, kind_plural(kind)] for kind in KINDS}


def mentioned_kinds(text: str) -> list[str]:
    """Every mention of a kind in `text`, in order, repeats included."""
    forms = {form: kind for kind, surface in vocabulary().items() for form in surface}
    words = re.findall(r"[a-z]+", text.lower())
    return [forms[word] for word in words if word in forms]


def hallucinated_kinds(text: str, scene: Scene) -> list[str]:
    """The mentions in `text` of kinds that the scene does not hold; exact."""
    return [kind for kind in mentioned_kinds(text) if kind not in scene.kinds]


def share_explained_by_prior(answers: Iterable[tuple[str, Scene]]) -> float:
    """Of all hallucinated mentions, the share that habit suggests; NaN when there are none."""
    verdicts = [
        explained_by_prior(kind, scene)
        for text, scene in answers
        for kind in hallucinated_kinds(text, scene)
    ]
    return float(np.mean(verdicts)) if verdicts else float("nan")


def _absent_kind(rng: np.random.Generator, scene: Scene, hard_share: float) -> str:
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    if rng.random() < hard_share:
        brought = {PARTNER[kind] for kind in scene.kinds}
        hard = [k for k in absent if SETTING_OF_KIND[k] == scene.setting or k in brought]
        absent = hard or absent
    return absent[int(rng.integers(len(absent)))]
