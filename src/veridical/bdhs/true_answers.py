"""True answers, the settings that rejected ones are made with, and which answers can't be used."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from veridical.bdhs.cuts import Cutting
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import Similarity
from veridical.checks.probes import masking_refusal
from veridical.data.image_checks import require_images
from veridical.data.images import ImageLike
from veridical.data.messages import text_of
from veridical.data.prompts import Prompt
from veridical.data.text.languages import guess_language
from veridical.data.text.leading_yes_no import leading_yes_or_no
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import RefusedRowError
from veridical.runtime.errors import UserError
from veridical.runtime.json_types import JsonObject
from veridical.sampling import Decoding, Request


@dataclass(frozen=True)
class TrueAnswer:
    """One true answer.

    Attributes:
        prompt: everything before the answer.
        answer: the true answer, as it was written. White space around it is not completed, and
            stands around the rejected answer too.
    """

    prompt: Prompt
    answer: str

    @property
    def id(self) -> str:
        """The record's."""
        return self.prompt.id

    @property
    def images(self) -> Sequence[ImageLike]:
        """Of the prompt."""
        return self.prompt.images

    @property
    def text(self) -> str:
        """The true answer without white space around it."""
        return self.answer.strip()


@dataclass(frozen=True)
class Rejecting:
    """How true answers get rejected ones.

    Attributes:
        settings: of the algorithm.
        decoding: of a completion; `max_new_tokens` is its limit. An unguided answer may be longer,
            see `whole_answer_limit`. An answer with one cut off is not used.
        measure: how alike two answers are.
    """

    settings: BDHSSettings
    decoding: Decoding
    measure: Similarity

    @property
    def threshold(self) -> float:
        """eps_s: an answer at least this similar to the true one is made again."""
        given = self.settings.similarity_threshold
        return self.measure.default_threshold if given is None else given

    @property
    def cutting(self) -> Cutting:
        """How sentences are cut."""
        settings = self.settings
        return Cutting(settings.cut, settings.cut_words, settings.yes_no_swap, self.decoding.seed)

    @property
    def constants(self) -> JsonObject:
        """What decides the result, for provenance."""
        decoding = self.decoding
        return dataclasses.asdict(self.settings) | {
            "similarity_threshold": self.threshold,
            "temperature": decoding.temperature,
            "max_new_tokens": decoding.max_new_tokens,
            "seed": decoding.seed,
        }

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: names the option.
        """
        self.settings.check()
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self.decoding, name) < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {getattr(self.decoding, name)}; give 1 or more.")
        if self.decoding.temperature <= 0:
            raise UserError("--temperature must be above 0: without noise every try is the same.")


def require_masking(policy: Policy, sources: Sequence[TrueAnswer]) -> None:
    """Try the masked path on the first record whose image the processor takes.

    Raises:
        UserError: the model's image tokens cannot be masked; says what to set instead.
    """
    reason = None
    for source in sources:
        if not source.images or _unusable(policy, source) is not None:
            continue
        with contextlib.suppress(RefusedRowsError):
            reason = masking_refusal(policy, Request(source.prompt))
            break
    if reason is not None:
        instead = "Set --variant noise, which restricts the picture instead."
        if policy.vision is not None:
            instead = "Leave --vision-cache off; if it fails then too, set --variant noise."
        raise UserError(f"The image tokens of {policy.name} can't be masked: {reason}. {instead}")


def language_of(source: TrueAnswer, how: Rejecting) -> str:
    """The language of a true answer, ISO 639-1; of a short one, that of its question."""
    if how.settings.language != "auto":
        return how.settings.language
    question = source.prompt.messages[-1:]
    return guess_language(source.text, text_of(question))


def whole_answer_limit(policy: Policy, text: str, max_new_tokens: int) -> int:
    """How long an unguided answer may be, in tokens.

    At least twice the true answer's length, so that what is cut off does not know how to end; the
    limit of one completion, doubled until it is enough, so that few limits are in use.

    Args:
        policy: whose tokens are counted.
        text: the true answer.
        max_new_tokens: of one completion.
    """
    ids = policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    limit = max_new_tokens
    while limit < 2 * len(ids):
        limit *= 2
    return limit


def refusal(policy: Policy, source: TrueAnswer, how: Rejecting) -> str | None:
    """Why a record can't be used, found before anything is sampled."""
    if not source.images and how.settings.variant != "none" and not how.settings.text_only:
        return "it has no image, so that nothing is hidden; --text-only true makes pairs of those"
    return _unusable(policy, source)


def counted_facts(source: TrueAnswer, how: Rejecting) -> dict[str, str]:
    """What the summary counts about a true answer."""
    language = language_of(source, how)
    return {"language": language, "yes_no": leading_yes_or_no(source.text, language) or ""}


def _unusable(policy: Policy, source: TrueAnswer) -> str | None:
    if not source.text:
        return "the true answer is empty"
    try:
        render_prompt(policy, source.prompt.messages, source.text)
        require_images(policy.processor, source.images)
    except RefusedRowError as refused:
        return str(refused)
    return None
