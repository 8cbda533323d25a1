"""Answers that come from a model's bias: Algorithm 1 of Amirloo et al. 2024, section 3.4."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from veridical.bdhs.cuts import Cut, cut_sentences, join_completion, join_sentences
from veridical.bdhs.image_noise import add_noise, deviation_left, shrunk
from veridical.bdhs.true_answers import (
    Rejecting,
    TrueAnswer,
    counted_facts,
    language_of,
    refusal,
    whole_answer_limit,
)
from veridical.data.images import load_image
from veridical.data.messages import assistant_message
from veridical.data.responses import Response
from veridical.data.text.units import same_words
from veridical.models.policy import Policy
from veridical.models.refused_rows import leave_out_refused
from veridical.sampling import (
    Request,
    complete_masked,
    respond,
)


@dataclass(frozen=True)
class Attempt:
    """One iteration's answer, with where it came from.

    Attributes:
        text: the answer, without white space around it.
        iteration: from 1.
        share_masked: of the image tokens.
        cuts: for each sentence that was completed, what `source` says of it.
        cut_off: completions that reached their limit; an answer with one is not used.
        empty: completions that said nothing.
        limit: of a completion, in tokens.
    """

    text: str
    iteration: int
    share_masked: float
    cuts: list[dict[str, str]]
    cut_off: int
    empty: int
    limit: int


def reject_answers(
    policy: Policy, sources: Sequence[TrueAnswer], how: Rejecting
) -> list[dict[str, Any]]:
    """Rejected answers for some true ones: Algorithm 1, over all sentences at once.

    Returns:
        For each source {"id", "tries", "language", "yes_no", and either "rejected" and "source" or
        "reason"}. `tries` counts tries made, tries in which a text was cut off, and completions
        that were empty; `yes_no` is the word that the true answer begins with, if one of them;
        `refused` is there where the processor refuses the image.
    """
    results: dict[int, dict[str, Any]] = {}
    tries = [dict.fromkeys(("made", "cut_off", "empty"), 0) for _ in sources]
    open_sources = dict(enumerate(sources))
    for index, source in list(open_sources.items()):
        reason = refusal(policy, source, how)
        if reason is not None:
            results[index] = {"id": source.id, "reason": reason}
            del open_sources[index]
    for iteration in range(1, how.settings.iterations + 1):
        if not open_sources:
            break
        last = iteration == how.settings.iterations
        attempts, refused = _attempt_usable(policy, open_sources, how, iteration)
        for index, reason in refused.items():
            source = open_sources.pop(index)
            results[index] = {"id": source.id, "reason": reason, "refused": True}
        for index, attempt in attempts.items():
            tries[index]["made"] += 1
            tries[index]["cut_off"] += bool(attempt.cut_off)
            tries[index]["empty"] += attempt.empty
        whole = [i for i in open_sources if attempts[i].text and not attempts[i].cut_off]
        pairs = [(attempts[i].text, open_sources[i].text) for i in whole]
        scores = dict(zip(whole, how.measure.scores(pairs), strict=True))
        for index in list(open_sources):
            score = scores.get(index)
            if last or (
                score is not None
                and score < how.threshold
                and not same_words(attempts[index].text, open_sources[index].text)
            ):
                source = open_sources.pop(index)
                left = _noise_left(policy, source, how, iteration)
                results[index] = _result(source, attempts[index], score, how, left)
    return [
        {**results[number], "tries": tries[number], **counted_facts(source, how)}
        for number, source in enumerate(sources)
    ]


def _attempt_usable(
    policy: Policy, sources: dict[int, TrueAnswer], how: Rejecting, iteration: int
) -> tuple[dict[int, Attempt], dict[int, str]]:
    """An attempt for every source that the processor takes, and why it refuses the others."""
    places = list(sources)
    attempts, refused = leave_out_refused(
        [source.id for source in sources.values()],
        lambda left: _attempt(
            policy, {places[n]: sources[places[n]] for n in left}, how, iteration
        ),
        row_of=lambda request: request.rsplit("/", 2)[0],
    )
    return attempts, {places[n]: reason for n, reason in refused.items()}


def _attempt(
    policy: Policy, sources: dict[int, TrueAnswer], how: Rejecting, iteration: int
) -> dict[int, Attempt]:
    """One iteration for every open source; all their sentences in one list of requests."""
    free = not how.settings.guided or (iteration == how.settings.iterations > 1)
    by_limit: dict[int, list[tuple[int, Request]]] = {}
    cuts: dict[int, list[Cut]] = {}
    for index, source in sources.items():
        images = _restricted_images(policy, source, how, iteration)
        language = language_of(source, how)
        cuts[index], given = [], [("", "")]
        if not free:
            keys = (source.id, iteration)
            cuts[index] = cut_sentences(source.text, how.cutting, keys, language)
            given = [(cut.prefix, cut.begun) for cut in cuts[index] if not cut.copied]
        limit = how.decoding.max_new_tokens
        if free:
            limit = whole_answer_limit(policy, source.text, limit)
        by_limit.setdefault(limit, []).extend(
            (
                index,
                Request(
                    replace(source.prompt, id=f"{source.id}/{iteration}/{number}", images=images),
                    *one,
                    language,
                ),
            )
            for number, one in enumerate(given)
        )
    said: dict[int, list[Response]] = {index: [] for index in sources}
    shares = dict.fromkeys(sources, 0.0)
    limits = dict.fromkeys(sources, how.decoding.max_new_tokens)
    for limit, asked in by_limit.items():
        masks = [f"{sources[index].id}/{iteration}" for index, _ in asked]
        requests = [request for _, request in asked]
        responses, masked = _complete(policy, requests, masks, how, limit, not free)
        for (index, _), response, share in zip(asked, responses, masked, strict=True):
            said[index].append(response)
            shares[index], limits[index] = share, limit
    return {
        index: _join(cuts[index], said[index], iteration, shares[index], limits[index])
        for index in sources
    }


def _complete(
    policy: Policy,
    requests: Sequence[Request],
    masks: Sequence[str],
    how: Rejecting,
    limit: int,
    until_sentence_end: bool,
) -> tuple[list[Response], list[float]]:
    if not requests:
        return [], []
    decoding = dataclasses.replace(how.decoding, max_new_tokens=limit)
    if how.settings.variant == "mask":
        return complete_masked(
            policy, requests, masks, how.settings.mask_threshold, decoding, until_sentence_end,
            how.settings.drop_masked,
        )  # fmt: skip
    answers = respond(policy, requests, decoding, "", until_sentence_end)
    return answers, [0.0] * len(answers)


def _restricted_images(
    policy: Policy, source: TrueAnswer, how: Rejecting, iteration: int
) -> Sequence[Any]:
    if how.settings.variant != "noise":
        return source.images
    return [noisy for _, noisy in _noisy_images(policy, source, how, iteration)]


def _noisy_images(
    policy: Policy, source: TrueAnswer, how: Rejecting, iteration: int
) -> list[tuple[Image.Image, Image.Image]]:
    """Each picture at the size that the model sees, clean and with noise."""
    clean = [shrunk(load_image(image), policy.processor) for image in source.images]
    return [
        (
            one,
            add_noise(
                one,
                how.settings.noise_steps,
                how.decoding.seed,
                f"{source.id}/{iteration}/{n}",
            ),
        )
        for n, one in enumerate(clean)
    ]


def _noise_left(policy: Policy, source: TrueAnswer, how: Rejecting, iteration: int) -> float | None:
    """The least noise among a row's pictures, as the model was given it; None if not known."""
    if how.settings.variant != "noise" or not source.images:
        return None
    pairs = _noisy_images(policy, source, how, iteration)
    left = [deviation_left(policy.processor, clean, noisy) for clean, noisy in pairs]
    known = [one for one in left if one is not None]
    return min(known) if len(known) == len(left) else None


