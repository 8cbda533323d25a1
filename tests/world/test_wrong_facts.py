"""Pairs that differ by one wrong fact, in a way that words alone do not tell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from veridical.cli.dispatch import main
from veridical.data.records import read_records, text_of
from veridical.runtime.randomness import generator
from veridical.world.dataset import read_scenes, write_scenes
from veridical.world.language import PLACES, describe_scene, facts
from veridical.world.scenes import SETTINGS, sample_scenes
from veridical.world.wrong_facts import with_one_wrong


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "scenes"
    write_scenes(folder, "uniform", 60, seed=3, questions=0)
    return folder


def rows_of(scenes: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    assert main(["world", "pairs", str(scenes), "--out", str(out), *words]) == 0
    return list(read_records(out / "pairs.parquet", "preference").rows)


def test_scenes_are_read_back(scenes: Path) -> None:
    read = read_scenes(scenes)
    assert len(read) == 60 and all(scene.setting in SETTINGS for scene in read)
    assert json.loads((scenes / "facts.json").read_text())[read[5].id] == facts(read[5])
    assert describe_scene(read[5]) == " ".join(facts(read[5]))


def test_each_pair_is_wrong_in_one_fact(scenes: Path, tmp_path: Path) -> None:
    truths = {scene.id: describe_scene(scene) for scene in read_scenes(scenes)}
    rows = rows_of(scenes, tmp_path / "pairs")
    assert len(rows) == 240
    for row in rows:
        scene, kind = row["id"].split("/")
        chosen, rejected = (text_of(row[name]).split() for name in ("chosen", "rejected"))
        assert row["facts"] == facts_of(truths[scene])
        if kind == "count":
            assert len(chosen) == len(rejected) == 1 and chosen != rejected
            continue
        assert text_of(row["chosen"]) == truths[scene]
        if kind == "position":
            right, wrong = truths[scene].split(". "), text_of(row["rejected"]).split(". ")
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
        else:
            different = [(a, b) for a, b in zip(chosen, rejected, strict=True) if a != b]
            words = [pair for pair in different if pair not in (("a", "an"), ("an", "a"))]
            assert len(words) == 1


def test_places_stay_in_reading_order(scenes: Path, tmp_path: Path) -> None:
    """Else a reward model could tell without looking."""
    for row in rows_of(scenes, tmp_path / "pairs"):
        if row["id"].endswith("/position"):
            said = facts_of(text_of(row["rejected"]))[1:]
            cells = [place_of(sentence) for sentence in said]
            assert cells == sorted(set(cells))


def test_numbers_are_as_often_right_as_wrong() -> None:
    """Over many scenes five stands as often in the one branch as in the other."""
    scenes = sample_scenes("uniform", 600, 9)
    others = [with_one_wrong(s, "count", generator(0, s.id)) for s in scenes]
    right, wrong = (Counter(len(s.objects) for s in side) for side in (scenes, others))
    assert set(right) == set(wrong) == {2, 3, 4, 5}
    assert all(abs(right[number] - wrong[number]) < 60 for number in right)
    assert all(len(a.objects) != len(b.objects) for a, b in zip(scenes, others, strict=True))


def test_what_is_told(scenes: Path, tmp_path: Path) -> None:
    truths = {scene.id: describe_scene(scene) for scene in read_scenes(scenes)}
    half = rows_of(scenes, tmp_path / "half", "--facts", "half")
    told = sum(len(row["facts"] or []) for row in half)
    known = sum(len(facts_of(truths[row["id"].split("/")[0]])) for row in half)
    assert 0.4 < told / known < 0.6
    for row in rows_of(scenes, tmp_path / "wrong", "--facts", "wrong"):
        scene, kind = row["id"].split("/")
        if kind != "count":
            assert " ".join(row["facts"]) == text_of(row["rejected"])
        else:
            assert row["facts"] != facts_of(truths[scene])


def test_a_folder_without_scenes_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["world", "pairs", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "holds no scenes" in capsys.readouterr().err


def facts_of(description: str) -> list[str]:
    return [f"{sentence}." for sentence in description.rstrip(".").split(". ")]


def place_of(sentence: str) -> int:
    found = max((place for place in PLACES if sentence.endswith(f" {place}.")), key=len)
    return PLACES.index(found)
