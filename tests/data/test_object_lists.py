"""Object lists: ids of images, names, and counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.data.object_lists import (
    ObjectCounts,
    count_objects,
    judge_answer,
    match_image_id,
    name_objects,
    read_objects,
)
from veridical.data.vocabulary import vocabulary_of
from veridical.runtime.errors import UserError
from veridical.runtime.files import write_json

WORDS = vocabulary_of({"dog": ["puppy"], "cat": [], "hat": []})


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("9", "9"),
        ("000000000009", "9"),
        ("COCO_val2014_000000000009", "9"),
        ("8", None),
        ("x", None),
    ],
)
def test_coco_file_names_mean_their_numbers(stem: str, expected: str | None) -> None:
    assert match_image_id(stem, {"9": [], "10": []}) == expected


def test_counts_by_hand() -> None:
    judged = judge_answer("1", "A puppy, a dog, a hat and one more hat.", ["cat", "dog"], WORDS)
    # Mentions: puppy and dog (both the dog, listed), hat twice (one invented object).
    assert count_objects(judged) == ObjectCounts(
        mentions=4, hallucinated=2, invented=1, recalled=1, listed=2, words=10
    )


def test_lists_are_put_into_the_vocabularys_names() -> None:
    assert name_objects({"1": ["puppies", "dog", "cat"]}, WORDS) == {"1": ["cat", "dog"]}
    with pytest.raises(UserError, match=r"does not know 1 listed object: unicorn"):
        name_objects({"1": ["unicorn"]}, WORDS)


@pytest.mark.parametrize("content", [[], {}, {"1": "dog"}, {"1": [3]}])
def test_what_is_no_object_list_is_refused(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "objects.json", content)
    with pytest.raises(UserError, match="must be a JSON object"):
        read_objects(tmp_path / "objects.json")


def test_a_file_name_with_its_suffix_stands_for_the_same_image() -> None:
    assert match_image_id("COCO_val2014_000000000009.JPG", {"9"}) == "9"
    assert match_image_id("9.5", {"9", "5"}) == "5"
    assert match_image_id("a.jpg", {"a.jpg", "a"}) == "a.jpg"


def test_names_that_are_unknown_are_left_out_with_the_nearest_that_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lists = {"1": ["guard dog", "cat"], "2": ["hatt", "unicorn"]}
    assert name_objects(lists, WORDS) == {"1": ["cat"], "2": []}
    said = capsys.readouterr().out
    assert "3 listed objects: guard dog (nearest: dog), hatt (nearest: hat), unicorn." in said
    assert name_objects({"1": []}, WORDS) == {"1": []}
