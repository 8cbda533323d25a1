"""Yes and no at the beginning of an answer, by language."""

# ruff: noqa: RUF001 - words of other scripts are meant

from __future__ import annotations

import pytest

from veridical.data.text.languages import GUESSED, guess_language
from veridical.data.text.leading_yes_no import leading_yes_or_no, starts_with_yes_or_no, swap_yes_no


@pytest.mark.parametrize(
    ("sentence", "swapped"),
    [
        ("Yes, there is.", "No, there is."),
        (" no, it is not.", " yes, it is not."),
        ("\nNo.", "\nYes."),
        ("yes", "no"),
        ("YES", "NO"),
        ("NO, there is not.", "YES, there is not."),
    ],
)
def test_yes_and_no_are_swapped_with_their_case(sentence: str, swapped: str) -> None:
    assert starts_with_yes_or_no(sentence)
    assert swap_yes_no(sentence) == swapped
    assert swap_yes_no(swapped) == sentence


@pytest.mark.parametrize("sentence", ["Nothing.", "Now it rains.", "No-one.", "YESS", "A yes.", ""])
def test_other_sentences_stay(sentence: str) -> None:
    assert not starts_with_yes_or_no(sentence)
    assert swap_yes_no(sentence) == sentence


@pytest.mark.parametrize(
    ("language", "sentence", "swapped"),
    [
        ("de", "Ja, da ist ein Hund.", "Nein, da ist ein Hund."),
        ("de", "nein.", "ja."),
        ("de", "NEIN.", "JA."),
        ("es", "No, hay un gato.", "Sí, hay un gato."),
        ("it", "No.", "Sì."),
        ("fr", "Oui !", "Non !"),
        ("pt", "Não, é um gato.", "Sim, é um gato."),
        ("ru", "Нет, это кот.", "Да, это кот."),
        ("zh", "是的，有一只狗。", "不是的，有一只狗。"),
        ("zh", "没有。", "有。"),
        ("ja", "いいえ、猫です。", "はい、猫です。"),
        ("ko", "아니요, 고양이입니다.", "네, 고양이입니다."),
        ("hi", "नहीं।", "हाँ।"),
        ("ar", "نعم، هذا كلب.", "لا، هذا كلب."),
        ("tr", "Hayır.", "Evet."),
        ("en", "**Yes**, there is.", "**No**, there is."),
        ("en", '"No," it says.', '"Yes," it says.'),
        ("en", "(Yes)", "(No)"),
    ],
)
def test_every_language_has_its_own_words(language: str, sentence: str, swapped: str) -> None:
    assert swap_yes_no(sentence, language) == swapped
    assert swap_yes_no(swapped, language) == sentence
    words = {leading_yes_or_no(sentence, language), leading_yes_or_no(swapped, language)}
    assert words == {"yes", "no"}


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("pt", "No centro da imagem há um cachorro."),
        ("pt", "No entanto, há um gato."),
        ("es", "No hay ningún perro."),
        ("pl", "No, nie wiem."),
        ("pl", "Nie ma psa."),
        ("de", "No."),
        ("zh", "是一只狗。"),
        ("zh", "有一只狗。"),
        ("zh", "Yes。"),
        ("ka", "No."),
        ("en", "No. 5 is red."),
        ("en", "Yes/No"),
        ("en", "NO PARKING"),
        ("en", "No_one"),
    ],
)
def test_the_same_letters_may_mean_something_else(language: str, sentence: str) -> None:
    assert not starts_with_yes_or_no(sentence, language)
    assert swap_yes_no(sentence, language) == sentence


@pytest.mark.parametrize("language", GUESSED)
def test_a_swap_is_undone_by_another_in_every_language(language: str) -> None:
    sentence = swap_yes_no("Yes.", language)
    assert swap_yes_no(swap_yes_no(sentence, language), language) == sentence


def test_the_language_of_one_word_is_that_of_the_question() -> None:
    assert guess_language("No.", "¿Hay un perro en la foto?") == "es"
    assert guess_language("Ja.", "Ist auf dem Bild ein Hund zu sehen?") == "de"
    assert guess_language("一只狗。", "What is this?") == "zh"
    assert guess_language("No.") == guess_language("No.", "") == "en"
