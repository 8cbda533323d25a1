"""Sentences: nothing lost, nothing torn, and no end declared before it is certain."""

# ruff: noqa: RUF001 - typographic quotes and full-width stops are meant

from __future__ import annotations

import itertools
import math
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veridical.data.text.languages import guess_language
from veridical.data.text.sentences import (
    ends_sentence,
    find_sentences,
    first_sentence,
    split_sentences,
)

# Of each text the pieces, white space in front of them included.
CASES: dict[str, list[str]] = {
    # English
    "plain": ["A red cup.", " It stands on a table."],
    "decimal": ["It is 3.5 cm wide.", " It costs $2.99 today."],
    "number at the end": ["There are 3.", " They are red."],
    "title": ["Dr. Smith and Mrs. Jones sit.", " They read."],
    "latin": ["Some fruit, e.g. apples, lie there.", " I.e. food is there."],
    "initials inside": ["The U.S. Army truck is green.", " It is parked."],
    "initials at the end": ["It was made in the U.S.", " The car is old."],
    "name": ["A poster of J. Smith hangs there.", " It is torn."],
    "saint": ["A view of St. Louis.", " He is on Main St.", " The sun shines."],
    "etc inside": ["Cups, plates, etc. are there.", " Nobody eats."],
    "time": ["It is 5 p.m. in the picture.", " The sun sets."],
    "ellipsis inside": ["He waits... and waits.", " Then he goes."],
    "ellipsis sign inside": ["He waits… and waits.", " Then he goes."],
    "three dots at the end": ["He waits...", " Then he goes."],
    "speech": ['"Stop!" says the sign.', ' "Go."', " It is old."],
    "quotation at the end": ['The sign says "stop."', " The car waits."],
    "typographic quotation": ["The sign says “Go.”", " The car drives."],
    "bracket": ["A cup (red) stands there.", " It is full."],
    "question": ["Is it red?", " Yes!", " It is."],
    "two marks": ["Is it real?!", " Nobody knows."],
    "yes": ["Yes, there is a dog.", " It sleeps."],
    "no": ["No.", " There is no dog."],
    "numbered": ["Bus No. 5 waits.", " Fig. 2 shows it."],
    "letter": ["It is plan B.", " The dog sits."],
    "I": ["So do I.", " He laughs."],
    "small letters": ["a red ball.", " a blue cup."],
    "web": ["See https://example.com/a.html?x=1 for more.", " Bye."],
    "mail and file": ["Write to a.b@example.com about photo.jpg today.", " Bye."],
    "version": ["It runs version 2.0.1 of it.", " Good."],
    "emoji": ["Great cake 🎂!", " They laugh 😀.", " The end."],
    "emoji between": ["Great!", " 🎉 Next one.", " Last."],
    "one word": ["Yes."],
    "no stop": ["a dog on a sofa"],
    # layout
    "list": ["I see:", "\n1. a cup", "\n2. a ball."],
    "list with stops": ["1. A cup.", "\n2. A ball."],
    "list of two sentences": ["1. A cup.", " It is red.", "\n2. A ball."],
    "lettered list": ["a. A cup.", "\nb. A ball."],
    "bullets": ["There are:", "\n- a cup", "\n- two dogs", "\n\nThat is all."],
    "nested bullets": ["* Animals", "\n  * a dog.", " It sleeps.", "\n  * a cat"],
    "dots as bullets": ["• A cup.", "\n• A dog."],
    "heading": ["# Summary", "\n\nA dog sleeps"],
    "wrapped line": ["A cup stands\non the table.", "\n\nA dog sleeps."],
    "paragraphs": ["A cup.", " A dog.", "\n\nA cat.", "\n\n\nA tree."],
    "Windows line ends": ["A cup.", "\r\nA dog.", "\r\n\r\n- a cat", "\r\n- a tree"],
    "quoted": ["> A cup.", " It is red.", "\n> A dog."],
    "table": ["| a. B | c! |", "\n|---|---|", "\n| 1. 2 | yes. No |"],
    "fence": ["Here:", "\n```python\nx = 1. \n\nprint('A. B.')\n```", "\nDone.", " Good."],
    "tilde fence": ["~~~\nA. B.\n```\nC. D.\n~~~", "\nDone."],
    "open fence": ["Here:", "\n```\nA. B.\nC! D"],
    "indented behind a fence": ["Intro.", "\n\n```\nx\n```", "\n    A dog.", " B is red."],
    "wide spaces": ["一只狗。", "\n\n　　　　它在睡觉！", "真的吗？"],
    "formula": ["So:", "\n$$\na = 1. B\n$$", "\nIt holds."],
    "inline code": ["Call `a. B. c` first.", " Then stop."],
    "code by its indentation": ["Do.", "\n\n    x = a. B", "\n\n    C! D.", "\n\nDone.", " Good."],
    "code by a tab": ["Do so:", "\n\n\tx = a. B", "\n\tprint('C. D')", "\nDone.", " Good."],
    "paragraph of an item": ["- A cup.", "\n\n    It is red.", " Yes.", "\n\n- A dog."],
    "inline formula": ["Let $a. B$ be given.", " Then $x$ is.", " Stop."],
    "inline formula in brackets": [r"The part \(a. B\) is it.", " Then stop."],
    "money": ["It costs $5.", " The other costs $6.", " Both are red."],
    "money behind": ["It costs 5$.", " The other 6$.", " Both are red."],
    "variable of a shell": ["Set $HOME first.", " Then run it.", " Then stop."],
    "rule": ["A cup.", "\n\n---", "\n\nA dog."],
    "spaces": ["  A cup.", "   A ball.  \n"],
    "bold": ["**Yes.**", " There is a dog.", " *It sleeps.*", " Really."],
    "bold before": ["A dog.", " **Cat:** it sleeps.", " ~~No.~~", " Yes."],
    "several sentences quoted": ["He said: “Is it red? Yes. It is.”", " Then he left."],
    # other languages in Latin, Greek and Cyrillic script
    "German abbreviations": ["Auf dem Tisch liegt Obst, z. B. Äpfel.", " Das ist u. a. gut."],
    "German date": ["Das Foto wurde am 3. Mai gemacht.", " Der Himmel ist blau."],
    "German ordinals": ["Der 2. Weltkrieg war vorbei.", " Im 3. Stock brennt Licht."],
    "German count": ["Hier stehen 3.", " Sie sind rot."],
    "Turkish ordinal": ["Evin 3. katta bir penceresi var.", " Açık."],
    "German quotation": ["Er sagt: „Halt.“", " Sie geht weiter.", " Es regnet."],
    "German title": ["Hier stehen Dr. Müller und Frau Prof. Schmidt.", " Sie lachen."],
    "German ca": ["Das Brett ist ca. 5 m lang bzw. breit.", " Es ist aus Holz."],
    "German enumeration": [
        "Es gibt Tassen, Teller usw. hier.",
        " Auch Gabeln usw.",
        " Alles ist da.",
    ],
    "German numbers and months": ["Der Hund schläft.", " 5 Leute gehen.", " Mai ist es."],
    "Czech number": ["Na fotce je velký pes.", " 5 lidí jde kolem."],
    "Spanish titles": ["El Sr. García está aquí con la Sra. López.", " Ellos comen."],
    "Spanish questions": ["¿Qué hay en la foto?", " ¡Un perro grande!", " Está durmiendo."],
    "French": ["Le chien regarde M. Dupont.", " Mme Martin est assise !", " Est-ce un chat ?"],
    "French with stops": ["Mme. Martin est assise à côté de M. Dupont.", " Ils rient."],
    "French year": ["Platon est mort en 347 av. J.-C. à Athènes.", " Il était vieux."],
    "French enumeration": ["Des pommes, des poires, etc.", " Le chien dort sur le canapé."],
    "Portuguese street": ["A Sra. Lima e o Prof. Souza estão na Av. Paulista.", " Chove muito."],
    "Portuguese example": ["Há muitas frutas, p. ex. maçãs, na mesa.", " O cão está dormindo."],
    "Portuguese": ["O Sr. Silva está na praia com a Dra. Costa.", " Eles sorriem."],
    "Italian": ["Il sig. Rossi è seduto sulla panchina.", " Accanto c'è un cane."],
    "Dutch": ["Er liggt fruit, bijv. appels, op de tafel.", " De hond slaapt."],
    "Polish": ["Na stole leży owoc, np. jabłko.", " Pies śpi na kanapie."],
    "Russian": ["На столе лежат фрукты, т.е. яблоки.", " Собака спит."],
    "Russian with a gap": ["На столе лежат фрукты, т. е. яблоки.", " Собака спит."],
    "Russian that is": ["Здесь лежит главный фрукт, т. е. Яблоко.", " Собака спит."],
    "Russian year": ["Фото сделано в 1905 г. в Москве.", " Снято в 1906 г.", " Небо синее."],
    "Russian city": ["На фото г. Москва, дом на ул. Ленина.", " Идёт дождь."],
    "Russian enumeration": ["Яблоки и т. д. лежат здесь.", " Ещё груши и т. д.", " Собака спит."],
    "Russian rice": ["На тарелке лежит рис.", " Рядом стоит стакан воды."],
    "Russian them": ["Мальчик помогает им.", " Они рады этому."],
    "Ukrainian rice": ["На тарілці лежить рис.", " Поруч стоїть склянка води."],
    "Vietnamese city": ["Bức ảnh chụp ở TP. HCM vào ban đêm.", " Đường rất đông người."],
    "Vietnamese titles": ["Ở đây TS. Nguyễn và PGS. Trần đang nói.", " Ông ấy cười."],
    "Vietnamese enumeration": ["Có táo, cam, v.v. trên bàn.", " Con chó đang ngủ."],
    "Greek question": ["Τι υπάρχει στην εικόνα;", " Ένας σκύλος κοιμάται."],
    # quantities, degrees, and abbreviations that the library does not know
    "degree at the end": ["He has a Ph.D.", " She left.", " Tom Hill, Ph.D.", " He left."],
    "degree before a name": ["We see Ph.D. John.", " He waves."],
    "approximately": ["At approx. 3 ft. from the wall stands Ms. Hill.", " She is tall."],
    "Russian quantities": ["Длина 5 см.", " Она ушла.", " Цена 100 руб.", " Это дорого."],
    "Russian meters": ["Рост дерева 5 м.", " Дом большой."],
    "Ukrainian quantities": ["Довжина 5 см.", " Вона пішла.", " Ціна 100 грн.", " Це дорого."],
    "Spanish quantity": ["Mide 5 cm.", " Ella se fue de la casa."],
    "Italian quantity": ["Il muro è alto 5 m.", " Lei dorme sul divano."],
    "Danish quantity": ["Der er ca. 5 m. til huset.", " Muren er 5 m.", " Hun sover."],
    "Greek quantity": ["Το μήκος είναι 5 εκ.", " Αυτή έφυγε."],
    "Arabic quantities": ["طوله 5 سم.", " هي خرجت.", " الساعة 5 م.", " الشمس مشرقة."],
    "Arabic year in digits": ["بني سنة 1950 م. في المدينة المنورة.", " انتهى الأمر."],
    "Hebrew quantity": ['הגובה 5 ס"מ.', " היא הלכה הביתה."],
    "Hindi quantity": ["यह 5 कि.मी. दूर है।", " वह सो रहा है।"],
    "Hindi with full stops": ["यह एक चित्र.", " वह सो रहा है.", " बच्चा खुश है."],
    "Telugu": ["ఇది ఒక కుక్క.", " అది నిద్రపోతోంది."],
    "Kannada": ["ಇದು ಒಂದು ಹಕ್ಕಿ.", " ಅದು ಮಲಗಿದೆ."],
    "German price": ["Das kostet ca. 5 Euro inkl. MwSt. heute.", " Es ist teuer."],
    "German life": ["Johann Sebastian Bach, geb. 1685, sitzt hier.", " Er spielt."],
    "Dutch titles": ["Dhr. de Vries en mevr. Jansen zitten op de bank.", " Ze lachen."],
    "Swedish abbreviation": ["Det finns t.ex. äpplen på bordet.", " De är röda."],
    "Norwegian abbreviation": ["Det er f.eks. epler på bordet, jf. bildet.", " De er røde."],
    "Hungarian enumeration": ["Az asztalon alma, körte stb. van.", " A kutya alszik."],
    "Turkish and others": ["Masada elma, armut vb. meyveler var.", " Köpek uyuyor."],
    "Polish abbreviations": ["Na stole leżą owoce, m.in. jabłka.", " Obok stoi ks. Nowak."],
    "Romanian others": ["Pe masă sunt mere, pere ş.a. fructe.", " Câinele doarme."],
    "French doctor": ["Le chien regarde le Dr. Martin et le Prof. Durand.", " Elle rit."],
    "Portuguese about": ["O muro tem aprox. 5 metros de altura.", " O cão está dormindo."],
    # other scripts
    "Chinese": ["一只狗。", "它在睡觉！", "真的吗？", "是的。"],
    "Chinese quotation": ["他说：“走吧。”", "然后他走了。"],
    "Chinese bold": ["**是的。**", "有一只狗。", "**黑色的。**"],
    "Chinese title": ["他在读《红楼梦。》", "她走了。"],
    "Chinese list": ["图中有：", "\n1、一只狗", "\n2、一只猫。"],
    "Chinese paragraphs": ["一只狗。", "\n\n它在睡觉。"],
    "Chinese with numbers": ["桌子长3.5米，宽1.2米。", "它是iPhone 4.0版。"],
    "Japanese": ["犬がいます。", "ソファの上で寝ています。"],
    "Japanese quotation": ["看板に「止まれ。」", "と書いてあります。"],
    "Korean": ["개가 소파에서 자고 있습니다.", " 고양이는 없습니다."],
    "Hindi": ["एक कुत्ता सोफे पर है।", " वह सो रहा है।", " क्या वह काला है?"],
    "Bengali": ["একটি কুকুর আছে।", " এটি ঘুমাচ্ছে।"],
    "Arabic": ["هل هذا كلب؟", " نعم، هذا كلب.", " إنه نائم!"],
    "Arabic titles": ["وصل د. أحمد إلى المكتب مع أ. محمود.", " هو يبتسم."],
    "Arabic year": ["توفي سنة 11 هـ. في المدينة المنورة.", " انتهى الأمر."],
    "Hindi title": ["यहाँ डॉ. शर्मा बैठे हैं।", " वह हँस रहे हैं।"],
    "Urdu": ["یہ ایک کتا ہے۔", " وہ سو رہا ہے۔"],
    "Persian": ["آیا این سگ است؟", " بله، این یک سگ است."],
    "Hebrew": ["זה כלב גדול.", " הוא ישן על הספה."],
    "Armenian": ["Սա շուն է։", " Նա քնած է։"],
    "Amharic": ["ይህ ውሻ ነው።", " ተኝቷል።"],
    "Thai": ["มีสุนัขตัวหนึ่งกำลังนอนหลับอยู่บนโซฟา"],
    "Thai year": ["ภาพนี้ถ่ายในปี พ.ศ. 2560 ที่กรุงเทพ"],
    "Khmer": ["មានឆ្កែមួយ។", " វាកំពុងដេក។"],
    "Burmese": ["ခွေးတစ်ကောင်ရှိသည်။", " အိပ်နေသည်။"],
}


