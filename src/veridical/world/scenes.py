"""Scenes of the embedded world: what stands where, and how habits of the world skew it.

Everything about a scene is known, so every word said about it can be judged exactly. Training
scenes ("prior") follow strong habits: a park has trees and dogs, a dog comes with its ball.
Scenes for evaluation ("counter") break these habits; "uniform" scenes have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator

Distribution = Literal["prior", "counter", "uniform"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("prior", "counter", "uniform")

KINDS_OF_SETTING: dict[str, tuple[str, ...]] = {
    "park": ("tree", "bench", "dog", "ball", "kite"),
    "kitchen": ("cup", "bottle", "pot", "fork", "apple"),
    "street": ("car", "sign", "bus", "lamp", "bicycle"),
    "beach": ("boat", "fish", "umbrella", "bucket", "shell"),
}
SETTINGS: tuple[str, ...] = tuple(KINDS_OF_SETTING)
KINDS: tuple[str, ...] = tuple(kind for kinds in KINDS_OF_SETTING.values() for kind in kinds)
SETTING_OF_KIND: dict[str, str] = {
    kind: setting for setting, kinds in KINDS_OF_SETTING.items() for kind in kinds
}
COLOURS: tuple[str, ...] = ("red", "orange", "green", "blue", "purple", "black")

# The kind that comes along: pairs, and a fifth kind that brings one of a pair.
PARTNER: dict[str, str] = {
    **{"tree": "bench", "bench": "tree", "dog": "ball", "ball": "dog", "kite": "tree"},
    **{"cup": "bottle", "bottle": "cup", "pot": "fork", "fork": "pot", "apple": "cup"},
    **{"car": "sign", "sign": "car", "bus": "lamp", "lamp": "bus", "bicycle": "car"},
    **{"boat": "fish", "fish": "boat", "umbrella": "bucket", "bucket": "umbrella"},
    **{"shell": "bucket"},
}
PREFERRED_COLOUR: dict[str, str] = {
    kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(KINDS)
} | {"tree": "green", "apple": "red", "bench": "orange", "lamp": "black", "bus": "red"}

GRID = 3
FEWEST_OBJECTS, MOST_OBJECTS = 2, 5
SHARE_FROM_SETTING = 0.95
SHARE_WITH_PARTNER = 0.9
SHARE_PREFERRED_COLOUR = 0.5
# A faded object is hard to see: the doubt that lets habit speak in the place of the eyes.
SHARE_FADED = 0.4


@dataclass(frozen=True)
class Thing:
    """One object: its kind, its colour, its cell (0 to 8, in reading order), hard to see or not."""

    kind: str
    colour: str
    cell: int
    faded: bool


@dataclass(frozen=True)
class Scene:
    """A setting and two to five objects of different kinds, in reading order."""

    id: str
    setting: str
    objects: tuple[Thing, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are there, in reading order."""
        return tuple(thing.kind for thing in self.objects)


def sample_scenes(distribution: Distribution, count: int, seed: int) -> list[Scene]:
    """Draw `count` scenes; scene i depends on (distribution, seed, i) alone.

    Raises:
        UserError: the distribution is not known, or the count is negative.
    """
    if distribution not in DISTRIBUTIONS:
        raise UserError(
            f"No distribution of scenes is called {distribution!r}. "
            f"Choose one of {', '.join(DISTRIBUTIONS)}."
        )
    if count < 0:
        raise UserError(f"{count} scenes cannot be drawn. Ask for none or more.")
    return [sample_scene(distribution, seed, index) for index in range(count)]


def sample_scene(distribution: Distribution, seed: int, index: int) -> Scene:
    """Draw scene number `index` of a distribution."""
    rng = generator(seed, "scene", distribution, index)
    setting = _pick(rng, SETTINGS)
    size = int(rng.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1))
    kinds = {"prior": _habitual, "counter": _contrary, "uniform": _any_kinds}[distribution](
        rng, setting, size
    )
    cells = sorted(int(cell) for cell in rng.permutation(GRID * GRID)[:size])
    order = rng.permutation(size)
    things = tuple(
        Thing(
            kind=kinds[place],
            colour=_colour(rng, kinds[place], habitual=distribution == "prior"),
            cell=cell,
            faded=bool(rng.random() < SHARE_FADED),
        )
        for place, cell in zip(order, cells, strict=True)
    )
    return Scene(f"{distribution}-{seed}-{index:05d}", setting, things)


def explained_by_prior(kind: str, scene: Scene) -> bool:
    """Whether habit would suggest `kind`: it belongs to the setting, or a kind brings it along."""
    return kind in KINDS_OF_SETTING[scene.setting] or any(
        PARTNER[present] == kind for present in scene.kinds
    )


def _habitual(rng: np.random.Generator, setting: str, size: int) -> list[str]:
    own = KINDS_OF_SETTING[setting]
    others = [kind for kind in KINDS if kind not in own]
    kinds: list[str] = []
    while len(kinds) < size:
        pool = own if rng.random() < SHARE_FROM_SETTING else others
        free = [kind for kind in pool if kind not in kinds]
        if not free:
            continue
        kinds.append(_pick(rng, free))
        partner = PARTNER[kinds[-1]]
        if len(kinds) < size and partner not in kinds and rng.random() < SHARE_WITH_PARTNER:
            kinds.append(partner)
    return kinds


def _contrary(rng: np.random.Generator, setting: str, size: int) -> list[str]:
    kinds: list[str] = []
    while len(kinds) < size:
        free = [
            kind
            for kind in KINDS
            if kind not in KINDS_OF_SETTING[setting]
            and kind not in kinds
            and PARTNER[kind] not in kinds
            and all(PARTNER[chosen] != kind for chosen in kinds)
        ]
        kinds.append(_pick(rng, free))
    return kinds


def _any_kinds(rng: np.random.Generator, setting: str, size: int) -> list[str]:
    return [KINDS[int(index)] for index in rng.permutation(len(KINDS))[:size]]


def _colour(rng: np.random.Generator, kind: str, habitual: bool) -> str:
    if habitual and rng.random() < SHARE_PREFERRED_COLOUR:
        return PREFERRED_COLOUR[kind]
    return _pick(rng, COLOURS)


def _pick(rng: np.random.Generator, values: Iterable[str]) -> str:
    choices = tuple(values)
    return choices[int(rng.integers(len(choices)))]
