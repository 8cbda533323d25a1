"""CHAIR and POPE on a few images while a policy is trained.

What is asked, how answers are read and what is counted are those of `eval chair` and `eval pope`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from veridical.data.image_checks import find_images, refused_files
from veridical.data.object_lists import (
    count_objects,
    judge_answer,
    match_image_ids,
    name_objects,
    read_objects,
)
from veridical.data.object_questions import ObjectQuestion, build_questions
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.data.responses import Response
from veridical.data.steering import ALL_HIGHEST, steered
from veridical.data.vocabulary import Vocabulary, read_vocabulary
from veridical.models.policy import Policy
from veridical.models.refused_rows import leave_out_refused
from veridical.models.rendering import RefusedRowError
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import require_file, write_json
from veridical.runtime.progress import counted, part_of, say
from veridical.sampling import Decoding, Request, respond
from veridical.scoring.object_scores import COUNTED, DESCRIBE, chair_counts, pope_counts
from veridical.scoring.statistics import FloatArray, Ratio
from veridical.scoring.yes_no_answers import parse_answer
from veridical.train.loop.showing import refuse_shared_out
from veridical.train.loop.stopping import CHECKED, benchmark_of
from veridical.train.options import Training

PER_IMAGE, ANSWER_TOKENS, AT_ONCE = 1, 32, 8
"""POPE's objects of either kind an image and split, tokens of an answer, and answers at least made
at once (our choice: a check should take seconds)."""

Sums = Counter[str]


@dataclass(frozen=True)
class ListedPictures:
    """Images with known objects.

    Attributes:
        files: image id to file.
        objects: image id to the vocabulary's names of what is there.
        listed: the same, in the list's own names, which questions ask with.
        without_list: file names that have none.
        vocabulary: which words name which object.
    """

    files: Mapping[str, Path]
    objects: Mapping[str, Sequence[str]]
    listed: Mapping[str, Sequence[str]]
    without_list: Sequence[str]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Check:
    """What is asked of a policy at every evaluation, and how answers count.

    Attributes:
        policy: who is asked.
        pictures: about what.
        by: `chair`, `pope` or both.
        decoding: of descriptions; the most likely tokens.
        questions: POPE's.
        steer: the attributes asked for, after SteerLM.
        refused: images that the processor refused when it was asked, with its words.
    """

    policy: Policy
    pictures: ListedPictures
    by: Sequence[str]
    decoding: Decoding
    questions: Sequence[ObjectQuestion]
    steer: str | None
    refused: dict[str, str] = field(default_factory=dict)

    def measure(self) -> dict[str, float | None]:
        """Ask, and count over all processes, each of which asks about its share.

        Returns:
            Figures by their names in `log.jsonl`; None where there is nothing to count.

        Raises:
            UserError: the model cannot be asked.
        """
        counts = {"chair": self._describe, "pope": self._answer}
        figures: dict[str, float | None] = {}
        for benchmark in (name for name in COUNTED if name in self.by):
            found = _figures(COUNTED[benchmark][1], self._summed(counts[benchmark]()))
            figures |= {f"{benchmark}/{name}": value for name, value in found.items()}
        self._tell_refused()
        return figures

    def _describe(self) -> Iterator[Mapping[str, float]]:
        asked = [Request(Prompt(image, [file], self._prompt(DESCRIBE)))
                 for image, file in _share(list(self.pictures.files.items()))]  # fmt: skip
        for request, response in self._ask(asked, self.decoding, str):
            listed = self.pictures.objects[request.prompt.id]
            judged = judge_answer(
                request.prompt.id, response.text, listed, self.pictures.vocabulary
            )
            yield chair_counts(count_objects(judged))

    def _answer(self) -> Iterator[Mapping[str, float]]:
        """Each question once, counted as often as splits have it."""
        times: Counter[tuple[str, str]] = Counter((q.image_id, q.text) for q in self.questions)
        label = {(q.image_id, q.text): q.label for q in self.questions}
        files = self.pictures.files
        asked = [Request(Prompt(f"{image}/{text}", [files[image]], self._prompt(text)))
                 for image, text in _share(list(times))]  # fmt: skip
        question_of = {f"{image}/{text}": (image, text) for image, text in times}
        decoding = Decoding(ANSWER_TOKENS, batch_size=self.decoding.batch_size)
        for request, response in self._ask(asked, decoding, lambda id: question_of[id][0]):
            image, text = question_of[request.prompt.id]
            counts = pope_counts(label[image, text], parse_answer(response.text, "strict", text))
            yield {name: times[image, text] * count for name, count in counts.items()}

    def _prompt(self, text: str) -> list[Any]:
        return steered([user_message(text)], self.steer, self.policy.processor)

    def _ask(
        self, requests: Sequence[Request], decoding: Decoding, image_of: Callable[[str], str]
    ) -> Iterator[tuple[Request, Response]]:
        def ask(left: list[int]) -> list[Response]:
            some = [requests[place] for place in left]
            return respond(self.policy, some, decoding, label="") if some else []

        try:
            made, refused = leave_out_refused([request.prompt.id for request in requests], ask)
        except RefusedRowError as refusal:
            raise UserError(
                f"--check-images: the model cannot be asked {DESCRIBE!r}: {refusal}. Leave it out."
            ) from refusal
        self.refused.update({image_of(requests[n].prompt.id): why for n, why in refused.items()})
        kept = [request for place, request in enumerate(requests) if place not in refused]
        return zip(kept, made, strict=True)

    def _summed(self, counts: Iterator[Mapping[str, float]]) -> Sums:
        own: Sums = Counter()
        for row in counts:
            own.update(row)
        total: Sums = Counter()
        for part in processes.gather(own):
            total.update(part)  # "+" of counters would leave zeros out
        return total

    def _tell_refused(self) -> None:
        """Name every image that any process could not ask about; all have to take part."""
        every = {image: why for own in processes.gather(self.refused) for image, why in own.items()}
        self.refused.clear()
        if every and processes.is_first():
            told = [f"    {image}: {why}" for image, why in sorted(every.items())]
            say("\n".join([f"  {len(every)} of the checked images are not counted:", *told]))


def check_checking(training: Training, command: str) -> dict[str, Path]:
    """Refuse what can't be checked by, before a model is loaded.

    Returns:
        The files and folder that decide the figures, by option.

    Raises:
        UserError: options that do not go together, a model that does not answer, or files that are
            not what they must be.
    """
    given = {"check_images": training.check_images, "check_objects": training.check_objects}
    given["check_vocabulary"] = training.check_vocabulary
    inputs = {name: path for name, path in given.items() if path is not None}
    sizes = any(
        getattr(training, name) != getattr(Training, name)
        for name in ("check_limit", "check_tokens")
    )
    for name in ("check_images", "check_objects"):
        if name not in inputs and (inputs or training.check_by or sizes):
            raise UserError(
                "Checks during training need --check-images and --check-objects: "
                f"--{name.replace('_', '-')} was not given."
            )
    if not inputs:
        return {}
    for name in ("check_limit", "check_tokens"):
        if getattr(training, name) < 1:
            raise UserError(
                f"--{name.replace('_', '-')} is {getattr(training, name)}; give 1 or more."
            )
    if command == "train reward":
        raise UserError("--check-images: a reward model says nothing. Leave it out.")
    refuse_shared_out("check-images")
    for name in training.check_by or ():
        if name not in COUNTED:
            raise UserError(f"--check-by {name} is unknown; there is: {', '.join(COUNTED)}.")
    for name in ("check_objects", "check_vocabulary"):
        if name in inputs:
            require_file(inputs[name], f"--{name.replace('_', '-')}")
    pictures = pictures_to_check(training)
    if "pope" in benchmarks(training):
        questions_about(pictures, training.seed)
    return inputs


def benchmarks(training: Training) -> list[str]:
    """What evaluations ask for: `--check-by`, else what `--select-by` needs, else CHAIR."""
    if training.check_images is None:
        return []
    needed = benchmark_of(training.select_by) if training.select_by in CHECKED else "chair"
    return list(training.check_by or [needed])


def pictures_to_check(training: Training) -> ListedPictures:
    """The first images by name that have an object list.

    Raises:
        UserError: the files are not what they must be, or no image has a list.
    """
    assert training.check_images is not None and training.check_objects is not None
    found = find_images(training.check_images)
    listed = read_objects(training.check_objects)
    vocabulary = read_vocabulary(training.check_vocabulary)
    ids = match_image_ids(found, listed)
    files = {own: found[stem] for stem, own in ids.items() if own is not None}
    files = dict(list(files.items())[: training.check_limit])
    if not files:
        raise UserError(
            f"No image of --check-images {training.check_images} has an object list in "
            f"--check-objects {training.check_objects}. Name the list of these images."
        )
    own = {image: listed[image] for image in files}
    try:
        named = name_objects(own, vocabulary)
    except UserError as unknown:
        raise UserError(str(unknown).replace("--vocabulary", "--check-vocabulary")) from unknown
    without = [found[stem].name for stem, id in ids.items() if id is None]
    return ListedPictures(files, named, own, without, vocabulary)


def questions_about(pictures: ListedPictures, seed: int) -> list[ObjectQuestion]:
    """POPE's three splits on these images."""
    return list(build_questions(pictures.listed, per_image=PER_IMAGE, seed=seed).questions)


