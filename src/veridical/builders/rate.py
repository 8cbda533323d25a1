"""Samples rated by the exact judge, where it is known what the images hold, or by rewards."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from veridical.builders._judged import JudgedSample, judged_samples
from veridical.builders._parts import Parts, write_skipped
from veridical.builders._rated import RatedSample
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.records import read_records, response_name, write_records
from veridical.data.vocabulary import read_vocabulary
from veridical.judges.exact import exact_judge
from veridical.judges.judging import Judge
from veridical.judges.reward import reward_judge
from veridical.judges.spec import check_kind
from veridical.models.reward_model import load_reward_model
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.options import DtypeName
from veridical.runtime.progress import counted, part_of
from veridical.runtime.runs import start_run

VERBOSITY_SHARES = (0.2, 0.4, 0.6, 0.8)


def build_rate(
    samples: Path,
    out: Path,
    objects: Path | None = None,
    judge: str = "exact",
    vocabulary: Path | None = None,
    verbosity_words: list[int] | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
    batch_size: int = 8,
    dtype: DtypeName = "auto",
    device: str = "auto",
) -> None:
    """Rate every response in SAMPLES by what is known to be in its image, or by a reward model.

    By truth, ratings are the aspect `exact` (fewer invented objects, then recall, then brevity, as
    one number) and Helpfulness, Correctness, Coherence, Complexity and Verbosity from 0 to 4 by
    fixed rules; by a reward model the aspect `reward`. Other ratings stay. Interrupted and started
    again it goes on where it was.

    Args:
        samples: records of kind `sample`, as `build sample` writes them.
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        objects: for `exact`: JSON {image_id: [names of the objects in the image]}; an image is
            found by its file name without suffix, else by the record's id.
        judge: `exact` (needs --objects), or `reward:FOLDER` with what `train reward` wrote. A
            reward model that reads facts reads the records' `facts`.
        vocabulary: for `exact`: JSON {name: [words]} or CHAIR's synonym tables; a short list of
            our own for COCO's 80 classes if not set.
        verbosity_words: for `exact`: the four word counts from which Verbosity is 1, 2, 3, 4; if
            not set, the 20, 40, 60 and 80 % points of the responses rated, so that each mark is
            given.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is rated.
        batch_size: prompts at once, of a reward model.
        dtype: of a reward model's weights.
        device: of a reward model: `auto`, `cpu`, `cuda`, ...
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    _check_words(verbosity_words)
    folder = _reward_folder(judge, objects)
    listed, known = {}, read_vocabulary(vocabulary)
    if objects is not None:
        listed = name_objects(read_objects(objects), known)
    given = {"samples": samples, "objects": objects, "vocabulary": vocabulary}
    inputs = {name: path for name, path in given.items() if path is not None}
    folders = [folder] if folder else []
    with start_run(out, "build rate", configuration, inputs, models=folders) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        items = judged_samples(records, None)
        match_image_ids(sorted({name for item in items for name in item.case.image_names}), listed)
        words: list[int] = []
        if folder is not None:
            reward_model = load_reward_model(folder, dtype, device)
            opened = reward_judge(reward_model, batch_size)
        else:
            texts = [text for item in items for text in item.case.responses]
            words = verbosity_words or length_points(texts)
            opened = exact_judge(listed, known, words)
        hashes = {name: run.record["inputs"][name]["sha256"] for name in inputs}
        if folder is not None:
            found = fingerprint(str(folder))
            run.note_model("judge", str(folder), found, reward_model.policy.merges)
            hashes |= {"judge": found.key}
        parts = Parts(out, {**hashes, "words": words, "dtype": dtype})
        results = parts.work_through(items, lambda chunk: _judge(opened, chunk), "ratings")
        judged = list(zip(items, results, strict=True))
        left_out = [
            {"id": item.id, "field": "images", "reason": result["problem"]}
            for item, result in judged
            if result["problem"]
        ]
        skipped = write_skipped(out, records, left_out, "ratings")
        _refuse(len(left_out), len(items), max_bad_fraction, left_out)
        done = [(item.sample, result) for item, result in judged if not result["problem"]]
        rated = [_rated(sample, result, judge) for sample, result in done]
        write_records(rated, out / "samples.parquet", "sample")
        summary = {
            "prompts": len(rated),
            "skipped": skipped,
            **({"verbosity_words": words} if words else {}),
            "means": _means([result for _, result in done]),
        }
        write_json(out / "summary.json", summary)
        parts.forget()
        run.finish(**summary)
        print(
            f"The ratings of responses to {counted(len(rated), 'prompts')} are in "
            f"{out / 'samples.parquet'}."
        )


def _reward_folder(judge: str, objects: Path | None) -> Path | None:
    """The reward model's folder; None for the exact judge."""
    check_kind(judge, ("exact", "reward"))
    kind, _, name = judge.partition(":")
    if (kind == "exact") != (objects is not None):
        raise UserError("--judge exact and --objects go together: set both or neither.")
    if kind == "reward" and not Path(name).is_dir():
        raise UserError(f"--judge {judge}: {name} is no folder. Name what `train reward` wrote.")
    return Path(name) if kind == "reward" else None


def _judge(judge: Judge, items: Sequence[JudgedSample]) -> list[dict[str, Any]]:
    verdicts = judge([item.case for item in items])
    return [
        {
            "id": item.id,
            "ratings": [dict(rating) for rating in verdict.ratings],
            "reasons": list(verdict.reasons),
            "problem": verdict.problem,
        }
        for item, verdict in zip(items, verdicts, strict=True)
    ]


def length_points(texts: Sequence[str]) -> list[int]:
    """The word counts that a fifth, two fifths, ... of the texts stay below."""
    counts = [len(text.split()) for text in texts]
    return [int(point) for point in np.quantile(counts, VERBOSITY_SHARES, method="higher")]


def _check_words(words: list[int] | None) -> None:
    if words is not None and (len(words) != 4 or words != sorted(words)):
        raise UserError(
            f"--verbosity-words is {words}; give the four word counts from which Verbosity is "
            "1, 2, 3 and 4, in rising order: [10,25,50,100]."
        )


def _refuse(count: int, total: int, max_bad_fraction: float, left_out: list[Any]) -> None:
    if count > max_bad_fraction * total or count == total:
        raise UserError(
            f"{part_of(count, total, 'records')} can't be rated (the first: {left_out[0]['id']}, "
            f"{left_out[0]['reason']}); more than --max-bad-fraction {max_bad_fraction:g} allows."
        )


def _rated(sample: RatedSample, result: Mapping[str, Any], judge: str) -> dict[str, Any]:
    ratings = [
        {"answer": response_name(number), "aspect": aspect, "value": value}
        for number, (old, new) in enumerate(zip(sample.ratings, result["ratings"], strict=True))
        for aspect, value in {**old, **new}.items()
    ]
    judged = {"judge": judge, "reasons": result["reasons"]}
    source = json.dumps(sample.provenance() | {"rated": judged}, ensure_ascii=False)
    return sample.row | {"ratings": ratings, "source": source}


def _means(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    ratings = [rating for result in results for rating in result["ratings"]]
    return {name: round(fmean(row[name] for row in ratings), 4) for name in ratings[0]}
