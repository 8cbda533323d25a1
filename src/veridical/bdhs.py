"""Answers that come from a model's bias: Algorithm 1 of Amirloo et al. 2024, section 3.4."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from veridical.errors import UserError
from veridical.image_noise import add_noise
from veridical.images import load_image
from veridical.messages import Message, assistant_message
from veridical.models import Policy
from veridical.probes import masking_refusal
from veridical.randomness import generator
from veridical.rendering import RefusedRowError, render_prompt
from veridical.sampling import (
    Decoding,
    Request,
    Response,
    complete_masked,
    respond,
)
from veridical.sentences import split_sentences, starts_with_yes_or_no, swap_yes_no
from veridical.similarity import Similarity


@dataclass(frozen=True)
class BDHSSettings:
    """The constants of the algorithm.

    Attributes:
        variant: how sight is restricted: `mask` (image tokens), `noise` (the picture) or `none`.
        guided: begin each sentence with a part of the true one.
        mask_threshold: rho_th; an image token stays visible with probability 1 - rho_th.
        noise_steps: diffusion steps N of the `noise` variant, 0 to 1000.
        similarity_threshold: eps_s; an answer at least this similar to the true one is redone.
        iterations: N_BDHS; the last one is unguided and taken as it comes (if there are several).
        yes_no_swap: probability that a sentence's leading yes or no is swapped.
        cut: `uniform` cuts a sentence after any number of its words, `beginning` within its
            first `cut_words` words.
        cut_words: see `cut`.
        temperature: of sampling.
        max_new_tokens: limit of one completion, in tokens.
        seed: of masks, cuts, swaps and sampling.
        drop_masked: leave masked tokens out of the prompt instead of masking them.
        batch_size: completions at once; no part of the result.
    """

    variant: Literal["mask", "noise", "none"] = "mask"
    guided: bool = True
    mask_threshold: float = 0.99
    noise_steps: int = 500
    similarity_threshold: float = 0.97
    iterations: int = 5
    yes_no_swap: float = 0.5
    cut: Literal["uniform", "beginning"] = "uniform"
    cut_words: int = 3
    temperature: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0
    drop_masked: bool = True
    batch_size: int = 64


@dataclass(frozen=True)
class Source:
    """One true answer.

    Attributes:
        id: the record's id.
        images: in the order of the prompt's placeholders.
        prompt: everything before the answer.
        answer: the true answer, without white space around it.
    """

    id: str
    images: Sequence[Any]
    prompt: Sequence[Message]
    answer: str


@dataclass(frozen=True)
class Cut:
    """Where one sentence was cut.

    Attributes:
        before: the true text before the sentence, white space at its end included.
        sentence: the true sentence, without the white space that follows it.
        kept: what of it the model was given (after a swap of yes and no).
        space: the white space after the sentence.
    """

    before: str
    sentence: str
    kept: str
    space: str


@dataclass(frozen=True)
class Attempt:
    """One iteration's answer, with where it came from."""

    text: str
    iteration: int
    share_masked: float
    cuts: list[dict[str, str]]


def require_masking(policy: Policy, sources: Sequence[Source]) -> None:
    """Try the masked path on the first record that has an image.

    Raises:
        UserError: the model's image tokens cannot be masked; says what to set instead.
    """
    source = next((s for s in sources if s.images and refusal(policy, s) is None), None)
    if source is None:
        return
    reason = masking_refusal(policy, Request(source.id, source.images, source.prompt))
    if reason is not None:
        instead = "Set --variant noise, which restricts the picture instead."
        if policy.vision is not None:
            instead = "Leave --vision-cache off; if it fails then too, set --variant noise."
        raise UserError(f"The image tokens of {policy.name} can't be masked: {reason}. {instead}")


def check(settings: BDHSSettings) -> None:
    """Refuse constants that make no sense.

    Raises:
        UserError: names the option.
    """
    for name in ("mask_threshold", "yes_no_swap"):
        if not 0 <= getattr(settings, name) <= 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(settings, name):g}; give a number in [0, 1].")
    if not 0 <= settings.noise_steps <= 1000:
        raise UserError(f"--noise-steps is {settings.noise_steps}; the schedule has 0 to 1000.")
    for name in ("iterations", "cut_words", "max_new_tokens", "batch_size"):
        if getattr(settings, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(settings, name)}; give 1 or more.")
    if settings.temperature <= 0:
        raise UserError("--temperature must be above 0: without noise every try is the same.")


def build_pairs(
    policy: Policy, sources: Sequence[Source], settings: BDHSSettings, measure: Similarity
) -> list[dict[str, Any]]:
    """Rejected answers for some true ones: Algorithm 1, over all sentences at once.

    Returns:
        For each source {"index", "id", and either "rejected" and "source" or "reason"}.
    """
    results: dict[int, dict[str, Any]] = {}
    open_sources = dict(enumerate(sources))
    for index, source in list(open_sources.items()):
        reason = refusal(policy, source)
        if reason is not None:
            results[index] = {"id": source.id, "reason": reason}
            del open_sources[index]
    for iteration in range(1, settings.iterations + 1):
        if not open_sources:
            break
        last = iteration == settings.iterations
        attempts = _attempt(policy, open_sources, settings, iteration)
        pairs = [(attempts[i].text, open_sources[i].answer) for i in open_sources]
        scores = dict(zip(open_sources, measure.scores(pairs), strict=True))
        for index in list(open_sources):
            if scores[index] < settings.similarity_threshold or last:
                source = open_sources.pop(index)
                results[index] = _result(source, attempts[index], scores[index], settings)
    return [results[index] for index in range(len(sources))]