@pytest.mark.parametrize("sentences", CASES.values(), ids=CASES.keys())
def test_split_tears_nothing_and_loses_nothing(sentences: list[str]) -> None:
    text = "".join(sentences)
    found = split_sentences(text)
    assert "".join(found) == text
    assert found == sentences


def test_what_stands_before_a_sentence_never_ends_in_a_space() -> None:
    text = "One cup.  Two  balls!\n\n 3. Three? Yes. \t No… Done. "
    sentences = split_sentences(text)
    for number in range(1, len(sentences)):
        before = "".join(sentences[:number])
        assert before == before.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        "A cup on a table.",
        "Is it red?",
        "Yes!",
        "Yes.",
        "the answer is yes.",
        "- A red cup.",
        "एक कुत्ता है।",
        "هل هذا كلب؟",
        "មានឆ្កែមួយ។",
        "他说：“走吧。”",
        "A cup (red).",
        "There are 3. They ",
        "A cup\n\n",
        "A cup\nThe",
        "一只狗。",
        "It is 3.5 cm wide.",
    ],
)
def test_certain_ends(text: str) -> None:
    assert ends_sentence(text + " ")


@pytest.mark.parametrize(
    "text",
    [
        "是！", "Yes!", "Yes?", "Well.", "'No.", "'No. It is not.", "A cup.", "一只狗。", "हाँ।",
        "Yes!!",
    ],
)  # fmt: skip
def test_right_behind_a_stop_another_may_come(text: str) -> None:
    assert not ends_sentence(text)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("TP. Hồ Chí Minh", "en"),
        ("TP. Hồ Chí Minh rất đẹp.", "vi"),
        ("We see Ph.D. John.", "en"),
        ("Das ist Ph. D. John.", "de"),
    ],
)
def test_titles_of_any_language_end_no_sentence(text: str, language: str) -> None:
    assert split_sentences(text, language) == [text]
    assert not any(ends_sentence(text[:n], "", language) for n in range(len(text)))


