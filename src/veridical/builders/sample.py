"""Several responses to each prompt from a policy: what rejection sampling and ratings start from.

Li et al. (2024) sample four completions of each prompt from the model itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from veridical.builders._parts import Parts, model_identity, write_skipped
from veridical.data.image_checks import require_images
from veridical.data.images import row_images
from veridical.data.records import (
    Message,
    RecordSet,
    assistant_message,
    count_images,
    read_records,
    write_records,
)
from veridical.data.steering import parse_steer, steered
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import RefusedRowError
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.fingerprint import model_folders
from veridical.runtime.options import DtypeName
from veridical.runtime.progress import counted, part_of
from veridical.runtime.runs import start_run
from veridical.runtime.shards import read_shard, say
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.chat import PREFIX, Server
from veridical.sampling.rollouts import roll_out
from veridical.sampling.truncation import check_truncation

PromptKind = Literal["conversation", "preference", "prompt"]


@dataclass(frozen=True)
class Prompt:
    """What is answered: the record's id, its images (opened when needed), and its messages."""

    id: str
    images: Sequence[Any]
    messages: Sequence[Message]


@dataclass(frozen=True)
class SampleSettings:
    """What decides the responses, besides the model and the data.

    Attributes:
        k: responses a prompt.
        temperature: of sampling.
        max_new_tokens: limit of one response, in tokens.
        seed: of the sampling noise.
        steer: what is asked for besides, see `veridical.data.steering`; None asks for nothing.
        top_p: leave out tokens beyond this share of the probability.
        top_k: leave out all but so many tokens; 0 leaves none out.
        min_new_tokens: tokens before a response may end.
    """

    k: int
    temperature: float
    max_new_tokens: int
    seed: int
    steer: str | None
    top_p: float = 1.0
    top_k: int = 0
    min_new_tokens: int = 0

    def decoding(self, batch_size: int) -> Decoding:
        """How tokens are chosen, so many responses at once."""
        return Decoding(
            self.max_new_tokens, self.temperature, self.seed, batch_size, self.top_p, self.top_k,
            self.min_new_tokens,
        )  # fmt: skip


def build_sample(
    model: str,
    data: Path,
    out: Path,
    kind: PromptKind = "conversation",
    k: int = 4,
    temperature: float = 0.7,
    top_p: float = 1.0,
    top_k: int = 0,
    max_new_tokens: int = 256,
    min_new_tokens: int = 0,
    steer: str | None = None,
    limit: int | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    endpoint: dict[str, Any] | None = None,
    batch_size: int = 64,
    dtype: DtypeName = "auto",
    device: str = "auto",
    template: dict[str, Any] | None = None,
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Have MODEL answer every prompt several times.

    Interrupted and started again it goes on where it was; the result is the same, whatever the
    batch size. Responses that are the same are all kept, and counted in `summary.json`; empty ones,
    and those that max-new-tokens cut off, are left out and counted: in training a cut text would
    be followed by an end.

    Args:
        model: hub name, folder, adapter folder or `embedded`; or `endpoint:MODEL`, its name at an
            OpenAI-compatible server, which then has the last word on what a seed means.
        data: Parquet, JSON Lines, or LLaVA's JSON.
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are; a `conversation` is answered in place of its last answer.
        k: responses to each prompt.
        temperature: of sampling; 0.7 is what is told of Li et al. (2024), their released script
            has 1.2.
        top_p: leave out tokens beyond this share of the probability; 1 leaves none out.
        top_k: leave out all but so many tokens; 0 leaves none out.
        max_new_tokens: limit of one response, in tokens.
        min_new_tokens: tokens before a response may end.
        steer: ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        limit: use only the first so many records.
        images_root: what image paths are relative to; the data file's folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
        endpoint: url, key_variable, concurrency, retries and timeout (seconds) of a server.
        batch_size: responses at once.
        dtype: of the weights; `auto` keeps the checkpoint's own (float32 on a CPU).
        device: `auto`, `cpu`, `cuda`, ...
        template: a variable of the model's chat template, such as enable_thinking=true (false
            where the template reads it and nothing is said); chat_template=NAME chooses one.
        seed: of sampling.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    configuration = dict(locals())
    require_file(data, "--data")
    part = read_shard(shard)
    settings = SampleSettings(
        k, temperature, max_new_tokens, seed, steer, top_p, top_k, min_new_tokens
    )
    check(settings, batch_size)
    server = _server(model, endpoint, settings)
    folders = model_folders(model)
    with start_run(
        out, "build sample", configuration, {"data": data}, any_process=True, models=folders
    ) as run:
        records = read_records(data, kind, images_root, max_bad_fraction)
        prompts = read_prompts(records.rows, limit)
        if server is None:
            policy = load_policy(model, dtype, device, template=template)
            answerer = model_identity(run, "model", policy, model)
        else:
            answerer = {"model": model, "server": server.address}
            server.tell(sum(len(prompt.images) for prompt in prompts))

        def answer(chunk: Sequence[Prompt]) -> list[dict[str, Any]]:
            if server is None:
                return sample_responses(policy, chunk, settings, batch_size)
            return served_responses(server, chunk, settings)

        identity = {
            "settings": vars(settings),
            "kind": kind,
            "data": run.record["inputs"]["data"]["sha256"],
        }
        parts = Parts(out, identity | answerer)
        began = time.monotonic()
        results = parts.work_through_shard(prompts, answer, "samples", part)
        if results is None:
            return
        summary = assemble(out, results, records, {"model": model, **vars(settings)})
        parts.forget()
        summary["seconds"] = round(time.monotonic() - began, 1)
        run.finish(**summary)
        say(
            f"{counted(summary['responses'], 'responses')} to "
            f"{counted(summary['prompts'], 'prompts')}: "
            f"{out / 'samples.parquet'}."
        )


