"""Several benchmarks of one model, which is loaded once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from veridical.eval.benchmark import Benchmark, find_benchmark
from veridical.eval.benchmarks import BENCHMARKS, groups
from veridical.eval.evaluation import USUAL, Asking, Subject, open_model
from veridical.eval.grading import NOBODY, Grading
from veridical.eval.hub_files import with_hub_files
from veridical.eval.judge_cost import JudgeCost, judge_cost
from veridical.eval.run import asks_of, prepare, run_benchmark
from veridical.eval.scores import fixed_width, read_scores
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.runtime.options import by_option
from veridical.runtime.run_record import is_finished
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result
from veridical.runtime.tables import Table
from veridical.scoring.statistics import Estimate

IMAGES = "images"
"""The option of any benchmark that has images of its own."""


def evaluate(
    benchmarks: list[str],
    out: Path,
    subject: Subject,
    objects: Path | None = None,
    vocabulary: Path | None = None,
    options: list[str] | None = None,
    asking: Asking = USUAL,
    grading: Grading = NOBODY,
) -> dict[str, dict[str, Estimate]]:
    """Evaluate a model by several benchmarks; it is loaded once.

    Every benchmark writes into a folder of its own name in OUT, what its own command would write
    there; `table` (.md, .csv and .tex) has all scores. `eval compare` takes two such folders, and
    `report` one or more. Run again with the same settings, it continues.

    Args:
        benchmarks: which, such as pope,chair, or the groups hallucination, knowledge and text;
            text,-alpaca_eval leaves one out. `veridical eval --help` lists them.
        out: the folder to write.
        subject: the model; answers made elsewhere are for the benchmarks' own commands.
        objects: JSON {image_id: [names of the objects in the image]}, for the benchmarks that
            take it.
        vocabulary: which words name which object, for the benchmarks that take it.
        options: options of single benchmarks, such as pope.per_image=1 chair.prompt="Say."; also
            mmvet.images=FOLDER, where a benchmark has images of its own.
        asking: how the model is asked.
        grading: who judges the answers, for the benchmarks that have them judged.

    Returns:
        The scores by benchmark and metric.

    Raises:
        UserError: an unknown benchmark or option, or what its own command refuses.
    """
    if subject.answers is not None:
        raise UserError("--answers are of one benchmark: score them by `veridical eval NAME`.")
    common = {"objects": objects, "vocabulary": vocabulary}
    chosen = _chosen(benchmarks, common, options or [], subject)
    shared = open_model(subject, asking, several=len(chosen) > 1)
    judges = {benchmark.name: _judge_of(benchmark, own, grading) for benchmark, own, _ in chosen}
    costs: list[JudgeCost] = []
    for benchmark, own, seen in chosen:
        name, asks = benchmark.name, asks_of(benchmark)
        ready, seen, _ = with_hub_files(asks.hub, own, seen)
        evaluation = prepare(benchmark, ready, out / name, seen, asking, shared, judges[name])
        if grading.dry_run and asks.grader is not None and judges[name] is not NOBODY:
            costs.append(judge_cost(asks, ready, evaluation))
            print_result(f"{benchmark.description.title}: {costs[-1].line}")
    configuration = {
        "out": out, "benchmarks": [benchmark.name for benchmark, *_ in chosen], **common,
        "options": options,
        **by_option({"subject": subject.named(), "asking": asking, "grading": grading}),
    }  # fmt: skip
    named = {"images": subject.images, **common}
    inputs = {name: path for name, path in named.items() if path is not None}
    scores: dict[str, dict[str, Estimate]] = {}
    if grading.dry_run:
        if len(costs) > 1:
            print_result(f"All together: {sum(costs[1:], costs[0]).line}")
        if not costs:
            print_result("None of these benchmarks has its answers judged by a model.")
        return scores
    with start_run(out, "eval", configuration, inputs, any_process=True) as run:
        for benchmark, own, seen in chosen:
            name = benchmark.name
            print_result(f"{benchmark.description.title}:")
            scores[name] = run_benchmark(
                benchmark, own, out / name, seen, asking, shared, judges[name]
            )
        # Where another process had the last shard of a benchmark, its scores are on disk.
        everything = {name: own or _scored_elsewhere(out / name) for name, own in scores.items()}
        if all(everything.values()):  # else another process is not done
            score_table(everything, [benchmark for benchmark, *_ in chosen]).write(out, "table")
            run.finish(benchmarks=len(chosen))
    return scores


def _judge_of(benchmark: Benchmark, options: Any, grading: Grading) -> Grading:
    """Who judges a benchmark's answers: nobody where its options leave no use for a judge."""
    grader = asks_of(benchmark).grader
    return NOBODY if grader is not None and grader.unused(options) else grading


def _scored_elsewhere(folder: Path) -> dict[str, Estimate]:
    """What another process's finished evaluation scored; nothing where it is not done."""
    if not is_finished(folder):
        return {}
    return {
        name: Estimate(
            entry["value"], entry.get("low"), entry.get("high"), entry.get("n", 0),
            entry.get("clusters") or 0, entry.get("note", ""),
        )
        for name, entry in read_scores(folder).items()
    }  # fmt: skip


