"""Yes/no questions about objects: POPE's three splits, built by its recipe (Li et al. 2023).

Each image is asked about k objects that are there and k that are not. The splits share the former
and differ in the latter: drawn at random, the most frequent of the whole set, or those that most
often appear together with the object asked about before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Literal

import numpy as np

from veridical.runtime.errors import UserError
from veridical.runtime.randomness import generator

SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class ObjectQuestion:
    """A yes/no question about one image.

    Attributes:
        question_id: unique within its split only, in official files.
        image: the image's file name.
        image_id: its name without suffix, or the key of its object list; clusters the intervals.
        split: random, popular, adversarial, or the questions file's name.
        text: the question.
        label: the true answer.
    """

    question_id: str
    image: str
    image_id: str
    split: str
    text: str
    label: Literal["yes", "no"]

    def as_json(self) -> dict[str, object]:
        """The row in POPE's form, with the split and the image's id added."""
        return asdict(self)


@dataclass(frozen=True)
class QuestionSet:
    """Built questions.

    Attributes:
        questions: split after split, image after image, positives and negatives in turn.
        short: images with fewer than k objects, or with fewer than k absent ones, which are asked
            less; image id to pairs asked.
        skipped: images that nothing can be asked about.
    """

    questions: tuple[ObjectQuestion, ...]
    short: Mapping[str, int]
    skipped: tuple[str, ...]


def build_questions(
    objects: Mapping[str, Sequence[str]],
    files: Mapping[str, str] | None = None,
    per_image: int = 3,
    seed: int = 0,
    names: Iterable[str] = (),
) -> QuestionSet:
    """The random, popular and adversarial splits of any images with object lists.

    As the official files, checked on their tables of frequency and co-occurrence: popular
    negatives are the most frequent objects of the set that the image lacks; the adversarial
    negative after a positive is the object seen with it in most images that this image lacks and
    that was not asked yet, a random one where there is none. An image with fewer than `per_image`
    objects is asked about all of them and as many absent ones (our choice; POPE leaves out images
    with three objects or fewer). Ties are broken by name; draws are keyed by (seed, image).

    Args:
        objects: image id to the names of what is there.
        files: image id to file name; the id itself where it is missing.
        per_image: k, objects of either kind.
        seed: of the draws.
        names: what may be absent besides the objects of other images.

    Raises:
        UserError: no image can be asked about.
    """
    frequent = by_frequency(objects.values())
    frequent += sorted(set(names) - set(frequent))
    together = by_co_occurrence(objects.values())
    rows: dict[str, list[ObjectQuestion]] = {split: [] for split in SPLITS}
    short, skipped = {}, []
    for image_id in sorted(objects):
        present = sorted(set(objects[image_id]))
        pairs = min(per_image, len(present), len(frequent) - len(present))
        if pairs < 1:
            skipped.append(image_id)
            continue
        if pairs < per_image:
            short[image_id] = pairs
        drawn = generator(seed, "pope", image_id).permutation(np.array(present))[:pairs]
        positives = [str(name) for name in drawn]
        file = (files or {}).get(image_id, image_id)
        for split in SPLITS:
            absent = negatives(split, positives, present, frequent, together, image_id, seed)
            asked = [
                (name, label)
                for pair in zip(positives, absent, strict=True)
                for name, label in zip(pair, ("yes", "no"), strict=True)
            ]
            rows[split] += [_built(image_id, file, split, name, label) for name, label in asked]
    questions = [question for split in SPLITS for question in rows[split]]
    if not questions:
        raise UserError(
            "No question can be built: POPE needs images with objects, and objects that some "
            "images lack. Check the object lists."
        )
    return QuestionSet(_numbered(questions), short, tuple(skipped))


def negatives(
    split: str,
    positives: Sequence[str],
    present: Sequence[str],
    frequent: Sequence[str],
    together: Mapping[str, Sequence[str]],
    image_id: str = "",
    seed: int = 0,
) -> list[str]:
    """As many absent objects as there are positives, by the split's recipe.

    Args:
        split: random, popular or adversarial.
        positives: the objects asked about, in order.
        present: everything in the image.
        frequent: all objects, the most frequent first.
        together: object to the others, the one it appears with most often first.
        image_id: keys the draws.
        seed: of the draws.
    """
    there = set(present)
    absent = [name for name in frequent if name not in there]
    shuffled = generator(seed, "pope", split, image_id).permutation(np.array(sorted(absent)))
    drawn = [str(name) for name in shuffled]
    if split == "random":
        return drawn[: len(positives)]
    if split == "popular":
        return absent[: len(positives)]
    chosen: list[str] = []
    for positive in positives:
        candidates = [name for name in (*together.get(positive, ()), *drawn) if name not in there]
        chosen.append(next(name for name in candidates if name not in chosen))
    return chosen


def count_together(
    lists: Iterable[Sequence[str]],
) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """In how many images two objects appear together, and each at all."""
    together: dict[str, Counter[str]] = {}
    frequent: Counter[str] = Counter()
    for names in lists:
        frequent.update(set(names))
        for one, other in permutations(sorted(set(names)), 2):
            together.setdefault(one, Counter())[other] += 1
    return together, frequent


def by_frequency(lists: Iterable[Sequence[str]]) -> list[str]:
    """All objects, those in most images first; ties by name."""
    counts = Counter(name for names in lists for name in set(names))
    return sorted(counts, key=lambda name: (-counts[name], name))


def by_co_occurrence(lists: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """Object to the objects seen with it, those in most common images first; ties by name."""
    counts, _ = count_together(lists)
    return {
        one: sorted(others, key=lambda name: (-others[name], name))
        for one, others in counts.items()
    }


def question_text(name: str) -> str:
    """POPE's question about one object."""
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"Is there {article} {name} in the image?"


def _built(
    image_id: str, file: str, split: str, name: str, label: Literal["yes", "no"] | str
) -> ObjectQuestion:
    answer: Literal["yes", "no"] = "yes" if label == "yes" else "no"
    return ObjectQuestion("", file, image_id, split, question_text(name), answer)


def _numbered(questions: Sequence[ObjectQuestion]) -> tuple[ObjectQuestion, ...]:
    """Ids 1, 2, ... over all splits, so that one answers file can serve all."""
    return tuple(
        ObjectQuestion(str(number), q.image, q.image_id, q.split, q.text, q.label)
        for number, q in enumerate(questions, start=1)
    )