def check(settings: SampleSettings, batch_size: int) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: names the option.
    """
    for name, value in (
        ("k", settings.k),
        ("max-new-tokens", settings.max_new_tokens),
        ("batch-size", batch_size),
    ):
        if value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more.")
    if settings.temperature < 0:
        raise UserError(f"--temperature is {settings.temperature:g}; it can't be below 0.")
    if settings.temperature == 0 and settings.k > 1:
        raise UserError(
            f"--temperature 0 gives the same response {counted(settings.k, 'times')}. Set it "
            "above 0, or --k 1."
        )
    check_truncation(settings.decoding(batch_size))
    if settings.steer is not None:
        parse_steer(settings.steer)


def read_prompts(rows: Any, limit: int | None) -> list[Prompt]:
    """The prompt of each record; of a conversation everything before its last answer."""
    texts, pictures = rows.remove_columns(["images"]), rows.select_columns(["images"])
    count = len(rows) if limit is None else min(limit, len(rows))
    prompts = []
    for index in range(count):
        row = texts[index]
        messages = prompt_of(row)
        images = row_images(pictures, index, count_images(messages))
        prompts.append(Prompt(row["id"], images, messages))
    return prompts


def prompt_of(row: Mapping[str, Any]) -> list[Message]:
    """A record's prompt, whatever its kind."""
    messages: list[Message] = row["messages"][:-1] if "messages" in row else row["prompt"]
    return messages


def sample_responses(
    policy: Policy, prompts: Sequence[Prompt], settings: SampleSettings, batch_size: int
) -> list[dict[str, Any]]:
    """Answer each prompt k times; its image is encoded once.

    Returns:
        For each prompt {"id", and either "responses" and "stop_reasons" or "reason"}.
    """
    refused: dict[int, str] = {}
    requests: list[Request] = []
    for index, prompt in enumerate(prompts):
        messages = steered(prompt.messages, settings.steer, policy.processor)
        try:
            render_prompt(policy, messages)
            require_images(policy.processor, prompt.images)
        except RefusedRowError as problem:
            refused[index] = str(problem)
            continue
        requests.append(Request(prompt.id, prompt.images, messages))
    decoding = settings.decoding(batch_size)
    places = [index for index in range(len(prompts)) if index not in refused]
    answered, late = leave_out_refused(
        [request.id for request in requests],
        lambda left: roll_out(policy, [requests[n] for n in left], decoding, settings.k),
    )
    refused |= {places[n]: reason for n, reason in late.items()}
    answers = iter(answered)
    results: list[dict[str, Any]] = []
    for index, prompt in enumerate(prompts):
        if index in refused:
            results.append({"id": prompt.id, "reason": refused[index]})
            continue
        mine = next(answers)
        results.append(
            {
                "id": prompt.id,
                "responses": [answer.text.strip() for answer in mine],
                "stop_reasons": [answer.stop_reason for answer in mine],
            }
        )
    return results


