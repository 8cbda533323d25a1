"""Cut answers: what is kept, what is swapped, and that nothing but the completions changes."""

# ruff: noqa: RUF001 - full-width stops are meant

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veridical.bdhs.cuts import Cut, Cutting, cut_sentences, join_completion, join_sentences
from veridical.data.text.languages import guess_language
from veridical.data.text.sentences import first_sentence
from veridical.data.text.units import bare, cut_units, words_of

ANSWER = "This is a park. There is a red cup at the top left. There is a blue dog on the right."
HOW = Cutting("uniform", 3, 0.5, 0)
NO_SWAP = dataclasses.replace(HOW, yes_no_swap=0.0)

SENTENCES = st.sampled_from(
    [
        "A red cup stands on the table.",
        "Dr. Smith waves, e.g. at 3.5 m!",
        "Is it  red?",
        "No.",
        "Yes, there is a dog.",
        "a small dog",
        'The sign says "stop."',
        "He waits... and waits.",
        "See https://example.com/a.html for more.",
        "It is **bold** and `a. B` here.",
        "Great 🎂!",
        "- 5 degrees",
        "Auf dem Tisch liegt Obst, z. B. Äpfel.",
        "El Sr. García está aquí.",
        "桌子上有一只红色的杯子。",
        "真的吗？",
        "ソファの上で犬が寝ています。",
        "एक कुत्ता सोफे पर सो रहा है।",
        "هل هذا كلب أسود؟",
        "มีสุนัขกำลังนอนหลับ",
        "មានឆ្កែមួយ។",
    ]
)
SEPARATORS = st.sampled_from([" ", "  ", "\n", " \n", "\u3000"])
PARAGRAPHS = st.lists(st.tuples(SENTENCES, SEPARATORS), min_size=1, max_size=4).map(
    lambda pairs: "".join(sentence + space for sentence, space in pairs)
)
BULLETS = st.sampled_from(["- ", "* ", "• ", "  - ", "# ", "> ", "> - ", "- [ ] ", "1、", "（1）"])
ROWS = st.lists(SENTENCES, min_size=1, max_size=3).map(lambda cells: f"| {' | '.join(cells)} |")
BLOCKS = st.one_of(
    PARAGRAPHS,
    st.lists(st.tuples(BULLETS, PARAGRAPHS), min_size=1, max_size=3).map(
        lambda items: "\n".join(mark + text for mark, text in items)
    ),
    st.lists(PARAGRAPHS, min_size=1, max_size=4).map(
        lambda items: "\n".join(f"{number}. {text}" for number, text in enumerate(items, 1))
    ),
    st.lists(ROWS, min_size=1, max_size=2).map(
        lambda rows: "\n".join([rows[0], "|---|---|", *rows[1:]])
    ),
    st.sampled_from(
        [
            "```python\nx = 1. \n\nprint('A. B.')\n```",
            "~~~\nNo. Yes!\n~~~",
            "$$\na = 1.\n$$",
            "---",
            "🎉",
            "```\nnever closed. It ends",
        ]
    ),
)
TEXTS = st.builds(
    lambda lead, blocks, gap, tail, windows: (lead + gap.join(blocks) + tail).replace(
        "\n", "\r\n" if windows else "\n"
    ),
    st.sampled_from(["", " ", "\n\n", "\u3000"]),
    st.lists(BLOCKS, min_size=1, max_size=4),
    st.sampled_from(["\n\n", "\n", "\n\n\n", "\n \n"]),
    st.sampled_from(["", " ", "\n", "  \n"]),
    st.booleans(),
)


def true_rest(answer: str, cut: Cut) -> str:
    """What follows the given beginning in the true answer, to the end of the sentence."""
    end = len(cut.before + cut.lead + cut.sentence)
    assert answer.startswith(cut.prefix)
    return answer[len(cut.prefix) : end]


