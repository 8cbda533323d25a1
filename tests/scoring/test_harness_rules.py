"""How other harnesses read yes and no."""

from __future__ import annotations

import pytest

from veridical.scoring.harness_rules import RULES, figures
from veridical.scoring.yes_no_answers import YesNoVerdict

NAMES = ("strict", "original", "repope", "lmms", "vlm")
BY_NAME = dict(zip(NAMES, RULES, strict=True))
QUESTION = "Is there a dog in the image?"


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("Yes", ("yes", "yes", "yes", "yes", "yes")),
        (" no ", ("no", "no", "no", "no", "no")),
        ("Yes.", ("yes", "yes", "yes", None, "yes")),
        ("I see two eyes.", (None, "yes", "yes", None, None)),
        ("There is not a dog.", ("no", "no", "no", None, None)),
        ("Perhaps.", (None, "yes", "no", None, None)),
        ("No, yes.", (None, "no", "yes", None, None)),
        # VLMEvalKit removes VQA's marks alone: one beside a space without a trace, else for one.
        ("**No**", ("no", "yes", "no", None, None)),
        ("no: a cat", ("no", "yes", "no", None, None)),
        ("Answer: no", ("no", "no", "no", None, "no")),
        ("Yes,it is a dog, yes.", ("yes", "yes", "yes", None, "yes")),
        ("Yes,it is a dog, I see", ("yes", "yes", "yes", None, None)),
        ("(no)", ("no", "yes", "no", None, "no")),
    ],
)
def test_readings(answer: str, read: tuple[str | None, ...]) -> None:
    found = tuple(rule.read(answer, QUESTION) for rule in RULES)
    assert found == read


def test_figures_by_hand() -> None:
    """Labels yes, yes, yes, no; read yes, no, neither, yes.

    Accuracy 1/4, precision 1/2. Recall 1/3, where neither is a no; 1/2 where it is left out. The
    answers say yes twice, the labels three times.
    """
    labels = ("yes", "yes", "yes", "no")
    read: list[YesNoVerdict | None] = ["yes", "no", None, "yes"]
    ours, lmms = (figures(BY_NAME[name], labels, read) for name in ("strict", "lmms"))
    assert ours == pytest.approx(
        {"accuracy": 1 / 4, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "yes_rate": 1 / 2,
         "neither": 1 / 4}
    )  # fmt: skip
    assert lmms == pytest.approx({**ours, "recall": 1 / 2, "f1": 1 / 2, "yes_rate": 3 / 4})
    assert figures(BY_NAME["lmms"], ("no",), (None,))["precision"] is None
