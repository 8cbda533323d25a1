"""Pairs whose rejected answer is the model's own, gone on with from its middle without the image.

Dropout next-token prediction of MMPR (Wang et al. 2024, "Enhancing the reasoning ability of
multimodal large language models via mixed preference optimization"): what is said without the image
comes from the model's bias. The beginning is the same in both answers, so only what follows it is
compared.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridical.builders._answers import AnswerKind, ChosenAnswer, read_answers, write_pairs
from veridical.builders._models import model_identity
from veridical.builders._parts import Parts, finish
from veridical.data.messages import Message
from veridical.data.prompts import Prompt
from veridical.data.reading import read
from veridical.data.responses import Response
from veridical.data.text.units import cut_units, same_words
from veridical.models.load import load_placed
from veridical.models.model_argument import Model, name_of
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import RefusedRowError
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import model_folders
from veridical.runtime.options import Loading, Reading
from veridical.runtime.progress import are_in, counted
from veridical.runtime.runs import start_run
from veridical.runtime.shards import print_result, read_shard
from veridical.sampling import Request, respond
from veridical.sampling.requests import Decoding

NOT_TRIED = "it was not tried"


@dataclass(frozen=True)
class Blind:
    """An answer's beginning, and the question without its images.

    Attributes:
        answer: the whole answer.
        beginning: what stays of it; no white space at its ends.
        prompt: without image blocks.
    """

    answer: ChosenAnswer
    beginning: str
    prompt: list[Message]

    def request(self, attempt: int) -> Request:
        """What the model is asked to go on with; each attempt has noise of its own."""
        return Request(Prompt(f"{self.answer.id}/{attempt}", (), self.prompt), self.beginning)


def build_dropout(
    model: Model,
    data: Path,
    out: Path,
    kind: AnswerKind = "sample",
    kept: float = 0.5,
    attempts: int = 3,
    decoding: Decoding = Decoding(max_new_tokens=256, temperature=1.0, batch_size=64),
    loading: Loading = Loading(),
    reading: Reading = Reading(),
    shard: str | None = None,
) -> None:
    """Make preference pairs from MODEL's answers: the rejected one is continued without the image.

    The answer is cut at half of its words, and MODEL continues it from the question's text alone. A
    continuation that is cut off, empty or equal to the answer is sampled again. An interrupted run
    continues when the command is given again. The batch size does not change the result.

    Args:
        model: hub name, folder, adapter folder or `embedded`; or a loaded policy.
        data: the model's samples, as `build sample` writes them; or true answers.
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are. The chosen answers are all different responses of a `sample`, the
            last answer of a `conversation`, or the chosen one of a `preference`.
        kept: share of the answer's words before the cut, rounded down; at least one word stays.
            Scripts without spaces between words are cut by characters.
        attempts: most tries for one continuation.
        decoding: how continuations are sampled.
        loading: how the model is loaded.
        reading: how the data is read.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    part = read_shard(shard)
    if not 0 < kept < 1:
        raise UserError(f"--kept is {kept:g}; give a share between 0 and 1.")
    if decoding.temperature <= 0 and attempts > 1:
        raise UserError(
            "--temperature 0 repeats the same continuation. Set it above 0, or --attempts 1."
        )
    options = {
        "model": name_of(model), "data": data, "out": out, "kind": kind, "kept": kept,
        "attempts": attempts, "decoding": decoding, "loading": loading, "reading": reading,
        "shard": shard,
    }  # fmt: skip
    folders, inputs = model_folders(name_of(model)), {"data": data}
    with start_run(out, "build dropout", options, inputs, any_process=True, models=folders) as run:
        records = read(data, kind, reading)
        answers = read_answers(records.rows, kind)
        policy = load_placed(model, loading, loading.template)
        settings = dataclasses.asdict(decoding)
        del settings["batch_size"]  # decides nothing
        settings |= {"kept": kept, "attempts": attempts}
        identity: dict[str, object] = {"settings": settings, "kind": kind,
                    "data": run.record["inputs"]["data"]["sha256"]}  # fmt: skip
        parts = Parts(out, identity | model_identity(run, "model", policy, model), dict)
        began = time.monotonic()
        source = {"builder": "dropout", "model": name_of(model), **settings}
        results = parts.work_through_shard(
            answers,
            lambda chunk: continue_answers(policy, chunk, kept, attempts, decoding, source),
            "continuations",
            part,
        )
        if results is None:
            return
        pairs, skipped = write_pairs(out, records, answers, results, "answer")
        summary = {"answers": len(answers), "pairs": pairs, "skipped": skipped,
                   "sampled": sum(row["sampled"] for row in results)}  # fmt: skip
        finish(run, summary, parts, time.monotonic() - began)
        print_result(are_in(pairs, "pairs", out / "pairs.parquet"))


