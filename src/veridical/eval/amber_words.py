"""What AMBER's descriptions are read with: NLTK finds the nouns, word vectors say what is near.

Scores move with the tagger and with the vectors, so neither is replaced by another: what is
missing is an error that names it, and what was used is written beside the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from veridical.eval.english import (
    needing_data,
    nltk_version,
    open_nltk,
    open_pipeline,
    pipeline_version,
)
from veridical.runtime.errors import UserError
from veridical.runtime.files import check_file, hash_file
from veridical.scoring.amber_rules import Similar

NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
WHO = "AMBER's descriptions"


@dataclass(frozen=True)
class Vectors:
    """Word vectors.

    Attributes:
        similar: how near two words are: the cosine of their vectors, 1 for one and the same word,
            and 0 where one has no vector.
        name: what they are, as `scores.json` says it.
    """

    similar: Similar
    name: str


def nouns_of(text: str, lower: bool) -> list[str]:
    """The nouns of a text in their singular, in order (NLTK).

    Args:
        text: in English.
        lower: make them lower case first. The published scorer does not: it looks for "Tree"
            among words of lower case, and finds none.

    Raises:
        UserError: NLTK or its data are not installed.
    """
    nltk, lemmatizer = open_nltk(WHO)
    with needing_data(WHO, NLTK_DATA):
        tagged = nltk.pos_tag(nltk.word_tokenize(text))
        nouns = [word for word, tag in tagged if tag.startswith("NN")]
        return [lemmatizer.lemmatize(word.lower() if lower else word) for word in nouns]


def open_vectors(source: str) -> Vectors:
    """Word vectors of a spaCy pipeline, or of a text file.

    Args:
        source: a pipeline that is installed, or its folder; or a file with a line for each word:
            the word and its numbers, separated by spaces.

    Raises:
        UserError: it is not there, or has no vectors.
    """
    return _read_file(Path(source)) if Path(source).is_file() else _open_pipeline(source)


def _read_file(path: Path) -> Vectors:
    check_file(path)
    table: dict[str, NDArray[np.float64]] = {}
    size = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        word, *rest = line.split()
        try:
            vector = np.array([float(item) for item in rest])
        except ValueError:
            vector = np.array([])
        size = size or len(vector)
        if not size or len(vector) != size or not np.isfinite(vector).all():
            wanted = f"a word and {size or 'its'} numbers"
            raise UserError(f"{path}, row {number}: a line of word vectors is {wanted}.")
        table[word] = vector

    def similar(one: str, other: str) -> float:
        return _cosine(table.get(one), table.get(other)) if one != other else 1.0

    return Vectors(lru_cache(None)(similar), f"{path.name}, sha256 {hash_file(path)}")


def _cosine(one: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> float:
    if one is None or other is None:
        return 0.0
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else 0.0


def _open_pipeline(name: str) -> Vectors:
    spacy, pipeline = open_pipeline(
        name, WHO, "AMBER's rule is defined by its word vectors",
        "or name others by --vectors: figures will differ",
    )  # fmt: skip
    if not pipeline.vocab.vectors_length:
        raise UserError(
            f"spaCy's {name} has no word vectors, which AMBER's rule compares. Give en_core_web_lg."
        )

    def similar(one: str, other: str) -> float:
        return float(pipeline.make_doc(one).similarity(pipeline.make_doc(other)))

    return Vectors(lru_cache(None)(similar), pipeline_version(spacy, pipeline))


def words_used(vectors: Vectors) -> dict[str, str]:
    """What the nouns were found and compared with, for `scores.json`."""
    return {"nouns": nltk_version(NLTK_DATA), "vectors": vectors.name}


def find_nouns(texts: Sequence[str], lower: bool) -> list[list[str]]:
    """`nouns_of` each text."""
    return [nouns_of(text, lower) for text in texts]
