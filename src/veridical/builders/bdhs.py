"""BDHS: preference pairs without an annotator (Amirloo et al. 2024, section 3.4).

The chosen answer is the true one of a supervised set. The rejected one is what the model makes of
it when it can hardly see the image: each true sentence is cut at a random place, and the model
completes it while nearly all image tokens are masked. What it then says comes from its bias.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from datasets import Dataset

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer, require_masking
from veridical.builders._bdhs_set import write_bdhs_set
from veridical.builders._models import model_identity
from veridical.builders._parts import Parts, finish
from veridical.data.images import row_images
from veridical.data.prompts import Prompt
from veridical.data.reading import read
from veridical.data.records import count_images, text_of
from veridical.models.load import load_placed
from veridical.models.model_argument import Model, name_of
from veridical.models.vision_cache import VisionCache
from veridical.runtime.cache import Cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import fingerprint, model_folders
from veridical.runtime.options import CacheOptions, Loading, Reading
from veridical.runtime.progress import are_in
from veridical.runtime.runs import Run, start_run
from veridical.runtime.shards import print_result, read_shard
from veridical.sampling import Decoding


def build_bdhs(
    model: Model,
    data: Path,
    out: Path,
    bdhs: BDHSSettings = BDHSSettings(),
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    reading: Reading = Reading(),
    caching: CacheOptions = CacheOptions(),
    loading: Loading = Loading(),
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Make preference pairs from true answers alone, with MODEL as the source of its own errors.

    Interrupted and started again it goes on where it was; the result is the same, whatever the
    batch size.

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy.
        data: conversations with true answers (Parquet, JSON Lines, or LLaVA's JSON).
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        bdhs: how answers are made from the model's bias.
        temperature: of sampling; 1 samples from the model itself.
        max_new_tokens: limit of one completion, in tokens; of an unguided answer at least twice
            the true one's length. An answer with one cut off is not used.
        batch_size: completions at once.
        reading: how DATA is read.
        caching: where image features are kept, for `--variant mask`.
        loading: how MODEL is loaded.
        seed: random seed of masks, cuts, swaps and sampling.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(data, "--data")
    part = read_shard(shard)
    decoding = Decoding(max_new_tokens, temperature, seed, batch_size)
    how = Rejecting(bdhs, decoding, load_similarity(bdhs.similarity))
    how.check()
    _check_caching(caching, bdhs)
    options = {
        "model": name_of(model), "data": data, "out": out, "bdhs": bdhs, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "batch_size": batch_size, "reading": reading,
        "caching": caching, "loading": loading, "seed": seed, "shard": shard,
    }  # fmt: skip
    inputs, folders = {"data": data}, model_folders(name_of(model), how.measure.model)
    with start_run(out, "build bdhs", options, inputs, any_process=True, models=folders) as run:
        policy = load_placed(model, loading, loading.template)
        records = read(data, "conversation", reading)
        sources = read_sources(records.rows)
        cache = caching.open()
        if caching.vision_cache:
            policy = dataclasses.replace(policy, vision=VisionCache(policy, cache))
        if bdhs.variant == "mask":
            require_masking(policy, sources)
        identity = _identity(run, how, cache) | model_identity(run, "model", policy, model, cache)
        parts = Parts(out, identity, dict)
        began = time.monotonic()
        results = parts.work_through_shard(
            sources, lambda chunk: reject_answers(policy, chunk, how), "pairs", part
        )
        if results is None:
            return
        summary = write_bdhs_set(out, results, records)
        finish(run, summary, parts, time.monotonic() - began)
        print_result(are_in(summary["pairs"], "pairs", out / "pairs.parquet"))


def _check_caching(caching: CacheOptions, bdhs: BDHSSettings) -> None:
    caching.open()
    if caching.vision_cache and bdhs.variant != "mask":
        raise UserError(
            "--vision-cache keeps what masked prompts are made of, and --variant "
            f"{bdhs.variant} masks nothing. Leave it off."
        )


def _identity(run: Run, how: Rejecting, cache: Cache) -> dict[str, object]:
    """What decides the pairs, besides the model."""
    data: dict[str, object] = {
        "settings": how.constants,
        "data": run.record["inputs"]["data"]["sha256"],
    }
    if not how.measure.model:
        return data
    found = fingerprint(how.measure.model, cache=cache)
    run.note_model("similarity", how.measure.model, found)
    return data | {"similarity_model": found.key}


def read_sources(rows: Dataset) -> list[TrueAnswer]:
    """The last answer of each conversation, with what was before it as the prompt."""
    texts, pictures = rows.remove_columns(["images"]), rows.select_columns(["images"])
    sources = []
    for index, row in enumerate(texts):
        prompt = row["messages"][:-1]
        images = row_images(pictures, index, count_images(prompt))
        answer = text_of(row["messages"][-1])
        sources.append(TrueAnswer(Prompt(row["id"], images, prompt), answer))
    return sources
