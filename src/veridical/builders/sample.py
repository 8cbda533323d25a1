"""Several responses to each prompt from a policy: what rejection sampling and ratings start from.

Li et al. (2024) sample four completions of each prompt from the model itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from veridical.builders._models import model_identity
from veridical.builders._parts import Parts, finish
from veridical.builders._sample_set import write_sample_set
from veridical.builders._samples import (
    Sampled,
    SampleSettings,
    read_prompts,
    sample_responses,
    served_responses,
)
from veridical.data.prompts import Prompt
from veridical.data.reading import read
from veridical.data.steering import parse_steer
from veridical.models.load import load_placed
from veridical.models.model_argument import Model, name_of
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import model_folders
from veridical.runtime.options import Loading, Reading
from veridical.runtime.progress import counted
from veridical.runtime.runs import Run, start_run
from veridical.runtime.shards import print_result, read_shard
from veridical.sampling import Decoding
from veridical.sampling.engines.chat import PREFIX, Server
from veridical.sampling.truncation import check_truncation

PromptKind = Literal["conversation", "preference", "prompt"]
Answering = Callable[[Sequence[Prompt]], list[Sampled]]


def build_sample(
    model: Model,
    data: Path,
    out: Path,
    kind: PromptKind = "conversation",
    k: int = 4,
    decoding: Decoding = Decoding(max_new_tokens=256, temperature=0.7, batch_size=64),
    steer: str | None = None,
    reading: Reading = Reading(),
    endpoint: dict[str, object] | None = None,
    loading: Loading = Loading(),
    shard: str | None = None,
) -> None:
    """Have MODEL answer every prompt several times.

    Interrupted and started again it goes on where it was; the result is the same, whatever the
    batch size. Responses that are the same are all kept, and counted in `summary.json`; empty ones,
    and those that max-new-tokens cut off, are left out and counted: in training a cut text would
    be followed by an end. The temperature of 0.7 is what Li et al. (2024) report; their released
    script has 1.2.

    Args:
        model: hub name, folder, adapter folder or `embedded`; or `endpoint:MODEL`, its name at an
            OpenAI-compatible server, which then has the last word on what a seed means; in
            Python also a loaded policy.
        data: Parquet, JSON Lines, or LLaVA's JSON.
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        kind: what the rows are; a `conversation` is answered in place of its last answer.
        k: responses to each prompt.
        decoding: how tokens are chosen.
        steer: ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        reading: how DATA is read.
        endpoint: url, key_variable, concurrency, retries and timeout (seconds) of a server.
        loading: how MODEL is loaded.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    part = read_shard(shard)
    settings = SampleSettings(k, decoding, steer)
    check_sample_settings(settings)
    name = name_of(model)
    server = _server(name, endpoint, settings)
    options = {
        "model": name, "data": data, "out": out, "kind": kind, "k": k, "decoding": decoding,
        "steer": steer, "reading": reading, "endpoint": endpoint, "loading": loading,
        "shard": shard,
    }  # fmt: skip
    inputs, folders = {"data": data}, model_folders(name)
    with start_run(out, "build sample", options, inputs, any_process=True, models=folders) as run:
        records = read(data, kind, reading)
        prompts = read_prompts(records.rows)
        if server is None:
            answer, answerer = _here(run, model, settings, loading)
        else:
            answer, answerer = _elsewhere(server, name, settings)
            server.tell(sum(len(prompt.images) for prompt in prompts))
        identity: dict[str, object] = {
            "settings": settings.recorded(),
            "kind": kind,
            "data": run.record["inputs"]["data"]["sha256"],
        }
        parts = Parts(out, identity | answerer, Sampled)
        began = time.monotonic()
        results = parts.work_through_shard(prompts, answer, "samples", part)
        if results is None:
            return
        summary = write_sample_set(out, results, records, {"model": name, **settings.recorded()})
        finish(run, summary, parts, time.monotonic() - began)
        print_result(
            f"{counted(summary['responses'], 'responses')} to "
            f"{counted(summary['prompts'], 'prompts')}: "
            f"{out / 'samples.parquet'}."
        )


def _here(
    run: Run, model: Model, settings: SampleSettings, loading: Loading
) -> tuple[Answering, dict[str, str]]:
    """What answers on this machine, and what of it decides the responses."""
    policy = load_placed(model, loading, loading.template)

    def answer(chunk: Sequence[Prompt]) -> list[Sampled]:
        return sample_responses(policy, chunk, settings)

    return answer, model_identity(run, "model", policy, model)


def _elsewhere(
    server: Server, model: str, settings: SampleSettings
) -> tuple[Answering, dict[str, str]]:
    """What answers at a server, and what of it decides the responses."""

    def answer(chunk: Sequence[Prompt]) -> list[Sampled]:
        return served_responses(server, chunk, settings)

    return answer, {"model": model, "server": server.address}


def check_sample_settings(settings: SampleSettings) -> None:
    """Refuse settings that make no sense.

    Raises:
        UserError: names the option.
    """
    decoding = settings.decoding
    for name, value in (
        ("k", settings.k),
        ("max-new-tokens", decoding.max_new_tokens),
        ("batch-size", decoding.batch_size),
    ):
        if value < 1:
            raise UserError(f"--{name} is {value}; give 1 or more.")
    if decoding.temperature < 0:
        raise UserError(f"--temperature is {decoding.temperature:g}; it can't be below 0.")
    if decoding.temperature == 0 and settings.k > 1:
        raise UserError(
            f"--temperature 0 gives the same response {counted(settings.k, 'times')}. Set it "
            "above 0, or --k 1."
        )
    check_truncation(decoding)
    if settings.steer is not None:
        parse_steer(settings.steer)


def _server(
    model: str, endpoint: Mapping[str, object] | None, settings: SampleSettings
) -> Server | None:
    """The server that `endpoint:MODEL` names; None for a model that is loaded here."""
    if not model.startswith(PREFIX):
        if endpoint:
            raise UserError(f"--endpoint is for a model named {PREFIX}MODEL, which {model} is not.")
        return None
    if settings.steer is not None:
        raise UserError("--steer needs the model's own tokens; load the model here instead.")
    if settings.decoding.truncates or settings.decoding.min_new_tokens:
        raise UserError(
            "--top-p, --top-k and --min-new-tokens are not sent to a server, whose own settings "
            "decide. Leave them out, or load the model here."
        )
    return Server(model.removeprefix(PREFIX), endpoint)