def cut_sentences(source: Source, settings: BDHSSettings, iteration: int) -> list[Cut]:
    """Swap and cut every sentence of a true answer, by the record's own noise.

    The unit is the word, and the last word is never kept: a whole sentence leaves nothing to
    complete (our choice; the paper names no unit).
    """
    cuts, before = [], ""
    for number, piece in enumerate(split_sentences(source.answer)):
        noise = generator(settings.seed, "cut", source.id, iteration, number)
        sentence = piece.strip()
        swap, where = noise.random(), noise.random()
        given = sentence
        if starts_with_yes_or_no(sentence) and swap < settings.yes_no_swap:
            given = swap_yes_no(sentence)
        words = given.split(" ")
        most = len(words) - 1
        if settings.cut == "beginning":
            most = min(most, settings.cut_words)
        kept = " ".join(words[: int(where * (most + 1))]).rstrip()
        lead = piece[: len(piece) - len(piece.lstrip())]
        cuts.append(Cut(before + lead, sentence, kept, piece[len(piece.rstrip()) :]))
        before += piece
    return cuts


def join_completion(cut: Cut, completion: str) -> str:
    """The rejected sentence: what was kept, and what the model made of the rest."""
    return (cut.kept + completion).strip() if cut.kept else completion.strip()


def constants_of(settings: BDHSSettings) -> dict[str, Any]:
    """The settings that decide the result, for provenance."""
    constants = dataclasses.asdict(settings)
    del constants["batch_size"]
    return constants


def refusal(policy: Policy, source: Source) -> str | None:
    """Why a record can't be used, found before anything is sampled."""
    if not source.answer:
        return "the true answer is empty"
    try:
        render_prompt(policy, source.prompt, source.answer)
    except RefusedRowError as refused:
        return str(refused)
    return None


def _attempt(
    policy: Policy, sources: dict[int, Source], settings: BDHSSettings, iteration: int
) -> dict[int, Attempt]:
    """One iteration for every open source; all their sentences in one list of requests."""
    free = not settings.guided or (iteration == settings.iterations > 1)
    requests: list[Request] = []
    masks: list[str] = []
    cuts: dict[int, list[Cut]] = {}
    for index, source in sources.items():
        images = _restricted_images(source, settings, iteration)
        cuts[index] = [] if free else cut_sentences(source, settings, iteration)
        prefixes = [""] if free else [(cut.before + cut.kept).rstrip() for cut in cuts[index]]
        for number, prefix in enumerate(prefixes):
            key = f"{source.id}/{iteration}/{number}"
            requests.append(Request(key, images, source.prompt, prefix))
            masks.append(f"{source.id}/{iteration}")
    responses, shares = _complete(policy, requests, masks, settings, until_sentence_end=not free)
    attempts, at = {}, 0
    for index in sources:
        count = len(cuts[index]) or 1
        mine = responses[at : at + count]
        attempts[index] = _join(cuts[index], mine, iteration, shares[at])
        at += count
    return attempts


def _complete(
    policy: Policy,
    requests: Sequence[Request],
    masks: Sequence[str],
    settings: BDHSSettings,
    until_sentence_end: bool,
) -> tuple[list[Response], list[float]]:
    decoding = Decoding(
        settings.max_new_tokens, settings.temperature, settings.seed, settings.batch_size
    )
    if settings.variant == "mask":
        return complete_masked(
            policy, requests, masks, settings.mask_threshold, decoding, until_sentence_end,
            settings.drop_masked,
        )  # fmt: skip
    answers = respond(policy, requests, decoding, "", until_sentence_end)
    return answers, [0.0] * len(answers)


def _restricted_images(source: Source, settings: BDHSSettings, iteration: int) -> Sequence[Any]:
    if settings.variant != "noise":
        return source.images
    return [
        add_noise(
            load_image(image), settings.noise_steps, settings.seed, f"{source.id}/{iteration}/{n}"
        )
        for n, image in enumerate(source.images)
    ]


def _join(
    cuts: Sequence[Cut], responses: Sequence[Response], iteration: int, share: float
) -> Attempt:
    if not cuts:
        return Attempt(responses[0].text.strip(), iteration, share, [])
    text = ""
    told = []
    for cut, response in zip(cuts, responses, strict=True):
        sentence = join_completion(cut, response.text)
        text += sentence + (cut.space or " ")
        completion = sentence[len(cut.kept) :]
        told.append({"sentence": cut.sentence, "kept": cut.kept, "completion": completion})
    return Attempt(text.strip(), iteration, share, told)


def _result(
    source: Source, attempt: Attempt, similarity: float, settings: BDHSSettings
) -> dict[str, Any]:
    if not attempt.text:
        return {"id": source.id, "reason": "the model said nothing in every try"}
    if attempt.text == source.answer:
        return {"id": source.id, "reason": "the model repeated the true answer in every try"}
    constants = constants_of(settings)
    provenance = {
        "builder": "bdhs",
        "iteration": attempt.iteration,
        "similarity": round(similarity, 6),
        "share_masked": round(attempt.share_masked, 6),
        "cuts": attempt.cuts,
        "settings": constants,
    }
    return {
        "id": source.id,
        "rejected": [assistant_message(attempt.text)],
        "source": json.dumps(provenance, ensure_ascii=False),
    }
