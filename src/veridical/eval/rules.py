"""One file of answers to a benchmark, scored by every harness's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.eval.answers import read_answer_rows
from veridical.eval.asks import GivenAnswers, Row, SkippedQuestion
from veridical.eval.benchmark import find_benchmark
from veridical.eval.evaluation import USUAL, Evaluation, Subject
from veridical.eval.harness_sets import LEFT_OUT, SETS, RowRule, RuleSet
from veridical.eval.pope_matching import answered_questions, match_answers, read_given_answers
from veridical.eval.pope_questions import read_questions, read_relabels
from veridical.eval.published import match_by_id
from veridical.eval.run import asks_of, prepare
from veridical.eval.scores import fixed_width
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json, write_jsonl
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import counted, part_of
from veridical.runtime.ranges import SHARE
from veridical.runtime.run_files import SkippedRow
from veridical.runtime.runs import start_run
from veridical.runtime.tables import Table

POPE = "pope"
NO_FILES = ("out", "benchmark", "max_bad_fraction")
"""Options that name no file to read."""
PUBLISHED, REPOPE = "as published", "RePOPE's"


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

    rule: RowRule
    labels: str
    values: Mapping[str, float | None]
    answers: int
    otherwise: Sequence[Mapping[str, Any]]


def eval_rules(
    answers: list[Path],
    out: Path,
    benchmark: str = POPE,
    questions: list[Path] | None = None,
    relabeled: list[Path] | None = None,
    files: Path | None = None,
    questions_file: Path | None = None,
    max_bad_fraction: float = 0.01,
) -> list[dict[str, object]]:
    """Score one file of answers by every harness's rule, side by side.

    The rules of the benchmark's own scorer, of lmms-eval and VLMEvalKit where they are known, and
    our own; for POPE also RePOPE's. Writes `rules.json` with the figures, and how many answers each
    rule reads in another way than ours, with an example of each kind; the table `rules` as .md,
    .csv and .tex; `skipped.jsonl`, the questions without an answer; and `run.json`.

    Args:
        answers: as for `eval NAME`, or the sample logs of lmms-eval or VLMEvalKit.
        out: the folder to write.
        benchmark: pope, dash_b, amber (its yes/no half), hallusionbench, textvqa, vqav2, gqa or
            mmbench.
        questions: POPE's files.
        relabeled: RePOPE's files of the same questions: everything is also scored by its labels.
        files: the published files of another benchmark, as for its own command.
        questions_file: VQAv2's questions.
        max_bad_fraction: share of questions without an answer above which nothing is scored.

    Raises:
        UserError: a file is not what it must be, or the answers are not those of the questions.
    """
    SHARE.check("max_bad_fraction", max_bad_fraction)
    options = {
        "answers": answers, "out": out, "benchmark": benchmark, "questions": questions,
        "relabeled": relabeled, "files": files, "questions_file": questions_file,
        "max_bad_fraction": max_bad_fraction,
    }  # fmt: skip
    _check(options)
    chosen = SETS[benchmark]
    named = {name: value if isinstance(value, list) else [value]
             for name, value in options.items() if name not in NO_FILES}  # fmt: skip
    inputs = {f"{name}/{path.name}": path for name, paths in named.items()
              for path in paths if isinstance(path, Path)}  # fmt: skip
    with start_run(out, "eval rules", options, inputs) as run:
        if questions is not None:
            parts, skipped = _pope_rows(answers, questions, relabeled, max_bad_fraction)
        else:
            own = {"files": files, "questions_file": questions_file}
            subject = Subject(answers=answers, max_bad_fraction=max_bad_fraction)
            given = _rows(benchmark, subject, out, own)
            parts, skipped = {PUBLISHED: [*given.rows]}, given.skipped
        write_jsonl(out / "skipped.jsonl", skipped)
        found = [one for labels, rows in parts.items() for one in scored(chosen, rows, labels)]
        rows: list[dict[str, object]] = [
            {"rule": one.rule.name, "reads": one.rule.says, "labels": one.labels, **one.values,
             "answers": one.answers, "otherwise": one.otherwise}
            for one in found
        ]  # fmt: skip
        write_json(out / "rules.json", {"benchmark": benchmark, "rules": rows})
        table = rules_table(chosen, found)
        table.write(out, "rules")
        answered = len(parts[PUBLISHED])
        run.finish(answers=answered, rules=len(chosen.rules), skipped=len(skipped))
    if skipped:
        lack = part_of(len(skipped), answered + len(skipped), "questions", "has", "have")
        print(f"{lack} no answer: {out / 'skipped.jsonl'} lists them.")
    print(table.markdown, end="")
    for line in [*explanations(found), *([chosen.missing] if chosen.missing else [])]:
        print(line)
    return rows


def _check(options: Mapping[str, Any]) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: they do not.
    """
    benchmark = options["benchmark"]
    if benchmark not in SETS:
        raise UserError(
            f"--benchmark {benchmark}: no other harness's rule is known for it; there is "
            f"{', '.join(SETS)}."
        )
    wanted = {
        POPE: {"questions"}, "vqav2": {"files", "questions_file"},
    }.get(benchmark, {"files"})  # fmt: skip
    allowed = wanted | ({"relabeled"} if benchmark == POPE else set())
    for name in ("questions", "relabeled", "files", "questions_file"):
        option = f"--{name.replace('_', '-')}"
        if name in wanted and options[name] is None:
            raise UserError(f"--benchmark {benchmark} needs {option}, as `eval {benchmark}` does.")
        if name not in allowed and options[name] is not None:
            raise UserError(f"{option} is not for --benchmark {benchmark}. Leave it out.")


