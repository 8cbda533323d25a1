"""Groups of options that several builders share, beside those of `runtime/options.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from veridical.judges.kinds import BY_OBJECTS
from veridical.runtime.errors import UserError

By = Literal["words", "logprob"]
Rule = Literal["all", "extremes"]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """How two responses are compared.

    Attributes:
        by: `words`: the judge names the better one; `logprob`: by the odds of both names, of a
            local model.
        swap: compare in both orders; without it, place and merit can't be told apart.
        margin: log-odds (`logprob`) or points (`exact`, `chair`) up to which two responses are a
            tie.
        rule: `all`: every decided comparison is a pair; `extremes`: the response that won most
            against the one that won least, where these were compared and decided so.
    """

    by: By = "words"
    swap: bool = True
    margin: float = 0.0
    rule: Rule = "all"


@dataclass(frozen=True, kw_only=True)
class Replies:
    """How a judging model is asked.

    Attributes:
        facts: tell it the records' `facts`.
        attempts: how often it is asked at most about one thing, until its reply can be read.
        temperature: of the first reply; null leaves it to the endpoint.
        retry_temperature: of later replies.
        max_new_tokens: limit of one reply, in tokens.
        batch_size: replies at once, of a local model.
        seed: of sampling, and of the order in which responses are shown.
        endpoint: url, key_variable, concurrency, retries, timeout (seconds), input_price and
            output_price (dollars for a million tokens), max_dollars, max_tokens, cache,
            cache_gigabytes.
    """

    facts: bool = False
    attempts: int = 3
    temperature: float | None = 0.0
    retry_temperature: float = 0.7
    max_new_tokens: int = 256
    batch_size: int = 8
    seed: int = 0
    endpoint: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectFiles:
    """What is known to be in the images.

    Attributes:
        objects: JSON {image_id: [names of the objects in the image]}; an image is found by its
            file name without suffix, else by the record's id.
        vocabulary: JSON {name: [words]} or CHAIR's synonym tables; a short list of our own for
            COCO's 80 classes if not set.
    """

    objects: Path | None = None
    vocabulary: Path | None = None

    @property
    def inputs(self) -> dict[str, Path]:
        """The files that are given, by option."""
        given = {"objects": self.objects, "vocabulary": self.vocabulary}
        return {name: path for name, path in given.items() if path is not None}

    def check(self, judge: str) -> None:
        """Refuse a judge that needs objects without them, and objects for another judge.

        Raises:
            UserError: only one of the two is set.
        """
        if (judge in BY_OBJECTS) != (self.objects is not None):
            named = judge if judge in BY_OBJECTS else "exact"
            raise UserError(f"--judge {named} and --objects go together: set both or neither.")
