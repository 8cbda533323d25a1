"""BDHS: preference pairs without an annotator (Amirloo et al. 2024, section 3.4).

The chosen answer is the true one of a supervised set. The rejected one is what the model makes of
it when it can hardly see the image: each true sentence is cut at a random place, and the model
completes it while nearly all image tokens are masked. What it then says comes from its bias.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from veridical.bdhs.algorithm import Rejecting, Source, build_pairs, require_masking
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.builders._bdhs_set import assemble
from veridical.builders._parts import Parts, model_identity
from veridical.data.images import row_images
from veridical.data.records import count_images, read_records, text_of
from veridical.models.load import load_policy
from veridical.models.vision_cache import VisionCache
from veridical.runtime.cache import open_cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import fingerprint, model_folders
from veridical.runtime.options import DtypeName
from veridical.runtime.progress import are_in
from veridical.runtime.runs import start_run
from veridical.runtime.shards import read_shard, say
from veridical.sampling import Decoding


def build_bdhs(
    model: str,
    data: Path,
    out: Path,
    bdhs: BDHSSettings = BDHSSettings(),
    temperature: float = 1.0,
    max_new_tokens: int = 128,
    limit: int | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    batch_size: int = 64,
    cache: str | None = None,
    cache_gigabytes: float = 50.0,
    vision_cache: bool = False,
    dtype: DtypeName = "auto",
    device: str = "auto",
    template: dict[str, Any] | None = None,
    seed: int = 0,
    shard: str | None = None,
) -> None:
    """Make preference pairs from true answers alone, with MODEL as the source of its own errors.

    Interrupted and started again it goes on where it was; the result is the same, whatever the
    batch size.

    Args:
        model: hub name, folder, adapter folder or `embedded`.
        data: conversations with true answers (Parquet, JSON Lines, or LLaVA's JSON).
        out: folder for the run: `pairs.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        bdhs: how answers are made from the model's bias.
        temperature: of sampling; 1 samples from the model itself.
        max_new_tokens: limit of one completion, in tokens; of an unguided answer at least twice
            the true one's length. What reaches its limit is no try.
        limit: use only the first so many records.
        images_root: what image paths are relative to; the data file's folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is built.
        batch_size: completions at once.
        cache: folder that runs share for image features, or `none`; if not set, the variable
            VERIDICAL_CACHE says, else it is the user's folder for caches.
        cache_gigabytes: what that folder may hold, in 10^9 bytes; the longest unused goes first.
        vision_cache: keep each image's features there instead of encoding it at every try; for
            `--variant mask`.
        dtype: of the weights; `auto` keeps the checkpoint's own (float32 on a CPU).
        device: `auto`, `cpu`, `cuda`, ...
        template: a variable of the model's chat template, such as enable_thinking=true (false
            where the template reads it and nothing is said); chat_template=NAME chooses one.
        seed: of masks, cuts, swaps and sampling.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    configuration = dict(locals())
    require_file(data, "--data")
    part = read_shard(shard)
    decoding = Decoding(max_new_tokens, temperature, seed, batch_size)
    how = Rejecting(bdhs, decoding, load_similarity(bdhs.similarity))
    how.check()
    store = open_cache(cache, cache_gigabytes)
    if vision_cache and bdhs.variant != "mask":
        raise UserError(
            "--vision-cache keeps what masked prompts are made of, and --variant "
            f"{bdhs.variant} masks nothing. Leave it off."
        )
    compared_by = how.measure.model
    folders = model_folders(model, compared_by)
    with start_run(
        out, "build bdhs", configuration, {"data": data}, any_process=True, models=folders
    ) as run:
        policy = load_policy(model, dtype, device, template=template)
        records = read_records(data, "conversation", images_root, max_bad_fraction)
        sources = read_sources(records.rows, limit)
        if vision_cache:
            policy = dataclasses.replace(policy, vision=VisionCache(policy, store))
        if bdhs.variant == "mask":
            require_masking(policy, sources)
        identity: dict[str, Any] = {
            "settings": how.constants,
            "data": run.record["inputs"]["data"]["sha256"],
        }
        if compared_by:
            found = fingerprint(compared_by, cache=store)
            run.note_model("similarity", compared_by, found)
            identity |= {"similarity_model": found.key}
        parts = Parts(out, identity | model_identity(run, "model", policy, model, store))
        began = time.monotonic()
        results = parts.work_through_shard(
            sources, lambda chunk: build_pairs(policy, chunk, how), "pairs", part
        )
        if results is None:
            return
        summary = assemble(out, results, records)
        parts.forget()
        summary["seconds"] = round(time.monotonic() - began, 1)
        run.finish(**summary)
        say(are_in(summary["pairs"], "pairs", out / "pairs.parquet"))


def read_sources(rows: Any, limit: int | None) -> list[Source]:
    """The last answer of each conversation, with what was before it as the prompt."""
    texts, pictures = rows.remove_columns(["images"]), rows.select_columns(["images"])
    count = len(rows) if limit is None else min(limit, len(rows))
    sources = []
    for index in range(count):
        row = texts[index]
        prompt = row["messages"][:-1]
        images = row_images(pictures, index, count_images(prompt))
        answer = text_of(row["messages"][-1])
        sources.append(Source(row["id"], images, prompt, answer))
    return sources
