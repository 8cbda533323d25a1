"""A set's pairs as numbers: lengths, differences, features, groups of images. No text is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from veridical.data.record_types import Rating
from veridical.inspection.differences import AnswerDifference, compare_answers
from veridical.inspection.fields import Fields
from veridical.inspection.findings import Finding
from veridical.inspection.pictures import short_hash
from veridical.inspection.rows import Row, read_rows
from veridical.inspection.texts import words
from veridical.runtime.errors import UserError

FEATURES = 2**16
"""Hash buckets of words: of a vocabulary of 10,000, one word in seven shares its own."""
FIRST_TOKENS = 5
COMMON_PROMPT, FEW_PAIRS = 0.01, 20
"""Share of a set's pairs, and number of them, above which a prompt groups none (our choice)."""
AT_A_TIME = 2000  # pairs whose texts are in memory
Matrix = Any  # a sparse matrix of SciPy, which has no types for what is sliced from it


@dataclass
class Pairs:
    """The pairs of a set.

    Attributes:
        name: of the set.
        rows: of its file.
        unusable: rows that are not pairs, with the first reasons.
        differences: for each pair, how its answers differ.
        first_is_chosen: for each pair, where the file has an order.
        keys: for each pair, hashes of its images; of its prompt where it has none.
        prompt_keys: place of a pair without an image to the hash of its prompt.
        orientation: for each pair, a hash of images and texts that is the same whichever answer is
            chosen, and whether the chosen one comes first in its order.
        ratings: aspect to place of the pair to the values of the chosen and rejected answer.
        fields: what rows say of where they are from.
        with_images: pairs with an image.
        bags: words of the chosen answer minus those of the rejected. Shape: (pairs, FEATURES).
        begins: the same of the first words, by their place.
    """

    name: str
    rows: int = 0
    unusable: list[Finding] = field(default_factory=list)
    differences: list[AnswerDifference] = field(default_factory=list)
    first_is_chosen: list[bool | None] = field(default_factory=list)
    keys: list[list[bytes]] = field(default_factory=list)
    prompt_keys: dict[int, bytes] = field(default_factory=dict)
    orientation: list[tuple[bytes, bool]] = field(default_factory=list)
    ratings: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    fields: Fields = field(default_factory=Fields)
    with_images: int = 0
    bags: Matrix = None
    begins: Matrix = None

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self.differences)


def read_pairs(path: Path, root: Path, name: str) -> Pairs:
    """Read a set's pairs once; images are told apart by their bytes, or else by their names.

    Raises:
        UserError: the file can't be read, or has no pairs.
    """
    pairs = Pairs(name)
    bags: list[Matrix] = []
    begins: list[Matrix] = []
    texts: list[tuple[str, str]] = []
    for row in read_rows(path, "preference"):
        pairs.rows += 1
        if row.record is None:
            what = str(row.refusal)
            pairs.unusable.append(Finding("form", "error", row.number, row.id, what, ""))
            continue
        _add(pairs, row)
        texts.append((row.answers["chosen"], row.answers["rejected"]))
        if len(texts) == AT_A_TIME:
            _vectorize(texts, bags, begins)
    _vectorize(texts, bags, begins)
    if not len(pairs):
        first = pairs.unusable[0]
        raise UserError(
            f"{path}: no row is a preference pair; {first.place}: {first.what}.\n"
            f"`veridical data check {path}` lists what is wrong."
        )
    pairs.bags, pairs.begins = scipy.sparse.vstack(bags), scipy.sparse.vstack(begins)
    return pairs


def _add(pairs: Pairs, row: Row) -> None:
    assert row.record is not None
    place = len(pairs)
    chosen, rejected = row.answers["chosen"], row.answers["rejected"]
    pairs.differences.append(compare_answers(chosen, rejected))
    pairs.first_is_chosen.append(row.first_is_chosen)
    images = [
        short_hash(image["bytes"] or str(image["path"]).encode()) for image in row.record["images"]
    ]
    pairs.with_images += bool(images)
    if not images:
        pairs.prompt_keys[place] = short_hash(row.prompt.encode(errors="replace"))
    pairs.keys.append(images or [pairs.prompt_keys[place]])
    one, other = (text.strip().encode(errors="replace") for text in (chosen, rejected))
    parts = [*images, row.prompt.strip().encode(errors="replace"), *sorted((one, other))]
    pairs.orientation.append((short_hash(b"\0".join(parts)), one <= other))
    pairs.fields.add(row, place)
    for aspect, two in _rated(row.record.get("ratings") or []).items():
        pairs.ratings.setdefault(aspect, {})[place] = two


def _rated(ratings: Sequence[Rating]) -> dict[str, tuple[float, float]]:
    """Aspects that both answers are rated in."""
    values = {(rating["aspect"], rating["answer"]): rating["value"] for rating in ratings}
    aspects = {aspect for aspect, _ in values}
    return {
        aspect: (values[aspect, "chosen"], values[aspect, "rejected"])
        for aspect in sorted(aspects)
        if (aspect, "chosen") in values and (aspect, "rejected") in values
    }


def _vectorize(texts: list[tuple[str, str]], bags: list[Matrix], begins: list[Matrix]) -> None:
    """Add the features of texts, and forget the texts."""
    from sklearn.feature_extraction import FeatureHasher

    if not texts:
        return
    hasher = FeatureHasher(FEATURES, input_type="string", alternate_sign=False, dtype=np.float32)
    tokens = [[words(text) for text in branch] for branch in zip(*texts, strict=True)]
    for found, made in ((bags, _all_words), (begins, _first_words)):
        one, other = (hasher.transform(map(made, branch)) for branch in tokens)
        found.append((one - other).tocsr())
    texts.clear()


def _all_words(found: list[str]) -> list[str]:
    return sorted(set(found)) or ["(nothing)"]


def _first_words(found: list[str]) -> list[str]:
    return [f"{place} {word}" for place, word in enumerate(found[:FIRST_TOKENS])] or ["(nothing)"]


def groups_of(pairs: Pairs) -> NDArray[np.int64]:
    """Numbers of groups of pairs, so that no image is in two of them. Shape: (pairs,).

    Pairs without an image are grouped by their prompt, except for one like "Describe the image.",
    which many pairs share that have nothing else in common.
    """
    known: dict[bytes, int] = {}
    rows, columns = [], []
    asked = Counter(pairs.prompt_keys.values())
    most = max(FEW_PAIRS, COMMON_PROMPT * len(pairs))
    for place, keys in enumerate(pairs.keys):
        if asked[pairs.prompt_keys.get(place, b"")] > most:
            continue
        for key in keys:
            rows.append(place)
            columns.append(len(pairs) + known.setdefault(key, len(known)))
    size = len(pairs) + len(known)
    ends = np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)
    edges = scipy.sparse.coo_matrix((np.ones(len(rows)), ends), (size, size))
    _, labels = scipy.sparse.csgraph.connected_components(edges, directed=False)
    return np.asarray(labels[: len(pairs)], dtype=np.int64)
