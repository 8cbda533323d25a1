"""Scenes on disk: pictures, conversations, questions and what each picture holds."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from veridical.data.record_types import NewRow
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json, write_jsonl, writing
from veridical.runtime.json_types import JsonObject
from veridical.runtime.progress import counted, track
from veridical.runtime.run_folders import require_new_folder
from veridical.world.drawing import draw_scene
from veridical.world.language import (
    DESCRIPTION_PROMPTS,
    describe_scene,
    facts,
    objects,
    sample_questions,
    vocabulary,
)
from veridical.world.open_questions import open_question_rows
from veridical.world.scenes import Distribution, Scene, Thing, sample_scenes
from veridical.world.text_pairs import text_pair_rows

SCENES = "scenes.json"
WRITTEN = (
    "conversations.jsonl", "questions.jsonl", "objects.json", "facts.json", "vocabulary.json",
    SCENES, "mmhal.json", "gqa.json", "text_pairs.jsonl",
)  # fmt: skip
"""The files of a folder of scenes, beside the pictures in `images/`."""


def write_scenes(
    folder: Path,
    distribution: Distribution = "prior",
    count: int = 100,
    seed: int = 0,
    questions: int = 4,
) -> None:
    """Draw scenes and write them as a folder that every other command reads.

    Written: `images/ID.png`, `conversations.jsonl` (a prompt and the true description),
    `questions.jsonl` (yes/no, count, colour and position questions with answers),
    `objects.json` (what each image holds), `facts.json` (true sentences about each, for judges
    and reward models that are told facts), `vocabulary.json` (the words for each kind),
    `mmhal.json` (an open question about each scene, as MMHal-Bench has them), `gqa.json` (the
    questions again, as GQA has them), `text_pairs.jsonl` (a right and a wrong text about each
    scene, for models without an image) and `scenes.json` (all there is to know). IDs name
    distribution, seed and number, so that folders can be put together.

    Args:
        folder: a folder that does not exist yet or is empty.
        distribution: prior (habits of the world hold), counter (broken) or uniform (none).
        count: number of scenes.
        seed: scene i is the same for the same distribution and seed, whatever the count.
        questions: number of questions about each scene.

    Raises:
        UserError: `folder` holds files already, or the arguments make no sense.
    """
    require_new_folder(folder)
    scenes = sample_scenes(distribution, count, seed)
    try:
        _write_files(folder, scenes, questions, seed)
    except BaseException:
        # What is half there would be refused by the same command, and taken by others.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder / "images")
            for name in WRITTEN:
                (folder / name).unlink(missing_ok=True)
        raise
    print(written(folder, len(scenes)))


def remove_scenes(folder: Path) -> None:
    """Remove what `write_scenes` wrote into a folder, by its `scenes.json`, and nothing else.

    Raises:
        UserError: `scenes.json` is missing or no list of scenes; then nothing is removed.
    """
    rows = read_json(folder / SCENES)
    if not isinstance(rows, list) or not all(map(_is_scene, rows)):
        raise UserError(f"{folder / SCENES} is not a list of scenes. Remove {folder} yourself.")
    for row in rows:
        (folder / "images" / f"{row['id']}.png").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is there
        (folder / "images").rmdir()
    for name in sorted(WRITTEN, key=lambda name: name == SCENES):  # last: it says what to remove
        (folder / name).unlink(missing_ok=True)


def _is_scene(row: object) -> bool:
    """Whether a row of `scenes.json` names its picture, and no other place."""
    id = str(row.get("id", "")) if isinstance(row, dict) else ""
    return bool(id) and Path(id).name == id


def _write_files(folder: Path, scenes: Sequence[Scene], questions: int, seed: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for scene in track(scenes, "scenes"):
        with writing(folder / image_path(scene)):
            draw_scene(scene).save(folder / image_path(scene))
    write_jsonl(folder / "conversations.jsonl", (conversation(scene) for scene in scenes))
    asked = [row for scene in scenes for row in question_rows(scene, questions, seed)]
    write_jsonl(folder / "questions.jsonl", asked)
    write_json(folder / "gqa.json", {row["question_id"]: gqa_row(row) for row in asked})
    write_json(folder / "objects.json", {scene.id: objects(scene) for scene in scenes})
    write_json(folder / "facts.json", {scene.id: facts(scene) for scene in scenes})
    write_json(folder / "vocabulary.json", vocabulary())
    write_json(folder / "mmhal.json", open_question_rows(scenes, seed))
    write_jsonl(folder / "text_pairs.jsonl", text_pair_rows(scenes, seed))
    write_json(folder / SCENES, [scene_row(scene) for scene in scenes])


def written(folder: Path, count: int) -> str:
    """The files of a folder of scenes and what takes them, a line for each."""
    uses = {
        "images/": f"{counted(count, 'pictures')}, for --images",
        "conversations.jsonl": "a prompt and the true description of each, for --data",
        "questions.jsonl": "questions with short answers, for --data with --kind prompt",
        "objects.json": "what each picture holds, for --objects (always with --vocabulary)",
        "vocabulary.json": "the words for each kind, for --vocabulary",
        "facts.json": "true sentences about each, for `build facts`",
        "mmhal.json": "open questions of eight types, for `eval mmhal --rule exact`",
        "gqa.json": "the questions with short answers again, for `eval gqa --instruction ''`",
        "text_pairs.jsonl": "right and wrong texts without a picture, for `eval text_pairs`",
        "scenes.json": "all there is to know, for `world pairs`",
    }
    width = max(map(len, uses))
    return "\n".join([f"Written to {folder}:", *(f"  {n:<{width}}  {u}" for n, u in uses.items())])


def image_path(scene: Scene) -> str:
    """Where the scene's picture is, within its folder."""
    return f"images/{scene.id}.png"


def conversation(scene: Scene) -> NewRow:
    """The record of a prompt with the true description."""
    return {
        "id": scene.id,
        "images": [image_path(scene)],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": DESCRIPTION_PROMPTS[0]}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": describe_scene(scene)}]},
        ],
    }


def question_rows(scene: Scene, count: int, seed: int) -> list[dict[str, str]]:
    """Questions about one scene with their answers."""
    return [
        {
            "question_id": f"{scene.id}-q{number}",
            "image_id": scene.id,
            "image": image_path(scene),
            "kind": question.kind,
            "question": question.text,
            "answer": question.answer,
        }
        for number, question in enumerate(sample_questions(scene, count, seed))
    ]


def gqa_row(question: Mapping[str, str]) -> JsonObject:
    """A row of `questions.jsonl` as GQA has it: a short answer, and what kind of question it is."""
    kind = question["kind"]
    return {
        "question": question["question"],
        "imageId": question["image_id"],
        "answer": question["answer"].rstrip(".").lower(),
        "types": {"structural": "verify" if kind == "existence" else "query", "semantic": kind},
    }


def read_scenes(folder: Path) -> list[Scene]:
    """The scenes of a folder that `write_scenes` wrote.

    Raises:
        UserError: the folder has no `scenes.json`.
    """
    path = folder / "scenes.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no scenes. Make some with `veridical world make`.")
    return [
        Scene(row["id"], row["setting"], tuple(Thing(**thing) for thing in row["objects"]))
        for row in read_json(path)
    ]


def scene_row(scene: Scene) -> dict[str, object]:
    """Everything about a scene."""
    return {
        "id": scene.id,
        "setting": scene.setting,
        "objects": [
            {"kind": t.kind, "colour": t.colour, "cell": t.cell, "faded": t.faded}
            for t in scene.objects
        ],
    }
