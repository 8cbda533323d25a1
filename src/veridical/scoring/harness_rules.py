"""How the harnesses of the field read yes/no answers, and what they make of them.

Each reads POPE's answers in its own way, so that one file of answers has several accuracies. All
are restated from the harnesses' code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from veridical.scoring.vqa_rules import strip_punctuation
from veridical.scoring.yes_no_answers import YesNoVerdict, parse_answer

Read = Callable[[str, str], YesNoVerdict | None]


@dataclass(frozen=True)
class HarnessRule:
    """One harness.

    Attributes:
        name: as the table shows it.
        read: an answer and its question as yes, no or neither.
        says: what it takes for yes and no.
        neither_is_no: whether an answer that is neither counts as a no in the recall. Where it is
            not, recall leaves it out.
        counts_labels: whether its yes rate is that of the labels, not of the answers.
    """

    name: str
    read: Read
    says: str
    neither_is_no: bool = True
    counts_labels: bool = False


def _strict(answer: str, question: str) -> YesNoVerdict | None:
    return parse_answer(answer, "strict", question)


def _original(answer: str, question: str) -> YesNoVerdict | None:
    return parse_answer(answer, "official", question)


def _repope(answer: str, question: str) -> YesNoVerdict | None:
    return "yes" if "yes" in answer.lower() else "no"


def _lmms_eval(answer: str, question: str) -> YesNoVerdict | None:
    said = answer.strip().lower()
    return "yes" if said == "yes" else "no" if said == "no" else None


def vlmevalkit_yes_no(answer: str, question: str) -> YesNoVerdict | None:
    """The one of the words "yes" and "no" that an answer has.

    Words are what VQA's rule for punctuation leaves: "No.It" is "noit", "No.2" stays as it is, and
    so do marks that it does not know: "**no**" is another word.
    """
    words = strip_punctuation(answer.lower(), "official").split()
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


RULES: Sequence[HarnessRule] = (
    HarnessRule("Veridical, strict", _strict, "the sentence that decides; neither is wrong"),
    HarnessRule("POPE, LLaVA", _original, 'no if the first sentence has "no" or "not", else yes'),
    HarnessRule("RePOPE", _repope, 'yes if "yes" is anywhere, even within a word, else no'),
    HarnessRule(
        "lmms-eval", _lmms_eval, 'the whole answer must be "yes" or "no": "Yes." is neither',
        neither_is_no=False, counts_labels=True,
    ),
    HarnessRule(
        "VLMEvalKit", vlmevalkit_yes_no, 'the one of the words "yes" and "no" that it has, but not '
        '"**no**" or "no:"; neither is wrong (a model may be asked about it; not here)',
    ),
)  # fmt: skip
"""Ours first; the others are compared with it."""


def figures(
    rule: HarnessRule, labels: Sequence[str], read: Sequence[YesNoVerdict | None]
) -> Mapping[str, float | None]:
    """What a harness prints, as fractions; None where a denominator is 0.

    Args:
        rule: which harness.
        labels: the true answers.
        read: what it reads.
    """
    pairs = list(zip(labels, read, strict=True))
    true_yes = pairs.count(("yes", "yes"))
    said_yes = sum(found == "yes" for found in read)
    missed = sum(label == "yes" and _is_missed(rule, found) for label, found in pairs)
    precision, recall = _share(true_yes, said_yes), _share(true_yes, true_yes + missed)
    f1 = None
    if precision is not None and recall is not None:
        f1 = _share(2 * precision * recall, precision + recall)
    counted = sum(label == "yes" for label in labels) if rule.counts_labels else said_yes
    return {
        "accuracy": _share(sum(label == found for label, found in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_rate": _share(counted, len(pairs)),
        "neither": _share(sum(found is None for found in read), len(pairs)),
    }


def _is_missed(rule: HarnessRule, found: YesNoVerdict | None) -> bool:
    return found == "no" or (found is None and rule.neither_is_no)


def _share(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None