@settings(max_examples=200)
@given(TEXTS, st.integers(0, 9))
def test_if_every_completion_is_the_true_rest_rejected_is_chosen(text: str, seed: int) -> None:
    answer = text.strip()
    cuts = cut_sentences(answer, dataclasses.replace(NO_SWAP, seed=seed), ("x", 1))
    rests = ["" if cut.copied else true_rest(answer, cut) for cut in cuts]
    sentences = [join_completion(cut, rest) for cut, rest in zip(cuts, rests, strict=True)]
    assert join_sentences(cuts, sentences) == answer


@settings(max_examples=200)
@given(TEXTS, st.integers(0, 9))
def test_a_model_that_says_the_true_rest_is_cut_at_the_sentence_end(text: str, seed: int) -> None:
    """The same with completions that are cut out of all that follows, as in sampling."""
    answer = text.strip()
    language = guess_language(answer)
    cuts = cut_sentences(answer, dataclasses.replace(NO_SWAP, seed=seed), ("x", 1), language)
    sentences = []
    for cut in cuts:
        following = answer[len(cut.prefix) :]
        said = "" if cut.copied else first_sentence(following, cut.prefix, language)
        sentences.append(join_completion(cut, said))
    assert join_sentences(cuts, sentences) == answer


@given(TEXTS)
def test_units_make_the_sentence_and_each_holds_a_word(text: str) -> None:
    for cut in cut_sentences(text.strip(), NO_SWAP, ("x", 1)):
        units = cut_units(cut.sentence)
        assert "".join(units) == cut.sentence
        assert cut.copied or all(bare(unit) for unit in units)
        assert cut.kept == cut.kept.rstrip()
        assert cut.copied or len(cut.kept) < len(cut.sentence)


@pytest.mark.parametrize(
    ("sentence", "units"),
    [
        ("A red cup.", ["A", " red", " cup."]),
        ("a | b |", ["a |", " b |"]),
        ("“Go” – he said .", ["“Go” –", " he", " said ."]),
        ("¿Qué  hay?", ["¿Qué", "  hay?"]),
        ("一只狗，在睡。", ["一", "只", "狗，", "在", "睡。"]),
        ("它是iPhone 4.0版。", ["它", "是", "iPhone", " 4.0", "版。"]),
        ("ที่นี่มี", ["ที่", "นี่", "มี"]),
        ("មានឆ្កែ។", ["មា", "ន", "ឆ្កែ។"]),
        ("एक कुत्ता है।", ["एक", " कुत्ता", " है।"]),
        ("هل هذا كلب؟", ["هل", " هذا", " كلب؟"]),
        ("개가 잔다.", ["개가", " 잔다."]),
        ("Yes.", ["Yes."]),
    ],
)
def test_units(sentence: str, units: list[str]) -> None:
    assert cut_units(sentence) == units


def test_words_are_compared_without_punctuation_and_with_their_marks() -> None:
    assert words_of("It's a 3.5 m up-hill road, no?") == [
        "It's", "a", "3.5", "m", "up-hill", "road", "no"
    ]  # fmt: skip
    assert words_of("一只狗。") == ["一", "只", "狗"]
    assert words_of("की का") == ["की", "का"]


def test_cuts_fall_between_words_and_keep_true_context() -> None:
    kept: Counter[int] = Counter()
    for number in range(400):
        cuts = cut_sentences(ANSWER, HOW, (str(number), 1))
        assert [cut.sentence for cut in cuts] == [
            "This is a park.",
            "There is a red cup at the top left.",
            "There is a blue dog on the right.",
        ]
        for cut in cuts:
            assert ANSWER.startswith(cut.prefix)
            assert cut.kept != cut.sentence
        kept[len(cuts[1].kept.split())] += 1
    # Uniform over 0 to 8 words of the second sentence's nine.
    assert set(kept) == set(range(9))
    assert max(kept.values()) < 2 * 400 / 9


def test_a_cut_at_the_beginning_keeps_few_words() -> None:
    how = dataclasses.replace(HOW, cut="beginning", cut_words=2)
    words = {
        len(cut.kept.split())
        for number in range(100)
        for cut in cut_sentences(ANSWER, how, (str(number), 1))
    }
    assert words == {0, 1, 2}


