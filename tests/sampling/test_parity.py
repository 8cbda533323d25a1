"""The comparison with the stock `generate`: it lets healthy models pass, and none that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.policy import Policy
from veridical.runtime.errors import RefusedRowError, UserError
from veridical.sampling import Decoding, Request, parity, respond
from veridical.sampling.cache import APART, UNMIXED, CacheRows
from veridical.sampling.parity import require_parity, stock_examples

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
Patch = Callable[[pytest.MonkeyPatch], None]

READ, FEED, SELECT, JOIN = CacheRows.__init__, CacheRows.feed, CacheRows.select, CacheRows.join


def positions_off(patch: pytest.MonkeyPatch) -> None:
    def read(rows: CacheRows, *given: Any) -> None:
        READ(rows, *given)
        rows.next = rows.next + 1

    patch.setattr(CacheRows, "__init__", read)


def padding_seen(patch: pytest.MonkeyPatch) -> None:
    def feed(rows: CacheRows, tokens: torch.Tensor) -> None:
        rows.attention = torch.ones_like(rows.attention)
        FEED(rows, tokens)

    patch.setattr(CacheRows, "feed", feed)


def prompt_forgotten(patch: pytest.MonkeyPatch) -> None:
    def feed(rows: CacheRows, tokens: torch.Tensor) -> None:
        rows.attention[:, :-4] = 0
        FEED(rows, tokens)

    patch.setattr(CacheRows, "feed", feed)


def rows_mixed_up(patch: pytest.MonkeyPatch) -> None:
    def feed(rows: CacheRows, tokens: torch.Tensor) -> None:
        FEED(rows, tokens.flip(0))

    patch.setattr(CacheRows, "feed", feed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_healthy_model_passes_in_silence(
    policy: Policy, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.model.to(dtype)
    require_parity(policy)
    assert not capsys.readouterr().out
    assert policy.core not in APART


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", [positions_off, padding_seen, prompt_forgotten, rows_mixed_up])
def test_a_fault_is_refused_by_name_in_every_dtype(
    policy: Policy, dtype: torch.dtype, fault: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.model.to(dtype)
    fault(monkeypatch)
    with pytest.raises(UserError, match=r"tiny \(LlavaForConditionalGeneration\)") as caught:
        require_parity(policy)
    assert "not those of its own `generate`" in str(caught.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stock_paths_that_differ_excuse_nothing(
    policy: Policy, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.model.to(dtype)
    padding_seen(monkeypatch)
    monkeypatch.setattr(parity, "_floor", lambda policy, examples: 0.94)
    with pytest.raises(UserError, match="can't be sampled from here"):
        require_parity(policy)


def test_every_way_to_answer_asks_for_it(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    padding_seen(monkeypatch)
    request = Request(Prompt("r", pictures[:1], [user_message("Describe the image.")]))
    with pytest.raises(UserError, match="can't be sampled from here"):
        respond(policy, [request], Decoding(2), "")


def test_a_cache_that_takes_in_no_rows_is_noticed_and_done_without(
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def join(rows: CacheRows, other: CacheRows) -> None:
        other.next = other.next + 3
        JOIN(rows, other)

    asked = [
        Request(Prompt(f"r{n}", pictures[:1], [user_message("What is it?")])) for n in range(6)
    ]
    expected = respond(policy, asked, Decoding(8, 1.0), "")
    monkeypatch.setattr(parity, "_TRIED", type(parity._TRIED)())
    monkeypatch.setattr(CacheRows, "join", join)
    require_parity(policy)
    assert "rows can't come into a batch" in capsys.readouterr().out
    assert policy.core in APART
    assert respond(policy, asked, Decoding(8, 1.0, batch_size=2), "") == expected


def test_what_cannot_be_compared_is_said(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**inputs: Any) -> None:
        raise NotImplementedError("no beams here")

    monkeypatch.setattr(policy.core, "generate", fails)
    require_parity(policy)
    assert "no beams here" in capsys.readouterr().out


def test_a_checkpoints_settings_do_not_reach_the_comparison(policy: Policy) -> None:
    own = policy.core.generation_config
    own.update(repetition_penalty=3.0, num_beams=4, min_new_tokens=30)
    require_parity(policy)
    assert policy.core.generation_config is own


def test_a_model_that_takes_none_of_the_prompts_is_told(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*_: Any) -> None:
        raise RefusedRowError("no prompt of yours")

    monkeypatch.setattr(parity, "_generated", refuses)
    require_parity(policy)
    said = capsys.readouterr().out
    assert said.count("could not be compared") == 1 and "no prompt of yours" in said


@pytest.mark.parametrize("joins", [False, True])
def test_batches_of_one_kind_are_tried_with_late_rows_too(
    policy: Policy, joins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: Policy, examples: Any, late: bool) -> str | None:
        pictures = {bool(example.images) for example in examples}
        return "other logits" if len(pictures) > 1 or (late and not joins) else None

    monkeypatch.setattr(parity, "_fault_or_error", fault)
    monkeypatch.setattr(parity, "_differs_beside_others", lambda *_: True)
    require_parity(policy)
    assert policy.core in UNMIXED
    assert (policy.core in APART) is not joins


@pytest.mark.parametrize("place", ["decoding_fault", "_generated"])
def test_memory_that_runs_out_says_nothing_of_a_model(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It would be sampled from slowly, or not be compared, for another program's sake."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(parity, place, full)
    with pytest.raises(torch.OutOfMemoryError):
        parity._fault_or_error(policy, [], late=True)
        stock_examples(policy)