STOPS = st.sampled_from([".", "!", "?", "..", "...", "!!", "?!", "！？", "。", "！", "।", "؟", "…"])
SAID = st.sampled_from(["Yes", "It is a dog", "a red cup", "这是狗", "No", "Well", "It's 3 cm"])
QUOTES = st.sampled_from(["{}", "{}", "{}", '"{}"', "'{}'", "“{}”", "‘{}’", "({})", "「{}」"])
QUOTED = st.tuples(QUOTES, SAID, STOPS).map(lambda parts: parts[0].format(parts[1] + parts[2]))


@given(st.lists(QUOTED, min_size=1, max_size=4).map(" ".join))
def test_a_text_by_the_letter_has_the_first_sentence_of_the_whole(text: str) -> None:
    stop = next((n for n in range(len(text)) if ends_sentence(text[:n], "", "en")), None)
    assert first_sentence(text[:stop], "", "en") == first_sentence(text, "", "en")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A cup",
        "There are about 3.",
        "Dr.",
        "A photo of Dr.",
        "cups, e.g.",
        "made in the U.S.",
        "cups, etc.",
        "1.",
        "He waits...",
        "He waits…",
        'He says "stop.',
        "A cup (it is red.",
        'The "why?"',
        "Bus No.",
        "A cup\n",
        "plan B.",
        "No.",
        "So do I.",
        'The sign says "stop."',
        "他说：“走吧。",
        "看板に「止まれ。",
        "See example.com.",
        "- ",
        "1. ",
        "```python\nx = 1.\n\nprint(x)",
        "| a. | b. |",
        "\n\n",
    ],
)
def test_no_end_is_declared_while_more_may_come(text: str) -> None:
    assert not ends_sentence(text)