def score_table(
    scores: Mapping[str, Mapping[str, Estimate]], benchmarks: Sequence[Benchmark]
) -> Table:
    """Every score with its interval, a line each."""
    titles = {benchmark.name: benchmark.description.title for benchmark in benchmarks}
    rows = [
        [titles[name], metric, fixed_width(score.value).strip(),
         f"[{fixed_width(score.low).strip()}, {fixed_width(score.high).strip()}]", str(score.n),
         str(score.clusters)]
        for name, own in scores.items() for metric, score in own.items()
    ]  # fmt: skip
    return Table(["benchmark", "metric", "value", "95% interval", "n", "images"], rows, 2)


def by_benchmark(options: Sequence[str]) -> dict[str, JsonObject]:
    """Options by the benchmark's name and their own, from texts such as "pope.per_image=1".

    Raises:
        UserError: one of them is not of that form, or is given twice.
    """
    found: dict[str, JsonObject] = {}
    for text in options:
        name, equals, value = text.partition("=")
        benchmark, dot, option = name.strip().partition(".")
        if not (equals and dot and option):
            raise UserError(f"--options {text!r} is not of the form pope.per_image=1.")
        own = found.setdefault(benchmark, {})
        if option in own:
            raise UserError(f"--options has {benchmark}.{option} twice.")
        try:
            own[option] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(
                f"--options {text!r}: the value is not YAML. Put it in quotes."
            ) from error
    return found


def benchmark_options(
    benchmark: Benchmark, common: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """A benchmark's own options, from those that several share and those that name it.

    Args:
        benchmark: which.
        common: values by name; what it has no option for, or is None, is left out.
        given: values by the option's name.

    Raises:
        UserError: an option that it does not have, or a value of another type.
    """
    kind, fields = asks_of(benchmark).options, _known_options(benchmark, given)
    values = {name: value for name, value in common.items() if name in fields and value is not None}
    values |= given
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"--options {benchmark.name}.{place}: {first['msg']}.") from error


def _known_options(benchmark: Benchmark, given: Iterable[str]) -> list[str]:
    """The names of a benchmark's own options.

    Raises:
        UserError: it does not have one that is given.
    """
    known = [field.name for field in dataclasses.fields(asks_of(benchmark).options)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(
                f"{benchmark.name} has no option {name!r}{meant}; it has {', '.join(known)} and "
                f"{IMAGES}."
            )
    return known


def wanted_names(names: Sequence[str]) -> set[str]:
    """The benchmarks that names and groups stand for; "-amber" takes one out again.

    Raises:
        UserError: there are none.
    """
    parts = [part.strip() for name in names for part in name.split(",") if part.strip()]
    known, wanted = groups(), set[str]()
    for part in parts:
        if not part.startswith("-"):
            wanted |= set(known.get(part, [part]))
    for part in parts:
        if part.startswith("-"):
            out = set(known.get(part[1:], [part[1:]]))
            if not out & wanted:
                raise UserError(f"--benchmarks takes out {part[1:]}, which is not in it.")
            wanted -= out
    if not wanted:
        raise UserError(
            f"--benchmarks names none; there is: {', '.join(BENCHMARKS)}, and the groups "
            f"{', '.join(known)}."
        )
    return wanted


def _missing(benchmark: Benchmark, values: Mapping[str, Any]) -> list[str]:
    """Options that a benchmark can't do without, and that are not given."""
    return [
        field.name
        for field in dataclasses.fields(asks_of(benchmark).options)
        if field.default is dataclasses.MISSING and values.get(field.name) is None
    ]


def _chosen(
    names: Sequence[str], common: Mapping[str, object], options: Sequence[str], subject: Subject
) -> list[tuple[Benchmark, object, Subject]]:
    """The benchmarks with their options and images, each once, in the order of the table."""
    wanted = wanted_names(names)
    found = {name: find_benchmark(name) for name in sorted(wanted)}
    for name, one in found.items():
        if not asks_of(one).asks_models:
            raise UserError(
                f"{name} asks no model that answers; `veridical eval {name}` does it on its own."
            )
    given = by_benchmark(options)
    for name in given:
        if name not in found:
            raise UserError(
                f"--options {name} is of no benchmark that is run here: {', '.join(found)}."
            )
        _known_options(found[name], _without_images(given[name]))
    chosen = [found[name] for name in BENCHMARKS if name in found]
    missing = {one.name: _missing(one, {**common, **given.get(one.name, {})}) for one in chosen}
    lacking = [f"{name}.{option}=..." for name, own in missing.items() for option in own]
    if lacking:
        shared = sorted({option for own in missing.values() for option in own} & common.keys())
        where = "".join(f"--{option} or " for option in shared)
        which = [name for name, own in missing.items() if own]
        less = f", or leave a benchmark out: --benchmarks {','.join(names)},-{which[0]}"
        raise UserError(
            f"{', '.join(which)} {'needs' if len(which) == 1 else 'need'} {where}--options "
            f"{' '.join(lacking)}, not given. Give them{less if len(chosen) > 1 else ''}."
        )
    return [
        (one, benchmark_options(one, common, _without_images(given.get(one.name, {}))),
         _with_images(subject, given.get(one.name, {})))
        for one in chosen
    ]  # fmt: skip


def _without_images(given: Mapping[str, Any]) -> JsonObject:
    return {name: value for name, value in given.items() if name != IMAGES}


def _with_images(subject: Subject, given: Mapping[str, Any]) -> Subject:
    """The subject, with the folder of images that a benchmark's own options name."""
    if IMAGES not in given:
        return subject
    return dataclasses.replace(subject, images=Path(str(given[IMAGES])))
