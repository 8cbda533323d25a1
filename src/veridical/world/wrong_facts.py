"""Pairs that differ by one wrong fact, with what is known of the picture, or wrongly believed.

A hard and exact test of a reward model: everything else about the two answers is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from veridical.data.record_types import NewRow
from veridical.data.records import assistant_message, user_message, write_records
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json
from veridical.runtime.progress import are_in
from veridical.runtime.randomness import generator
from veridical.runtime.runs import start_run
from veridical.world.dataset import image_path, read_scenes
from veridical.world.language import (
    DESCRIPTION_PROMPTS,
    count_question,
    describe_scene,
    facts,
)
from veridical.world.scenes import (
    COLOURS,
    FEWEST_OBJECTS,
    GRID,
    KINDS,
    MOST_OBJECTS,
    Scene,
    Thing,
)

WrongKind = Literal["object", "colour", "position", "count"]
WRONG_KINDS: tuple[WrongKind, ...] = ("object", "colour", "position", "count")
Told = Literal["all", "half", "wrong"]
SHARE_TOLD = 0.5


def write_wrong_facts(scenes: Path, out: Path, facts: Told = "all", seed: int = 0) -> None:
    """Write four preference pairs for each of SCENES, whose rejected answer has one wrong fact.

    An object that is not there, a wrong colour, a wrong place, each in a description; and a wrong
    number of objects, in an answer to that question. In scenes without habits (`uniform`) the
    words alone tell nothing of which answer is wrong.

    Args:
        scenes: a folder that `world make` wrote.
        out: folder for the run: `pairs.parquet`, `summary.json`, `run.json`.
        facts: what the records' `facts` say: `all` of the picture; `half` of it, drawn by seed; or
            all of it, `wrong` in just what the rejected answer is wrong in.
        seed: of what is wrong, and of what is told.
    """
    options = {"scenes": scenes, "out": out, "facts": facts, "seed": seed}
    known = read_scenes(scenes)
    with start_run(out, "world pairs", options, {"scenes": scenes}) as run:
        rows = [row for scene in known for row in _rows(scene, scenes, facts, seed)]
        if not rows:
            raise UserError(f"{scenes} holds no scenes to make pairs of.")
        write_records(rows, out / "pairs.parquet", "preference")
        summary = {"scenes": len(known), "pairs": len(rows)}
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(are_in(len(rows), "pairs", out / "pairs.parquet"))


def _rows(scene: Scene, folder: Path, told: Told, seed: int) -> Iterator[NewRow]:
    for kind in WRONG_KINDS:
        rng = generator(seed, "wrong fact", kind, scene.id)
        wrong = with_one_wrong(scene, kind, rng)
        question, right, answer = (
            DESCRIPTION_PROMPTS[0],
            describe_scene(scene),
            describe_scene(wrong),
        )
        if kind == "count":
            asked = count_question(scene)
            question, right, answer = asked.text, asked.answer, count_question(wrong).answer
        yield {
            "id": f"{scene.id}/{kind}",
            "images": [str(folder / image_path(scene))],
            "prompt": [user_message(question)],
            "chosen": [assistant_message(right)],
            "rejected": [assistant_message(answer)],
            "facts": _told(scene, wrong, told, rng),
            "source": json.dumps({"builder": "wrong_fact", "kind": kind, "facts": told}),
        }


def with_one_wrong(scene: Scene, kind: WrongKind, rng: np.random.Generator) -> Scene:
    """The scene as the rejected answer has it; the words alone must not give it away."""
    if kind == "count":
        return _miscounted(scene, rng)
    if kind == "position":
        place, cell = _draw(rng, _moves(scene))
        return _with(scene, place, replace(scene.objects[place], cell=cell))
    place = int(rng.integers(len(scene.objects)))
    thing = scene.objects[place]
    if kind == "object":
        absent = [other for other in KINDS if other not in scene.kinds]
        return _with(scene, place, replace(thing, kind=_draw(rng, absent)))
    others = [colour for colour in COLOURS if colour != thing.colour]
    return _with(scene, place, replace(thing, colour=_draw(rng, others)))


def _with(scene: Scene, place: int, thing: Thing) -> Scene:
    return replace(scene, objects=(*scene.objects[:place], thing, *scene.objects[place + 1 :]))


def _moves(scene: Scene) -> list[tuple[int, int]]:
    """Every object with every other cell that leaves the objects in reading order."""
    cells = [-1, *(thing.cell for thing in scene.objects), GRID * GRID]
    return [
        (place, cell)
        for place in range(len(scene.objects))
        for cell in range(cells[place] + 1, cells[place + 2])
        if cell != cells[place + 1]
    ]


def _miscounted(scene: Scene, rng: np.random.Generator) -> Scene:
    """With any other number of objects that scenes have, all as likely."""
    count = len(scene.objects)
    others = [n for n in range(FEWEST_OBJECTS, MOST_OBJECTS + 1) if n != count]
    things = list(scene.objects)
    wanted = _draw(rng, others)
    while len(things) > wanted:
        things.pop(int(rng.integers(len(things))))
    while len(things) < wanted:
        kinds, cells = {thing.kind for thing in things}, {thing.cell for thing in things}
        kind = _draw(rng, [kind for kind in KINDS if kind not in kinds])
        cell = _draw(rng, [cell for cell in range(GRID * GRID) if cell not in cells])
        things.append(Thing(kind, _draw(rng, COLOURS), cell, faded=False))
    return replace(scene, objects=tuple(sorted(things, key=lambda thing: thing.cell)))


def _told(scene: Scene, wrong: Scene, told: Told, rng: np.random.Generator) -> list[str]:
    if told == "wrong":
        return facts(wrong)
    sentences = facts(scene)
    if told == "all":
        return sentences
    return [sentence for sentence in sentences if rng.random() < SHARE_TOLD]


def _draw(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]