def open_check(policy: Policy, training: Training, steers: bool = False) -> Check | None:
    """What is asked at every evaluation; None if nothing was asked for.

    Args:
        policy: as it is trained.
        training: the run's options.
        steers: whether it learns to be asked for attributes; then the highest marks are.

    Raises:
        UserError: more images can't be used than may be, or all.
    """
    by = benchmarks(training)
    if not by:
        return None
    pictures = pictures_to_check(training)
    broken = refused_files(pictures.files.values(), lambda: policy.processor)
    files = {image: file for image, file in pictures.files.items() if file not in broken}
    _refuse_many(broken, len(pictures.files), training.max_bad_fraction)
    pictures = ListedPictures(
        files, {image: pictures.objects[image] for image in files},
        {image: pictures.listed[image] for image in files}, pictures.without_list,
        pictures.vocabulary,
    )  # fmt: skip
    decoding = Decoding(training.check_tokens, batch_size=max(AT_ONCE, training.batch_size))
    questions = questions_about(pictures, training.seed) if "pope" in by else []
    _tell(pictures, broken, by, len({(q.image_id, q.text) for q in questions}))
    return Check(policy, pictures, by, decoding, questions, ALL_HIGHEST if steers else None)


def write_descriptions(check: Check, folder: Path) -> None:
    """Write `checked.json`, by which the report shows the figures; the first process does."""
    if processes.is_first():
        described = [COUNTED[name][0].as_json() for name in COUNTED if name in check.by]
        write_json(folder / "checked.json", {"benchmarks": described})