def test_a_given_beginning_counts_as_context_and_not_as_an_end() -> None:
    assert not ends_sentence("", before="A whole sentence.")
    assert not ends_sentence(".", before="It is 3")
    assert not ends_sentence("5 cm", before="It is 3.")
    assert not ends_sentence(".", before="We see Dr")
    assert ends_sentence(" table. ", before="A cup on the")
    assert first_sentence(". Smith waves. He", before="We see Dr") == ". Smith waves."
    assert first_sentence(" A dog. A cat.", before="A cup.") == " A dog."


def test_first_sentence_keeps_its_stop_and_drops_the_rest() -> None:
    assert first_sentence(" a red cup. It stands.") == " a red cup."
    assert first_sentence(" 3.5 cm wide. Really.") == " 3.5 cm wide."
    assert first_sentence("no stop at all ") == "no stop at all"
    assert first_sentence(' "stop." The car') == ' "stop."'
    assert first_sentence("") == ""


def test_generation_character_by_character_stops_at_the_same_place_as_the_cut() -> None:
    text = ' the U.S. flag, 3.5 m wide, e.g. "a flag." It waves. A man is there.'
    for length in range(1, len(text) + 1):
        if ends_sentence(text[:length]):
            break
    assert first_sentence(text[:length]) == ' the U.S. flag, 3.5 m wide, e.g. "a flag."'
    assert first_sentence(text[:length]) == first_sentence(text)


