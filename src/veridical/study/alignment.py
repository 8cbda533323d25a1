"""The plan of an alignment: a recipe's steps, between data and an evaluation before and after."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veridical.data.record_kinds import Kind
from veridical.judges.kinds import check_kind
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.study.labels import check_labels
from veridical.study.plan import OptionValue, Plan, Step, check_plan, lies_in
from veridical.study.recipe import Defaults, Recipe, embedded_defaults, fill
from veridical.study.step_options import with_options

EMBEDDED = "embedded"
TRAINING_SEED, TEST_SEED = 1_000, 11
"""Of drawn scenes: what is trained on changes with the seed, what is tested on does not."""
JUDGES = {
    "exact": ("exact",),
    "chair": ("chair",),
    "model": ("local", "endpoint"),
    "any": ("exact", "local", "endpoint"),
}
"""What `--judge` may be, by what a recipe says of its judge."""
NOT_SHOWN = (
    "without labels, on held-out rows: how much more likely true answers are than false ones, and "
    "what the image adds. It does not count what the model's own answers invent; for that give "
    "--images and --objects"
)


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """How the result is evaluated.

    Attributes:
        images: folder of images to evaluate on by POPE and CHAIR; take others than DATA's. Without
            it the check is label-free, on rows of DATA that are held out.
        objects: JSON {image_id: [names of the objects in the image]}, of the images in `images`,
            and of DATA's where the recipe judges by objects.
        vocabulary: which words name which object; COCO's if not set.
        held_out: share of DATA's rows that the label-free check holds out.
        check_rows: rows that it holds out at most.
    """

    images: Path | None = None
    objects: Path | None = None
    vocabulary: Path | None = None
    held_out: float = 0.1
    check_rows: int = 500


@dataclass(frozen=True)
class Sources:
    """What an alignment is made from.

    Attributes:
        model: to align.
        data: its rows; None draws scenes for the embedded model.
        judge: who says which answer is better; None lets the recipe and the object lists say.
        facts: true sentences by image.
        evaluating: how the result is evaluated.
        seed: of every step that draws.
    """

    model: str
    data: Path | None
    judge: str | None
    facts: Path | None
    evaluating: Evaluating
    seed: int


@dataclass(frozen=True)
class _Material:
    """The sources as files, given or to be drawn."""

    data: Path
    kind: Kind
    objects: Path | None
    facts: Path | None
    test: Evaluating
    steps: tuple[Step, ...] = ()


def make_plan(recipe: Recipe, sources: Sources, out: Path, options: Sequence[str]) -> Plan:
    """Every step of an alignment.

    Args:
        recipe: how the model is trained.
        sources: from what.
        out: the folder for all of it.
        options: texts such as "train.learning_rate=1e-6".

    Raises:
        UserError: the recipe needs something else, or an option is of no step.
    """
    defaults = embedded_defaults() if sources.model == EMBEDDED else {}
    material = _drawn(recipe, sources, out) if sources.data is None else _given(sources)
    _check_kind(recipe, material)
    judge = _judge(recipe, sources, material)
    without_labels = material.test.images is None
    steps = list(material.steps)
    data, held_out = material.data, material.data
    if without_labels and recipe.evaluate:
        split = _split(sources, material, out)
        steps.append(split)
        data, held_out = (split.output / f"{part}.parquet" for part in ("train", "held_out"))
    values = _values(sources, material, data, judge, out)
    holds = [material.kind, "exact" if judge in ("exact", "chair") else "model"]
    steps += recipe.filled(values, holds, defaults)
    result = str(fill(recipe.result, values, recipe.name))
    if recipe.evaluate:
        checked = _check(sources, material, held_out, out) if without_labels else []
        steps += [with_defaults(step, defaults) for step in checked]
        evaluation = _without_labels if without_labels else _with_labels
        for name, model in (("before", sources.model), ("after", result)):
            pairs = checked[0].output / "pairs.parquet" if checked else held_out
            step = evaluation(name, model, material.test, pairs, out, sources.seed)
            steer = recipe.steer if name == "after" else ""
            steps.append(with_defaults(_steered(step, steer), defaults))
        steps += _ending(out)
    plan = Plan(
        Path.cwd(),
        tuple(with_options(steps, options)),
        _about(recipe, sources, material, without_labels and recipe.evaluate, result),
    )
    check_plan(plan, f"recipe {recipe.name}")
    _check_result(plan, recipe, result)
    return plan


def _check_result(plan: Plan, recipe: Recipe, result: str) -> None:
    """Refuse a recipe whose aligned model nobody makes, before anything else is made.

    Raises:
        UserError: lists what the recipe's steps write.
    """
    if any(lies_in(result, step.output) for step in plan.steps):
        return
    own = [row["name"] for row in recipe.steps]
    written = [str(step.output) for step in plan.steps if step.name in own]
    raise UserError(
        f"Recipe {recipe.name}: result is {result}, and no step writes there. Its steps write "
        f"{', '.join(written) or 'nothing'}."
    )


def _given(sources: Sources) -> _Material:
    from veridical.builders.data_export import kind_of

    assert sources.data is not None
    test = sources.evaluating
    if test.images is not None and test.objects is None:
        raise UserError("--images needs --objects, the objects in each image, for POPE and CHAIR.")
    if test.objects is None and test.vocabulary is not None:
        raise UserError("--vocabulary needs --objects, whose names it is for.")
    if test.objects is not None:
        check_labels(test.objects, test.vocabulary, test.images)
    return _Material(sources.data, kind_of(sources.data), test.objects, sources.facts, test)


def _drawn(recipe: Recipe, sources: Sources, out: Path) -> _Material:
    """Scenes for the embedded model: some to train on, others to evaluate on.

    Raises:
        UserError: it is another model.
    """
    if sources.model != EMBEDDED:
        raise UserError(
            "--data is missing: conversations with true answers, or what the recipe takes. Only "
            "`embedded` can do without, which scenes are drawn for."
        )
    if "conversation" not in recipe.takes:
        raise UserError(
            f"--data is missing: recipe {recipe.name} takes {' or '.join(recipe.takes)} records, "
            "and drawn scenes are conversations."
        )
    train, test = out / "data" / "scenes", out / "data" / "test_scenes"
    steps = []
    for name, folder, distribution, count, seed in (
        ("scenes", train, "prior", recipe.scenes[0], TRAINING_SEED + sources.seed),
        ("test_scenes", test, "counter", recipe.scenes[1], TEST_SEED),
    ):
        drawn = {"folder": str(folder), "distribution": distribution, "count": count, "seed": seed}
        steps.append(Step(name, "world make", drawn))
    evaluating = replace(
        sources.evaluating, images=test / "images", objects=test / "objects.json",
        vocabulary=test / "vocabulary.json",
    )  # fmt: skip
    return _Material(
        train / "conversations.jsonl", "conversation", train / "objects.json",
        sources.facts or train / "facts.json", evaluating, tuple(steps),
    )  # fmt: skip


def _check_kind(recipe: Recipe, material: _Material) -> None:
    if material.kind not in recipe.takes:
        other = {"preference": "dpo", "conversation": "bdhs"}.get(material.kind)
        instead = f" Take --recipe {other}." if other and other != recipe.name else ""
        raise UserError(
            f"Recipe {recipe.name} takes {' or '.join(recipe.takes)} records, and {material.data} "
            f"holds {material.kind} records.{instead}"
        )
    if material.test.images is None and material.kind not in ("conversation", "preference"):
        raise UserError(
            f"{material.data} has no true answers, which the label-free check needs. Give --images "
            "and --objects, to evaluate by POPE and CHAIR."
        )
    if "scenes" in recipe.needs and not material.steps:
        raise UserError(
            f"Recipe {recipe.name} evaluates on scenes that it draws. Leave --data out, with the "
            "model `embedded`."
        )
    if "facts" in recipe.needs and material.facts is None:
        raise UserError(f"Recipe {recipe.name} needs --facts, JSON {{image_id: [true sentences]}}.")


def _judge(recipe: Recipe, sources: Sources, material: _Material) -> str | None:
    """Who judges; None where nobody does.

    Raises:
        UserError: the recipe needs somebody else, or object lists.
    """
    given, test = sources.judge, material.test
    if recipe.judge == "none":
        if given is not None:
            raise UserError(f"Recipe {recipe.name} has no judge. Leave --judge out.")
        if test.objects is not None and test.images is None:
            raise UserError(
                f"--objects needs --images, the pictures to evaluate on: recipe {recipe.name} "
                "itself reads no object lists."
            )
        return None
    by_objects = "chair" if recipe.judge == "chair" else "exact"
    if recipe.judge == "chair" and given not in (None, "chair"):
        raise UserError("Recipe chair-dpo judges by CHAIR. Leave --judge out, or take rlaif.")
    if given is not None:
        check_kind(given, JUDGES[recipe.judge])
    judge = given or (by_objects if material.objects is not None else None)
    if judge in ("exact", "chair") and material.objects is None:
        raise UserError(f"--judge {judge} needs --objects, with the objects in DATA's images.")
    if judge is None:
        need = (
            "--objects, with the objects in DATA's images"
            if recipe.judge == "chair"
            else "--judge local:MODEL or endpoint:MODEL, or --objects for the exact judge"
        )
        raise UserError(f"Recipe {recipe.name} needs {need}.")
    return judge


def _values(
    sources: Sources, material: _Material, data: Path, judge: str | None, out: Path
) -> dict[str, OptionValue]:
    """What recipes' placeholders stand for."""
    by_objects = judge in ("exact", "chair")
    pairs = data if material.kind == "preference" else out / "pairs" / "pairs.parquet"

    def text(path: Path | None, used: bool = True) -> str | None:
        return str(path) if path is not None and used else None

    installed = importlib.util.find_spec("sentence_transformers") is not None
    return {
        "model": sources.model,
        "data": str(data),
        "kind": material.kind,
        "pairs": str(pairs),
        "out": str(out),
        "judge": judge,
        "objects": text(material.objects),
        "vocabulary": text(material.test.vocabulary),
        "judged_objects": text(material.objects, by_objects),
        "judged_vocabulary": text(material.test.vocabulary, by_objects),
        "test_images": text(material.test.images),
        "test_objects": text(material.test.objects),
        "facts": text(material.facts),
        "similarity": "mpnet" if installed else "edit",
        "seed": sources.seed,
    }


