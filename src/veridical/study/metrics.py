"""Whether the steps of a study give the metric that it names."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.eval.benchmark import find_benchmark, no_groups
from veridical.eval.benchmarks import BENCHMARKS
from veridical.runtime.errors import UserError


def check_metric(metric: str, commands: Sequence[str], over_seeds: bool) -> None:
    """Refuse a metric that no evaluation gives, before anything runs.

    Args:
        metric: as "benchmark/metric".
        commands: of the steps that evaluate; one that says no benchmark, such as `eval`, may give
            any.
        over_seeds: whether differences over seeds are computed, which a few metrics have not.

    Raises:
        UserError: there is no such benchmark or metric, or none of the commands gives it.
    """
    name, _, own = metric.partition("/")
    benchmark = find_benchmark(name)
    known = [formula.name for formula in benchmark.formulas]
    others = [statistic.name for statistic in benchmark.statistics]
    group, _, wanted = own.rpartition("/")
    if group and benchmark.groups is no_groups:
        raise UserError(f"{name} scores no groups of answers, so it has no metric {own}.")
    in_group = [formula.name for formula in benchmark.formulas_of(group)]
    if wanted not in [*in_group, *others]:
        where = f" of {group}" if group else ""
        raise UserError(
            f"{name} has no metric {wanted}{where}; it has {', '.join([*in_group, *others])}."
        )
    if over_seeds and wanted in others:
        raise UserError(
            f"{metric} has no difference over several seeds. Take one of {', '.join(known)}, or "
            "set `seeds` to a list of one."
        )
    made = [command.removeprefix("eval ") for command in commands]
    if name not in made and all(one in BENCHMARKS for one in made):
        raise UserError(
            f"no step that evaluates gives {name}; there is {', '.join(dict.fromkeys(made))}. Take "
            f"a metric of these, or add a step with the command `eval {name}`."
        )


def require_direction(metric: str) -> None:
    """Refuse a metric by which nothing can be chosen.

    Raises:
        UserError: neither higher nor lower is better.
    """
    name, _, own = metric.partition("/")
    if find_benchmark(name).description.metric(own).better is None:
        raise UserError(f"{metric} has no better direction, so it can't choose settings.")
