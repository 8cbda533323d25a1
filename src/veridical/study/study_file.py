"""Study files: steps, arms that differ from a base arm in named factors, seeds, and an outcome."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text
from veridical.runtime.yaml_text import read_yaml
from veridical.study.arms import MOST_CELLS, Level, read_arms, read_seeds
from veridical.study.commands import path_options
from veridical.study.metrics import check_metric, require_direction
from veridical.study.plan import OptionValue
from veridical.study.recipe import Defaults, embedded_defaults
from veridical.study.shipped import find_file, shipped_names
from veridical.study.study_place import StudyPlace

FOLDER = Path(__file__).parent / "studies"
FIELDS = ("question", "values", "defaults", "seeds", "base", "factors", "arms", "steps", "tuning",
          "outcome")  # fmt: skip
STEP_FIELDS = ("name", "command", "options", "when")
TUNING_FIELDS = ("settings", "by", "evaluation", "metric", "seed", "same_as")
OUTCOME_FIELDS = ("evaluations", "metric", "difference", "power", "start", "against")


@dataclass(frozen=True)
class Template:
    """A step with placeholders, made once for all arms and seeds that fill it alike.

    Attributes:
        name: of the step; several with one name are alternatives, of which `when` chooses.
        command: its words.
        options: with `{factor}`, `{value}`, `{seed}` and `{step}` as placeholders.
        when: the levels that factors must have, by factor.
    """

    name: str
    command: str
    options: Mapping[str, OptionValue]
    when: Mapping[str, Sequence[Level]]


@dataclass(frozen=True)
class Tuning:
    """How settings are chosen on development data, for each arm at the same budget.

    Attributes:
        settings: values to try, by the level of the factor `by`; each arm has as many. With no
            `by`, under "".
        by: the factor whose level says which settings; "" where all arms have the same.
        evaluation: the step that evaluates on development data.
        metric: that decides, as "benchmark/metric".
        seed: that settings are tried with.
        same_as: for some arms another one whose choice they take, instead of one of their own.
    """

    settings: Mapping[Level, Sequence[Mapping[str, Level]]]
    by: str
    evaluation: str
    metric: str
    seed: int
    same_as: Mapping[str, str]

    def choices(self, levels: Mapping[str, Level]) -> Sequence[Mapping[str, Level]]:
        """The settings that an arm with these levels is tried in."""
        return self.settings[levels[self.by] if self.by else ""]


@dataclass(frozen=True)
class Outcome:
    """What is compared.

    Attributes:
        evaluations: the steps whose scores are compared.
        metric: the primary one, as "benchmark/metric".
        difference: in the primary metric that the study aims to detect.
        power: the chance of seeing it that is aimed at.
        start: the evaluation of the model that all arms start from; "" for none.
        against: arms that all others are compared with; the base arm if not set.
    """

    evaluations: tuple[str, ...]
    metric: str
    difference: float
    power: float
    start: str
    against: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A study file.

    Attributes:
        name: of the file.
        question: that it answers.
        values: placeholders that are the same for all arms.
        defaults: options by command that suit the model, below those of steps.
        seeds: numbers; a seed is a level of the design.
        base: the base arm's name.
        factors: the base arm's levels.
        arms: every arm's levels that differ from the base arm's, the base arm first.
        steps: with placeholders.
        tuning: None for none.
        outcome: what is compared.
        grid: the factors that a grid crosses.
    """

    name: str
    question: str
    values: Mapping[str, OptionValue]
    defaults: Defaults
    seeds: tuple[int, ...]
    base: str
    factors: Mapping[str, Level]
    arms: Mapping[str, Mapping[str, Level]]
    steps: tuple[Template, ...]
    tuning: Tuning | None
    outcome: Outcome
    grid: tuple[str, ...] = ()

    def levels(self, arm: str) -> dict[str, Level]:
        """All of an arm's levels."""
        return {**self.factors, **self.arms[arm]}


def study_names() -> list[str]:
    """The studies in the package."""
    return shipped_names(FOLDER)