def _pope_rows(
    answers: Sequence[Path],
    questions: Sequence[Path],
    relabeled: Sequence[Path] | None,
    most: float,
) -> tuple[dict[str, list[Row]], Sequence[SkippedQuestion | SkippedRow]]:
    """POPE's answers with their labels, and the same with RePOPE's; and what has no answer.

    Raises:
        UserError: RePOPE's labels are of other questions, or too many have no answer.
    """
    given = [row for path in answers for row in read_given_answers(path)]
    asked, skipped = answered_questions(read_questions(list(questions)), given, most)
    texts = [str(row["answer"]) for row in match_answers(asked, given)]
    rows = [
        {"answer": text, "question": one.text, "expected": one.label}
        for one, text in zip(asked, texts, strict=True)
    ]
    found: dict[str, list[Row]] = {PUBLISHED: [*rows]}
    if relabeled:
        known = read_relabels(list(relabeled), asked)
        labels = [known.get((one.split, one.question_id)) for one in asked]
        own: list[Row] = [
            {**row, "expected": label}
            for row, label in zip(rows, labels, strict=True)
            if label is not None
        ]
        if not own:
            raise UserError(
                "RePOPE's labels: no question has one. Give the files of the same questions."
            )
        found[REPOPE] = own
    return found, skipped


def _rows(
    benchmark: str, subject: Subject, out: Path, own: Mapping[str, Path | None]
) -> GivenAnswers:
    """The answers to a benchmark's published questions, with what is right."""
    asks = asks_of(find_benchmark(benchmark))
    given = {name: path for name, path in own.items() if path is not None}
    options = asks.options(**given, **({"halves": "yes_no"} if benchmark == "amber" else {}))
    evaluation = prepare(find_benchmark(benchmark), options, out, subject, USUAL)
    if benchmark == "amber":
        return _yes_no_half(options, evaluation)
    return asks.match(options, evaluation)


def _yes_no_half(options: Any, evaluation: Evaluation) -> GivenAnswers:
    """AMBER's yes/no answers; a file of answers may have descriptions too."""
    known = {question.question_id for question in options.questions}
    left = 0

    def read(path: Path) -> list[JsonObject]:
        nonlocal left
        rows = read_answer_rows(path, "id")
        own = [row for row in rows if row["id"] in known]
        left += len(rows) - len(own)
        return own

    found = match_by_id(options.questions, evaluation, "id", read)
    if left:
        print(f"{counted(left, 'answers')} to no yes/no question are left out.")
    return found


def scored(chosen: RuleSet, rows: Sequence[Row], labels: str) -> list[ScoredRule]:
    """Every rule's figures.

    Args:
        chosen: the benchmark's rules.
        rows: answers with what is right.
        labels: who says what is right.
    """
    reads = [[rule.read(row) for row in rows] for rule in chosen.rules]
    texts = [str(row["answer"]) for row in rows]
    return [
        ScoredRule(rule, labels, rule.figures(rows, own), sum(one != LEFT_OUT for one in own),
                   read_otherwise(reads[0], own, texts))
        for rule, own in zip(chosen.rules, reads, strict=True)
    ]  # fmt: skip


def read_otherwise(
    ours: Sequence[str], theirs: Sequence[str], texts: Sequence[str]
) -> list[JsonObject]:
    """What two rules read differently, the most frequent kind first."""
    pairs = list(zip(ours, theirs, strict=True))
    kinds = Counter((one, other) for one, other in pairs if one != other)
    return [
        {"ours": kind[0], "here": kind[1], "answers": number,
         "example": texts[pairs.index(kind)][:80]}
        for kind, number in kinds.most_common()
    ]  # fmt: skip


def rules_table(chosen: RuleSet, rows: Sequence[ScoredRule]) -> Table:
    """A line for each rule and kind of label."""
    header = ["rule", "labels", *chosen.metrics, "read otherwise"]
    body = [
        [row.rule.name, row.labels,
         *(fixed_width(row.values[name]).strip() for name in chosen.metrics),
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
        kinds = [
            f"{kind['ours']} as {kind['here']}, {counted(kind['answers'], 'answers')}, such as "
            f"{kind['example']!r}"
            for kind in row.otherwise[:3]
        ]
        lines.append(f"{row.rule.name}: {'; '.join([row.rule.says, *row.rule.quirks, *kinds])}.")
    out = [row for row in rows if row.labels == REPOPE]
    if out:
        left = rows[0].answers - out[0].answers
        lines.append(f"RePOPE's labels: {counted(left, 'questions')} taken out, others corrected.")
    return lines