def _split(sources: Sources, material: _Material, out: Path) -> Step:
    test = material.test
    if not 0 < test.held_out < 1:
        raise UserError(
            f"--held-out is {test.held_out:g}, and the label-free check needs rows: give a share "
            "above 0 and below 1, or --images and --objects."
        )
    return Step(
        "split",
        "data split",
        {
            "data": str(material.data), "out": str(out / "data"), "kind": material.kind,
            "held_out": test.held_out, "held_out_limit": test.check_rows, "seed": sources.seed,
        },
    )  # fmt: skip


def _check(sources: Sources, material: _Material, held_out: Path, out: Path) -> list[Step]:
    """How false answers to the held-out rows are made; nothing where they are there."""
    if material.kind == "preference":
        return []
    similar = importlib.util.find_spec("sentence_transformers") is not None
    options = {
        "model": sources.model, "data": str(held_out), "out": str(out / "held_out"),
        "similarity": "mpnet" if similar else "edit", "seed": sources.seed,
    }  # fmt: skip
    return [Step("held_out", "build bdhs", options)]


def _without_labels(
    name: str, model: str, test: Evaluating, pairs: Path, out: Path, seed: int
) -> Step:
    options = {"model": model, "data": str(pairs), "out": str(out / "eval" / name), "seed": seed}
    return Step(name, "eval label_free", options)


