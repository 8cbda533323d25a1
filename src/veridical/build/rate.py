"""Samples rated by the exact judge, where it is known what the images hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from veridical.build._parts import write_skipped
from veridical.build._rated import RatedSample, rated_samples
from veridical.errors import UserError
from veridical.files import require_file, write_json
from veridical.judges.exact import exact_judge
from veridical.judges.judging import Case, Verdict
from veridical.object_lists import name_objects, read_objects
from veridical.records import read_records, response_name, write_records
from veridical.runs import start_run
from veridical.vocabulary import read_vocabulary

VERBOSITY_SHARES = (0.2, 0.4, 0.6, 0.8)


def build_rate(
    samples: Path,
    objects: Path,
    out: Path,
    vocabulary: Path | None = None,
    verbosity_words: list[int] | None = None,
    images_root: Path | None = None,
    max_bad_fraction: float = 0.01,
) -> None:
    """Rate every response in SAMPLES by what is known to be in its image.

    Ratings are the aspect `exact` (fewer invented objects, then recall, then brevity, as one
    number) and Helpfulness, Correctness, Coherence, Complexity and Verbosity from 0 to 4 by fixed
    rules. Other ratings stay.

    Args:
        samples: records of kind `sample`, as `build sample` writes them.
        objects: JSON {image_id: [names of the objects in the image]}; an image is found by its
            file name without suffix, else by the record's id.
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        vocabulary: JSON {name: [words]} or CHAIR's synonym tables; a short list of our own for
            COCO's 80 classes if not set.
        verbosity_words: the four word counts from which Verbosity is 1, 2, 3, 4; if not set, the
            20, 40, 60 and 80 % points of the responses rated, so that each mark is given.
        images_root: what image paths are relative to; the samples' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is rated.
    """
    configuration = dict(locals())
    require_file(samples, "--samples")
    _check_words(verbosity_words)
    inputs = {"samples": samples, "objects": objects}
    inputs |= {"vocabulary": vocabulary} if vocabulary is not None else {}
    words = read_vocabulary(vocabulary)
    named = name_objects(read_objects(objects), words)
    with start_run(out, "build rate", configuration, inputs) as run:
        records = read_records(samples, "sample", images_root, max_bad_fraction)
        rows = list(rated_samples(records.rows))
        limits = verbosity_words or length_points([text for row in rows for text in row.texts])
        verdicts = exact_judge(named, words, limits)([_case(row) for row in rows])
        judged = list(zip(rows, verdicts, strict=True))
        left_out = [
            {"id": row.id, "field": "images", "reason": verdict.problem}
            for row, verdict in judged
            if verdict.problem
        ]
        skipped = write_skipped(out, records, left_out, "ratings")
        _refuse(len(left_out), len(rows), max_bad_fraction, left_out)
        rated = [_rated(row, verdict) for row, verdict in judged if not verdict.problem]
        write_records(rated, out / "samples.parquet", "sample")
        summary = {
            "prompts": len(rated),
            "skipped": skipped,
            "verbosity_words": list(limits),
            "means": _means([verdict for verdict in verdicts if not verdict.problem]),
        }
        write_json(out / "summary.json", summary)
        run.finish(**summary)
        print(f"The ratings of {len(rated)} prompts' responses are in {out / 'samples.parquet'}.")


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


def _case(sample: RatedSample) -> Case:
    names = [Path(image["path"] or "").stem for image in sample.row["images"]]
    return Case(sample.id, sample.row["prompt"], sample.texts, image_names=names)


def _refuse(count: int, total: int, max_bad_fraction: float, left_out: list[Any]) -> None:
    if count > max_bad_fraction * total or count == total:
        raise UserError(
            f"{count} of {total} records can't be rated (the first: {left_out[0]['id']}, "
            f"{left_out[0]['reason']}); more than --max-bad-fraction {max_bad_fraction:g} allows."
        )


def _rated(sample: RatedSample, verdict: Verdict) -> dict[str, Any]:
    ratings = [
        {"answer": response_name(number), "aspect": aspect, "value": value}
        for number, (old, new) in enumerate(zip(sample.ratings, verdict.ratings, strict=True))
        for aspect, value in {**old, **new}.items()
    ]
    judged = {"judge": "exact", "reasons": list(verdict.reasons)}
    source = json.dumps(sample.provenance() | {"rated": judged}, ensure_ascii=False)
    return sample.row | {"ratings": ratings, "source": source}


def _means(verdicts: Sequence[Verdict]) -> dict[str, float]:
    ratings = [rating for verdict in verdicts for rating in verdict.ratings]
    return {name: round(fmean(row[name] for row in ratings), 4) for name in ratings[0]}