def _join(
    cuts: Sequence[Cut], responses: Sequence[Response], iteration: int, share: float, limit: int
) -> Attempt:
    cut_off = sum(response.stop_reason == "length" for response in responses)
    empty = sum(not response.text.strip() for response in responses)
    if not cuts:
        text = responses[0].text.strip()
        return Attempt(text, iteration, share, [], cut_off, empty, limit)
    completions = iter(responses)
    sentences, completed = [], []
    for cut in cuts:
        completion = "" if cut.copied else next(completions).text
        sentence = join_completion(cut, completion)
        sentences.append(sentence)
        if not cut.copied:
            said = sentence[len(cut.kept) :]
            completed.append({"sentence": cut.sentence, "kept": cut.kept, "completion": said})
    text = join_sentences(cuts, sentences)
    return Attempt(text, iteration, share, completed, cut_off, empty, limit)


def _result(
    source: TrueAnswer,
    attempt: Attempt,
    similarity: float | None,
    how: Rejecting,
    noise_left: float | None,
) -> dict[str, Any]:
    if attempt.cut_off:
        reason = f"the last try was cut off at {attempt.limit} tokens; raise --max-new-tokens"
        return {"id": source.id, "reason": reason}
    if similarity is None:
        return {"id": source.id, "reason": "the model said nothing in the last try"}
    if same_words(attempt.text, source.text):
        reason = "the model repeated the true answer in the last try"
        if how.settings.guided and how.settings.iterations == 1 and not attempt.cuts:
            reason = "nothing in the true answer can be completed; an unguided try would do it"
        return {"id": source.id, "reason": reason}
    constants = how.constants
    provenance = {
        "builder": "bdhs",
        "iteration": attempt.iteration,
        "similarity": round(similarity, 6),
        "share_masked": round(attempt.share_masked, 6),
        "cuts": attempt.cuts,
        "settings": constants,
    }
    if how.settings.variant == "noise" and source.images:
        provenance["noise_deviation"] = None if noise_left is None else round(noise_left, 4)
    return {
        "id": source.id,
        "rejected": [assistant_message(_spaced_like(source.answer, attempt.text))],
        "source": json.dumps(provenance, ensure_ascii=False),
    }


def _spaced_like(answer: str, text: str) -> str:
    """A text with the white space that is around the true answer."""
    lead = answer[: len(answer) - len(answer.lstrip())]
    return lead + text + answer[len(answer.rstrip()) :]
