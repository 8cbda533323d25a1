"""The rules by which harnesses score a benchmark's answers, for each benchmark that has several.

Only rules that are known from the harnesses' code are here. `missing` says which are not.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from veridical.eval.amber_metrics import amber_sums, by_kind, official_figures
from veridical.eval.asks import Row
from veridical.eval.dash_b import read_yes_no
from veridical.eval.gqa import compared
from veridical.eval.hallusion_metrics import without_figure
from veridical.eval.mmbench import mmbench_sums
from veridical.scoring.amber_rules import read_verdict
from veridical.scoring.harness_rules import RULES, HarnessRule, figures, vlmevalkit_yes_no
from veridical.scoring.option_letters import official_option, read_option
from veridical.scoring.statistics.sums import totals
from veridical.scoring.vqa_rules import (
    Rule,
    agreement,
    lmms_eval_pair,
    normalized,
    normalized_pair,
    plain,
)
from veridical.scoring.yes_no_answers import YesNoVerdict, parse_answer

Figures = Mapping[str, float | None]
NEITHER = "neither"
LEFT_OUT = "left out"
"""What a rule reads of a question that its harness does not ask."""
OURS = "Veridical"


@dataclass(frozen=True)
class RowRule:
    """How one harness scores the answers to a benchmark.

    Attributes:
        name: as the table shows it.
        says: what it takes an answer for.
        read: what it reads in the answer of a row.
        figures: what it prints, as fractions, of the rows and what it read in them.
        quirks: what else moves its figures.
    """

    name: str
    says: str
    read: Callable[[Row], str]
    figures: Callable[[Sequence[Row], Sequence[str]], Figures]
    quirks: tuple[str, ...] = ()


@dataclass(frozen=True)
class RuleSet:
    """The rules for one benchmark.

    Attributes:
        metrics: the columns of the table.
        rules: ours first; the others are compared with it.
        missing: which harnesses' rules are not here, and why.
    """

    metrics: tuple[str, ...]
    rules: Sequence[RowRule]
    missing: str = ""


def yes_no_rule(rule: HarnessRule) -> RowRule:
    """A rule for POPE's answers."""

    def read(row: Row) -> str:
        return rule.read(row["answer"], row["question"]) or NEITHER

    def found(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
        labels = [str(row["expected"]) for row in rows]
        return figures(rule, labels, [_verdict(one) for one in reads])

    quirks = []
    if rule.counts_labels:
        quirks.append("its yes_rate is that of the labels")
    if not rule.neither_is_no:
        quirks.append("its recall leaves out answers that are neither")
    return RowRule(rule.name, rule.says, read, found, tuple(quirks))


def _verdict(read: str) -> YesNoVerdict | None:
    return "yes" if read == "yes" else "no" if read == "no" else None


def _share(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def _strict(row: Row) -> str:
    return parse_answer(row["answer"], "strict", row["question"]) or NEITHER


def _by_words(row: Row) -> str:
    return vlmevalkit_yes_no(row["answer"], row["question"]) or NEITHER


def _by_words_with_image(row: Row) -> str:
    return _by_words(row) if row["image"] else LEFT_OUT


def _neither(reads: Sequence[str]) -> float | None:
    return _share(sum(one == NEITHER for one in reads), len(reads))


def _dash(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
    """Accuracy, and the shares of present and absent objects that are told."""
    right = [row["expected"] == one for row, one in zip(rows, reads, strict=True)]
    shares = {}
    for name, label in (("tpr", "yes"), ("tnr", "no")):
        own = [found for row, found in zip(rows, right, strict=True) if row["expected"] == label]
        shares[name] = _share(sum(own), len(own))
    return {"accuracy": _share(sum(right), len(right)), **shares, "neither": _neither(reads)}


def _amber(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
    """The positive class is no. `kinds` is the mean accuracy of the three kinds of question."""
    judged = [{**row, "parsed": _verdict(one)} for row, one in zip(rows, reads, strict=True)]
    sums = totals(amber_sums(judged).columns)
    true, said, is_no = (float(sums[name]) for name in ("true_no", "said_no", "is_no"))
    return {
        "accuracy": _share(float(sums["right"]), float(sums["questions"])),
        "precision": _share(true, said),
        "recall": _share(true, is_no),
        "f1": _share(2 * true, said + is_no),
        "kinds": _mean_of_kinds(judged),
        "neither": _neither(reads),
    }


def _mean_of_kinds(judged: Sequence[Row]) -> float | None:
    parts = by_kind(judged)
    own = [parts[name] for name in ("existence", "attribute", "relation") if name in parts]
    shares = [sum(row["parsed"] == row["expected"] for row in rows) / len(rows) for rows in own]
    return _share(sum(shares), len(shares))


def _amber_printed(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
    judged = [{**row, "parsed": _verdict(one)} for row, one in zip(rows, reads, strict=True)]
    printed = official_figures(judged)
    names = ("accuracy", "precision", "recall", "f1")
    return {**_amber(rows, reads), **{name: printed[name] / 100 for name in names}, "kinds": None}


def _amber_mean(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
    found = _amber(rows, reads)
    return {**found, **dict.fromkeys(("precision", "recall", "f1"))}


def _hallusion(rows: Sequence[Row], reads: Sequence[str], unknown_may_be_right: bool) -> Figures:
    """aAcc, qAcc and fAcc.

    Args:
        rows: answered questions.
        reads: what was read in the answers.
        unknown_may_be_right: whether an answer that is neither is right where no figure is shown,
            and such questions belong to no figure; so it is in the published scorer.
    """
    kept = [place for place, one in enumerate(reads) if one != LEFT_OUT]
    rows, reads = [rows[place] for place in kept], [reads[place] for place in kept]
    right = [
        one == row["expected"] or (one == NEITHER and unknown_may_be_right and without_figure(row))
        for row, one in zip(rows, reads, strict=True)
    ]
    shown = [not (unknown_may_be_right and without_figure(row)) for row in rows]
    return {
        "aAcc": _share(sum(right), len(right)),
        "qAcc": _whole(rows, right, [True] * len(rows), "question_number"),
        "fAcc": _whole(rows, right, shown, "figure_id"),
        "neither": _neither(reads),
    }


def _whole(
    rows: Sequence[Row], right: Sequence[bool], belongs: Sequence[bool], field: str
) -> float | None:
    """The share of questions or figures of a set with nothing wrong."""
    units: defaultdict[Hashable, list[bool]] = defaultdict(list)
    for row, own, counts in zip(rows, right, belongs, strict=True):
        if counts:
            units[tuple(row[name] for name in ("category", "subcategory", "set_id", field))].append(
                own
            )
    return _share(sum(map(all, units.values())), len(units))


def _short_rule(
    name: str, says: str, accuracy: Callable[[Row], float], quirks: tuple[str, ...] = ()
) -> RowRule:
    """A rule that gives each answer an accuracy from 0 to 1."""

    def read(row: Row) -> str:
        found = accuracy(row)
        return "right" if found == 1 else "wrong" if found == 0 else f"{found:.2f} right"

    def found(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
        wrong = sum(one == "wrong" for one in reads)
        return {
            "accuracy": _share(sum(map(accuracy, rows)), len(rows)),
            "wrong": _share(wrong, len(reads)),
        }

    return RowRule(name, says, read, found, quirks)


def _textvqa(row: Row, rule: Rule) -> float:
    people = [normalized(one, rule) for one in row["expected"]]
    return agreement(normalized(row["answer"], rule), people)


def _textvqa_vlmevalkit(row: Row) -> float:
    people = [plain(one, "official") for one in row["expected"]]
    return agreement(plain(row["answer"], "official"), people)


def _vqav2(row: Row, rule: Rule) -> float:
    return agreement(*normalized_pair(row["answer"], row["expected"], rule))


def _vqav2_lmms_eval(row: Row) -> float:
    return agreement(*lmms_eval_pair(row["answer"], row["expected"]))


def _gqa(row: Row, rule: Rule) -> float:
    return float(compared(row["answer"], rule) == compared(row["expected"], rule))


def _gqa_lmms_eval(row: Row) -> float:
    said, right = (_without_punctuation(row[name]) for name in ("answer", "expected"))
    return float(said == right)


def _gqa_vlmevalkit(row: Row) -> float:
    said, right = (row[name].strip().lower() for name in ("answer", "expected"))
    return float(said == right)


def _without_punctuation(text: str) -> str:
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def _options(rows: Sequence[Row], reads: Sequence[str]) -> Figures:
    """Accuracy over whole questions (circular), first orders (vanilla) and single answers."""
    judged = [
        {**row, "parsed": None if one == NEITHER else one}
        for row, one in zip(rows, reads, strict=True)
    ]
    sums = {name: float(value) for name, value in totals(mmbench_sums(judged).columns).items()}
    return {
        "circular": _share(sums["right"], sums["questions"]),
        "vanilla": _share(sums["vanilla"], sums["questions"]),
        "single": _share(sums["right_answers"], sums["answers"]),
        "neither": _neither(reads),
    }


def _option_rule(
    name: str, says: str, read: Callable[[str, Mapping[str, str]], str | None]
) -> RowRule:
    return RowRule(name, says, lambda row: read(row["answer"], row["options"]) or NEITHER, _options)


_STRICT = "the sentence that decides; neither is wrong"
_WORDS = (
    'the one of the words "yes" and "no" that it has, but not "**no**" or "no:"; a model may be '
    "asked about others, not here"
)
_OTHERS = "How {} reads it is not known here."

SETS: Mapping[str, RuleSet] = {
    "pope": RuleSet(
        ("accuracy", "precision", "recall", "f1", "yes_rate", "neither"),
        [yes_no_rule(rule) for rule in RULES],
    ),
    "dash_b": RuleSet(
        ("accuracy", "tpr", "tnr", "neither"),
        [
            RowRule(OURS, _STRICT, _strict, _dash),
            RowRule(
                "DASH-B", '"yes" anywhere, even within a word, else "no" anywhere',
                lambda row: read_yes_no(row["answer"], "official") or NEITHER, _dash,
            ),
        ],
        _OTHERS.format("lmms-eval or VLMEvalKit"),
    ),
    "amber": RuleSet(
        ("accuracy", "precision", "recall", "f1", "kinds", "neither"),
        [
            RowRule(OURS, _STRICT, _strict, _amber),
            RowRule(
                "AMBER", 'the whole answer must be "Yes" or "No", written exactly so',
                lambda row: read_verdict(row["answer"], "official", "") or NEITHER,
                _amber_printed,
                ("its figures are rounded, and its F1 is that of rounded figures",),
            ),
            RowRule(
                "VLMEvalKit", _WORDS, _by_words, _amber_mean,
                ("its headline is `kinds`, the mean of three accuracies; it has no F1",),
            ),
        ],
        "lmms-eval has AMBER's descriptions only.",
    ),
    "hallusionbench": RuleSet(
        ("aAcc", "qAcc", "fAcc", "neither"),
        [
            RowRule(OURS, _STRICT, _strict, partial(_hallusion, unknown_may_be_right=True),
                    ("not to know is right where no figure is shown",)),
            RowRule("VLMEvalKit", _WORDS, _by_words_with_image,
                    partial(_hallusion, unknown_may_be_right=False),
                    ("it asks no question without an image",)),
        ],
        "HallusionBench's own scorer and lmms-eval's have a model judge the answers: `eval "
        "hallusionbench --rule official --judge ...`.",
    ),
    "textvqa": RuleSet(
        ("accuracy", "wrong"),
        [
            _short_rule(OURS, "agreement with ten people, all periods removed",
                        partial(_textvqa, rule="corrected")),
            _short_rule("TextVQA, LLaVA, lmms-eval",
                        "agreement with ten people, 32 periods removed",
                        partial(_textvqa, rule="official")),
            _short_rule("VLMEvalKit", "the same, but a comma or question mark between two words "
                        'is a space, and "\'s" is not a word of its own', _textvqa_vlmevalkit),
        ],
        "lmms-eval puts the question in lower case before it is asked, which no rule can undo.",
    ),
    "vqav2": RuleSet(
        ("accuracy", "wrong"),
        [
            _short_rule(OURS, "agreement with ten people, whose answers are normalized likewise",
                        partial(_vqav2, rule="corrected")),
            _short_rule("VQAv2", "agreement with ten people, whose articles and number words stay",
                        partial(_vqav2, rule="official")),
            _short_rule("lmms-eval", "agreement with ten people, whose articles and number words "
                        "stay if all say the same", _vqav2_lmms_eval),
        ],
        "VLMEvalKit has no VQAv2.",
    ),
    "gqa": RuleSet(
        ("accuracy", "wrong"),
        [
            _short_rule(OURS, "equality without case, outer punctuation and an article",
                        partial(_gqa, rule="corrected")),
            _short_rule("GQA", "equality in every character", partial(_gqa, rule="official")),
            _short_rule("lmms-eval", "equality without case and punctuation", _gqa_lmms_eval),
            _short_rule("VLMEvalKit", "equality without case and outer spaces", _gqa_vlmevalkit),
        ],
    ),
    "mmbench": RuleSet(
        ("circular", "vanilla", "single", "neither"),
        [
            _option_rule(OURS, "a letter where it is meant as one, or one option's text",
                         read_option),
            _option_rule("VLMEvalKit", 'the only letter among the words, even the article "A", not '
                         "before the last four; or one option's text", official_option),
            _option_rule("VLMEvalKit, VERBOSE set", 'no letter where "A" is one of more than three '
                         "words; or one option's text",
                         partial(official_option, verbose=True)),
        ],
        _OTHERS.format("lmms-eval"),
    ),
}  # fmt: skip
"""By benchmark."""
