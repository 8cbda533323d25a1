"""Symbolic rewards by hand: what is right, how long it is, whether it ends."""

from __future__ import annotations

import pytest

from veridical.judges.symbolic import Symbolic, answer_reward, symbolic_reward


@pytest.mark.parametrize(
    ("text", "expected", "reward"),
    [
        ("B. a dog", "B", 1.0),
        ("B", "B. a dog", 1.0),
        ("(B)", "b", 1.0),
        ("It barks. So the correct option is B.", "B", 1.0),
        ("The answer is C.", "B", 0.0),
        ("A. a cat", "B", 0.0),
        # An article is no choice.
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
        ("a red cup", "a red cup", 0.0),
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
    assert symbolic_reward(Symbolic(), "Yes.", 64, 64, True, "no") == 0.0
    # Long answers may be what is wanted.
    assert symbolic_reward(Symbolic(length_penalty=-5.0), "", 32, 64, False, None) == 2.5
