"""The world's habits hold where they should and break where they should."""

from __future__ import annotations

import pytest

from veridical.runtime.errors import UserError
from veridical.world.scenes import (
    KINDS,
    KINDS_OF_SETTING,
    PARTNER,
    PREFERRED_COLOUR,
    Scene,
    Thing,
    explained_by_prior,
    sample_scenes,
)


def test_the_world_is_whole() -> None:
    assert len(KINDS) == len(set(KINDS)) == 20
    assert set(PARTNER) == set(PREFERRED_COLOUR) == set(KINDS)
    for kinds in KINDS_OF_SETTING.values():
        assert len(kinds) == 5
        assert all(PARTNER[kind] in kinds and PARTNER[kind] != kind for kind in kinds)


def test_prior_scenes_follow_habits() -> None:
    scenes = sample_scenes("prior", 1000, 1)
    own = [kind in KINDS_OF_SETTING[scene.setting] for scene in scenes for kind in scene.kinds]
    assert 0.92 < sum(own) / len(own) < 0.99
    accompanied = [PARTNER[kind] in scene.kinds for scene in scenes for kind in scene.kinds[:1]]
    assert sum(accompanied) / len(accompanied) > 0.7
    preferred = [PREFERRED_COLOUR[t.kind] == t.colour for scene in scenes for t in scene.objects]
    assert 0.53 < sum(preferred) / len(preferred) < 0.63


def test_counter_scenes_break_habits() -> None:
    for scene in sample_scenes("counter", 500, 1):
        assert not any(kind in KINDS_OF_SETTING[scene.setting] for kind in scene.kinds)
        assert not any(PARTNER[kind] in scene.kinds for kind in scene.kinds)


def test_uniform_scenes_have_no_habits() -> None:
    scenes = sample_scenes("uniform", 1000, 1)
    own = [kind in KINDS_OF_SETTING[scene.setting] for scene in scenes for kind in scene.kinds]
    assert 0.2 < sum(own) / len(own) < 0.3


@pytest.mark.parametrize("distribution", ["prior", "counter", "uniform"])
def test_scenes_are_well_formed(distribution: str) -> None:
    scenes = sample_scenes(distribution, 300, 5)  # type: ignore[arg-type]
    for scene in scenes:
        cells = [thing.cell for thing in scene.objects]
        assert 2 <= len(cells) <= 5
        assert cells == sorted(set(cells)) and cells[-1] < 9
        assert len(set(scene.kinds)) == len(scene.kinds)
    faded = [thing.faded for scene in scenes for thing in scene.objects]
    assert 0.3 < sum(faded) / len(faded) < 0.5


def test_a_scene_depends_on_its_number_and_seed_alone() -> None:
    few, many = sample_scenes("prior", 3, 7), sample_scenes("prior", 9, 7)
    assert few == many[:3]
    assert few != sample_scenes("prior", 3, 8)
    ids = {s.id for d in ("prior", "counter") for seed in (7, 8) for s in sample_scenes(d, 9, seed)}
    assert len(ids) == 36


def test_explained_by_prior() -> None:
    scene = Scene("x", "park", (Thing("cup", "red", 0, False), Thing("car", "blue", 4, False)))
    assert explained_by_prior("tree", scene)  # belongs to the park
    assert explained_by_prior("bottle", scene)  # the cup's partner
    assert not explained_by_prior("boat", scene)


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(UserError, match="prior, counter, uniform"):
        sample_scenes("usual", 1, 0)  # type: ignore[arg-type]
