"""A command's options as one flat table, as `run.json` keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from veridical.runtime.options import CacheOptions, Loading, Reading, by_option


@dataclass(frozen=True)
class Sharp:
    edge: float = 0.5
    name: ClassVar[str] = "sharp"


@dataclass(frozen=True)
class Extra:
    weight: float = 2.0


@dataclass(frozen=True)
class Goal:
    way: Sharp = Sharp()
    extras: tuple[Extra, ...] = ()


def test_groups_give_their_fields_and_the_rest_stays() -> None:
    arguments = {"out": Path("o"), "loading": Loading(device="cpu"), "reading": Reading(limit=3)}
    assert by_option(arguments) == {
        "out": Path("o"), "dtype": "auto", "device": "cpu", "attention": "auto", "template": None,
        "limit": 3, "images_root": None, "max_bad_fraction": 0.01,
    }  # fmt: skip


def test_a_choice_gives_its_name_and_several_give_the_fields_of_all() -> None:
    assert by_option({"goal": Goal()}) == {"way": "sharp", "edge": 0.5}
    found = by_option({"goal": Goal(extras=(Extra(),))})
    assert found == {"way": "sharp", "edge": 0.5, "weight": 2.0}


def test_the_cache_that_is_asked_for_is_opened(tmp_path: Path) -> None:
    assert CacheOptions(cache="none").open().folder is None
    assert CacheOptions(cache=str(tmp_path)).open().folder == tmp_path
