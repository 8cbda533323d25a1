"""Prompts are counted without their pixels, and one bad picture costs one row, not the run."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer
from veridical.builders._samples import SampleSettings, sample_responses
from veridical.data import image_checks
from veridical.data.image_checks import require_images
from veridical.data.images import ImageLike, load_image
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message
from veridical.eval.asked_model import AskedModel
from veridical.models import lengths, processing
from veridical.models.batching import layout_tokens, row_batch, shared_batch
from veridical.models.lengths import check_lengths, counting, measured
from veridical.models.policy import Policy
from veridical.models.processing import process
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group, render_group
from veridical.runtime import processes
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.sampling import Decoding
from veridical.train.loop.rows import read_training_rows
from veridical.train.options import Training

STRIP = (900, 4)


@pytest.fixture
def picky(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy whose processor refuses long strips, as Qwen's does."""
    processor = copy.deepcopy(policy.processor)
    maker = type(processor.image_processor)
    stock = maker.__call__

    def call(self: Any, images: Any, *args: Any, **more: Any) -> Any:
        rows = [row if isinstance(row, list) else [row] for row in images]
        if any(max(i.size) > 200 * min(i.size) for row in rows for i in row):
            raise ValueError("absolute aspect ratio must be smaller than 200, got 225.0")
        return stock(self, images, *args, **more)

    monkeypatch.setattr(maker, "__call__", call)
    return dataclasses.replace(policy, processor=processor)


def group(policy: Policy, id: str, image: Image.Image) -> Group:
    answers = [[assistant_message("This is a park.")], [assistant_message("A red cup.")]]
    return render_group(policy, id, [image], [user_message("Describe the image.")], answers)


def noting(calls: list[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return noted


def unchecked(policy: Policy, id: str, image: ImageLike) -> Group:
    plain = group(policy, id, Image.new("RGB", (48, 48)))
    return dataclasses.replace(plain, images=(image,))


def test_a_row_is_refused_for_its_picture_before_anything_runs(picky: Policy) -> None:
    assert group(picky, "good", Image.new("RGB", (900, 300))).id == "good"
    with pytest.raises(RefusedRowError, match=r"image 1 \(900 x 4 pixels\).*aspect ratio"):
        group(picky, "bad", Image.new("RGB", STRIP))


def test_a_processor_that_takes_nothing_alone_refuses_no_picture() -> None:
    class Other:
        def __call__(self, **_: Any) -> None:
            raise TypeError("wants patches")

    class Processor:
        image_processor = Other()

    require_images(Processor(), [Image.new("RGB", STRIP)])


@pytest.mark.parametrize("lay_out", [row_batch, shared_batch])
def test_a_batch_names_the_rows_that_the_processor_refuses(picky: Policy, lay_out: Any) -> None:
    good = group(picky, "good", Image.new("RGB", (48, 48)))
    bad = unchecked(picky, "bad", Image.new("RGB", STRIP))
    with pytest.raises(UserError, match=r"Row bad can't be used.*900 x 4.*aspect ratio"):
        lay_out(picky, [good, bad])


def test_a_failure_of_the_batch_alone_is_not_blamed_on_a_row(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **more: Any) -> Any:
        raise RuntimeError("out of memory" if len(more["text"]) > 1 else "")

    stock = type(policy.processor).__call__
    monkeypatch.setattr(
        type(policy.processor),
        "__call__",
        lambda self, **more: stock(self, **more) if len(more["text"]) == 1 else fails(**more),
    )
    text = render_prompt(policy, [user_message("Hi", images=0)])
    with pytest.raises(
        UserError, match=r"2 rows alone, but not together \(out of mem.*--batch-size 1"
    ):
        process(policy, [[], []], [text, text], "right")


def test_lengths_list_what_the_processor_refuses(picky: Policy) -> None:
    groups = [group(picky, "good", Image.new("RGB", (48, 48))),
              unchecked(picky, "bad", Image.new("RGB", STRIP))]  # fmt: skip
    refused = check_lengths(picky, groups, 10_000).refused
    assert list(refused) == ["bad"] and refused["bad"][0] == "images"
    assert "aspect ratio" in refused["bad"][1]


@pytest.fixture
def prompts(policy: Policy) -> list[lengths.Prompt]:
    text = render_prompt(policy, [user_message("Describe the image.")])
    return [((Image.new("RGB", size),), text) for size in ((48, 48), (96, 48), (40, 90))]


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (lambda *_, **__: {"other": 1}, "fails to count the tokens of an image of 48 x 48 (KeyErr"),
        (lambda *_, image_sizes: {"num_image_tokens": [image_sizes[0][0]]}, "it would count "),
        (None, "does not say how many tokens an image has"),
    ],
)
def test_where_lengths_are_measured_the_log_says_why_once(
    policy: Policy,
    prompts: list[lengths.Prompt],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    counted: Any,
    said: str,
) -> None:
    kind = type(policy.processor)
    if counted is None:
        owner = next(one for one in kind.__mro__ if "_get_num_multimodal_tokens" in vars(one))
        monkeypatch.delattr(owner, "_get_num_multimodal_tokens")
    else:
        monkeypatch.setattr(kind, "_get_num_multimodal_tokens", staticmethod(counted))
    reason = counting(policy, prompts)
    assert isinstance(reason, str) and said in reason
    rows = [unchecked(policy, str(n), images[0]) for n, (images, _) in enumerate(prompts)]
    check_lengths(policy, rows, 10_000)
    out = capsys.readouterr().out
    assert out.count("Lengths are measured") == 1 and said in out


