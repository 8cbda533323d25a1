"""One file of POPE's answers, scored by every harness's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.data.object_questions import ObjectQuestion
from veridical.eval.pope_matching import match_answers, read_given_answers
from veridical.eval.pope_questions import read_questions, read_relabels
from veridical.eval.scores import fixed_width
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import counted
from veridical.runtime.runs import start_run
from veridical.runtime.tables import Table
from veridical.scoring.harness_rules import RULES, HarnessRule, figures
from veridical.scoring.yes_no_answers import YesNoVerdict

REPOPE = "RePOPE's labels"
METRICS = ("accuracy", "precision", "recall", "f1", "yes_rate", "neither")


@dataclass(frozen=True)
class ScoredRule:
    """What one harness makes of the answers.

    Attributes:
        rule: its rule.
        labels: whose labels it is scored by.
        values: what it prints.
        answers: how many it counts.
        otherwise: how many answers it reads in another way than the first rule: by what that reads
            and what it reads, with the number and an example.
    """

    rule: HarnessRule
    labels: str
    values: dict[str, float | None]
    answers: int
    otherwise: list[dict[str, Any]]


def eval_rules(
    answers: list[Path], questions: list[Path], out: Path, relabeled: list[Path] | None = None
) -> list[dict[str, Any]]:
    """Score one file of POPE's answers by every harness's rule, side by side.

    The rules of POPE and LLaVA, RePOPE, lmms-eval and VLMEvalKit, and our own. Writes `rules.json`
    with the figures, and how many answers each rule reads in another way than ours, with an example
    of each kind; the table `rules` as .md, .csv and .tex; and `run.json`.

    Args:
        answers: as for `eval pope`, or the sample logs of lmms-eval or VLMEvalKit.
        questions: POPE's files.
        out: the folder to write.
        relabeled: RePOPE's files of the same questions: everything is also scored by its labels.

    Raises:
        UserError: a file is not what it must be, or the answers are not those of the questions.
    """
    options = {"answers": answers, "questions": questions, "out": out, "relabeled": relabeled}
    inputs = {f"{name}/{path.name}": path for name, paths in options.items()
              if isinstance(paths, list) for path in paths}  # fmt: skip
    with start_run(out, "eval rules", options, inputs) as run:
        asked = read_questions(questions)
        given = [row for path in answers for row in read_given_answers(path)]
        texts = [str(row["answer"]) for row in match_answers(asked, given)]
        labels: dict[str, list[str | None]] = {"POPE's labels": [one.label for one in asked]}
        if relabeled:
            known = read_relabels(relabeled, asked)
            labels[REPOPE] = [known.get((one.split, one.question_id)) for one in asked]
        found = [one for name, own in labels.items() for one in scored(asked, texts, name, own)]
        rows = [
            {"rule": one.rule.name, "reads": one.rule.says, "labels": one.labels, **one.values,
             "answers": one.answers, "otherwise": one.otherwise}
            for one in found
        ]  # fmt: skip
        write_json(out / "rules.json", {"rules": rows})
        table = rules_table(found)
        table.write(out, "rules")
        run.finish(answers=len(texts), rules=len(RULES))
    print(table.markdown, end="")
    for line in explanations(found):
        print(line)
    return rows


def scored(
    asked: Sequence[ObjectQuestion], texts: Sequence[str], name: str, labels: Sequence[str | None]
) -> list[ScoredRule]:
    """Every rule's figures by some labels; a question without a label is left out.

    Raises:
        UserError: no question has one.
    """
    places = [n for n, label in enumerate(labels) if label is not None]
    if not places:
        raise UserError(f"{name}: no question has a label. Give the files of the same questions.")
    own = [str(labels[n]) for n in places]
    reads = {rule.name: [rule.read(texts[n], asked[n].text) for n in places] for rule in RULES}
    ours, said = reads[RULES[0].name], [texts[n] for n in places]
    return [
        ScoredRule(rule, name, dict(figures(rule, own, reads[rule.name])), len(places),
                   read_otherwise(ours, reads[rule.name], said))
        for rule in RULES
    ]  # fmt: skip


def read_otherwise(
    ours: Sequence[YesNoVerdict | None],
    theirs: Sequence[YesNoVerdict | None],
    texts: Sequence[str],
) -> list[dict[str, Any]]:
    """What two rules read differently, the most frequent kind first."""
    kinds = Counter((one, other) for one, other in zip(ours, theirs, strict=True) if one != other)
    found = []
    for (one, other), number in kinds.most_common():
        place = list(zip(ours, theirs, strict=True)).index((one, other))
        found.append({"strict": one or "neither", "here": other or "neither", "answers": number,
                      "example": texts[place][:80]})  # fmt: skip
    return found


def rules_table(rows: Sequence[ScoredRule]) -> Table:
    """A line for each rule and kind of label."""
    header = ["rule", "labels", *METRICS, "read otherwise"]
    body = [
        [row.rule.name, row.labels, *(fixed_width(row.values[name]).strip() for name in METRICS),
         str(sum(kind["answers"] for kind in row.otherwise))]
        for row in rows
    ]  # fmt: skip
    return Table(header, body, 2)


def explanations(rows: Sequence[ScoredRule]) -> list[str]:
    """Why the figures differ, a line for each rule."""
    lines = []
    for row in rows:
        if row.labels == REPOPE:
            continue
        quirks = []
        if row.rule.counts_labels:
            quirks.append("its yes_rate is that of the labels")
        if not row.rule.neither_is_no and row.values["neither"]:
            quirks.append("its recall leaves out answers that are neither")
        kinds = [
            f"{kind['strict']} as {kind['here']}, {counted(kind['answers'], 'answers')}, such as "
            f"{kind['example']!r}"
            for kind in row.otherwise[:3]
        ]
        parts = [row.rule.says, *quirks, *kinds]
        lines.append(f"{row.rule.name}: {'; '.join(parts)}.")
    out = [row for row in rows if row.labels == REPOPE]
    if out:
        left = rows[0].answers - out[0].answers
        lines.append(f"RePOPE's labels: {counted(left, 'questions')} taken out, others corrected.")
    return lines