def test_chinese_and_japanese_sentences_keep_a_beginning() -> None:
    for answer in ("桌子上有一只红色的杯子。", "ソファの上で犬が寝ています。"):
        kept = [cut_sentences(answer, HOW, (n, 1))[0].kept for n in range(100)]
        assert sum(map(bool, kept)) > 80
        assert len(set(kept)) > 5
        assert all(answer.startswith(one) for one in kept)


def test_yes_and_no_are_swapped_half_of_the_time_and_reach_the_model() -> None:
    for answer in ("Yes.", "No", "Yes, there is a dog here."):
        cuts = [cut_sentences(answer, HOW, (number, 1))[0] for number in range(600)]
        swapped = [cut for cut in cuts if cut.given != answer]
        assert 0.4 < len(swapped) / 600 < 0.6
        other = "Yes" if answer.startswith("No") else "No"
        assert all(cut.kept.startswith(other) for cut in swapped)
    assert {cut.kept for cut in cuts if cut.given == answer} > {"", "Yes,", "Yes, there"}
    kept = [cut_sentences("Yes it is.", NO_SWAP, (number, 1))[0].kept for number in range(50)]
    assert not any(text.startswith("No") for text in kept)


def test_a_swapped_word_keeps_the_full_stop_of_the_true_answer() -> None:
    cut = Cut("", "", "Yes.", "No.", "No")
    assert join_completion(cut, ".") == "No."
    assert join_completion(cut, "") == "No."
    assert join_completion(cut, ", there is none.") == "No, there is none."
    bare_word = Cut("", "", "yes", "no", "no")
    assert join_completion(bare_word, ".") == "no"


def test_every_iteration_cuts_anew() -> None:
    cuts = [[c.kept for c in cut_sentences(ANSWER, HOW, ("row", i))] for i in range(1, 5)]
    assert len({tuple(kept) for kept in cuts}) == 4


def test_a_completion_joins_what_was_kept() -> None:
    cut = Cut("", "", "There is a cup.", "There is a cup.", "There is")
    assert join_completion(cut, " a dog.") == "There is a dog."
    unguided = dataclasses.replace(cut, kept="")
    assert join_completion(unguided, " A dog.") == "A dog."
    assert join_completion(unguided, "\n\n1. A dog.") == "A dog."


def test_separators_are_those_of_the_true_answer() -> None:
    answer = "A cup stands\nthere.\n\n1. A dog.\n2. A cat.\n```\nx. y\n```\nEnd here."
    cuts = cut_sentences(answer, NO_SWAP, ("x", 1))
    assert [cut.lead for cut in cuts] == ["", "\n\n1. ", "\n2. ", "\n", "\n"]
    said = [" A bird.", " One bird.", "\n\nTwo birds.", "", "Three."]
    nothing_kept = [cut if cut.copied else dataclasses.replace(cut, kept="") for cut in cuts]
    sentences = [join_completion(c, text) for c, text in zip(nothing_kept, said, strict=True)]
    assert join_sentences(nothing_kept, sentences) == (
        "A bird.\n\n1. One bird.\n2. Two birds.\n```\nx. y\n```\nThree."
    )
    wrapped = dataclasses.replace(cuts[0], kept="A cup stands")
    assert join_completion(wrapped, " alone.") == "A cup stands\nalone."


def test_an_empty_completion_leaves_no_second_space() -> None:
    cuts = [
        Cut("", "", "A cup.", "A cup.", ""),
        Cut("A cup.", " ", "A dog.", "A dog.", ""),
        Cut("A cup. A dog.", "\n\n- ", "A cat.", "A cat.", "A"),
    ]
    assert join_sentences(cuts, ["A cup.", "", "A bird."]) == "A cup.\n\n- A bird."
    assert join_sentences(cuts, ["", "A dog.", "A"]) == "A dog.\n\n- A"
