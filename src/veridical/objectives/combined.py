"""`--terms dpo:0.8,bco:0.2,nll:1`: any losses and terms, added up with weights."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from veridical.objectives.base import Objective, PairLoss, Part
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.table import AnyPairLoss
from veridical.objectives.weighted_sum import WeightedSum
from veridical.runtime.errors import UserError
from veridical.runtime.ranges import ABOVE_ZERO

COMMON_BETA = 0.1
EXAMPLE = "dpo:0.8,bco:0.2,nll:1"
TERMS: dict[str, Callable[..., Objective]] = {
    loss.name: loss for loss in typing.get_args(AnyPairLoss) if not issubclass(loss, WeightedSum)
} | {Likelihood.name: Likelihood}


@dataclass(frozen=True)
class Combined(WeightedSum):
    """A weighted sum of losses and terms.

    Attributes:
        beta: of every loss that compares with the reference, unless its term sets one.
        terms: losses and terms with their weights, `dpo:0.8,bco:0.2,nll:1`; `nll` is the chosen
            answer's likelihood. Settings follow the weight, `bco:0.2:beta=0.05`. Chosen by itself
            where no `--loss` is given.
    """

    name: ClassVar[str] = "terms"
    chosen_by: ClassVar[str] = "terms"
    beta: Annotated[float, ABOVE_ZERO] = COMMON_BETA
    terms: str = ""

    @property
    def parts(self) -> tuple[Part, ...]:
        """The terms with their weights."""
        return read_terms(self.terms, self.beta)

    def check(self) -> None:
        """Refuse settings that make no sense, of any term.

        Raises:
            UserError: names the term, and how its settings are written.
        """
        for weight, one in self.parts:
            try:
                one.check()
            except UserError as error:
                raise UserError(
                    f"--terms, {one.name}: {error} Settings of a term follow its weight: "
                    f"{one.name}:{weight:g}:setting=value."
                ) from error
        if self.beta != COMMON_BETA and self.parts == read_terms(self.terms, 2 * self.beta):
            raise UserError(
                "--beta is that of terms that compare with the reference and set none, and --terms "
                f"has none of these. Give each its own, such as {self.lead.name}:1:beta="
                f"{self.beta:g}, and leave --beta out."
            )
        super().check()

    def with_known_start(self) -> Self:
        """Without what makes the value at the start depend on the rows, if a loss is left."""
        known: dict[str, Part] = {}
        for weight, one in self.parts:
            plain = one.with_known_start() if isinstance(one, PairLoss) else one
            if plain.at_start is not None:
                known.setdefault(plain.name, Part(weight, plain))
        if not any(isinstance(one, PairLoss) for _, one in known.values()):
            return self
        return dataclasses.replace(self, terms=",".join(map(written, known.values())))


def written(part: Part) -> str:
    """A part as `--terms` takes it."""
    weight, one = part
    values = {field.name: getattr(one, field.name) for field in _settings(type(one))}
    settings = [f":{name}={value}" for name, value in values.items() if value is not None]
    return f"{one.name}:{weight!r}{''.join(settings)}"


@lru_cache(maxsize=32)
def read_terms(text: str, beta: float) -> tuple[Part, ...]:
    """The losses and terms that a text names, with their weights.

    Args:
        text: `NAME:WEIGHT[:SETTING=VALUE...]`, separated by commas.
        beta: of losses that compare with the reference and set none.

    Raises:
        UserError: it can't be read, or is not a loss of a pair.
    """
    words = [word.strip() for word in text.split(",")]
    if not any(words):
        raise UserError(f"--loss terms needs the losses and their weights: --terms {EXAMPLE}.")
    parts = tuple(_read(word, beta) for word in words)
    names = [one.name for _, one in parts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--terms has {name} twice. Give it once, with the sum of the weights.")
    if not any(isinstance(one, PairLoss) for _, one in parts):
        raise UserError(
            "--terms has no loss that compares two answers. Add one, such as dpo:1; for the chosen "
            "answers alone use train sft --kind preference."
        )
    return parts


def _read(word: str, beta: float) -> Part:
    name, *rest = (piece.strip() for piece in word.split(":"))
    if not rest or not rest[0] or "=" in rest[0]:
        raise UserError(f"--terms: {word!r} has no weight. Write it as NAME:WEIGHT, {EXAMPLE}.")
    made = _kind(name)
    weight = _number(rest[0])
    if weight is None or not 0 < weight < math.inf:
        raise UserError(f"--terms: the weight of {name} is {rest[0]}; give a number above 0.")
    settings = [_setting(name, made, piece) for piece in rest[1:]]
    given = dict(settings)
    if len(given) < len(settings):
        raise UserError(f"--terms: {word!r} has a setting twice. Give each once.")
    if made is Likelihood:
        return Part(weight, Likelihood(1.0))
    if made.needs_reference:
        given.setdefault("beta", beta)
    return Part(weight, made(**given))


def _kind(name: str) -> Any:
    if name in TERMS:
        made: Any = TERMS[name]
        if getattr(made, "weigh", PairLoss.weigh) is not PairLoss.weigh:
            raise UserError(
                f"--terms can't have {name}: its weights of tokens would change the other terms, "
                f"too. Set --loss {name} instead."
            )
        return made
    if name == "mpo":
        raise UserError(
            "--terms: mpo is a sum itself. Write dpo:0.8,bco:0.2:reward_shift=running,nll:1, or "
            "set --loss mpo."
        )
    near = difflib.get_close_matches(name, TERMS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"--terms: there is no loss {name!r}{hint}. There is: {', '.join(TERMS)}.")


def _setting(name: str, made: Any, piece: str) -> tuple[str, Any]:
    """One `SETTING=VALUE` of a term, with the type that its field has."""
    setting, _, value = (text.strip() for text in piece.partition("="))
    setting = setting.replace("-", "_")
    fields = [field.name for field in _settings(made)]
    if setting not in fields or not value:
        there = ", ".join(f"{field}=..." for field in fields) or "none"
        raise UserError(f"--terms: {piece!r} is not a setting of {name}. Its settings: {there}.")
    words, number = _words(typing.get_type_hints(made)[setting]), _number(value)
    if value in words:
        return setting, value
    if number is None or not _takes_numbers(typing.get_type_hints(made)[setting]):
        takes = " or ".join([*words, "a number"] if number is None else words)
        raise UserError(f"--terms: {setting} of {name} is {value!r}; give {takes}.")
    return setting, number


def _settings(made: Any) -> list[dataclasses.Field[Any]]:
    """Fields of an objective, less what is its weight."""
    return [] if made is Likelihood else list(dataclasses.fields(made))


def _members(hint: Any) -> tuple[Any, ...]:
    inner = typing.get_args(hint) if typing.get_origin(hint) is not Literal else ()
    return inner or (hint,)


def _words(hint: Any) -> list[str]:
    choices = [one for one in _members(hint) if typing.get_origin(one) is Literal]
    return [str(word) for one in choices for word in typing.get_args(one)]


def _takes_numbers(hint: Any) -> bool:
    return float in _members(hint)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