def find_study(name: str) -> Study:
    """Read a study of the package, or a YAML file.

    Raises:
        UserError: there is none of that name, or the file is not a study.
    """
    return read_study(find_file(name, FOLDER, "study"))


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        UserError: a field is missing, unknown or of another form, or contradicts another.
    """
    content = read_yaml(read_text(path), str(path))
    place = StudyPlace(str(path))
    fields = place.mapping(content, "a study", FIELDS)
    factors = place.mapping(fields.get("factors") or {}, "factors")
    base = str(fields.get("base") or "base")
    place.check_name(base, "the base arm's name")
    arms, grid = read_arms(place, fields.get("arms") or {}, factors, base)
    steps = _steps(place, fields.get("steps"), factors)
    values = place.mapping(fields.get("values") or {}, "values")
    taken = [*factors, *values, "seed", *{step.name for step in steps}]
    if doubled := sorted({name for name in taken if taken.count(name) > 1}):
        place.refuse(f"{doubled[0]} is the name of two of: a factor, a value, a step, `seed`.")
    seeds = read_seeds(place, fields.get("seeds", 3))
    if len(arms) * len(seeds) > MOST_CELLS:
        place.refuse(f"{len(arms):,} arms with {len(seeds):,} seeds are too many; {MOST_CELLS:,} "
                     "in all are the most.")  # fmt: skip
    names = [step.name for step in steps]
    study = Study(
        path.stem,
        str(fields.get("question") or ""),
        values,
        _defaults(place, fields.get("defaults") or {}),
        seeds,
        base,
        factors,
        arms,
        steps,
        _tuning(place, fields.get("tuning"), factors, arms, names),
        _outcome(place, fields.get("outcome"), arms, base, names),
        grid,
    )
    _check_metrics(place, study)
    return study


def _defaults(place: StudyPlace, given: object) -> Defaults:
    """Options by command, for a step that does not set them."""
    if given == "embedded":
        return embedded_defaults()
    found = {}
    for command, options in place.mapping(given, "defaults").items():
        try:
            path_options(command)
        except UserError as error:
            place.refuse(f"defaults: {error}")
        found[command] = place.options(options, f"defaults for {command}")
    return found


def _steps(place: StudyPlace, given: object, factors: Mapping[str, Level]) -> tuple[Template, ...]:
    if not isinstance(given, list) or not given:
        raise UserError(f"{place.name} is not a study: it has to have `steps`, a list of commands.")
    found = []
    for number, row in enumerate(given, start=1):
        what = f"step {number}"
        fields = place.mapping(row, what, STEP_FIELDS)
        name, command = fields.get("name"), fields.get("command")
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(
                f"{place.name}: {what} needs a name of letters, digits and _, by which others "
                "name what it writes."
            )
        if not isinstance(command, str) or not command.strip():
            raise UserError(f"{place.name}: step {name} needs a command, such as `build bdhs`.")
        place.check_name(name, "the step's name")
        options = place.options(fields.get("options") or {}, f"step {name}")
        when = place.mapping(fields.get("when") or {}, f"when of step {name}")
        if unknown := sorted(when.keys() - factors.keys()):
            place.refuse(f"when of step {name}: {unknown[0]} is not a factor.")
        wanted = {key: level if isinstance(level, list) else [level] for key, level in when.items()}
        found.append(Template(name, " ".join(command.split()), options, wanted))
    return tuple(found)


def _tuning(
    place: StudyPlace,
    given: object,
    factors: Mapping[str, Level],
    arms: Mapping[str, Mapping[str, Level]],
    steps: Sequence[str],
) -> Tuning | None:
    if given is None:
        return None
    fields = place.mapping(given, "tuning", TUNING_FIELDS)
    by, settings = str(fields.get("by") or ""), fields.get("settings")
    if by and by not in factors:
        place.refuse(f"tuning.by: {by} is not a factor.")
    by_level = settings if by else {"": settings}
    if not isinstance(by_level, dict) or not by_level:
        raise UserError(f"{place.name}: tuning.settings has to be a mapping of levels to lists.")
    for level, rows in by_level.items():
        if not isinstance(rows, list) or not rows:
            place.refuse(f"tuning.settings of {level!r} has to be a list of mappings.")
        for row in rows:
            known = place.mapping(row, f"tuning.settings of {level!r}")
            if unknown := sorted(known.keys() - factors.keys()):
                place.refuse(f"tuning.settings: {unknown[0]} is not a factor.")
    counts = {len(rows) for rows in by_level.values()}
    if len(counts) > 1:
        place.refuse("tuning.settings: every level needs as many settings, an equal budget.")
    if by:
        for changed in arms.values():
            level = {**factors, **changed}[by]
            if not isinstance(level, Hashable) or level not in by_level:
                place.refuse(f"tuning.settings has none for {by} = {level}.")
    evaluation, metric = fields.get("evaluation"), fields.get("metric")
    if evaluation not in steps:
        place.refuse(f"tuning.evaluation has to name a step; there is {', '.join(steps)}.")
    same_as = place.mapping(fields.get("same_as") or {}, "tuning.same_as")
    for arm, other in same_as.items():
        known_arms = arm in arms and isinstance(other, str) and other in arms
        if not known_arms or other in same_as:
            place.refuse(f"tuning.same_as: {arm} and {other} have to be arms, {other} a tuned one.")
    seed = fields.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"{place.name}: tuning.seed has to be a whole number from 0 up.")
    found = _metric(place, metric, "tuning.metric")
    return Tuning(by_level, by, str(evaluation), found, seed, same_as)


def _check_metrics(place: StudyPlace, study: Study) -> None:
    def commands(names: Sequence[str]) -> list[str]:
        return [step.command for step in study.steps if step.name in names]

    outcome, tuning, what = study.outcome, study.tuning, "outcome.metric"
    try:
        check_metric(outcome.metric, commands(outcome.evaluations), len(study.seeds) > 1)
        if tuning is not None:
            what = "tuning.metric"
            check_metric(tuning.metric, commands([tuning.evaluation]), over_seeds=False)
            require_direction(tuning.metric)
    except UserError as error:
        place.refuse(f"{what}: {error}")


def _metric(place: StudyPlace, given: object, what: str) -> str:
    if not isinstance(given, str) or not all(given.partition("/")):
        raise UserError(f"{place.name}: {what} has to be of the form chair/chair_i.")
    return given


def _outcome(
    place: StudyPlace,
    given: object,
    arms: Mapping[str, Mapping[str, Level]],
    base: str,
    steps: Sequence[str],
) -> Outcome:
    fields = place.mapping(given or {}, "outcome", OUTCOME_FIELDS)
    named = fields.get("evaluations")
    evaluations = [named] if isinstance(named, str) else named
    if not isinstance(evaluations, list) or not evaluations:
        raise UserError(f"{place.name}: outcome.evaluations has to name steps that evaluate.")
    start = str(fields.get("start") or "")
    for name in [*evaluations, *([start] if start else [])]:
        if name not in steps:
            place.refuse(f"outcome: there is no step {name}; there is {', '.join(steps)}.")
    named = fields.get("against") or [base]
    against = [named] if isinstance(named, str) else named
    if not isinstance(against, list):
        raise UserError(f"{place.name}: outcome.against has to be a list of arms.")
    for arm in against:
        if not isinstance(arm, str) or arm not in arms:
            place.refuse(f"outcome.against has to be a list of arms, and {arm!r} is none.")
        if against.count(arm) > 1:
            place.refuse(f"outcome.against has {arm} twice.")
    return Outcome(
        tuple(evaluations),
        _metric(place, fields.get("metric"), "outcome.metric"),
        place.number(fields.get("difference"), "outcome.difference", 0.0, float("inf")),
        place.number(fields.get("power", 0.8), "outcome.power", 0.0, 1.0),
        start,
        tuple(against),
    )
