"""What sets call a good and a bad answer, and columns that may say which answer is which."""

from __future__ import annotations

import re

from veridical.data.column_names import with_underscores

GOOD = frozenset({
    "true", "yes", "1", "+1", "up", "thumbs_up", "thumbsup", "good", "like", "liked", "positive",
    "desirable", "accepted", "correct", "👍",
})  # fmt: skip
BAD = frozenset({
    "false", "no", "0", "-1", "down", "thumbs_down", "thumbsdown", "bad", "dislike", "disliked",
    "negative", "undesirable", "rejected", "incorrect", "wrong", "👎",
})  # fmt: skip
_VERDICT = re.compile(
    r"(^|_)(labels?|thumbs?|votes?|winner|preferred|preference|verdict|feedback|liked?|better|best"
    r"|desirable|kto_tag|good|bad|accepted|approved)(_|$)",
    re.I,
)
_WORSE = re.compile(
    r"(^|[_ -])(bad|worse|worst|lose|loser|losing|lost|rejected|not|non|less|least)([_ -]|$)", re.I
)


def read_label(value: object) -> object:
    """True or False for a text such as "up" or "thumbs down"; anything else as it is."""
    if not isinstance(value, str):
        return value
    said = re.sub(r"[\s-]+(?=\w)", "_", value.strip().casefold())
    if said in GOOD or value.strip() in GOOD:
        return True
    return False if said in BAD or value.strip() in BAD else value


def is_verdict(value: object) -> bool:
    """Whether a value can only mean a good or a bad answer; "no" may answer a yes/no question."""
    ambiguous = {"true", "yes", "1", "+1", "correct", "positive"}
    ambiguous |= {"false", "no", "0", "-1", "incorrect", "wrong", "negative"}
    if isinstance(value, str) and value.strip().casefold() in ambiguous:
        return False
    return isinstance(read_label(value), bool)


def may_judge(column: str) -> bool:
    """Whether a column, by its name, may say which answers are good."""
    return _VERDICT.search(with_underscores(column)) is not None


def names_worse(column: str) -> bool:
    """Whether a column says by its name which answers are bad, as `not_preferred` does."""
    return _WORSE.search(with_underscores(column)) is not None