def served_responses(
    server: Server, prompts: Sequence[Prompt], settings: SampleSettings
) -> list[dict[str, Any]]:
    """Have a server answer each prompt k times; the same rows as `sample_responses`.

    A prompt that the server refuses is listed, not left out in silence.
    """
    requests = [
        Request(f"{prompt.id}/{number}", prompt.images, prompt.messages)
        for prompt in prompts
        for number in range(settings.k)
    ]
    said = server.respond(requests, settings.temperature, settings.max_new_tokens, settings.seed)
    results: list[dict[str, Any]] = []
    for index, prompt in enumerate(prompts):
        mine = said[index * settings.k : (index + 1) * settings.k]
        refusal = next((one.refusal for one in mine if one.refusal), None)
        if refusal is not None:
            results.append({"id": prompt.id, "reason": refusal})
            continue
        texts, reasons = [one.text for one in mine], [one.stop_reason for one in mine]
        results.append({"id": prompt.id, "responses": texts, "stop_reasons": reasons})
    return results


def _server(
    model: str, endpoint: Mapping[str, Any] | None, settings: SampleSettings
) -> Server | None:
    """The server that `endpoint:MODEL` names; None for a model that is loaded here."""
    if not model.startswith(PREFIX):
        if endpoint:
            raise UserError(f"--endpoint is for a model named {PREFIX}MODEL, which {model} is not.")
        return None
    if settings.steer is not None:
        raise UserError("--steer needs the model's own tokens; load the model here instead.")
    if settings.decoding(1).truncates or settings.min_new_tokens:
        raise UserError(
            "--top-p, --top-k and --min-new-tokens are not sent to a server, whose own settings "
            "decide. Leave them out, or load the model here."
        )
    return Server(model.removeprefix(PREFIX), endpoint)


def assemble(
    out: Path,
    results: Sequence[Mapping[str, Any]],
    records: RecordSet,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write `samples.parquet`, `skipped.jsonl` and `summary.json`.

    Raises:
        UserError: not a single response came out.
    """
    finished = [_finished(row) for row in results]
    left_out = (
        {"id": row["id"], "field": "prompt", "reason": row.get("reason") or _why_none(row)}
        for row, texts in zip(results, finished, strict=True)
        if not texts
    )
    skipped = write_skipped(out, records, left_out, "response")
    kept = [index for index, texts in enumerate(finished) if texts]
    if not kept:
        raise UserError(
            f"Not one response came out of {counted(len(results), 'records')}; "
            f"{out / 'skipped.jsonl'} says why."
        )
    rows = _sample_rows([(index, finished[index]) for index in kept], records.rows, settings)
    write_records(rows, out / "samples.parquet", "sample")
    answered = [row for row in results if "responses" in row]
    summary = _summary(answered, [finished[index] for index in kept], len(results), skipped)
    write_json(out / "summary.json", summary)
    if summary["cut_off"]:
        cut = summary["cut_off"]
        told = part_of(cut, cut + summary["responses"], "responses", "was", "were")
        say(f"{told} cut off at --max-new-tokens and left out.")
    return summary


def _finished(result: Mapping[str, Any]) -> list[str]:
    """The responses that are something and that ended by themselves."""
    pairs = zip(result.get("responses", ()), result.get("stop_reasons", ()), strict=True)
    return [text for text, reason in pairs if text and reason != "length"]


def _why_none(result: Mapping[str, Any]) -> str:
    cut, count = result["stop_reasons"].count("length"), len(result["stop_reasons"])
    if not cut:
        return "every response is empty"
    empty = "" if cut == count else ", the others are empty"
    return f"{part_of(cut, count, 'responses', 'was', 'were')} cut off at --max-new-tokens{empty}"


def _sample_rows(
    kept: Sequence[tuple[int, list[str]]], rows: Any, settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    # In Arrow's form images are the bytes of their files, not decoded and packed again.
    raw = rows.with_format("arrow")
    provenance = json.dumps({"builder": "sample", "settings": settings}, ensure_ascii=False)
    for index, texts in kept:
        row = raw[index].to_pylist()[0]
        yield {
            "id": row["id"],
            "images": row["images"],
            "prompt": prompt_of(row),
            "responses": [[assistant_message(text)] for text in texts],
            "facts": row.get("facts"),
            "expected_answer": row.get("expected_answer"),
            "source": provenance,
        }


def _summary(
    answered: Sequence[Mapping[str, Any]],
    finished: Sequence[Sequence[str]],
    records: int,
    skipped: int,
) -> dict[str, Any]:
    texts = [text for row in finished for text in row]
    stops = [reason for row in answered for reason in row["stop_reasons"]]
    cut_off = stops.count("length")
    return {
        "records": records,
        "prompts": len(finished),
        "responses": len(texts),
        "duplicates": sum(len(row) - len(set(row)) for row in finished),
        "prompts_with_one_response": sum(len(set(row)) == 1 for row in finished),
        "empty": len(stops) - len(texts) - cut_off,
        "cut_off": cut_off,
        "mean_words": round(fmean(len(text.split()) for text in texts), 2),
        "skipped": skipped,
    }