def show_figures(step: int, figures: Mapping[str, float | None]) -> None:
    """Print what a check found; the first process does."""
    if not processes.is_first():
        return
    shown = [
        f"{name}/{metric.name}"
        for name, (description, _) in COUNTED.items()
        for metric in description.metrics
        if metric.curve
    ]
    told = ", ".join(
        f"{name} {'-' if figures[name] is None else format(figures[name], '.3f')}"
        for name in shown
        if name in figures
    )
    say(f"  step {step}, checked images: {told}")


def _figures(formulas: Mapping[str, Ratio], sums: Sums) -> dict[str, float | None]:
    columns: defaultdict[str, FloatArray] = defaultdict(lambda: np.asarray(0.0))
    columns |= {name: np.asarray(float(value)) for name, value in sums.items()}
    values = {name: float(formula(columns)) for name, formula in formulas.items()}
    return {name: None if value != value else value for name, value in values.items()}


def _share(items: list[Any]) -> list[Any]:
    return items[processes.rank() :: processes.world_size()]


def _refuse_many(broken: Mapping[Path, str], total: int, most: float) -> None:
    if len(broken) == total or len(broken) > most * total:
        named = "; ".join(f"{file.name}, {why}" for file, why in list(broken.items())[:3])
        raise UserError(
            f"{part_of(len(broken), total, 'images')} in --check-images cannot be used, more than "
            f"--max-bad-fraction {most:g} allows: {named}. Correct them, or take them out."
        )


def _tell(
    pictures: ListedPictures, broken: Mapping[Path, str], by: Sequence[str], asked: int
) -> None:
    if not processes.is_first():
        return
    count = len(pictures.files)
    what = [f"{counted(count, 'descriptions')} (CHAIR)"] if "chair" in by else []
    what += [f"{counted(asked, 'questions')} (POPE)"] if asked else []
    print(
        f"Each evaluation asks for {' and '.join(what)} of {counted(count, 'images')} with known "
        "objects."
    )
    without = pictures.without_list
    if without:
        print(
            f"  Not used, without an object list: {counted(len(without), 'images')}, as "
            f"{without[0]}."
        )
    for file, why in broken.items():
        print(f"  {file.name} is not used: {why}")
