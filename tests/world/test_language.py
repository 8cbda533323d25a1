"""What is said is true, and the judge is exact."""

from __future__ import annotations

import math

from veridical.world.language import (
    describe_scene,
    existence_question,
    hallucinated_kinds,
    mentioned_kinds,
    sample_questions,
    share_explained_by_prior,
    vocabulary,
)
from veridical.world.scenes import KINDS, Scene, Thing, sample_scenes

SCENE = Scene("x", "park", (Thing("apple", "red", 0, False), Thing("umbrella", "orange", 4, True)))


def test_description() -> None:
    assert describe_scene(SCENE) == (
        "This is a park. There is a red apple at the top left. "
        "There is an orange umbrella in the middle."
    )


def test_a_true_description_never_hallucinates_and_misses_nothing() -> None:
    for scene in sample_scenes("counter", 100, 2):
        assert hallucinated_kinds(describe_scene(scene), scene) == []
        assert mentioned_kinds(describe_scene(scene)) == list(scene.kinds)


def test_the_judge_reads_plurals_and_case_but_no_parts_of_words() -> None:
    assert mentioned_kinds("Two Buses, a bench and some fishes; no carpet, no cupboard.") == [
        "bus",
        "bench",
        "fish",
    ]
    assert hallucinated_kinds("An apple, a bench and a boat.", SCENE) == ["bench", "boat"]
    # The bench belongs to the park, the boat to nothing that is here: one of two.
    assert share_explained_by_prior([("An apple, a bench and a boat.", SCENE)]) == 0.5
    assert math.isnan(share_explained_by_prior([("An apple.", SCENE)]))


def test_vocabulary_is_unambiguous() -> None:
    forms = [form for surface in vocabulary().values() for form in surface]
    assert set(vocabulary()) == set(KINDS)
    assert len(forms) == len(set(forms))


def test_questions_are_balanced_and_rightly_answered() -> None:
    asked = [(q, s) for s in sample_scenes("prior", 400, 3) for q in sample_questions(s, 5, 0)]
    existence = [(q, s) for q, s in asked if q.kind == "existence"]
    assert 0.65 < len(existence) / len(asked) < 0.75
    assert {q.kind for q, _ in asked} == {"existence", "count", "colour", "position"}
    yes = [q.answer == "Yes." for q, _ in existence]
    assert 0.45 < sum(yes) / len(yes) < 0.55
    for question, scene in existence:
        assert (question.about in scene.kinds) == (question.answer == "Yes.")
    for question, scene in asked:
        if question.kind == "colour":
            thing = next(t for t in scene.objects if t.kind == question.about)
            assert question.answer == f"{thing.colour.capitalize()}."


def test_pope_form() -> None:
    assert existence_question("umbrella", SCENE).text == "Is there an umbrella in the image?"
    assert existence_question("umbrella", SCENE).answer == "Yes."
    assert existence_question("bus", SCENE).answer == "No."
