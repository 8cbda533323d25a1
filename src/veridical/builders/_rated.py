"""Samples with their ratings, as rejection sampling and pair rules need them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset

from veridical.builders._rows import Pair, Sample
from veridical.data.record_types import CheckedRow, Rating
from veridical.data.records import response_name, text_of
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject

QUALITY = ("Helpfulness", "Correctness", "Coherence")
"""The attributes whose sum Li et al. (2024) choose by; Complexity and Verbosity do not count."""


@dataclass(frozen=True)
class RatedSample:
    """A record of kind `sample`.

    Attributes:
        row: as it lies in Arrow, without its images: those of all samples would not fit in memory.
        texts: of the responses.
        ratings: for each response, aspect to value.
        read_images: reads the images as they lie in Arrow: bytes or paths, not decoded.
        index: of the record among the usable ones.
    """

    row: CheckedRow
    texts: tuple[str, ...]
    ratings: tuple[Mapping[str, float], ...]
    read_images: Callable[[], list[Any]] = list
    index: int = 0

    @property
    def id(self) -> str:
        """The record's id."""
        return str(self.row["id"])

    def qualities(self, aspects: Sequence[str]) -> dict[int, float]:
        """The sum of the aspects for each response that is rated on all of them."""
        return {
            number: sum(ratings[aspect] for aspect in aspects)
            for number, ratings in enumerate(self.ratings)
            if all(aspect in ratings for aspect in aspects)
        }

    def provenance(self) -> JsonObject:
        """What `source` says, as an object."""
        source = self.row.get("source")
        try:
            content = json.loads(source or "{}")
        except json.JSONDecodeError:
            content = {"source": source}
        return content if isinstance(content, dict) else {"source": content}

    def rated(self, marks: Sequence[Mapping[str, float]], by: Mapping[str, Any]) -> Sample:
        """The sample with more ratings.

        Args:
            marks: for each response, aspect to value; they replace what it had of an aspect.
            by: who rated, for `source`.
        """
        ratings: list[Rating] = [
            {"answer": response_name(number), "aspect": aspect, "value": value}
            for number, (old, new) in enumerate(zip(self.ratings, marks, strict=True))
            for aspect, value in {**old, **new}.items()
        ]
        return Sample(
            id=self.id,
            images=self.read_images(),
            prompt=self.row["prompt"],
            responses=self.row["responses"],
            ratings=ratings,
            facts=self.row.get("facts"),
            expected_answer=self.row.get("expected_answer"),
            source=as_source(self.provenance() | {"rated": by}),
        )

    def pair(self, better: int, worse: int, several: bool, made: Mapping[str, Any]) -> Pair:
        """A pair of two responses, with their ratings.

        Args:
            better: number of the chosen response.
            worse: number of the rejected one.
            several: whether the record gives several pairs, so that their ids have to differ.
            made: how it was made, for `source`.
        """
        ratings: list[Rating] = [
            {"answer": answer, "aspect": aspect, "value": value}
            for answer, number in (("chosen", better), ("rejected", worse))
            for aspect, value in self.ratings[number].items()
        ]
        return Pair(
            id=f"{self.id}/{better}-{worse}" if several else self.id,
            images=self.read_images(),
            prompt=self.row["prompt"],
            chosen=self.row["responses"][better],
            rejected=self.row["responses"][worse],
            ratings=ratings or None,
            facts=self.row.get("facts"),
            expected_answer=self.row.get("expected_answer"),
            source=as_source({**self._of_pair(better, worse), **made}),
        )

    def _of_pair(self, better: int, worse: int) -> JsonObject:
        """What `source` says, with who wrote the two responses in place of all of them."""
        told = self.provenance()
        by = told.pop("responses_by", None)
        if isinstance(by, list) and len(by) == len(self.texts):
            told |= {"chosen_by": by[better], "rejected_by": by[worse]}
        return told


def as_source(content: Mapping[str, Any]) -> str:
    """The text of a row's `source`."""
    return json.dumps(content, ensure_ascii=False)


def rated_samples(rows: Dataset) -> Iterator[RatedSample]:
    """The rows of a `RecordSet` of kind `sample`, in order."""
    raw = rows.remove_columns(["images"]).with_format("arrow")
    pictures = rows.select_columns(["images"]).with_format("arrow")
    for index in range(len(rows)):
        row = raw[index].to_pylist()[0]
        texts = tuple(text_of(response) for response in row["responses"])
        by_name: dict[str, dict[str, float]] = {
            response_name(number): {} for number in range(len(texts))
        }
        for rating in row.get("ratings") or []:
            by_name[rating["answer"]][rating["aspect"]] = rating["value"]
        images = partial(_images_of, pictures, index)
        yield RatedSample(row, texts, tuple(by_name.values()), images, index)


def _images_of(pictures: Dataset, index: int) -> list[Any]:
    images: list[Any] = pictures[index].to_pylist()[0]["images"]
    return images


def require_aspects(samples: Sequence[RatedSample], aspects: Sequence[str]) -> None:
    """Refuse aspects that no response is rated on.

    Raises:
        UserError: names what there is.
    """
    there = sorted({name for sample in samples for ratings in sample.ratings for name in ratings})
    missing = [aspect for aspect in aspects if aspect not in there]
    if not aspects:
        raise UserError("--aspects is empty; name one or more, or leave it out.")
    if len(set(aspects)) < len(aspects):
        raise UserError(f"--aspects names one twice: {', '.join(aspects)}.")
    if missing:
        raise UserError(
            f"No response is rated on {', '.join(missing)}. "
            + (
                f"There is: {', '.join(there)}; choose with --aspects."
                if there
                else "The samples have no ratings: `veridical build rate` gives them."
            )
        )
