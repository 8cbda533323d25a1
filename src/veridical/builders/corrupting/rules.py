"""Mistakes by rule: which of an answer's sites are changed, and into what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np

from veridical.builders.corrupting.objects import Habits, ObjectDraw, object_sites
from veridical.builders.corrupting.sites import KINDS, Mistake, MistakeKind, Site, apply, overlap
from veridical.builders.corrupting.words import word_sites
from veridical.data.vocabulary import Vocabulary
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import COUNT, WEIGHT, check_ranges

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class MistakeRules:
    """Mistakes by rule.

    A kind's probability is its weight divided by the sum of the weights of all kinds that the
    answer allows, so kinds that few answers allow are rare. `balance` makes up for that.
    `summary.json` has the resulting shares.

    Attributes:
        object_weight: weight of replacing an object by one that is not in the image; COCO's
            classes by one of the same group (an animal by an animal).
        color_weight: weight of another color.
        count_weight: weight of another number.
        position_weight: weight of the opposite position (left, behind, on top of, ...).
        yes_no_weight: weight of swapping yes and no, with the rest of the sentence negated to fit.
        balance: adapt the weights to what the answers allow, so that of the first mistakes of all
            answers each kind has the share that its weight asks for, or comes as near as it can.
        changes: most mistakes in one answer.
        draw: draw new objects by how often they appear `together` with the image's objects, by
            how `frequent` they are, or at `random`.
    """

    object_weight: Annotated[float, WEIGHT] = 1.0
    color_weight: Annotated[float, WEIGHT] = 1.0
    count_weight: Annotated[float, WEIGHT] = 1.0
    position_weight: Annotated[float, WEIGHT] = 1.0
    yes_no_weight: Annotated[float, WEIGHT] = 1.0
    balance: bool = False
    changes: Annotated[int, COUNT] = 1
    draw: ObjectDraw = "together"

    @property
    def weights(self) -> dict[MistakeKind, float]:
        """Each kind of mistake to its weight."""
        return {kind: float(getattr(self, f"{kind}_weight")) for kind in KINDS}

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: names the option.
        """
        check_ranges(self)
        if not any(self.weights.values()):
            raise UserError("All weights of mistakes are 0, so there is nothing to make.")


@dataclass(frozen=True)
class Corrupted:
    """What became of a true answer.

    Attributes:
        text: the answer with its mistakes; None if there is none to make.
        changes: the mistakes, in the order of the draw.
        offered: kinds of which the answer has a site.
    """

    text: str | None
    changes: tuple[Mistake, ...]
    offered: tuple[MistakeKind, ...]


def corrupt(
    answer: str,
    listed: Sequence[str] | None,
    rules: MistakeRules,
    vocabulary: Vocabulary,
    habits: Habits,
    noise: np.random.Generator,
    weights: Mapping[MistakeKind, float] | None = None,
) -> Corrupted:
    """Put mistakes into a true answer.

    Args:
        answer: English text.
        listed: the vocabulary's names of what is in the image; None if that is not known.
        rules: which mistakes, and how many.
        vocabulary: which words name which object.
        habits: what usually appears, and with what.
        noise: of the draws; the same generator gives the same answer.
        weights: of the kinds, where they are not those of `rules`.
    """
    sites = all_sites(answer, listed, rules, vocabulary, habits)
    offered = kinds_of(sites)
    weights = rules.weights if weights is None else weights
    left = [site for site in sites if weights[site.kind] > 0]
    changes: list[Mistake] = []
    while left and len(changes) < rules.changes:
        kinds = {site.kind: weights[site.kind] for site in left}
        kind = _drawn(kinds, noise)
        own = [site for site in left if site.kind == kind]
        site = own[int(noise.integers(len(own)))]
        changes.append(Mistake(site, _drawn(_unused(site, changes), noise)))
        left = [other for other in left if not overlap(site, other) and _unused(other, changes)]
    return Corrupted(apply(answer, changes) if changes else None, tuple(changes), offered)


def all_sites(
    answer: str,
    listed: Sequence[str] | None,
    rules: MistakeRules,
    vocabulary: Vocabulary,
    habits: Habits,
) -> list[Site]:
    """Every place of an answer where a mistake can be made; arguments as those of `corrupt`."""
    sites = object_sites(answer, listed, vocabulary, habits, rules.draw)
    return sites + word_sites(answer, vocabulary)


def kinds_of(sites: Sequence[Site]) -> tuple[MistakeKind, ...]:
    """The kinds of mistakes that sites allow."""
    return tuple(kind for kind in KINDS if any(site.kind == kind for site in sites))


def _unused(site: Site, changes: Sequence[Mistake]) -> dict[str, float]:
    """Options that no change has taken: two objects do not become the same."""
    used = {change.now for change in changes if change.site.kind == site.kind == "object"}
    return {name: weight for name, weight in site.options.items() if name not in used}


def _drawn(weights: Mapping[Name, float], noise: np.random.Generator) -> Name:
    names, values = list(weights), np.array(list(weights.values()))
    return names[int(noise.choice(len(names), p=values / values.sum()))]
