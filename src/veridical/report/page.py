"""The report: one self-contained page about one or several runs."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from veridical.report import sections, tables
from veridical.report.answer_files import answer_files, is_drawn, pairs_addresses, viewed_sets
from veridical.report.figures import metric_plots
from veridical.report.folders import Part, find_parts
from veridical.report.headline import headline
from veridical.report.pictures import Examples, choose_examples
from veridical.report.results import Arms, Results, collect_results
from veridical.report.steps import Step, steps
from veridical.report.wording import count_of, joined, scientific, show
from veridical.runtime.json_types import JsonObject
from veridical.runtime.pages import refuse_other_file, write_page
from veridical.runtime.versions import own_version

# What every page has in it, and no other file.
KICKER = '<p class="kicker">Veridical report'
EXAMPLES_SHOWN = 12
# Runs and sets beyond these are folded: a study has dozens.
TRAININGS_OPEN = 2
PAIRS_OPEN = 1
STEPS_OPEN = 12
# A table with more arms than these has a row for each, not a column.
MOST_COLUMNS = 5
PROOFS = {
    "start": (
        "The start is neutral",
        "Before the first step the rewards are zero and the loss has its known value.",
    ),
    "image_matters": (
        "The image matters",
        "With a gray image, the answers' log-probabilities change far beyond the noise.",
    ),
    "placeholders": (
        "Placeholders match features",
        "Every row has as many image tokens as image features.",
    ),
    "batch_invariance": (
        "Batches do not matter",
        "A pair alone has the log-probabilities it has in a padded batch.",
    ),
    "path_parity": (
        "Same as the stock path",
        "Our forward pass gives what the model's own processor and forward give.",
    ),
}


def report(runs: list[Path], out: Path | None = None, arms: Arms = Arms()) -> None:
    """Write the report of one or several runs as one page.

    Args:
        runs: Run folders: an alignment, a study, or single build, train and eval runs.
        out: The page to write; report.html in the run's folder, or here for several runs.
        arms: what the page says of its arms.

    Raises:
        UserError: a run does not exist or can't be read, or there is no such arm.
    """
    path = write_report(runs, out, arms)
    if out is None:  # else the command line says so, as of every --out
        print(f"Results: {path}")


def write_report(runs: Sequence[Path], out: Path | None = None, arms: Arms = Arms()) -> Path:
    """Write the page and return its path.

    Raises:
        UserError: a run does not exist, is not a run, or holds a file that cannot be read; `out` is
            something else than a report; or there is no such arm.
    """
    if out is None:
        out = runs[0] / "report.html" if len(runs) == 1 else Path("report.html")
    refuse_other_file(out, KICKER, "a report")
    parts = find_parts(runs)
    write_page(out, "veridical.report", "page.html.j2", _page(parts, runs, out, arms))
    return out


def _page(parts: Sequence[Part], runs: Sequence[Path], out: Path, arms: Arms) -> dict[str, object]:
    """Everything the template names."""
    results = collect_results(parts, arms)
    arms.check(results.arms, results.baseline)
    trainings = sections.trainings(parts, results)
    pair_sets = sections.pair_sets(parts, results)
    sentence, lead = _headline(results, trainings, pair_sets)
    note, examples = _examples(parts, results)
    viewed = pairs_addresses(parts)
    clusters = max((v.clusters for values in results.values.values() for v in values), default=0)
    return {
        "headline": sentence,
        "lead": [*lead, *filter(None, [sections.story(parts, trainings, pair_sets)])],
        "subject": _subject(parts, runs),
        "tiles": tables.tiles(results),
        "arms": _headers(results, results.arms),
        "most_columns": MOST_COLUMNS,
        "baseline": results.baseline,
        "headline_arm": results.headline_arm,
        "clusters": f"up to {count_of(clusters, 'image')}" if clusters else "",
        "scores": tables.table_rows(results, main=True),
        "more_scores": tables.table_rows(results, main=False),
        "other_differences": [
            {"baseline": other, "arms": _headers(results, compared), "rows": rows}
            for other in results.other_baselines
            for compared, rows in [tables.difference_rows(results, other)]
        ],
        "has_changes": bool(results.changes),
        "old_intervals": _old_intervals(results),
        "several_seeds": any(len(values) > 1 for values in results.values.values()),
        "metric_plots": metric_plots(results),
        "answers": answer_files(parts, results.benchmarks, results.metrics, out),
        "viewed_sets": viewed_sets(parts, out),
        "view": f"veridical view {shlex.quote(str(out))}",
        "drawn": any(map(is_drawn, parts)),
        "examples": examples.chosen if examples else [],
        "examples_note": note,
        "examples_prompt": _shared_prompt(examples),
        "trainings": [_training(item) for item in trainings],
        "trainings_open": TRAININGS_OPEN,
        "pairs": [
            {**vars(item), "sentence": sections.built(item), "address": viewed[item.folder]}
            for item in pair_sets
        ],
        "pairs_open": PAIRS_OPEN,
        "steps": [_step(step) for step in steps(parts)],
        "steps_open": STEPS_OPEN,
        "version": own_version(),
        "sources": [str(run) for run in runs],
    }


def _old_intervals(results: Results) -> str:
    """A warning where intervals are of another method than today's; "" where none are."""
    old = results.old_intervals
    if not old:
        return ""
    which = "all arms" if len(old) == len(results.arms) else joined(old)
    return (
        f"The intervals of {which} are from an earlier version's bootstrap, and too narrow if few "
        "images decide. Run the evaluation or comparison again before comparing them with others."
    )


