"""For each answer another one to the same prompt, about a picture that shows something else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from veridical.builders._answers import ChosenAnswer
from veridical.builders._rows import Skipped
from veridical.data.images import image_bytes_key, load_image
from veridical.runtime.progress import track
from veridical.runtime.randomness import generator

NO_LIST = "the image has no object list"
NOBODY = "no other row has the same prompt, another picture and another answer"
NOTHING_ELSE = f"{NOBODY}, where each of the two pictures shows an object that the other lacks"


@dataclass(frozen=True)
class Partner:
    """An answer, and the one that it is contrasted with.

    Attributes:
        own: index of the answer.
        other: index of its partner.
        shared: which share of the objects in either picture are in both; None without lists.
    """

    own: int
    other: int
    shared: float | None


class Partners:
    """Finds an answer's partner among those to the same prompt.

    Where object lists are given, it is the answer whose picture shares most objects, as a share of
    those in either (Jaccard), while each of the two shows one that the other lacks: so neither
    answer is right about the other picture. Else it is drawn.
    """

    def __init__(
        self,
        answers: Sequence[ChosenAnswer],
        listed: Sequence[Sequence[str] | None] | None,
        seed: int,
    ) -> None:
        """Look at every picture.

        Args:
            answers: all, each with an image or more.
            listed: what is in each answer's images, None where that is not known; None where
                nothing is.
            seed: of the draws.
        """
        self.answers, self.listed, self.seed = answers, listed, seed
        # Files that differ may show the same.
        self.shown = [
            tuple(image_bytes_key(load_image(image)) for image in answer.images)
            for answer in track(answers, "pictures")
        ]
        self.prompts = [json.dumps(answer.prompt) for answer in answers]
        self.alike: dict[str, list[int]] = {}
        for index, prompt in enumerate(self.prompts):
            if listed is None or listed[index] is not None:
                self.alike.setdefault(prompt, []).append(index)
        self.place = {index: i for all in self.alike.values() for i, index in enumerate(all)}
        self.objects = {} if listed is None else self._objects(listed)

    def all(self) -> Iterator[Partner | Skipped]:
        """Each answer's partner, or why it has none."""
        for index, answer in enumerate(track(self.answers, "partners")):
            if self.listed is not None and self.listed[index] is None:
                yield Skipped(answer.record, "images", NO_LIST)
                continue
            found = self._drawn(index) if self.listed is None else self._most_alike(index)
            why = NOBODY if self.listed is None else NOTHING_ELSE
            yield found or Skipped(answer.record, "prompt", why)

    def _objects(self, listed: Sequence[Sequence[str] | None]) -> dict[str, csr_array]:
        """Of each prompt's answers which objects their pictures show. Shape: (answers, names).

        Sparse, as lists of a tagger name thousands of things.
        """
        names = sorted({name for one in listed for name in one or ()})
        column = {name: number for number, name in enumerate(names)}
        found = {}
        for prompt, indices in self.alike.items():
            shown = [[column[name] for name in listed[index] or ()] for index in indices]
            ends = np.cumsum([0, *map(len, shown)])
            places = np.array([place for one in shown for place in one], np.int32)
            ones = np.ones(len(places), np.float32)
            found[prompt] = csr_array((ones, places, ends), (len(indices), len(names)))
        return found

    def _drawn(self, index: int) -> Partner | None:
        """Any that fits, the same whatever the order of the work."""
        alike = self.alike[self.prompts[index]]
        first = int(self._noise(index).integers(len(alike)))
        for step in range(len(alike)):
            other = alike[(first + step) % len(alike)]
            if self._fit(index, other):
                return Partner(index, other, None)
        return None

    def _most_alike(self, index: int) -> Partner | None:
        """The one that shares most, of several one that is drawn."""
        alike, shows = self.alike[self.prompts[index]], self.objects[self.prompts[index]]
        own, noise = shows[[self.place[index]]].toarray()[0], self._noise(index)
        both, sizes = shows @ own, shows.sum(1)
        either = sizes + own.sum() - both
        shared = np.where((both < sizes) & (both < own.sum()), both / np.maximum(either, 1), -1.0)
        while (most := float(shared.max())) >= 0:
            tied = np.flatnonzero(shared == most)
            for place in noise.permutation(tied):
                if self._fit(index, alike[place]):
                    return Partner(index, alike[place], most)
            shared[tied] = -1.0
        return None

    def _noise(self, index: int) -> np.random.Generator:
        return generator(self.seed, "contrast", self.answers[index].id)

    def _fit(self, index: int, other: int) -> bool:
        """Whether both pictures and both answers differ."""
        texts = (self.answers[index].text, self.answers[other].text)
        return self.shown[index] != self.shown[other] and texts[0] != texts[1]