def test_the_reason_of_another_process_is_said_by_the_first(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["its processor fails", None, "it would count 3"]
    monkeypatch.setattr(processes, "gather", lambda own: [own, *others] if own is None else [own])
    rows = [group(policy, "a", Image.new("RGB", (48, 48)))]
    check_lengths(policy, rows, 10_000)
    assert capsys.readouterr().out.count("takes longer: its processor fails.") == 1


def test_a_fault_of_our_own_is_not_taken_for_the_processors(
    policy: Policy, prompts: list[lengths.Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise ZeroDivisionError("a fault of ours")

    for ours in ("_text_tokens", "measured", "size_of"):
        with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError, match="of ours"):
            patched.setattr(lengths, ours, broken)
            counting(policy, prompts)


def test_builders_list_the_row_and_go_on(picky: Policy) -> None:
    pictures = {"good": Image.new("RGB", (48, 48)), "bad": Image.new("RGB", STRIP)}
    prompt, answer = [user_message("Describe the image.")], "This is a park."
    sources = [TrueAnswer(Prompt(id, [image], prompt), answer) for id, image in pictures.items()]
    how = Rejecting(BDHSSettings(iterations=1), Decoding(3, 1.0), load_similarity("edit"))
    made = reject_answers(picky, sources, how)
    assert "aspect ratio" in made[1]["reason"] and "aspect ratio" not in str(made[0])
    prompts = [Prompt(id, [image], prompt) for id, image in pictures.items()]
    said = sample_responses(picky, prompts, SampleSettings(1, Decoding(3, batch_size=4)))
    assert len(said[0].responses) == 1 and "aspect ratio" in said[1].refused


def test_evaluations_list_the_picture(
    picky: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("good", (48, 48)), ("bad", STRIP)):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    files = [tmp_path / "good.png", tmp_path / "bad.png"]
    monkeypatch.setattr("veridical.models.load.load_processor", lambda name: picky.processor)
    found = AskedModel("embedded").unusable_images(files)
    assert list(found) == [tmp_path / "bad.png"] and "aspect ratio" in found[files[1]]


def test_training_leaves_the_row_out(picky: Policy, tmp_path: Path) -> None:
    rows = []
    for number in range(6):
        size = STRIP if number == 3 else (48, 48)
        Image.new("RGB", size, (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"id": f"row {number}", "image": f"{number}.png", "prompt": "What is there?",
                     "chosen": "There is a red cup.", "rejected": "A dog."})  # fmt: skip
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = Training(learning_rate=1e-4, max_bad_fraction=0.5)
    read = read_training_rows(picky, data, "preference", ("chosen", "rejected"), training)
    assert [row["id"] for row in read.skipped] == ["row 3"]
    assert "aspect ratio" in read.skipped[0]["reason"] and len(read.groups) == 5


def test_counted_lengths_are_those_of_the_processor(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [(48, 48), (61, 33), (20, 90), (100, 100), (7, 5)]
    groups = [group(policy, str(size), Image.new("RGB", size)) for size in sizes]
    prompts = [(one.images, one.prompt_text) for one in groups]
    counts = counting(policy, prompts)
    assert isinstance(counts, lengths.Counting)
    assert [counts.length(p) for p in prompts] == [measured(policy, p) for p in prompts]
    made: list[Any] = []
    stock = lengths.measured
    monkeypatch.setattr(lengths, "measured", noting(made, stock))
    assert check_lengths(policy, groups * 20, 10_000).refused == {}
    assert len(made) <= lengths.CHECKED
    # On the limit itself each is measured, and the verdict is exact.
    length, longest = measured(policy, prompts[0]), max(map(len, groups[0].response_ids))
    assert check_lengths(policy, groups, length + longest).refused == {}
    assert len(check_lengths(policy, groups, length + longest - 1).refused) == len(groups)


def test_a_processor_that_counts_wrongly_is_not_believed(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [group(policy, str(n), Image.new("RGB", (n, 50))) for n in (48, 90, 20)]
    prompts = [(one.images, one.prompt_text) for one in groups]
    monkeypatch.setattr(lengths, "_image_tokens", lambda policy, size: size[0])
    assert isinstance(counting(policy, prompts), str)
    limit = measured(policy, prompts[0]) + max(map(len, groups[0].response_ids))
    assert check_lengths(policy, groups, limit).refused == {}


def test_an_image_seen_twice_in_a_batch_is_decoded_once(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    opened: list[Any] = []
    stock = load_image
    monkeypatch.setattr(processing, "load_image", noting(opened, stock))
    row_batch(policy, [unchecked(policy, "a", tmp_path / "a.png")])
    assert len(opened) == 1


def test_trials_are_made_once_a_size(picky: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    stock = image_checks._refusal
    monkeypatch.setattr(image_checks, "_refusal", noting(tried, stock))
    for _ in range(5):
        require_images(picky.processor, [Image.new("RGB", (640, 480)), Image.new("RGB", (500, 40))])
    assert len(tried) == 1


@pytest.mark.parametrize("lay_out", [row_batch, shared_batch])
def test_a_layouts_size_is_known_before_a_picture_is_opened(
    policy: Policy, groups: list[Group], lay_out: Any
) -> None:
    """Answers that are cut, those with a picture of their own, and those that were sampled."""
    first, other = groups[0], groups[1]
    odd = [
        first,
        dataclasses.replace(first, response_images=(None, other.images)),
        dataclasses.replace(first, sampled=True, response_texts=("", "")),
        dataclasses.replace(
            first, token_counts=tuple(map(len, first.response_ids)), cut=(True, True),
            response_ids=tuple(ids[:3] for ids in first.response_ids),
        ),
        unchecked(policy, "none", other.images[0]),
    ]  # fmt: skip
    for group in check_lengths(policy, odd, None).fit:
        size = lay_out(policy, [group]).inputs["input_ids"].numel()
        assert layout_tokens(group, lay_out is shared_batch) == size


def test_lengths_of_several_processes_are_each_rows_own(
    policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [
        dataclasses.replace(group, prompt_text=group.prompt_text + place * " ")
        for place, group in enumerate(groups)
    ]
    alone = check_lengths(policy, groups, 10_000).fit
    parts = [lengths._checked(policy, groups[place::2], 10_000, "none") for place in (0, 1)]

    def gather(own: Any) -> list[Any]:
        return [0, 1] if isinstance(own, int) else parts if isinstance(own, tuple) else [own]

    monkeypatch.setattr(processes, "gather", gather)
    together = check_lengths(policy, groups, 10_000).fit
    assert [g.prompt_tokens for g in together] == [g.prompt_tokens for g in alone]
    assert len({g.prompt_tokens for g in alone}) > 1


def test_full_memory_is_not_taken_for_a_processor_that_cannot_count(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(type(policy.processor), "_get_num_multimodal_tokens", full)
    with pytest.raises(MemoryError):
        check_lengths(policy, [group(policy, "a", pictures[0])], None)
