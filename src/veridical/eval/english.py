"""NLTK and spaCy, where a published rule is defined by them.

Scores move with both and with their data, so neither is replaced by another: what is missing is an
error that names it, and what was used is written beside the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from veridical.runtime.errors import UserError

EXTRA = "install veridical[text]"
LEMMA_DATA = ("punkt_tab", "wordnet")


def open_nltk(who: str) -> tuple[Any, Any]:
    """NLTK, and its lemmatizer.

    Args:
        who: needs them, as messages say it.

    Raises:
        UserError: NLTK is not installed.
    """
    try:
        import nltk
        from nltk.stem import WordNetLemmatizer
    except ImportError as error:
        raise UserError(f"{who} need NLTK, which finds their words: {EXTRA}.") from error
    return nltk, WordNetLemmatizer()


@contextmanager
def needing_data(who: str, names: Sequence[str]) -> Iterator[None]:
    """Name the data of NLTK that are missing.

    Raises:
        UserError: some are.
    """
    try:
        yield
    except LookupError as error:
        raise UserError(
            f"{who} need NLTK's data, and some of it is not installed. Run "
            f"python -m nltk.downloader {' '.join(names)}"
        ) from error


def lemmas_of(text: str, who: str) -> list[str]:
    """The words of a text, lower case, nouns in their singular (NLTK).

    Raises:
        UserError: NLTK or its data are not installed.
    """
    nltk, lemmatizer = open_nltk(who)
    with needing_data(who, LEMMA_DATA):
        return [lemmatizer.lemmatize(word) for word in nltk.word_tokenize(text.lower())]


def nltk_version(data: Sequence[str]) -> str:
    """Which NLTK finds words, with which data."""
    import nltk

    return f"NLTK {nltk.__version__}, {', '.join(data)}"


def open_pipeline(name: str, who: str, why: str, instead: str) -> tuple[Any, Any]:
    """spaCy, and one of its pipelines.

    Args:
        name: a pipeline that is installed, or its folder.
        who: needs it.
        why: no other is taken for it.
        instead: what else can be done.

    Raises:
        UserError: spaCy or the pipeline is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"{who} need spaCy, which reads {name}: {EXTRA}.") from error
    try:
        return spacy, spacy.load(name)
    except OSError as error:
        raise UserError(
            f"spaCy's {name} is not installed; {why}. Run python -m spacy download {name}, "
            f"{instead}."
        ) from error


def pipeline_version(spacy: Any, pipeline: Any) -> str:
    """Which spaCy, and which pipeline."""
    about = pipeline.meta
    return f"spaCy {spacy.__version__}, {about['lang']}_{about['name']} {about['version']}"
