"""A local model as a judge: retries by stubbed text, and log-odds on the tiny model by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.data.messages import user_message
from veridical.data.prompts import Prompt
from veridical.data.responses import Response
from veridical.judges import local
from veridical.judges.criterion import parse_criterion, read_criterion
from veridical.judges.judging import Case
from veridical.judges.local import local_asker, logprob_looker, verdict_group
from veridical.judges.orders import compare_pairs
from veridical.judges.prompted import JudgeQuestion, Questioning, choosing_looker
from veridical.models import processing
from veridical.models.lengths import measured
from veridical.models.policy import Policy
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.runtime.errors import UserError
from veridical.sampling import Decoding, Request

# The tiny model's tokenizer knows whole words, and no digits.
NAMED = parse_criterion("own", "---\nform: choice\nnames: [park, kitchen]\n---\nWhich is it?")


def cases_of(pictures: list[Image.Image]) -> list[Case]:
    prompt = [user_message("Describe the image.")]
    return [
        Case(Prompt("a", [pictures[0]], prompt), ["A red cup.", "A dog."]),
        Case(Prompt("b", [pictures[1]], prompt), ["A blue dog.", "A green chair."]),
        Case(Prompt("c", [pictures[2]], prompt), ["Yes <image>", "No"]),
    ]


def test_unreadable_replies_are_sampled_again_and_then_listed(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first case is read at once, the second at the third try, the third never asked."""
    asked: list[tuple[list[str], float]] = []

    def respond(
        policy: Any, requests: Sequence[Request], decoding: Decoding, label: str = ""
    ) -> list[Response]:
        asked.append(([request.prompt.id for request in requests], decoding.temperature))
        second = "Response 2 is better." if len(asked) == 3 else "Hard to say."
        texts = {"a": "Response 1 is better.", "b": second}
        return [Response(texts[request.prompt.id[0]], (1, 2, 3)) for request in requests]

    monkeypatch.setattr(local, "respond", respond)
    ask = local_asker(policy, Decoding(temperature=0.0), retry_temperature=0.7)
    criterion = read_criterion("honesty", "choice")
    looks = choosing_looker(ask, Questioning(criterion, attempts=3))(cases_of(pictures))
    assert [look.better for look in looks] == [0, 1, None]
    assert [look.cost.replies for look in looks] == [1, 3, 0]
    assert looks[1].cost.output_tokens == 9
    assert "special token" in looks[2].problem
    assert [(len(ids), temperature) for ids, temperature in asked] == [(2, 0.0), (1, 0.7), (1, 0.7)]
    assert len({id for ids, _ in asked for id in ids}) == 4

    asked.clear()
    looks = choosing_looker(ask, Questioning(criterion, attempts=2))(cases_of(pictures)[:2])
    assert [look.better for look in looks] == [0, None]
    assert "2 replies could not be read" in looks[1].problem
    assert "Hard to say." in looks[1].problem


def test_the_margin_is_the_difference_of_two_logits(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    """Both names are one token, so the log-odds are the difference of its logits."""
    case, asking = cases_of(pictures)[0], Questioning(NAMED)
    group = verdict_group(policy, case, asking)
    assert [len(ids) for ids in group.response_ids] == [1, 1]
    with torch.no_grad():
        batch = prompt_batch(policy, [case.prompt.images], [group.prompt_text])
        logits = policy.core(**batch.inputs).logits[0, -1]
    one, other = (int(ids[0]) for ids in group.response_ids)
    looks = logprob_looker(policy, asking, batch_size=2)(cases_of(pictures))
    assert looks[0].margin == pytest.approx(float(logits[one] - logits[other]), abs=1e-9)
    assert looks[0].better == int(float(logits[one] - logits[other]) < 0)
    assert "special token" in looks[2].problem
    [both] = compare_pairs(logprob_looker(policy, asking, 2), [case])
    assert both.margin is not None


def test_names_that_a_tokenizer_cannot_tell_apart_are_refused(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    asking = Questioning(read_criterion("honesty", "choice"))
    with pytest.raises(UserError, match="does not tell Response 1 and Response 2 apart"):
        logprob_looker(policy, asking, 1)(cases_of(pictures)[:1])


def test_a_real_reply_is_read_or_listed(policy: Policy, pictures: list[Image.Image]) -> None:
    """Random weights say nothing sensible: that has to end as a problem, not as a verdict."""
    ask = local_asker(policy, Decoding(max_new_tokens=4), 0.7)
    case = cases_of(pictures)[0]
    [look] = choosing_looker(ask, Questioning(read_criterion("honesty", "choice"), 2))([case])
    assert (look.better, look.cost.replies) == (None, 2)
    assert "2 replies could not be read" in look.problem
    assert render_prompt(policy, case.prompt.messages)


def test_what_a_local_judge_reads_is_counted(policy: Policy, pictures: list[Image.Image]) -> None:
    """As the processor makes the questions, pictures included, alone and in a batch."""
    decoding = Decoding(max_new_tokens=3)
    cases = cases_of(pictures)[:2]
    words = ["Which?", "Which of the two responses is better, and why is it so?"]
    prompts = [
        replace(case.prompt, messages=[user_message(said)])
        for case, said in zip(cases, words, strict=True)
    ]
    replies = local_asker(policy, decoding, 0.7)([JudgeQuestion(prompt) for prompt in prompts])
    for prompt, reply in zip(prompts, replies, strict=True):
        text = render_prompt(policy, prompt.messages)
        assert reply.cost.input_tokens == measured(policy, (tuple(prompt.images), text))
        assert reply.cost.output_tokens == len(reply.response.token_ids)
    looks = logprob_looker(policy, Questioning(NAMED), 2)(cases)
    for case, look in zip(cases, looks, strict=True):
        group = verdict_group(policy, case, Questioning(NAMED))
        question = measured(policy, (tuple(case.prompt.images), group.prompt_of(0)))
        assert look.cost.input_tokens == question


def test_a_case_whose_picture_the_processor_refuses_is_a_problem_of_its_own(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, size = processing._processed, (100, 80)

    def picky(policy: Policy, images: Any, *rest: Any) -> Any:
        if any(image.size == size for row in images for image in row):
            raise ValueError("not this one")
        return stock(policy, images, *rest)

    monkeypatch.setattr(processing, "_processed", picky)
    prompt = [user_message("Describe the image.")]
    drawn = [
        Image.new("RGB", size if n in (1, 3) else (64, 64), (40 * n, 90, 10)) for n in range(4)
    ]
    cases = [
        Case(Prompt(f"case-{n}", [image], prompt), ["A red cup.", "A dog."])
        for n, image in enumerate(drawn)
    ]
    for batch_size in (1, 3):
        look = logprob_looker(policy, Questioning(NAMED), batch_size)
        looks, others = look(cases), look([cases[0], cases[2]])
        assert ["not this one" in one.problem for one in looks] == [False, True, False, True]
        for one, other in zip([looks[0], looks[2]], others, strict=True):
            assert one.margin == pytest.approx(other.margin, abs=1e-9)
    ask = local_asker(policy, Decoding(max_new_tokens=4), 0.7)
    looks = choosing_looker(ask, Questioning(read_criterion("honesty", "choice"), 2))(cases)
    assert ["not this one" in one.problem for one in looks] == [False, True, False, True]
    assert [one.cost.replies for one in looks] == [2, 0, 2, 0]