@pytest.mark.parametrize("sentences", CASES.values(), ids=CASES.keys())
def test_generation_letter_by_letter_finds_the_ends_of_the_whole_text(
    sentences: list[str],
) -> None:
    """Whatever is given of a sentence, generating the true text stops, and is cut, at its end."""
    text = "".join(sentences)
    language = guess_language(text)
    for sentence in find_sentences(text, language):
        if sentence.copied:
            continue
        for begin in range(sentence.body, sentence.end):
            before, rest = text[:begin].rstrip(), text[len(text[:begin].rstrip()) :]
            # Tokenizers join a full stop and the letters right behind it, as in ".jpg".
            stops = (m.end() for m in re.finditer(r"\w|\s|[^\w\s]+\w?", rest))
            stop = next((n for n in stops if ends_sentence(rest[:n], before, language)), None)
            assert before + first_sentence(rest[:stop], before, language) == text[: sentence.end]


@pytest.mark.parametrize("following", [" Mai ist es.", " 5 Leute gehen.", " Er ist braun."])
def test_a_completion_that_is_a_full_stop_ends_there_in_german(following: str) -> None:
    completion = "." + following
    stop = next(
        n for n in range(len(completion)) if ends_sentence(completion[:n], "Der Hund", "de")
    )
    assert stop <= len(". Mai is")
    assert first_sentence(completion[:stop], "Der Hund", "de") == "."
    assert first_sentence(". Mai ist es. Ja.", "Das war am 3", "de") == ". Mai ist es."


