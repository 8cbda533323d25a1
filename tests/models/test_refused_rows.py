"""A picture of usual size that the processor refuses: its row is listed, and the run goes on."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer
from veridical.builders._samples import SampleSettings, sample_responses
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message
from veridical.models import processing
from veridical.models.batching import row_batch
from veridical.models.policy import Policy
from veridical.models.refused_rows import RefusedRowsError, leave_out_refused
from veridical.models.rendering import render_group
from veridical.models.vision_cache import VisionCache
from veridical.runtime.cache import open_cache
from veridical.sampling import Decoding

USUAL, REFUSED = (64, 64), (100, 80)
QUESTION = [user_message("Describe the image.")]


class Refusing:
    """An image processor that takes no picture of one usual size."""

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def __call__(self, images: Any, *rest: Any, **named: Any) -> Any:
        rows = images if isinstance(images[0], list) else [images]
        if any(image.size == REFUSED for row in rows for image in row):
            raise ValueError("not this one")
        return self.stock(images, *rest, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "stock" or name.startswith("__"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self.stock, name)


@pytest.fixture
def picky(policy: Policy) -> Policy:
    processor = copy.deepcopy(policy.processor)
    processor.image_processor = Refusing(processor.image_processor)
    return dataclasses.replace(policy, processor=processor)


def picture(number: int) -> Image.Image:
    return Image.new("RGB", REFUSED if number == 2 else USUAL, (40 * number, 90, 10))


def test_samples_are_the_same_without_the_refused_row(picky: Policy) -> None:
    settings = SampleSettings(2, Decoding(4, 1.0, batch_size=4))
    prompts = [Prompt(f"row/{n}", [picture(n)], QUESTION) for n in range(4)]
    rows = sample_responses(picky, prompts, settings)
    assert rows[2].id == "row/2" and not rows[2].responses and "not this one" in rows[2].refused
    fewer = SampleSettings(2, Decoding(4, 1.0, batch_size=2))
    others = sample_responses(picky, [*prompts[:2], prompts[3]], fewer)
    assert [rows[0], rows[1], rows[3]] == others


@pytest.mark.parametrize("variant", ["mask", "noise"])
def test_bdhs_lists_the_refused_row(picky: Policy, variant: Any) -> None:
    sources = [
        TrueAnswer(
            Prompt(f"row/{n}", [picture(n)], QUESTION), "There is a red cup. There is a blue dog."
        )
        for n in range(4)
    ]
    settings = BDHSSettings(variant=variant, iterations=2)
    how = Rejecting(settings, Decoding(3, 1.0), load_similarity("edit"))
    rows = reject_answers(picky, sources, how)
    assert [row["id"] for row in rows] == [source.prompt.id for source in sources]
    assert [n for n, row in enumerate(rows) if "not this one" in row.get("reason", "")] == [2]


def test_a_batch_names_the_refused_row_with_kept_features_too(
    picky: Policy, tmp_path: Path
) -> None:
    answers = [[assistant_message("Yes.")], [assistant_message("No.")]]
    groups = [render_group(picky, f"row-{n}", [picture(n)], QUESTION, answers) for n in range(4)]
    cached = dataclasses.replace(
        picky, vision=VisionCache(picky, open_cache(str(tmp_path / "cache"), 1.0))
    )
    for policy in (picky, cached):
        with pytest.raises(
            RefusedRowsError, match=r"Row row-2 can't be used.*not this one"
        ) as found:
            row_batch(policy, groups)
        assert set(found.value.by_name) == {"row-2"}


def test_what_names_no_row_is_not_swallowed() -> None:
    def fail(left: list[int]) -> None:
        raise RefusedRowsError("model", {0: "odd"}, ["elsewhere"])

    with pytest.raises(RefusedRowsError, match="elsewhere"):
        leave_out_refused(["a", "b"], fail)


def test_memory_that_runs_out_is_no_refusal_of_a_row(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(processing, "_processed", full)
    with pytest.raises(MemoryError):
        processing.process(policy, [[pictures[0]]], ["<image>"], "right")