def continue_answers(
    policy: Policy,
    answers: Sequence[ChosenAnswer],
    kept: float,
    attempts: int,
    decoding: Decoding,
    source: dict[str, object],
) -> list[dict[str, Any]]:
    """Continue some answers from their middle, without their images.

    Returns:
        For each {"id", "sampled", and either "rejected" and "source" or "reason"}; `sampled` counts
        continuations.
    """
    results: dict[int, dict[str, Any]] = {}
    left: dict[int, Blind] = {}
    reasons: dict[int, str] = {}
    for number, answer in enumerate(answers):
        blind = _blind(policy, answer, kept)
        if isinstance(blind, Blind):
            left[number] = blind
        else:
            reasons[number] = blind
    sampled = [0] * len(answers)
    for attempt in range(1, attempts + 1):
        numbers = list(left)
        said, refused = _sampled(policy, [left[n] for n in numbers], attempt, decoding)
        for place, number in enumerate(numbers):
            if place in refused:
                reasons[number] = refused[place]
                del left[number]
                continue
            sampled[number] += 1
            blind, response = left[number], said[place]
            problem = _problem(blind, response)
            if problem is None:
                text = blind.beginning + response.text.rstrip()
                about = {**source, "attempt": attempt, "beginning": blind.beginning}
                results[number] = {"rejected": text, "source": about}
                del left[number]
            else:
                tried = counted(attempt, "continuations")
                reasons[number] = f"{tried}; of the last, {problem}"
    return [
        {"id": answer.id, "sampled": sampled[number]}
        | results.get(number, {"reason": reasons.get(number, NOT_TRIED)})
        for number, answer in enumerate(answers)
    ]


def _blind(policy: Policy, answer: ChosenAnswer, kept: float) -> Blind | str:
    """What is left to go on from, or why it can't be."""
    if answer.repeated:
        return "an earlier response of the record is the same"
    units = cut_units(answer.text)
    if len(units) < 2:
        return "an answer of one word can't be cut"
    if not answer.images:
        return "there is no image to leave out"
    beginning = "".join(units[: max(1, int(kept * len(units)))]).strip()
    prompt = [_without_images(message) for message in answer.prompt]
    if not all(message["content"] for message in prompt):
        return "without its image a turn of the prompt is empty"
    try:
        render_prompt(policy, prompt, beginning)
    except RefusedRowError as refused:
        return str(refused)
    return Blind(answer, beginning, prompt)


def _sampled(
    policy: Policy, blind: Sequence[Blind], attempt: int, decoding: Decoding
) -> tuple[dict[int, Response], dict[int, str]]:
    """A continuation of each, by place, and why the processor refuses others."""
    if not blind:
        return {}, {}
    requests = [one.request(attempt) for one in blind]
    said, refused = leave_out_refused(
        [request.prompt.id for request in requests],
        lambda left: respond(policy, [requests[n] for n in left], decoding, ""),
    )
    places = [place for place in range(len(blind)) if place not in refused]
    return dict(zip(places, said, strict=True)), refused


def _problem(blind: Blind, response: Response) -> str | None:
    """Why a continuation makes no pair; None if it does."""
    if response.stop_reason == "length":
        return "it was cut off at --max-new-tokens"
    if not response.text.strip():
        return "it is empty"
    if same_words(blind.beginning + response.text, blind.answer.text):
        return "it is what the answer says"
    return None


def _without_images(message: Message) -> Message:
    blocks = [block for block in message["content"] if block["type"] != "image"]
    return {"role": message["role"], "content": blocks}
