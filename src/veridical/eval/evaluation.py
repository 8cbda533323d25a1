"""What every evaluation is given: whose answers, how a model is asked, where the scores go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from veridical.data.image_checks import find_images
from veridical.data.steering import parse_steer
from veridical.eval.answers import AnswerSettings
from veridical.eval.asked_model import AskedModel
from veridical.eval.grading import NOBODY, Grading
from veridical.models.model_argument import Model, name_of
from veridical.runtime.errors import UserError
from veridical.runtime.options import CacheOptions, Loading, by_option
from veridical.runtime.shards import read_shard


@dataclass(frozen=True)
class Subject:
    """Whose answers are scored, and about which images.

    Attributes:
        model: who answers: a hub name, a folder, or `embedded`; in Python also a loaded policy.
            Not with `answers`.
        answers: answers made elsewhere: JSON Lines or a JSON list, one or more files.
        images: the folder of images, needed with `model`; with `answers` it only tells the report
            where the pictures are.
        limit: ask about only so many images, the first by name. Default: all.
        max_bad_fraction: share of unusable images or questions above which nothing is scored.
    """

    model: Model | None = None
    answers: list[Path] | None = None
    images: Path | None = None
    limit: int | None = None
    max_bad_fraction: float = 0.01

    def named(self) -> Subject:
        """The same with a loaded model's name in its place, as `run.json` keeps it."""
        return self if self.model is None else replace(self, model=name_of(self.model))


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        max_new_tokens: length limit of an answer, in tokens; the benchmark's own if not set.
        temperature: of sampling; 0 takes the most likely token.
        seed: of sampling, and of questions that are built.
        steer: ask for attributes, for a model trained by `train steerlm`: all-4, or
            "Helpfulness:4,Correctness:4,Coherence:4,Complexity:2,Verbosity:1".
        batch_size: answers made at once; it changes none of them.
        caching: where image features are kept between questions.
        loading: how the model is loaded.
        shard: make only this shard of the answers, such as 2/8; who makes the last one writes the
            scores. Under `torchrun` every process takes its own.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    steer: str | None = None
    batch_size: int = 32
    caching: CacheOptions = CacheOptions()
    loading: Loading = Loading()
    shard: str | None = None


USUAL = Asking()
"""How a model is asked where nothing is said."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation by one benchmark.

    Attributes:
        out: the folder that it writes.
        subject: whose answers, and about which images.
        asking: how the model is asked; its `max_new_tokens` is set.
        model: the subject's model, which several evaluations may share; None for answers made
            elsewhere.
        grading: who judges the answers, where the benchmark has them judged.
    """

    out: Path
    subject: Subject
    asking: Asking
    model: AskedModel | None = field(default=None, compare=False)
    grading: Grading = NOBODY

    @property
    def asked(self) -> AskedModel:
        """The model of an evaluation that asks one."""
        assert self.model is not None
        return self.model

    @property
    def settings(self) -> AnswerSettings:
        """What decides the model's answers besides the questions."""
        asking = self.asking
        assert asking.max_new_tokens is not None
        return AnswerSettings(
            self.asked, asking.max_new_tokens, asking.temperature, asking.seed, asking.batch_size,
            asking.steer, read_shard(asking.shard),
        )  # fmt: skip

    def find_images(self) -> dict[str, Path]:
        """The images in the subject's folder by their names without suffix; `limit` is not used."""
        return find_images(self.subject.images) if self.subject.images else {}


def open_model(subject: Subject, asking: Asking, several: bool = False) -> AskedModel | None:
    """The model that is asked, not loaded yet; None for answers made elsewhere.

    Args:
        subject: whose answers.
        asking: how the model is asked.
        several: it is asked by several benchmarks, so that an image is likely to be asked about
            again: it is encoded once, unless `--vision-cache false` or `--cache none` says no.

    Raises:
        UserError: neither or both are given, or an option asks for a model where there is none.
    """
    model = subject.model
    if (model is None) == (subject.answers is None):
        found = "neither was given" if model is None else "both were"
        raise UserError(f"Give either a model or --answers made elsewhere: {found}.")
    if asking.steer is not None:
        parse_steer(asking.steer)
    if model is None:
        asked = by_option({"asking": asking})
        for name in ("steer", "template", "vision_cache"):
            if asked[name]:
                raise UserError(
                    f"--{name.replace('_', '-')} asks a model; answers made elsewhere are scored "
                    "as they are. Leave it out."
                )
        return None
    how, loaded = asking.loading, None if isinstance(model, str) else model
    plain = AskedModel(name_of(model), how, how.template, loaded=loaded)
    caching = asking.caching
    if caching.vision_cache:
        return replace(plain, features=caching.open())
    if several and caching.vision_cache is None and (cache := caching.open()).folder is not None:
        return replace(plain, features=cache, features_required=False)
    return plain
