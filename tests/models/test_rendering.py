"""Conversations of several turns: which tokens are learned, and how rows are split."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from veridical.data import image_checks
from veridical.data.records import Message, assistant_message, user_message
from veridical.models.batching import collate
from veridical.models.conversations import render_conversation
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import RefusedRowError, render_group

DIALOGUE = [
    user_message("Is there a dog in the image?"),
    assistant_message("Yes."),
    user_message("Is there a cup in the image?", images=0),
    assistant_message("There is a red cup."),
]


def learned_text(policy: Policy, conversation: list[Message], image: Image.Image) -> list[str]:
    groups = render_conversation(policy, "a", [image], conversation)
    tokenizer = policy.processor.tokenizer
    return [
        tokenizer.decode(group.response_ids[0][group.learned_of(0)], skip_special_tokens=False)
        for group in groups
    ]


def test_every_assistant_turn_and_nothing_else_is_learned(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    (text,) = learned_text(policy, DIALOGUE, pictures[0])
    assert "Yes." in text
    assert "There is a red cup." in text
    assert "dog" not in text
    assert "USER" not in text
    assert "Is there" not in text


def test_the_loss_of_a_dialogue_is_that_of_its_turns(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    """One row of two learned turns = each turn alone after all that precedes it."""
    (both,) = render_conversation(policy, "a", [pictures[0]], DIALOGUE)
    turns = [
        render_group(policy, "a", [pictures[0]], DIALOGUE[:end], [DIALOGUE[end : end + 1]])
        for end in (1, 3)
    ]
    for share in (True, False):
        whole = response_logps(policy.model, collate(policy, [both], share))
        parts = [response_logps(policy.model, collate(policy, [turn], share)) for turn in turns]
        ends = policy.processor.tokenizer.eos_token_id
        first = turns[0].response_ids[0].tolist()
        # A template without an end token between turns gives the first turn one only alone.
        extra = first[-1] == ends and int(both.learned_of(0).sum()) < sum(
            len(turn.response_ids[0]) for turn in turns
        )
        assert int(whole.counts.sum()) == sum(int(p.counts.sum()) for p in parts) - extra
        if not extra:
            total = parts[0].sums + parts[1].sums
            assert torch.allclose(whole.sums, total, rtol=0, atol=1e-10)
    assert torch.allclose(
        stock_logps(policy, both),
        response_logps(policy.model, collate(policy, [both], True)).sums[0],
        rtol=0,
        atol=1e-10,
    )


def test_a_later_image_begins_a_second_group(policy: Policy, pictures: list[Image.Image]) -> None:
    conversation = [*DIALOGUE, user_message("And here?"), assistant_message("There is a blue dog.")]
    groups = render_conversation(policy, "a", pictures[:2], conversation)
    assert [len(group.images) for group in groups] == [1, 2]
    assert "There is a red cup." in groups[1].prompt_text
    stock = torch.stack([stock_logps(policy, group) for group in groups])
    ours = response_logps(policy.model, collate(policy, groups, True)).sums
    assert torch.allclose(ours, stock, rtol=0, atol=1e-10)


def test_text_only_dialogues(policy: Policy, pictures: list[Image.Image]) -> None:
    text_only = [user_message("Is there a dog?", images=0), *DIALOGUE[1:]]
    (alone,) = render_conversation(policy, "a", [], text_only)
    (other,) = render_conversation(policy, "b", [pictures[1]], DIALOGUE)
    mixed = response_logps(policy.model, collate(policy, [alone, other], True)).sums
    stock = torch.stack([stock_logps(policy, group) for group in (alone, other)])
    assert torch.allclose(mixed, stock, rtol=0, atol=1e-10)


def test_a_template_that_changes_earlier_turns_gets_a_group_for_every_answer(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those do that strip the reasoning of earlier answers."""
    honest = policy.processor.chat_template
    changed = honest.replace("{% for", "{% set last = messages | length %}{% for", 1)
    changed = changed.replace("{% endfor %}", "{{ last }}{% endfor %}", 1)
    assert "last }}" in changed
    monkeypatch.setattr(policy.processor, "chat_template", changed)
    groups = render_conversation(policy, "a", [pictures[0]], DIALOGUE)
    asked = [render_prompt(policy, DIALOGUE[:turn]) for turn in (1, 3)]
    assert [group.prompt_text for group in groups] == asked
    decode = policy.processor.tokenizer.decode
    texts = [decode(group.response_ids[0], skip_special_tokens=True) for group in groups]
    assert [text.strip() for text in texts] == ["Yes.", "There is a red cup."]


def test_a_template_that_asks_otherwise_than_it_renders_an_answer_is_refused(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = policy.processor.chat_template
    monkeypatch.setattr(
        policy.processor,
        "chat_template",
        honest.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}Now: "),
    )
    with pytest.raises(RefusedRowError, match="differently once the answer follows"):
        render_conversation(policy, "a", [pictures[0]], DIALOGUE)


def test_a_picture_of_the_rejected_answer_alone_is_tried_too(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(processor: object, size: tuple[int, int]) -> str:
        return "too thin" if size == (300, 2) else ""

    monkeypatch.setattr(image_checks, "size_refusal", refuses)
    usual, thin = Image.new("RGB", (48, 48)), Image.new("RGB", (300, 2))
    answers = [[assistant_message("Yes.")], [assistant_message("No.")]]
    prompt = [user_message("A cup?")]
    assert render_group(policy, "a", [usual], prompt, answers, None, [None, [usual]])
    with pytest.raises(RefusedRowError, match=r"300 x 2 pixels.*too thin"):
        render_group(policy, "a", [usual], prompt, answers, None, [None, [thin]])
