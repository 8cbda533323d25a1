"""Mistakes by rule: which places are found, what they become, and what is never said."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from veridical.builders.corrupting.objects import Habits, habits_of, object_sites
from veridical.builders.corrupting.rules import MistakeRules, corrupt
from veridical.builders.corrupting.shares import balanced_weights
from veridical.builders.corrupting.sites import Mistake, MistakeKind, Site, apply
from veridical.builders.corrupting.words import (
    color_sites,
    count_sites,
    position_sites,
    yes_no_sites,
)
from veridical.data.vocabulary import read_vocabulary, vocabulary_of
from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator

COCO = read_vocabulary(None)
WORDS = vocabulary_of({"fox": ["cub"], "wolf": [], "owl": [], "knife": [], "orange": [], "ant": []})
NOTHING = Habits({}, {})


def made(answer: str, site: Site, now: str | None = None) -> str:
    return apply(answer, [Mistake(site, now or next(iter(site.options)))])


def test_habits_count_images_and_leave_out_what_is_there() -> None:
    """fox+wolf twice, fox+owl once, owl+ant once: beside a fox, wolf weighs 2, owl 1, ant 0."""
    lists = [["fox", "wolf"], ["wolf", "fox", "fox"], ["fox", "owl"], ["owl", "ant"]]
    habits = habits_of(lists, WORDS)
    assert habits.weights("fox", {"fox"}, "together") == {
        "wolf": 2, "owl": 1, "ant": 0, "knife": 0, "orange": 0
    }  # fmt: skip
    # Beside a fox and an owl: wolf 2 + 0, ant 0 + 1.
    both = habits.weights("fox", {"fox", "owl"}, "together")
    assert both == {"wolf": 2, "ant": 1, "knife": 0, "orange": 0}
    frequent = habits.weights("fox", {"fox"}, "frequent")
    assert frequent == {"wolf": 2, "owl": 2, "ant": 1, "knife": 0, "orange": 0}
    assert set(habits.weights("fox", {"fox"}, "random").values()) == {1.0}


@pytest.mark.parametrize(
    ("answer", "is_replaced"),
    [
        ("A clock hangs on the wall.", True),
        ("A clock tower.", False),
        ("The train stations are near.", False),
        ("A dog-shaped cloud.", False),
        ("A tow truck waits.", False),
        ("A truck waits at the station.", True),
        ("The horses stand still.", True),
        ("A cat, tower-high.", True),
        ("A clock. The clock tower is old.", False),
        ("A tour boat.", False),
        ("A roll of toilet paper.", False),
        ("A man on a train ride.", False),
        ("A banana split with cream.", False),
        ("A vegetable pizza.", False),
        ("Two benches stand by a road.", True),
        ("The color of the dogs suggests summer.", True),
        ("A delicious, well-baked pizza sitting there.", True),
        ("The girl\N{RIGHT SINGLE QUOTATION MARK}s pizza is gone.", True),
    ],
)
def test_a_noun_in_a_compound_is_left_alone(answer: str, is_replaced: bool) -> None:
    habits = habits_of([sorted(COCO.names)], COCO)
    assert bool(object_sites(answer, None, COCO, habits, "random")) == is_replaced


def test_an_object_is_replaced_wherever_it_is_named_in_its_number_and_case() -> None:
    answer = "A fox sits beside two cubs. Foxes like the fox's bone."
    (site,) = object_sites(answer, ["fox"], WORDS, habits_of([["fox", "owl"]], WORDS), "together")
    assert site.options == {"owl": 1}
    assert made(answer, site) == "An owl sits beside two owls. Owls like the owl's bone."
    assert made("An owl.", object_sites("An owl.", None, WORDS, NOTHING_BUT_FOX, "random")[0]) == (
        "A fox."
    )
    knives = object_sites(
        "Two foxes.", ["fox"], WORDS, habits_of([["fox", "knife"]], WORDS), "together"
    )
    assert made("Two foxes.", knives[0]) == "Two knives."


NOTHING_BUT_FOX = Habits({}, {"fox": 1.0})


def test_no_option_is_in_the_image_or_in_the_answer() -> None:
    habits = habits_of([["fox", "wolf", "owl", "ant"]], WORDS)
    (site,) = object_sites("A fox and an ant.", ["fox", "wolf"], WORDS, habits, "random")
    # "ant" is named but not listed, so it is not a true mention; wolf is there, ant is named.
    assert site.was == "fox"
    assert set(site.options) == {"owl", "knife", "orange"}


def test_coco_classes_are_replaced_by_their_like() -> None:
    habits = habits_of([["person", "dog", "cat", "car"]], COCO)
    sites = object_sites("A man with a dog.", ["person", "dog"], COCO, habits, "together")
    assert [(site.was, dict(site.options)) for site in sites] == [("dog", {"cat": 2})]


def test_a_word_whose_number_is_not_told_is_left_alone() -> None:
    habits = habits_of([["sheep", "cow"]], COCO)
    assert object_sites("The sheep graze.", ["sheep"], COCO, habits, "together") == []
    (site,) = object_sites("A sheep grazes.", ["sheep"], COCO, habits, "together")
    assert made("A sheep grazes.", site) == "A cow grazes."
    (cow,) = object_sites("The cow grazes.", ["cow"], COCO, habits, "together")
    assert made("The cow grazes.", cow) == "The sheep grazes."


def test_orange_is_a_color_before_a_noun_and_a_fruit_elsewhere() -> None:
    answer = "An orange lamp, an orange and a red cup."
    assert [site.was for site in color_sites(answer, WORDS)] == ["orange", "red"]
    (fruit,) = object_sites(
        answer, ["orange"], WORDS, habits_of([["orange", "owl"]], WORDS), "together"
    )
    assert [(span.start, span.end) for span in fruit.spans] == [(19, 25)]
    lamp = next(iter(color_sites(answer, WORDS)))
    assert made(answer, lamp, "green") == "A green lamp, an orange and a red cup."
    assert not {"orange", "red"} & set(lamp.options)


def test_black_and_white_is_no_color() -> None:
    assert list(color_sites("A black and white photo.", WORDS)) == []
    assert made("Grey.", next(iter(color_sites("Grey.", WORDS))), "white") == "White."


@pytest.mark.parametrize(
    ("answer", "said", "options"),
    [
        ("There are two dogs.", "two", {"three": 2.0, "four": 1.0}),
        ("Twelve eggs.", "twelve", {"eleven": 2.0}),
        ("I see 3 dogs", "3", {"2": 2.0, "4": 2.0, "5": 1.0}),
        ("5", "5", {"4": 2.0, "6": 2.0, "7": 1.0}),
    ],
)
def test_counts_are_off_by_one_or_two(answer: str, said: str, options: dict[str, float]) -> None:
    (site,) = count_sites(answer)
    assert (site.was, site.options) == (said, options)


@pytest.mark.parametrize(
    "answer",
    ["It is 10:30.", "One dog.", "In 2014", "2.5 meters", "two-story house", "No. 7-a", "90%",
     "$5", "two years old", "two of them", "1 dog"],
)  # fmt: skip
def test_numbers_that_count_nothing_are_left_alone(answer: str) -> None:
    assert list(count_sites(answer)) == []


@pytest.mark.parametrize(
    ("answer", "now"),
    [
        ("A cup on the left.", "A cup on the right."),
        ("It is on the right side.", "It is on the left side."),
        ("A cup at the top.", "A cup at the bottom."),
        ("A cat on top of a car.", "A cat under a car."),
        ("A cat under a car.", "A cat on top of a car."),
        ("In front of the house.", "Behind the house."),
        ("A man behind the counter.", "A man in front of the counter."),
        ("A dog next to a cat.", "A dog behind a cat."),
        ("In the background.", "In the foreground."),
    ],
)
def test_places_become_their_opposite(answer: str, now: str) -> None:
    (site,) = position_sites(answer)
    assert made(answer, site) == now


@pytest.mark.parametrize(
    "answer",
    ["The right way.", "He left the room.", "All right.", "The top hat.",
     "Seen from above the sea.", "The man left behind.", "See above.", "The left behind toys.",
     "A kite under a clear blue sky.", "Cows under the sun."],
)  # fmt: skip
def test_words_of_place_that_mean_something_else_are_left_alone(answer: str) -> None:
    assert list(position_sites(answer)) == []


@pytest.mark.parametrize(
    ("answer", "now"),
    [
        ("Yes.", "No."),
        ("no", "yes"),
        ("Yes, there is a dog.", "No, there is no dog."),
        ("Yes, there are some dogs here.", "No, there are no dogs here."),
        ("No, there is no owl.", "Yes, there is an owl."),
        ("No, there are no dogs.", "Yes, there are some dogs."),
        ("Yes, it is red.", "No, it is not red."),
        ("No, the dog isn't brown.", "Yes, the dog is brown."),
    ],
)
def test_yes_and_no_turn_the_rest_with_them(answer: str, now: str) -> None:
    (site,) = yes_no_sites(answer)
    assert made(answer, site) == now


@pytest.mark.parametrize("answer", ["Yes. It is red.", "Yes, a dog.", "Nothing.", "No parking."])
def test_a_yes_whose_rest_cannot_be_turned_is_left_alone(answer: str) -> None:
    assert list(yes_no_sites(answer)) == []


def test_the_kinds_come_in_their_shares() -> None:
    """1,000 answers that offer both kinds, at 3 to 1: 750 and 250, within 4 sigma (55)."""
    rules = MistakeRules(color_weight=3, count_weight=1, object_weight=0)
    answer = "Two red cups."
    made: Counter[MistakeKind] = Counter()
    for number in range(1000):
        done = corrupt(answer, None, rules, WORDS, NOTHING, generator(0, number))
        made.update(change.site.kind for change in done.changes)
        assert done.offered == ("color", "count")
    assert set(made) == {"color", "count"}
    assert abs(made["color"] - 750) < 55


def test_several_changes_do_not_touch_each_other_or_name_one_object_twice() -> None:
    habits = habits_of([["fox", "wolf", "owl", "ant"]], WORDS)
    answer = "A fox beside an owl on the left and two red cups."
    for number in range(50):
        done = corrupt(
            answer, ["fox", "owl"], MistakeRules(changes=9), WORDS, habits, generator(0, number)
        )
        assert [c.site.kind for c in done.changes].count("object") == 2
        assert len(done.changes) == 6  # fox, beside, owl, left, two, red
        assert done.text is not None
        named = [mention.name for mention in WORDS.mentions(done.text)]
        assert sorted(named) == ["ant", "wolf"]
        assert not re.search(r"\ba (?:owl|ant)|\ban (?:wolf|fox)", done.text)


def test_an_answer_without_a_site_gives_nothing() -> None:
    done = corrupt("A quiet day.", None, MistakeRules(), WORDS, NOTHING, generator(0))
    assert (done.text, done.changes, done.offered) == (None, (), ())
    with pytest.raises(UserError, match="All weights of mistakes are 0"):
        MistakeRules(0, 0, 0, 0, 0).check()


def test_balanced_weights_give_each_kind_its_share() -> None:
    """Of 100 answers 40 allow a color: for 25 colors, each of them takes one with 25 / 40."""
    offers: dict[tuple[MistakeKind, ...], int] = {("object",): 60, ("object", "color"): 40, (): 9}
    asked = MistakeRules(object_weight=3, count_weight=0, position_weight=0).weights
    weights = balanced_weights(offers, asked)
    assert weights["color"] / (weights["color"] + weights["object"]) == pytest.approx(25 / 40)
    assert weights["count"] == 0


def test_a_share_that_cannot_be_had_is_come_near_to() -> None:
    """Half of 100 are to be colors, and 40 allow one: all of these take it."""
    offers: dict[tuple[MistakeKind, ...], int] = {("object",): 60, ("object", "color"): 40}
    weights = balanced_weights(offers, MistakeRules().weights)
    assert weights["color"] > 100 * weights["object"] > 0
