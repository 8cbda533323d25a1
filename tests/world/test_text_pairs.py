"""Right and wrong texts of drawn scenes differ in one thing, and no picture decides."""

from __future__ import annotations

from pathlib import Path

from veridical.eval.gqa import read_gqa
from veridical.runtime.files import read_jsonl
from veridical.world.dataset import write_scenes
from veridical.world.language import describe_scene
from veridical.world.scenes import KINDS_OF_SETTING, PARTNER, PREFERRED_COLOUR, sample_scenes
from veridical.world.text_pairs import TYPES, text_pair_rows


def words(text: str) -> list[str]:
    return text.lower().replace(".", "").split()


def test_each_type_differs_in_its_own_way() -> None:
    scenes = sample_scenes("counter", 70, 3)
    rows = text_pair_rows(scenes, 0)
    assert [row["type"] for row in rows[:7]] == list(TYPES) and rows == text_pair_rows(scenes, 0)
    assert len({row["id"] for row in rows}) == 70
    for scene, row in zip(scenes, rows, strict=True):
        good, bad = row["good"], row["bad"]
        assert good != bad, row
        changed = [
            (one, other)
            for one, other in zip(words(good), words(bad), strict=True)
            if one != other
        ]  # fmt: skip
        if row["type"] in ("word_order", "article", "preposition", "sentence_order"):
            assert good == describe_scene(scene)
        if row["type"] == "word_order":
            assert len(changed) == 2 and changed[0] == changed[1][::-1]
        elif row["type"] == "sentence_order":
            assert sorted(words(good)) == sorted(words(bad))
        elif row["type"] in ("article", "preposition"):
            assert len(changed) == 1
        else:  # an article may change with its noun
            ((right, wrong),) = [pair for pair in changed if set(pair) != {"a", "an"}]
            own = KINDS_OF_SETTING[scene.setting]
            if row["type"] == "setting":
                assert right in own and wrong not in own
            elif row["type"] == "partner":
                first = next(word for word in words(good)[4:] if word in own)
                assert wrong in own and PARTNER[first] == right
            else:
                kind = words(good)[words(good).index(right) + 1]
                assert PREFERRED_COLOUR[kind] == right


def test_files_are_as_the_benchmarks_read_them(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", "counter", 3, seed=9)
    asked = read_jsonl(tmp_path / "s" / "questions.jsonl")
    found = read_gqa(tmp_path / "s" / "gqa.json")
    assert [question.question_id for question in found] == [row["question_id"] for row in asked]
    for question, row in zip(found, asked, strict=True):
        assert f"{question.expected}." == row["answer"].lower()
        assert question.about["kind"] == ("binary" if row["kind"] == "existence" else "open")
    assert len(read_jsonl(tmp_path / "s" / "text_pairs.jsonl")) == 3
