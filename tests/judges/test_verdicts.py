"""Replies of judges in many wordings, and which response each of them prefers."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from veridical.judges.criterion import NAMES
from veridical.judges.prompts import UnreadableError
from veridical.judges.verdicts import read_choice

FIRST = [
    "Response 1\n\nResponse 2 is mistaken about the color.",
    "Response 1\n\nThe second one is mistaken: it needs a correction of the color.",
    "Response 1\n\nThe dog looks the other way, which only this one says.",
    '{"reason": "Response 2 is better at naming things", "winner": "Response 1"}',
    '```json\n{"winner": "Response 1", "reason": "Response 2 wins on style."}\n```',
    "Response 1",
    "response 1.",
    "RESPONSE 1!",
    "**Response 1**",
    "`Response 1`",
    "> Response 1",
    "[[Response 1]]",
    "\u201cResponse 1\u201d",
    "Response 1\n\nIt names the dog.",
    "**Response 1**\n\nIt does not invent anything, unlike Response 2.",
    "Response 1 is better.",
    "Response 1 is the better one.",
    "Response 1 wins.",
    "Response 1 is the winner because it has no errors.",
    "Response 2 invents a dog. Response 1 is better, because it does not.",
    "I prefer Response 1 over Response 2 since it sees the dog, the cat and the bus.",
    "Response 1 beats Response 2.",
    "Response 1 is superior to Response 2.",
    "I prefer Response 1 over Response 2.",
    "I would choose Response 1.",
    "I'd pick Response 1 here.",
    "The better response is Response 1.",
    "Between the two, Response 1 is better.",
    "Response 2 names a dog. However, Response 1 is better.",
    "Response 2 is more detailed. Response 1 is better.",
    "Response 2 is not better. Response 1 is better.",
    "Is Response 2 better? No. Response 1 is better.",
    "Answer: Response 1",
    "Answer: Response 1.",
    "**Answer:** Response 1",
    "Answer:\nResponse 1",
    "Final answer: Response 1",
    "My final verdict: **Response 1**",
    "Verdict - Response 1",
    "The winner is: Response 1",
    "The verdict is Response 1.",
    "Better: Response 1",
    "<answer>Response 1</answer>",
    "\\boxed{Response 1}",
    '{"better": "Response 1", "reason": "it is right"}',
    "Response 2 is better at first sight.\nAnswer: Response 1",
    "Response 2 is better at colors. Final answer: Response 1",
    "Accuracy: Response 2\nHelpfulness: Response 2\nOverall: Response 1",
    "Accuracy: Response 2 is better.\nUse: Response 1 is better.\nOverall, Response 1 wins.",
    "In terms of accuracy, Response 2 is better. Overall, Response 1 is better.",
    "On accuracy, Response 2 wins. On length, Response 2 wins. On balance, Response 1 wins.",
    "Response 1: It sees the dog.\nResponse 2: It sees a cat.\nVerdict: Response 1",
    "<think>Response 2 is better.</think>Response 1",
    "<think>\nResponse 2 looks better.\n</think>\n\nResponse 1 is better.",
    "Response 2 is better, I thought.\n</think>\nResponse 1",
    "[THINK]Response 2 is better.[/THINK]Response 1",
    "<reasoning>Response 2 wins.</reasoning>\nResponse 1",
    "<thinking>Answer: Response 2</thinking>\nResponse 1 is better.",
    "I looked at both.\n\nResponse 1",
    "Response 2 sees a cat.\nWinner: Response 1\nIt sees the dog.",
    "The preferred response is Response 1.",
    "Let us see. Both name the dog. Response 2 adds a hat. So Response 1 is better.",
]

FIRST += [
    "Response 1\n\nResponse 2 says that there are four cups. The image shows three.",
    "Response 1\n\nAnswer 2 invents the cup.",
    "Response 1\n\nThe second answer makes some of the cups up.",
    "Response 1\n\nResponse 1 identifies the red cup on the table accurately, while Response 2 "
    "incorrectly states that it is blue.",
    "Response 1\n\nBoth responses describe the park well. However, Response 2 adds a bicycle that "
    "is not present. Response 1 does not contain such hallucinations, making it more reliable.",
    "Response 1\n\nWhile Response 2 is more detailed, it contains several inaccuracies, such as "
    "the number of people. Response 1 is shorter but correct.",
    "Response 1\n\nResponse 1 has one minor error (the color of the bus), but Response 2 "
    "hallucinates three objects.",
    "**Response 1**\n\n**Reasoning:** Response 1 is better because it names all objects. Response "
    "2 misses the cat.",
    "Response 1\n\n---\n\nRationale: The first one is grounded. The second one invents a kite.",
    "Response 1\n\nResponse 2 mentions a dog that isn't visible in the image.",
    "| | Response 1 | Response 2 |\n|---|---|---|\n| Detail | 3 | 5 |\n\n**Winner: Response 1**",
    "| Criterion | Winner |\n|---|---|\n| Detail | Response 2 |\n\nOverall: Response 1",
    '```json\n{"analysis": "Response 2 hallucinates.", "winner": "Response 1", "sure": 0.8}\n```',
    '{"worse_response": "Response 2", "better_response": "Response 1"}',
    "<think>\nResponse 2 says dog. The image shows a cat.\n</think>\nResponse 1\n\nThe image shows "
    "a cat, which Response 1 names correctly; Response 2 wrongly calls it a dog.",
    "Worse response: Response 2\nBetter response: Response 1",
    "Better response: Response 1\nWorse response: Response 2",
]

TIES = [
    "It's a tie.",
    "Tie",
    "**Tie**\nBoth are right.",
    "A tie.",
    "Answer: Tie",
    "<think>Response 1 is better.</think>Tie",
    "Response 1 is more accurate. Response 2 is more helpful. Overall: Tie",
]

UNREAD = [
    "",
    "I cannot tell.",
    "Response 10 is better.",
    "Response 1.5 is better.",
    "Response 1 has more hallucinations than Response 2.",
    "Response 1 wins with three hallucinations.",
    "Response 1 wins the prize for the most invented objects.",
    "Response 1 is better at inventing things.",
    "Response 1 is the winner, with three errors.",
    "Response 1 is worse than Response 2.",
    "Response 1 is not better.",
    "Response 1 is hardly the best.",
    "Response 1 is anything but better.",
    "I don\u2019t think Response 1 is better.",
    "It would be wrong to prefer Response 1.",
    "Nobody would prefer Response 1.",
    "If Response 1 had seen the dog, Response 1 would be better.",
    "Some might say that Response 1 is better.",
    "Is Response 1 better?",
    "Response 1?",
    "Response 1 or Response 2?",
    "Response 1 / Response 2",
    "Response 1, Response 2",
    "Response 1 and Response 2",
    "Response 1 and Response 2 are equally good.",
    "Neither Response 1 nor Response 2 is better.",
    "Response 1: A dog.\nResponse 2: A cat.\nThe second is better.",
    "Response 1\nIt sees a dog.\n\nResponse 2\nIt sees a cat.",
    "Response 1 is more accurate. Response 2 is more helpful.",
    "Response 1 is more accurate, but Response 2 is more helpful.",
    "Accuracy: Response 1 is better.\nHelpfulness: Response 2 is better.",
    "On accuracy, Response 1 is better. On style, Response 2 is better.",
    "Response 1 is better written, but it invents a dog.",
    "Response 1 looks better, but it invents a dog.",
    "Response 1 is better. Response 2 is better.",
    "Response 1. No, wait, Response 2 is better.",
    "Answer: Response 1\nAnswer: Response 2",
    "Answer: Response 1 or Response 2",
    "Answer: not Response 1",
    "Tie-breaker needed: both name a dog.",
    "Tie. But Response 2 is better.",
    "<think>Response 1 is better.</think>",
    "<think>Response 1 is better. But",
    "<reasoning>Response 1 is better.",
    "Accuracy: Response 1",
    "Response 1 wins hands down: three invented objects!",
    "Response 1 is better, except that it invents a dog.",
    "Response 1 is better described as a hallucination.",
    "Response 1 had better not be chosen.",
    "Response 1 would win if it were right.",
    "Response 1 (better grammar) is less faithful than the second one.",
    "In the end, Response 1, which is longer, is the lesser one.",
    "Response 1, which is longer, loses.",
    "Response 1, because it invents a dog.",
    "Response 1 wins, said nobody.",
    "Response 1 wins the award for fiction.",
    "The best thing about Response 1 is its length.",
    "What Response 1 does best is guessing.",
    "Response 1 should be more accurate.",
    "Response 1 needs to be more accurate.",
    "Response 1 tries to be better by adding a cat.",
    "Response 1 is better avoided.",
    "Response 1 was my first pick.",
    "I was going to pick Response 1.",
    "I used to prefer Response 1.",
    "It is a stretch to call Response 1 better.",
    "Answer: Response 1. Correction: Response 2",
    "Response 1\n\nCorrection: it is worse.",
    "Response 1\n\nI was mistaken about the color.",
    "Response 1\n\nOn a second look I'm mistaken.",
    "Response 1\n\nNo, it is the other way around.",
    "Response 1\n\nIn fact the other way round.",
    "Response 1, not being grounded, loses.",
    "Response 1, unlike Response 2, adds things.",
    "Response 1, in short, is bad.",
    "Response 1. This one is worse.",
    "Response 1. But Response 2 is more accurate.",
    "Response 1! Just kidding, Response 2.",
    "Response 1 overall is worse.",
    "Response 1 over-describes.",
    "If you ignore the picture, Response 1 wins.",
    "Response 1 is better because it is longer, but Response 2 is right.",
    "Response 1 wins because some like fiction; however, it is wrong.",
    "Response 1 is better because it is right.\nResponse 2 is better because it is right.",
    "Pick Response 1 for fantasy, Response 2 for facts.",
    "On reflection, Response 1 is better.",
    "Response 1 because the other does not see the dog",
    "Response 1, because it sees the dog.",
    "Response 1 - it sees the dog.",
    "Response 1 \u2014 the other one invents a cat.",
    "Response 1 (fewer hallucinations)",
    "Response 1 is better than Response 2: both see the dog, but the second adds a cat.",
    "Response 1 wins with fewer hallucinations.",
    "The best answer is **Response 1**, since it is right.",
    "Compared to Response 2, Response 1 is better.",
    "Response 2 names a dog, but Response 1 is better.",
    "Although Response 2 is better written, Response 1 wins.",
    "While Response 2 is better at colors, Response 1 is better overall.",
    "1. Accuracy: Response 2\n2. Detail: Response 2\nFinal: Response 1",
    "Response 1 is better: Response 2 has three errors.",
    "Answer: Response 2\nNo, I read it once more.\nFinal answer: Response 1",
    "Response 2 is more helpful, but Response 1 is better overall.",
    "Response 2 is more accurate in its colors. All in all, Response 1.",
    "Response 1 is more accurate.",
    "Response 1 is more accurate and more helpful.",
    "Based on the image, Response 1 is more truthful.",
    "Tie. I find no difference.",
    "Verdict: a tie, since both are right.",
    "Response 1\ninvents a dog. Response 2 does not.",
    "Response 1\nInvents a dog. Response 2 does not.",
    "In conclusion, Response 1, unlike Response 2, invents things.",
    "Response 1 is preferred by careless readers.",
    "Response 1 is better for people who like fiction; Response 2 for those who like facts.",
    "The worse one is:\nResponse 1",
    "Which one invents more?\nResponse 1",
    "Worse: Response 1",
    "Better written: Response 1",
    "Winner: Response 1\nof the prize for fiction",
    "For careless readers:\nResponse 1 is better.",
    "For careless readers:\nWinner: Response 1",
    "Response 1 is better. At inventing things.",
    "### Response 1\nIt sees a dog.",
    '{"worse": "Response 1"}',
    '{"winner": "Response 1", "winner": "Response 2"}',
    '{"winner": "Response 1"}\nVerdict: Response 2',
    '{"winner": "Response 1 or Response 2"}',
]

CONTRADICTED = [
    "Response 1\n\nI'd trust Response 2 more.",
    "Response 1\n\nResponse 2 deserves the win.",
    "Response 1\n\nI would give a user Response 2, the most careful of both.",
    "Response 1\n\nAnswer 2 is the most careful one.",
    "Response 1\n\nDescription 2 is accurate.",
    "Response 1\n\n#2 is more careful.",
    "Response 1\n\nThe second one describes the scene as it is, the first one makes things up.",
    "Response 1\n\nR\u00e9ponse 2 est fid\u00e8le \u00e0 l'image, l'autre invente un chat.",
    "Response 1\n\nLa respuesta 2 es correcta y la 1 inventa un perro.",
    "Response 1\n\n\u56de\u7b541\u634f\u9020\u4e86\u4e00\u53ea\u72d7\u3002",
    "Response 1\n\nThis response describes objects absent from the picture.",
    "Response 1\n\nIt names phantom objects.",
    "Response 1\n\nIt confuses the cat with a dog.",
    "Final answer: Response 1\n\nEdit: Response 2.",
    "Response 1 is better.\nI disagree with that.",
    "Response 1\n\nThis response is the worse one.",
    "Response 1\n\nIt is worse.",
    "Response 1\n\nResponse 1 is less accurate than Response 2.",
    "Response 1\n\nThe other response is better in every respect.",
    "Response 1\n\nResponse 2 is far better.",
    "Response 1\n\nUnlike Response 2, this response is worse.",
    "Response 1\n\nIt invents a dog that is not in the image.",
    "Response 1\n\nResponse 2 is accurate and names the cup.",
    "Response 1\n\nResponse 2 names the dog. This one is better.",
    "Response 1\n\nReason: it hallucinates a dog, whereas Response 2 does not.",
    "Response 1\n\nHallucinated objects: a dog and a cat.",
    "Response 1\n\n(the worse one)",
    "Response 1\n\n- more hallucinations\n- fewer details",
    "Response 1\n\nIs the one to avoid.",
    "Response 1\n\nShould not be chosen.",
    "Response 1\n\nNot.",
    "Response 1\n\nOr rather the second one.",
    "Response 1\n\nI am not sure, though.",
    "Response 1\n\nI cannot view images, so this is only what the texts suggest.",
    "Response 1\n\nI'm unable to see the picture.",
    "Response 1\n\nBoth are equally good.",
    "Response 1\n\nScore: 3/10",
    "Response 1\nScore: 3/10\nResponse 2: 9/10",
    "Response 1\n\nDiese Antwort ist die schlechtere.",
    "Response 1\n\nC'est la pire r\u00e9ponse.",
    "Response 1\n\n\u8fd9\u4e2a\u56de\u7b54\u66f4\u5dee\u3002",
    "Answer: Response 1\n\nThis response is the worse one.",
    "Answer: Response 1\n\nResponse 2 is far better.",
    "Response 1 is better.\n\nIt is the worse one of the two.",
    "Chosen: Response 1\nRejected: Response 1",
    "Tie\n\nResponse 1 is slightly better.",
    "The question is which response is worse. Both are long.\nResponse 1",
    '{"winner": "Response 1"}\n\nResponse 1 is the worse one.',
    '{"winner": "Response 1", "reason": "Response 1 is the worse one."}',
    '{"winner": "Response 1", "reason": "I can\'t see the image."}',
    '{"answer": "Response 1", "reason": "Response 1 fabricates a dog."}',
    '{"answer": "Response 1", "reasons": ["Response 1 fabricates a dog."]}',
    '{"response_1": {"score": 3}, "response_2": {"score": 8}}\nResponse 1',
    '{"loser": "Response 1"}',
    "Which response contains more hallucinations?\n\nResponse 1\n\nIt mentions a dog.",
    "Response 1\n\nIt has more hallucinations.",
    "Response 1\n\nThe image shows a cat, as Response 2 says.",
    "Response 1\n\nThere is no dog in the image. Response 1 claims there is one.",
    "Response 1\n\nIt isn't as good as Response 2.",
    "Response 1\n\nIt does not match the image.",
    "Response 1\n\nIt talks about a dog, but there is none.",
    "Response 1\n\nIt describes a beach, yet the image shows a kitchen.",
    "Response 1\n\nThe description has nothing to do with the image.",
    "Response 1\n\nIt names a dog which cannot be seen.",
    "Response 1\n\nThe cup is red in the picture, and this response calls it blue.",
    "Response 1\n\nThe response adds details that don't exist.",
    "Response 1\n\nMuch worse than Response 2.",
    "Response 1\n\nDie zweite Antwort ist genauer.",
    "Answer: Response 1\n\nExplanation: Response 1 fabricates a dog; Response 2 does not.",
    "Verdict: Response 1\nReason: It contains more fabricated details than Response 2.",
    "Final answer: Response 1\n\nwhich has more errors",
    "Assistant A\n\nAssistant A is more accurate.",
    "The better response is Assistant A.",
    "[[A]]\n\nAssistant B hallucinates.",
    "Response 1 << Response 2",
    "Ranking: Response 2 > Response 1",
    "1. Response 2\n2. Response 1",
    "I would reject Response 1.",
    "I'm sorry, but I can't assist with comparing these images.",
    "As an AI model I cannot determine which is better. If forced to choose: Response 1",
]


def other(text: str) -> str:
    """The same text with the two names exchanged."""
    text = text.replace("first one", "@").replace("second one", "first one")
    text = text.replace("@", "second one").replace("second answer", "first answer")
    text = re.sub(r"(nswer |#|tion )([12])", lambda one: f"{one[1]}{3 - int(one[2])}", text)
    return (
        text.replace("esponse 1", "esponse @")
        .replace("ESPONSE 1", "ESPONSE @")
        .replace("esponse 2", "esponse 1")
        .replace("esponse @", "esponse 2")
        .replace("ESPONSE @", "ESPONSE 2")
    )


@pytest.mark.parametrize("text", FIRST)
def test_a_clear_verdict_is_read_whichever_response_it_is_for(text: str) -> None:
    assert read_choice(text, NAMES) == 0
    assert read_choice(other(text), NAMES) == 1


@pytest.mark.parametrize("text", TIES)
def test_a_tie(text: str) -> None:
    assert read_choice(text, NAMES) is None
    assert read_choice(other(text), NAMES) is None


@pytest.mark.parametrize("text", [*UNREAD, *CONTRADICTED])
def test_what_is_ambiguous_is_not_read(text: str) -> None:
    for turned in (text, other(text)):
        with pytest.raises(UnreadableError):
            read_choice(turned, NAMES)


def test_of_a_reply_that_was_cut_off_only_its_beginning_counts() -> None:
    assert read_choice("Response 2\n\nIt sees the", NAMES, cut=True) == 1
    for text in ("First, Response 1 is better at", "Response 1 is better.", "Accuracy: Response 1"):
        with pytest.raises(UnreadableError, match="cut off"):
            read_choice(text, NAMES, cut=True)


def test_a_number_is_enough_behind_a_label() -> None:
    for number in (1, 2):
        for text in ("Better response: {}", '{{"reason": "it is 1", "final_answer": {}}}', "{}"):
            assert read_choice(text.format(number), NAMES) == number - 1
    for text in ("1\n2", "Score: 1", "1 is clear.", "Answer: 1 or 2", "Answer: 10"):
        with pytest.raises(UnreadableError):
            read_choice(text, NAMES)


def test_names_of_one_letter_are_not_articles() -> None:
    assert read_choice("B is better.", ("A", "B")) == 1
    assert read_choice("Answer: (B)", ("A", "B")) == 1
    assert read_choice("Verdict: Response B", ("A", "B")) == 1
    assert read_choice("[[A]]", ("A", "B")) == 0
    for text in ("A clear winner: B", "A better answer is B.", "a"):
        with pytest.raises(UnreadableError):
            read_choice(text, ("A", "B"))
    assert read_choice("A is better than B.", ("A", "B")) == 0


def test_replies_of_judges_that_think_first() -> None:
    folder = os.environ.get("VERIDICAL_TEST_DATA")
    if not folder:
        pytest.skip("VERIDICAL_TEST_DATA is not set")
    case = json.loads((Path(folder) / "cases/thinking-judge/replies.json").read_text())
    for text, winner in case["replies"]:
        assert read_choice(text, case["names"]) == winner, text