def test_a_quotation_that_is_never_closed_is_given_up() -> None:
    """Else a sign of inches would let the model talk to its limit."""
    text = 'It is 5" wide. ' + "It is red. " * 8
    stop = next(n for n in range(len(text)) if ends_sentence(text[:n]))
    assert stop < 80
    assert first_sentence(text[:stop]) == 'It is 5" wide.'


def test_code_rules_and_marks_are_copied() -> None:
    text = "# A\n\n---\n- b c\n```\nx = 1. \n```\n| a | b |\n|---|---|\n🎉"
    found = [(text[s.body : s.end], s.copied) for s in find_sentences(text)]
    assert found == [
        ("A", False),
        ("---", True),
        ("b c", False),
        ("```\nx = 1. \n```", True),
        ("a | b |", False),
        ("|---|---|", True),
        ("🎉", True),
    ]


ALPHABET = st.sampled_from(
    [*"aB1.!?。！「」”।؟។`*-|#>~$( )\n\r\t…é狗ก🙂", "```", "\n\n", "Dr. ", "z. B. "]
)


@given(st.lists(ALPHABET, max_size=40).map("".join), st.integers(0, 60))
def test_any_text_comes_apart_and_together(text: str, at: int) -> None:
    found = split_sentences(text)
    assert "".join(found) == text
    sentences = find_sentences(text)
    assert all(s.start <= s.body < s.end for s in sentences)
    assert not "".join(text[a.end : b.start] for a, b in itertools.pairwise(sentences)).strip()
    before, rest = text[:at], text[at:]
    assert rest.startswith(first_sentence(rest, before))
    ends_sentence(rest, before)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("There is a dog on the sofa.", "en"),
        ("Yes.", "en"),
        ("Pizza", "en"),
        ("", "en"),
        ("Das ist ein Hund.", "de"),
        ("Hay un perro en el sofá.", "es"),
        ("一只狗在睡觉。", "zh"),
        ("犬が寝ています。", "ja"),
        ("एक कुत्ता है।", "hi"),
    ],
)
def test_languages_are_guessed_and_short_texts_are_english(text: str, language: str) -> None:
    assert guess_language(text) == language


LONG = {
    "sentences": "A red cup stands there. ",
    "formulas": "Here $x+y$ is. ",
    "money": "A $cup is. ",
    "code": "Here `a.b` is. ",
    "emphasis": "**Yes.** So ",
    "open emphasis": "**Yes. So ",
    "quotations": '"Hi." So ',
    "bullets": "- \n",
    "numbers": "1. 2. ",
    "signs": "!!! ",
    "lines": "A cup.\n",
    "ordinals": "am 3. Mai war der 4. ",
    "rows": "| a. b |\n",
    "Chinese": "你好。",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("language", ["en", "de"])
def test_time_grows_with_the_length_of_a_text(kind: str, language: str) -> None:
    """Eight times the text in about eight times the time: with the square it would be 64.

    A busy machine only adds to a time, so the least of a few is what counts.
    """

    def seconds(count: int, number: int) -> float:
        text = LONG[kind] * count + "x" * number  # not what is remembered
        began = time.thread_time()
        split_sentences(text, language)
        return time.thread_time() - began

    few = many = math.inf
    for number in range(10):
        few, many = min(few, seconds(3_000, number)), min(many, seconds(24_000, number))
        if number and many < 24 * max(few, 0.002):
            return
    raise AssertionError(f"{few:.4f} s became {many:.4f} s")


def test_a_long_line_is_split_like_its_parts() -> None:
    for unit in ("A red cup, e.g. a mug, stands there. ", "你好。", "Dr. Smith paid $2.99. "):
        few = split_sentences(unit * 40)
        many = split_sentences(unit * 4_000)
        assert "".join(many) == unit * 4_000
        assert len(many) == 100 * len(few)
        assert set(many[:-1]) == set(few[:-1])
