"""How alike two answers are, so that a rejected answer too near the chosen one is made again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from veridical.data.text.units import words_of
from veridical.runtime.errors import UserError
from veridical.runtime.hub import check_hub_name
from veridical.runtime.local_code import brings_code

Pairs = Sequence[tuple[str, str]]

MPNET = "sentence-transformers/all-mpnet-base-v2"
EMBEDDING_THRESHOLD = 0.97  # Amirloo et al. 2024, section 3.4.3
EDIT_THRESHOLD = 0.99
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Similarity:
    """A measure of two texts' likeness.

    Attributes:
        name: what `load_similarity` was given.
        default_threshold: a pair is different enough if its score is below.
        scores: a score for each pair of texts, at most 1 (the same); the order of a pair does
            not matter.
        model: the folder or hub name of the model behind it; "" where there is none.
    """

    name: str
    default_threshold: float
    scores: Callable[[Pairs], list[float]]
    model: str = ""


def load_similarity(name_or_folder: str = "mpnet") -> Similarity:
    """Get a similarity by name.

    - `mpnet`: cosine of all-mpnet-base-v2's sentence embeddings, threshold 0.97 (Amirloo et al.
      2024, section 3.4.3 and its footnote). Needs the extra `similarity` and the model's weights
      (its first 384 tokens count).
    - `edit`: 1 - (words to insert, delete or replace) / (words of the longer text), without
      case, punctuation and articles; in scripts without spaces between words a character counts
      as a word. Threshold 0.99 (our choice): of two texts of up to 99
      words a single changed word makes them different, and no change of case, punctuation or
      articles ever does.
    - a folder: another Sentence Transformers model, threshold 0.97.

    Raises:
        UserError: the name is unknown, or the package or the weights are missing. Nothing is put
            in their place, as another measure would give other pairs.
    """
    if name_or_folder == "edit":
        return Similarity("edit", EDIT_THRESHOLD, _edit_scores)
    check_similarity(name_or_folder)
    return _embedding_similarity(
        name_or_folder, MPNET if name_or_folder == "mpnet" else name_or_folder
    )


def check_similarity(name_or_folder: str) -> None:
    """Refuse a similarity that `load_similarity` would, as far as can be told without weights.

    Raises:
        UserError: the name is unknown, or the package is missing.
    """
    if name_or_folder == "edit":
        return
    if name_or_folder != "mpnet" and not Path(name_or_folder).is_dir():
        raise UserError(
            f"There is no similarity {name_or_folder!r}: it must be mpnet, edit, or the folder of "
            "a Sentence Transformers model."
        )
    if find_spec("sentence_transformers") is None:
        raise UserError(
            f"The similarity {name_or_folder} needs the package sentence-transformers: install "
            "veridical[similarity], or give --similarity edit (word-level, built in)."
        )


def edit_similarity(one: str, other: str) -> float:
    """Word-level edit similarity in [0, 1]; 1 for texts that differ in no word.

    Case, punctuation and articles make no difference; an empty text is unlike any other. Where
    words are not told apart by spaces (Chinese, Thai, ...) each character is a word.

    Exact at any length. Time grows with the product of the lengths: hundredths of a second for two
    texts of 30,000 words, seconds from 300,000 on.
    """
    a, b = _words(one), _words(other)
    longer = max(len(a), len(b))
    return 1.0 if longer == 0 else 1.0 - _edit_distance(a, b) / longer


def _edit_scores(pairs: Pairs) -> list[float]:
    return [edit_similarity(one, other) for one, other in pairs]


def _words(text: str) -> list[str]:
    return [word for word in words_of(text.casefold()) if word not in _ARTICLES]


def _edit_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's distance between lists of words.

    The library compares 64 words at once by their hashes, so each word gets a number of its own.
    """
    numbers: dict[str, int] = {}
    one, other = ([numbers.setdefault(word, len(numbers)) for word in words] for words in (a, b))
    return int(Levenshtein.distance(one, other))


def _embedding_similarity(name: str, model_name: str) -> Similarity:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"The similarity {name} needs the package sentence-transformers: install "
            "veridical[similarity], or give --similarity edit (word-level, built in)."
        ) from error
    if not Path(model_name).is_dir():
        check_hub_name(model_name)
    try:
        model = SentenceTransformer(model_name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(brings_code(model_name)) from error
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The similarity model {model_name} cannot be loaded ({reason}). Give the folder of a "
            "downloaded one, or give --similarity edit (word-level, built in)."
        ) from error

    def scores(pairs: Pairs) -> list[float]:
        texts = sorted({text for pair in pairs for text in pair})
        if not texts:
            return []
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        vector_of = dict(zip(texts, np.asarray(vectors, dtype=np.float64), strict=True))
        return [float(vector_of[one] @ vector_of[other]) for one, other in pairs]

    return Similarity(name, EMBEDDING_THRESHOLD, scores, model_name)