def _subject(parts: Sequence[Part], runs: Sequence[Path]) -> str:
    words = [joined([run.resolve().name for run in runs])]
    started = [str(part.record["started_utc"]) for part in parts if part.record.get("started_utc")]
    if started:
        words.append(min(started).replace("T", " ")[:16] + " UTC")
    return " \N{MIDDLE DOT} ".join(words)


def _headers(results: Results, arms: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": arm, "gloss": results.named.label(arm)} for arm in arms]


def _headline(
    results: Results,
    trainings: Sequence[sections.ShownTraining],
    pair_sets: Sequence[sections.ShownPairs],
) -> tuple[str, tuple[str, ...]]:
    """The title and the paragraphs below it, by the furthest thing these runs hold."""
    main = headline(results)
    if main is not None:
        return main.sentence, main.details
    unmeasured = "No evaluation is among these runs."
    if results.metrics:
        metric = results.metrics[0]
        shown = results.describe(metric)
        values = [f"{arm} {show(results.mean(arm, metric), shown.unit)}" for arm in results.arms]
        return f"{shown.label}: {joined(values)}", ()
    if trainings:
        names = joined([item.name for item in trainings])
        warnings = sum(f.level == "warning" for item in trainings for f in item.findings)
        said = count_of(warnings, "warning") if warnings else "no warning"
        return f"Training of {names}: {said} from the run doctor", (unmeasured,)
    if pair_sets:
        total = sum(item.total for item in pair_sets)
        return f"{count_of(total, 'preference pair')} built", (unmeasured,)
    return "A run without results yet", ("Its record is at the end of this page.",)


def _examples(parts: Sequence[Part], results: Results) -> tuple[str, Examples | None]:
    described = [
        part
        for part in parts
        if part.kind == "eval"
        and (part.folder / "details.jsonl").is_file()
        and (part.folder / "answers.jsonl").is_file()
    ]
    pairs = [
        (_of_arm(own, results.baseline), _of_arm(own, results.headline_arm))
        for benchmark in results.in_order
        for own in [[part for part in described if part.benchmark == benchmark.name]]
    ]
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not both:
        return (
            "Images are shown if these runs contain descriptions before and after training "
            "(answers.jsonl and details.jsonl of two evaluations).",
            None,
        )
    before, after = both[0]
    examples = choose_examples(before, after, EXAMPLES_SHOWN)
    differing = sum(examples.differing.values())
    if not differing:
        return f"All {count_of(examples.images, 'answer')} are the same before and after.", None
    groups = examples.differing
    return (
        f"Of {count_of(examples.images, 'image')}, {differing:,} are described differently after "
        f"alignment: {groups['fewer']:,} with fewer invented objects, {groups['same']:,} with as "
        f"many, {groups['more']:,} with more. The {len(examples.chosen)} below are drawn at random "
        "from these groups, in proportion to their size and at least one from each, so images "
        "whose description got worse are included."
        + (f" The answers after are those of {after.name}." if "/" in after.name else ""),
        examples,
    )


def _shared_prompt(examples: Examples | None) -> str:
    """The prompt, where all shown images have the same."""
    prompts = {example.prompt for example in examples.chosen} if examples else set()
    return prompts.pop() if len(prompts) == 1 else ""


def _of_arm(parts: Sequence[Part], arm: str | None) -> Part | None:
    exact = [part for part in parts if part.name == arm]
    ending = [part for part in parts if arm and arm in part.name.split("/")]
    return next(iter(exact or ending), None)


def _training(item: sections.ShownTraining) -> dict[str, object]:
    proofs = None if item.proofs is None else [_proof(proof) for proof in item.proofs]
    return {**vars(item), "proofs": proofs, "proofs_summary": _proofs_summary(proofs)}


def _proofs_summary(proofs: Sequence[Mapping[str, str]] | None) -> str:
    """The whole table in a few words."""
    if not proofs:
        return "no proofs"
    counts = Counter(proof["state"] for proof in proofs)
    words = {
        "passed": "passed",
        "failed": "failed",
        "blind": "can't tell",
        "skipped": "not applicable",
    }
    return ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])


def _proof(proof: Mapping[str, object]) -> dict[str, str]:
    title, meaning = PROOFS.get(str(proof["name"]), (str(proof["name"]), ""))
    unit = str(proof.get("unit", ""))
    applicable = proof.get("applicable", True)
    state = "skipped" if not applicable else "passed" if proof["passed"] else "failed"
    if applicable and proof.get("blind"):
        state = "blind"
    words = {"skipped": "does not apply", "blind": "can't tell"}
    bound = "above" if proof["name"] == "image_matters" else "at most"
    return {
        "title": title,
        "meaning": meaning,
        "value": f"{_figure(proof.get('value'))} {unit}" if applicable else "\N{EM DASH}",
        "limit": f"{bound} {_figure(proof.get('limit'))} {unit}" if applicable else "\N{EM DASH}",
        "state": state,
        "words": words.get(state, state),
        "detail": str(proof.get("detail", "")),
    }


def _figure(value: object) -> str:
    return scientific(float(value)) if isinstance(value, int | float) else str(value)


def _step(step: Step) -> JsonObject:
    record = json.dumps(step.record, indent=2, ensure_ascii=False)
    return {**vars(step), "json": record}
