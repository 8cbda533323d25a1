"""Samples rated by the exact judge, where it is known what the images hold, or by rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from veridical.builders._judged import JudgedSample, judged_samples
from veridical.builders._marks import MarkedSample, Marks, marked_or_skipped, means, stored_marks
from veridical.builders._parts import Parts, finish
from veridical.builders._rows import Sample, SortedRecords, sort_out, write_skipped
from veridical.builders.options import ObjectFiles
from veridical.data.object_lists import match_image_ids, name_objects, read_objects
from veridical.data.reading import read
from veridical.data.records import write_records
from veridical.data.vocabulary import read_vocabulary
from veridical.judges.exact import exact_judge
from veridical.judges.judging import Judge
from veridical.judges.kinds import check_kind
from veridical.judges.reward import reward_judge
from veridical.models.reward_model import load_reward_model
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file
from veridical.runtime.fingerprint import fingerprint
from veridical.runtime.options import Placement, Reading
from veridical.runtime.progress import counted, part_of
from veridical.runtime.runs import Run, start_run
from veridical.runtime.shards import print_result, read_shard

VERBOSITY_SHARES = (0.2, 0.4, 0.6, 0.8)


def build_rate(
    samples: Path,
    out: Path,
    judge: str = "exact",
    files: ObjectFiles = ObjectFiles(),
    verbosity_words: list[int] | None = None,
    batch_size: int = 8,
    reading: Reading = Reading(),
    placement: Placement = Placement(),
    shard: str | None = None,
) -> None:
    """Rate every response in SAMPLES by what is known to be in its image, or by a reward model.

    By truth, ratings are the aspect `exact` (fewer invented objects, then recall, then brevity, as
    one number) and Helpfulness, Correctness, Coherence, Complexity and Verbosity from 0 to 4 by
    fixed rules; by a reward model the aspect `reward`. Other ratings stay. An interrupted run
    continues when the command is given again. The number of shards does not change the result.

    Args:
        samples: records of kind `sample`, as `build sample` writes them.
        out: folder for the run: `samples.parquet`, `summary.json`, `skipped.jsonl`, `run.json`.
        judge: `exact` (needs --objects), or `reward:FOLDER` with what `train reward` wrote. A
            reward model that reads facts reads the records' `facts`.
        files: what the exact judge knows.
        verbosity_words: for `exact`: the four word counts from which Verbosity is 1, 2, 3, 4; if
            not set, the 20, 40, 60 and 80 % points of the responses rated, so that each mark is
            given.
        batch_size: prompts at once, of a reward model.
        reading: how SAMPLES is read.
        placement: number format and device of a reward model.
        shard: make only this shard, such as 2/8; who makes the last one writes the result. Under
            `torchrun` every process takes its own.
    """
    require_file(samples, "--samples")
    part = read_shard(shard)
    _check_words(verbosity_words)
    folder = _reward_folder(judge, files)
    options = {
        "samples": samples, "out": out, "judge": judge, "files": files,
        "verbosity_words": verbosity_words, "batch_size": batch_size, "reading": reading,
        "placement": placement, "shard": shard,
    }  # fmt: skip
    inputs, folders = {"samples": samples, **files.inputs}, [folder] if folder else []
    known = read_vocabulary(files.vocabulary)
    listed = name_objects(read_objects(files.objects), known) if files.objects else {}
    with start_run(out, "build rate", options, inputs, any_process=True, models=folders) as run:
        records = read(samples, "sample", reading)
        items = judged_samples(records)
        match_image_ids(sorted({name for item in items for name in item.case.image_names}), listed)
        identity = {name: run.record["inputs"][name]["sha256"] for name in inputs}
        words: list[int] = []
        if folder is not None:
            opened, identity["judge"] = _reward_judge(run, folder, batch_size, placement)
        else:
            said = [text for item in items for text in item.case.responses]
            words = verbosity_words or length_points(said)
            opened = exact_judge(listed, known, words)
        asked = placement.attention
        how = {"dtype": placement.dtype} | ({} if asked == "auto" else {"attention": asked})
        parts = Parts(out, {**identity, "words": words, **how}, Marks)
        marks = parts.work_through_shard(
            items, lambda chunk: _judge(opened, chunk), "ratings", part
        )
        if marks is None:
            return
        outcome = sort_out(
            marked_or_skipped(item, one, "images") for item, one in zip(items, marks, strict=True)
        )
        skipped = write_skipped(out, records, outcome.skipped, "ratings")
        _refuse(outcome, reading.max_bad_fraction)
        rows = (vars(_sample(one, judge)) for one in outcome.kept)
        write_records(rows, out / "samples.parquet", "sample")
        summary = {
            "prompts": len(outcome.kept),
            "skipped": skipped,
            **({"verbosity_words": words} if words else {}),
            "means": means(outcome.kept),
        }
        finish(run, summary, parts)
        print_result(
            f"The ratings of responses to {counted(len(outcome.kept), 'prompts')} are in "
            f"{out / 'samples.parquet'}."
        )


def _reward_folder(judge: str, files: ObjectFiles) -> Path | None:
    """The reward model's folder; None for the exact judge."""
    check_kind(judge, ("exact", "reward"))
    files.check(judge)
    kind, _, name = judge.partition(":")
    if kind == "reward" and not Path(name).is_dir():
        raise UserError(f"--judge {judge}: {name} is not a folder. Name what `train reward` wrote.")
    return Path(name) if kind == "reward" else None


def _reward_judge(
    run: Run, folder: Path, batch_size: int, placement: Placement
) -> tuple[Judge, str]:
    """The reward model as a judge, and its fingerprint."""
    model = load_reward_model(folder, placement.dtype, placement.device, placement.attention)
    found = fingerprint(str(folder))
    run.note_model("judge", str(folder), found, model.policy.merges)
    return reward_judge(model, batch_size), found.key


def _judge(judge: Judge, items: Sequence[JudgedSample]) -> list[Marks]:
    return [stored_marks(verdict) for verdict in judge([item.case for item in items])]


def _sample(one: MarkedSample, judge: str) -> Sample:
    return one.item.sample.rated(one.marks.ratings, {"judge": judge, "reasons": one.marks.reasons})


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


def _refuse(outcome: SortedRecords[MarkedSample], max_bad_fraction: float) -> None:
    bad, total = len(outcome.skipped), len(outcome.skipped) + len(outcome.kept)
    if bad > max_bad_fraction * total or bad == total:
        first = outcome.skipped[0]
        raise UserError(
            f"{part_of(bad, total, 'records')} can't be rated (the first: {first.id}, "
            f"{first.reason}); more than --max-bad-fraction {max_bad_fraction:g} allows."
        )
