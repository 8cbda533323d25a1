"""The decode loop: a checkpoint has no say, rows come and go unseen, and NaN is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.runtime.errors import UserError
from veridical.sampling import (
    Decoding,
    Request,
    beginnings,
    complete_masked,
    loop,
    never_sampled,
    parity,
    respond,
)
from veridical.sampling.cache import CacheRows
from veridical.sampling.rollouts import roll_out

PROMPT = [user_message("Describe the image.")]
LONGER = [user_message("Is there a red cup at the top left of the image?")]


def requests_for(pictures: list[Image.Image]) -> list[Request]:
    return [
        Request(Prompt("a", pictures[:1], PROMPT)),
        Request(Prompt("b", pictures[1:2], LONGER)),
        Request(Prompt("c", [], [user_message("What do you see?", images=0)])),
        Request(Prompt("d", pictures[2:3], PROMPT), "There is a red"),
    ]


def lively(policy: Policy) -> Policy:
    """A policy whose answers end at many lengths and hold full stops."""
    tokenizer = policy.processor.tokenizer
    with torch.no_grad():
        policy.core.lm_head.weight[tokenizer.eos_token_id] *= 3
        policy.core.lm_head.weight[tokenizer.convert_tokens_to_ids(".")] *= 3
    return policy


SETTINGS: dict[str, dict[str, Any]] = {
    "min_new_tokens": {"min_new_tokens": 12},
    "min_length": {"min_length": 200},
    "max_length": {"max_length": 3},
    "max_time": {"max_time": 1e-6},
    "return_dict_in_generate": {"return_dict_in_generate": True, "output_scores": True},
    "stop_strings": {"stop_strings": ["the", "a"]},
    "num_return_sequences": {"num_return_sequences": 3, "do_sample": True},
    "num_beams": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    "repetition_penalty": {"repetition_penalty": 1.8},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[20], [21], [22]]},
    "suppress_tokens": {"suppress_tokens": list(range(10, 200))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(10, 200))},
    "forced_bos_token_id": {"forced_bos_token_id": 30},
    "forced_eos_token_id": {"forced_eos_token_id": 31},
    "temperature": {"temperature": 0.1, "do_sample": True},
    "top_k": {"top_k": 1, "top_p": 0.1, "min_p": 0.5, "typical_p": 0.2, "do_sample": True},
    "guidance_scale": {"guidance_scale": 3.0},
    "sequence_bias": {"sequence_bias": [[[25], 50.0]]},
    "exponential_decay": {"exponential_decay_length_penalty": [2, 3.0]},
    "watermarking": {"watermarking_config": {"bias": 5.0}},
    "cache": {"cache_implementation": "static", "use_cache": False},
    "prompt_lookup": {"prompt_lookup_num_tokens": 3},
    "renormalize": {"renormalize_logits": True, "remove_invalid_values": True},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    policy = lively(load_policy("embedded"))
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder


def said_by(folder: Path, settings: dict[str, Any], pictures: list[Image.Image]) -> list[Any]:
    """What a checkpoint with these generation settings answers, in every way there is."""
    file = folder / "generation_config.json"
    own = json.loads(file.read_text())
    try:
        file.write_text(json.dumps(own | settings))
        policy = load_policy(str(folder))
        parity._TRIED.add(policy.core)
    finally:
        file.write_text(json.dumps(own))
    requests = requests_for(pictures)
    seen = [request for request in requests if request.prompt.images]
    return [
        respond(policy, requests, Decoding(10), ""),
        respond(policy, requests, Decoding(10, 1.0), "", until_sentence_end=True),
        complete_masked(policy, seen, ["m"] * 3, 0.9, Decoding(6, 1.0), True),
        roll_out(policy, requests[:2], Decoding(8, 1.0), k=2),
    ]


@pytest.fixture(scope="module")
def plain(saved: Path, pictures: list[Image.Image]) -> list[Any]:
    return said_by(saved, {}, pictures)


@pytest.mark.parametrize("name", SETTINGS)
def test_generation_settings_of_a_checkpoint_change_nothing(
    name: str, saved: Path, plain: list[Any], pictures: list[Image.Image]
) -> None:
    assert said_by(saved, SETTINGS[name], pictures) == plain


@torch.no_grad()
def test_greedy_answers_are_those_of_the_stock_generate(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    policy, requests = lively(policy), requests_for(pictures)
    tokenizer = policy.processor.tokenizer
    policy.core.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=never_sampled(policy),
    )
    for request, answer in zip(requests, respond(policy, requests, Decoding(20), ""), strict=True):
        text = render_prompt(policy, request.prompt.messages, request.prefix)
        inputs = prompt_batch(policy, [request.prompt.images], [text]).inputs
        stock = policy.core.generate(**inputs, generation_config=settings)
        assert [*answer.token_ids] == stock[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_when_rows_come_and_are_read_changes_nothing(
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    size: int,
) -> None:
    policy = lively(policy)
    requests = [
        Request(Prompt(f"{one.prompt.id}{n}", one.prompt.images, one.prompt.messages), one.prefix)
        for n in range(4)
        for one in requests_for(pictures)
    ]
    expected = [
        respond(policy, [r], Decoding(12, 1.0), "", until_sentence_end=True)[0] for r in requests
    ]
    assert {answer.stop_reason for answer in expected} == {"end", "sentence", "length"}

    def seldom(table: Any) -> bool:
        longest = max(len(said.token_ids) for said in table.said) + len(table.unread)
        return len(table.unread) >= every or longest >= 12

    monkeypatch.setattr(loop._Table, "_is_time_to_read", seldom)
    decoding = Decoding(12, 1.0, batch_size=size)
    assert respond(policy, requests, decoding, "", until_sentence_end=True) == expected


def test_places_that_become_free_are_taken(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, fed, widths = lively(policy), [], []
    requests = [
        Request(Prompt(f"{one.prompt.id}{n}", one.prompt.images, one.prompt.messages), one.prefix)
        for n in range(8)
        for one in requests_for(pictures)
    ]
    respond(policy, requests[:1], Decoding(1), "")
    feed = CacheRows.feed

    def counted(rows: CacheRows, tokens: torch.Tensor) -> None:
        fed.append(len(tokens))
        feed(rows, tokens)
        widths.append(rows.cache.get_seq_length())

    monkeypatch.setattr(CacheRows, "feed", counted)
    answers = respond(policy, requests, Decoding(40, 1.0, batch_size=8), "", True)
    assert sum(fed) == sum(len(answer.token_ids) - 1 for answer in answers)
    # By batches of eight, one after the other, each as long as its longest answer.
    apart = [max(len(a.token_ids) for a in answers[i : i + 8]) - 1 for i in range(0, 32, 8)]
    assert len(fed) < sum(apart) - 10
    longest = max(prompt_batch(policy, [r.prompt.images],
                               [render_prompt(policy, r.prompt.messages, r.prefix)])
                  .inputs["input_ids"].shape[1] for r in requests)  # fmt: skip
    assert max(widths) <= longest + 40


Break = Callable[[torch.nn.Module], Any]


def broken_weight(core: Any) -> None:
    core.lm_head.weight.data[7, 3] = float("nan")


def overflow(core: Any) -> None:
    core.lm_head.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor([9]), torch.inf))  # fmt: skip  # noqa: E501


def third_token(core: Any) -> None:
    calls: list[int] = []

    def spoil(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return out * float("nan") if len(calls) == 3 else out

    core.lm_head.register_forward_hook(spoil)


def one_row(core: Any) -> None:
    def spoil(_: Any, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[-1, -1, 5] = float("nan")
        return out

    core.lm_head.register_forward_hook(spoil)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spoil", [broken_weight, overflow, third_token, one_row])
@pytest.mark.parametrize("way", ["respond", "greedy", "sentence", "masked", "rollouts"])
def test_no_token_is_taken_from_what_is_no_number(
    policy: Policy, pictures: list[Image.Image], dtype: torch.dtype, spoil: Break, way: str
) -> None:
    policy.model.to(dtype)
    parity._TRIED.add(policy.core)
    beginnings._SHARES[policy.core] = True
    spoil(policy.core)
    requests = [one for one in requests_for(pictures) if one.prompt.images]
    ways: dict[str, Callable[[], Any]] = {
        "respond": lambda: respond(policy, requests, Decoding(6, 1.0), ""),
        "greedy": lambda: respond(policy, requests, Decoding(6), ""),
        "sentence": lambda: respond(policy, requests, Decoding(6, 1.0), "", True),
        "masked": lambda: complete_masked(
            policy, requests, ["m"] * 3, 0.9, Decoding(6, 1.0), False
        ),
        "rollouts": lambda: roll_out(policy, requests, Decoding(6, 1.0), k=2),
    }
    with pytest.raises(UserError) as caught:
        ways[way]()
    said = str(caught.value)
    assert f"The logits of tiny in {str(dtype).removeprefix('torch.')} are NaN or infinite" in said
    if spoil is broken_weight:
        assert "weight lm_head.weight" in said
    elif dtype == torch.float16:
        assert "Set --dtype bfloat16 or --dtype float32" in said
    elif dtype == torch.bfloat16:
        assert "Set --dtype float32" in said


def test_a_model_that_gives_no_numbers_from_the_start_is_told_so(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    broken_weight(policy.core)
    with pytest.raises(UserError, match="NaN or infinite"):
        respond(policy, requests_for(pictures), Decoding(4), "")


Memory = Callable[[pytest.MonkeyPatch], None]


def ends_in(method: str, least: int) -> Memory:
    """Memory that does not hold more than so many rows, where a method of `Rows` wants it."""

    def limit(patch: pytest.MonkeyPatch) -> None:
        own = getattr(CacheRows, method)

        def limited(rows: CacheRows, *given: Any) -> None:
            own(rows, *given)
            if len(rows) > least:
                raise torch.OutOfMemoryError(f"{len(rows)} rows")

        patch.setattr(CacheRows, method, limited)

    return limit


def is_short(patch: pytest.MonkeyPatch) -> None:
    """Memory that is full when the prompts are read."""
    patch.setattr(loop, "free_bytes", lambda _: 1)


def is_shorter(patch: pytest.MonkeyPatch) -> None:
    """And runs out all the same."""
    is_short(patch)
    ends_in("feed", 4)(patch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "memory", [ends_in("__init__", 5), ends_in("feed", 3), ends_in("join", 6), is_short,
               is_shorter],
    ids=["reading", "feeding", "joining", "foreseen", "both"],
)  # fmt: skip
def test_memory_decides_how_many_are_made_at_once_and_nothing_else(
    memory: Memory,
    dtype: torch.dtype,
    policy: Policy,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    policy = lively(policy)
    policy.model.to(dtype)
    requests = [
        Request(Prompt(f"{one.prompt.id}{n}", one.prompt.images, one.prompt.messages), one.prefix)
        for n in range(5)
        for one in requests_for(pictures)
        if one.prompt.images
    ]

    def say() -> list[Any]:
        decoding = Decoding(12, 1.0, batch_size=8)
        masks = [request.prompt.id for request in requests]
        return [
            respond(policy, requests, decoding, "", until_sentence_end=True),
            complete_masked(policy, requests, masks, 0.9, decoding, True),
            roll_out(policy, requests[:4], decoding, k=3),
        ]

    widest: list[int] = []
    made: list[int] = []
    step = loop._Table.step

    def watched(table: Any) -> Any:
        widest.append(len(table))
        finished = step(table)
        made.append(len(finished))
        return finished

    monkeypatch.setattr(loop._Table, "step", watched)
    expected = say()
    assert max(widest) == 8
    widest.clear()
    made.clear()
    memory(monkeypatch)
    found = say()
    assert sum(made) == 15 + 15 + 12
    assert found[:2] == expected[:2]
    for ours, theirs in zip(*(chain(*said[2]) for said in (found, expected)), strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.logps == pytest.approx(theirs.logps, abs=1e-4)
    assert ("Memory ran out" in capsys.readouterr().out) == (memory is not is_short)
    if memory is is_short:
        assert max(widest) < 8


def test_where_not_one_response_fits_it_is_said_what_to_set(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    parity._TRIED.add(policy.core)
    ends_in("feed", 0)(monkeypatch)
    with pytest.raises(
        UserError, match=r"one response of up to 9 tokens\. Set a smaller --max-new"
    ):
        respond(policy, requests_for(pictures), Decoding(9, 1.0), "")


def test_room_is_remembered_for_responses_as_long_or_longer(policy: Policy) -> None:
    assert loop._halved(policy, Decoding(1024, batch_size=16), 16) == 8
    sizes = [loop._rows_to_try(policy, Decoding(n, batch_size=16)) for n in (16, 1024, 2048)]
    assert sizes == [16, 8, 8]