def _with_labels(
    name: str, model: str, test: Evaluating, pairs: Path, out: Path, seed: int
) -> Step:
    options = {
        "model": model, "benchmarks": ["pope", "chair"], "images": str(test.images),
        "objects": str(test.objects),
        "vocabulary": None if test.vocabulary is None else str(test.vocabulary),
        "out": str(out / "eval" / name), "seed": seed,
    }  # fmt: skip
    return Step(name, "eval", {key: item for key, item in options.items() if item is not None})


def _steered(step: Step, steer: str) -> Step:
    return replace(step, options={**step.options, "steer": steer}) if steer else step


def with_defaults(step: Step, defaults: Defaults) -> Step:
    """A step with a model's own options for its command."""
    return replace(step, options={**step.options, **defaults.get(step.command, {})})


def _ending(out: Path) -> list[Step]:
    before, after = (str(out / "eval" / name) for name in ("before", "after"))
    compared = {"baseline": before, "candidate": after, "out": str(out / "comparison")}
    page = {"runs": [str(out)], "out": str(out / "report.html")}
    return [Step("comparison", "eval compare", compared), Step("report", "report", page)]


def _about(
    recipe: Recipe, sources: Sources, material: _Material, without_labels: bool, result: str
) -> JsonObject:
    data = f"{material.data} ({material.kind} records)"
    if material.steps:
        data = f"{recipe.scenes[0]:,} drawn scenes, tested on {recipe.scenes[1]:,} others"
    return {
        "recipe": recipe.name,
        "summary": recipe.summary,
        "model": sources.model,
        "data": data,
        "evaluation": _shown(recipe, material, without_labels),
        "source": str(material.data),
        "kind": material.kind,
        "result": result,
    }


def _shown(recipe: Recipe, material: _Material, without_labels: bool) -> str:
    """How the result is evaluated, in words."""
    if not recipe.evaluate:
        return f"by the steps of recipe {recipe.name}"
    return NOT_SHOWN if without_labels else f"by POPE and CHAIR on {material.test.images}"
