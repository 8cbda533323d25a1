"""Symbolic rewards by hand: what is right, how long it is, whether it ends."""

from __future__ import annotations

import pytest

from veridical.judges.symbolic import Symbolic, answer_reward, symbolic_reward


@pytest.mark.parametrize(
    ("text", "expected", "reward"),
    [
        ("B. a dog", "B", 1.0),
        ("The correct answer is B) dog, not A) cat.", "B", 1.0),
        ("The answer is B? No, C.", "B", 0.0),
        ("B. a dog", "(B) a dog", 1.0),
        ("(B)", "b", 1.0),
        ("It barks. So the correct option is B.", "B", 1.0),
        ("The answer is C.", "B", 0.0),
        ("A. a cat", "B", 0.0),
        ("**B**", "B", 1.0),
        ("\uff22", "B", 1.0),
        ("\uff08B\uff09", "B", 1.0),
        ("B\u3002", "B", 1.0),
        ("Answer\uff1aB", "B", 1.0),
        ("A\u3001B", "B", 0.0),
        ("**B.** A dog", "B", 1.0),
        ("B, because it barks", "B", 1.0),
        ("B because it barks", "B", 1.0),
        ("B - a dog", "B", 1.0),
        ("B: a dog", "B", 1.0),
        ("(B) a dog", "B", 1.0),
        ("b", "B", 1.0),
        ("(b)", "B", 1.0),
        ("Option B", "B", 1.0),
        ("Option B is correct.", "B", 1.0),
        ("B is correct.", "B", 1.0),
        ("Answer: B", "B", 1.0),
        ("**Answer:** (B)", "B", 1.0),
        ("The answer is option B.", "B", 1.0),
        ("Final answer: B", "B", 1.0),
        ("$\\boxed{B}$", "B", 1.0),
        ("I choose B.", "B", 1.0),
        ("A is a cat. C is a cup. The answer is B.", "B", 1.0),
        ("B. A dog", "B", 1.0),
        ("<think>A or C. The answer is A.</think>B", "B", 1.0),
        ("<think>The answer is B.", "B", 0.0),
        # Two letters earn nothing, whichever is right.
        ("A or B", "A", 0.0),
        ("A or B", "B", 0.0),
        ("A, B", "A", 0.0),
        ("A/B", "A", 0.0),
        ("(A) (B)", "A", 0.0),
        ("A. B. C. D.", "A", 0.0),
        ("B and C", "B", 0.0),
        ("ABCD", "A", 0.0),
        ("Answer: A or B", "A", 0.0),
        ("Answer: A\nAnswer: B", "A", 0.0),
        ("Answer: A\nAnswer: B", "B", 0.0),
        ("The answer is not B.", "B", 0.0),
        ("Answer: b", "B", 1.0),
        ("The answer is (b).", "B", 1.0),
        ("Answer: b, or c", "B", 0.0),
        ("Not B", "B", 0.0),
        # What is denied is not a choice.
        ("The answer isn't B.", "B", 0.0),
        ("The answer isn't B. The answer is C.", "C", 1.0),
        ("The answer is anything but B.", "B", 0.0),
        ("The answer is any of them but B.", "B", 0.0),
        ("Answer: all but B", "B", 0.0),
        ("Answer: hard to tell, but B", "B", 1.0),
        ("Answer: I first thought C, but B", "B", 0.0),
        ("The answer is far from B.", "B", 0.0),
        ("The answer is everything except B.", "B", 0.0),
        ("Wrong answer: B", "B", 0.0),
        ("The wrong answer is B.", "B", 0.0),
        ("The worst answer is B. The best answer is C.", "C", 1.0),
        ("The least likely answer is B", "B", 0.0),
        ("The answer is probably not B.", "B", 0.0),
        ("The answer is, of course, B.", "B", 1.0),
        # An A with a reason is as good as a B.
        ("A because it barks", "A", 1.0),
        ("The answer is A because it barks.", "A", 1.0),
        ("A as one can see", "D", 0.0),
        ("Option B is wrong.", "B", 0.0),
        ("Bananas", "B", 0.0),
        # Only a whole letter is one: "a dog" begins with an article.
        ("A", "a dog", 0.0),
        ("The answer is a dog.", "A", 0.0),
        ("A. a cup", "a dog", 0.0),
        ("a dog", "a dog", 1.0),
        ("Dog.", "a dog", 1.0),
        ("B", "B. a dog", 0.0),
        ("A", "A. Lincoln", 0.0),
        # An article is not a choice.
        ("A dog stands there.", "A", 0.0),
        ("I see a dog.", "D", 0.0),
        ("", "B", 0.0),
        ("Yes, there is.", "yes", 0.5),
        ("yes", "Yes", 0.5),
        ("No.", "yes", -0.5),
        ("No, none.", "No", 0.5),
        # What can't be read as either is neither right nor wrong.
        ("There is a dog.", "yes", 0.0),
        ("Nothing.", "no", 0.0),
        ("No parking", "no", 0.0),
        ("No idea.", "no", 0.0),
        ("Yes or no.", "yes", 0.0),
        ("Yes/No", "yes", 0.0),
        ("Yes. No.", "yes", 0.0),
        ("No, wait, yes.", "no", 0.0),
        ("Yes; actually no", "yes", 0.0),
        ("Yes, I mean no.", "yes", 0.0),
        ("Yes. Sorry: no.", "no", 0.0),
        ("The answer is yes. The answer is no.", "no", 0.0),
        ("Answer: yes\nAnswer: yes", "yes", 0.5),
        ("Yes, it is actually there.", "yes", 0.5),
        ("Yes, wait for it, there is one.", "yes", 0.5),
        ("**Yes**", "yes", 0.5),
        ("Yes it is", "yes", 0.5),
        ("Answer: no", "yes", -0.5),
        ("The answer is yes.", "yes", 0.5),
        ("<think>No.</think>Yes", "yes", 0.5),
        ("Yes", "Yes, there is a dog.", 0.5),
        ("No, nothing", "No parking", 0.0),
        ("no", "No parking", 0.0),
        ("no parking.", "No parking", 1.0),
        ("The sign says no parking", "No parking", 0.0),
        # Short answers: the same after normalization.
        ("a red cup", "a red cup", 1.0),
        ("The red cup.", "a red cup", 1.0),
        ("**Red  Cup**", "a red cup", 1.0),
        ("Answer: a red cup", "a red cup", 1.0),
        ("a red cup and a dog", "a red cup", 0.0),
        ("two", "2", 1.0),
        ("35", "3.5", 0.0),
        ("3.5.", "3.5", 1.0),
        ("-5", "5", 0.0),
        ("\u20135", "5", 0.0),
        ("\u20135", "-5", 1.0),
        ("\u22125", "-5", 1.0),
        ("10\u201320", "10-20", 1.0),
        ("1,000", "1000", 1.0),
        ("50%", "50", 0.0),
        ("10:30", "1030", 0.0),
        ("\u72ac\u3002", "\u72ac", 1.0),
        ("\u72ac\u3067\u3059", "\u72ac", 0.0),
        ("Stra\u00dfe", "STRASSE", 1.0),
        ("", "", 0.0),
        (".", "The", 0.0),
    ],
)
def test_the_expected_answer_is_the_records(text: str, expected: str, reward: float) -> None:
    assert answer_reward(text, expected) == reward


def test_symbolic_rewards_add_up() -> None:
    rewards = Symbolic(no_end_penalty=8.0, length_penalty=10.0, answer_reward=2.0)
    # 2 * 0.5 - 10 * 16 / 64
    assert symbolic_reward(rewards, "Yes.", 16, 64, False, "yes") == pytest.approx(-1.5)
    # -10 - 8, and an answer that is wrong: 2 * -0.5
    assert symbolic_reward(rewards, "No, no, no", 64, 64, True, "yes") == pytest.approx(-19.0)
    assert symbolic_reward(rewards, "Yes.", 16, 64, False, None) == pytest.approx(-2.5)
    # Nobody has to ask for it: what was cut is not a whole answer.
    assert symbolic_reward(Symbolic(), "Yes.", 64, 64, True, "no") == -1.0
    assert symbolic_reward(Symbolic(), "Yes.", 64, 64, False, "no") == 0.0
    # Long answers may be what is wanted.
    assert symbolic_reward(Symbolic(length_penalty=-5.0), "", 32, 64, False, None) == 2.5
