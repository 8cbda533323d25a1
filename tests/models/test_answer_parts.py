"""Given beginnings and weights of answers' parts: which tokens count, and how much.

Compared with the slow way: the whole conversation through the stock forward, token by token.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from veridical.checks.proofs import MARGIN
from veridical.checks.proving import noise_floor
from veridical.data.records import assistant_message, user_message
from veridical.models.answer_parts import Answer, places, token_weights
from veridical.models.batching import collate
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_inputs, stock_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.rendering import Group, render_answers
from veridical.models.text_tokens import Tokens
from veridical.objectives.dpo import dpo_loss
from veridical.train.loop.reference_cache import pair_key

PROMPT = [user_message("Describe the image.")]
PREFIX = "This is a park."
# Weights by the words that they are of; the rest of the text weighs 1.
ANSWERS: list[tuple[str, dict[str, float]]] = [
    ("This is a park. There is a red cup at the top left.", {"red cup": 2.5, "left.": 0.25}),
    ("This is a park. There is a blue dog.", {"blue": 4.0}),
]


def answers(prefix: str = PREFIX, weighed: bool = True) -> list[Answer]:
    made = []
    for text, weights in ANSWERS:
        spans = [
            (text.index(words), text.index(words) + len(words), weight)
            for words, weight in weights.items()
        ]
        made.append(Answer([assistant_message(text)], None, prefix, spans if weighed else ()))
    return made


def made(policy: Policy, picture: Image.Image, given: list[Answer], **options: Any) -> Group:
    return render_answers(policy, "a", [picture], PROMPT, given, **options)


def slow_logps(policy: Policy, group: Group) -> torch.Tensor:
    """Weight times log-probability of every token behind the prefix, each found by its words."""
    sums = []
    for index, (text, weights) in enumerate(ANSWERS):
        whole = group.prompt_text + group.response_texts[index]
        inputs = stock_inputs(policy, list(group.images), whole)  # type: ignore[arg-type]
        logits = policy.core(**inputs).logits[0]
        logps = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
        ids = inputs["input_ids"][0]
        encoded = policy.processor.tokenizer(whole, return_offsets_mapping=True)
        spans = encoded["offset_mapping"][-len(group.response_ids[index]) :]
        answer_at = len(group.prompt_text) + group.response_texts[index].index(text)
        total = logps.new_zeros(())
        for back, (begin, end) in enumerate(reversed(spans), start=1):
            if end <= answer_at + len(PREFIX):
                continue
            weight = 1.0
            for words, own in weights.items():
                start = answer_at + text.index(words)
                if whole[max(begin, start) : min(end, start + len(words))].strip():
                    weight = own
            total = total + weight * logps[len(ids) - back - 1, ids[len(ids) - back]]
        sums.append(total)
    return torch.stack(sums)


@pytest.mark.parametrize("share", [True, False])
def test_sums_and_gradients_are_those_of_the_slow_way(
    share: bool, policy: Policy, pictures: list[Image.Image]
) -> None:
    group = made(policy, pictures[0], answers())
    gradients = []
    for way in ("ours", "slow"):
        policy.model.zero_grad()
        if way == "ours":
            logps = response_logps(policy.model, collate(policy, [group], share)).sums[0]
        else:
            logps = slow_logps(policy, group)
        # A reference that differs, so that both branches have a gradient of their own.
        loss = dpo_loss(logps[0], logps[1], logps[0].detach() + 1, logps[1].detach() - 2, 0.3)
        loss.backward()
        every = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
        gradients.append((logps.detach(), torch.cat(every)))
    (ours, our_gradient), (slow, slow_gradient) = gradients
    assert torch.allclose(ours, slow, rtol=0, atol=1e-10)
    assert torch.allclose(our_gradient, slow_gradient, rtol=0, atol=1e-10)
    assert torch.allclose(stock_logps(policy, group), slow, rtol=0, atol=1e-10)
    assert float(our_gradient.abs().max()) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_adds_no_more_than_its_noise(
    share: bool, dtype: torch.dtype, policy: Policy, pictures: list[Image.Image]
) -> None:
    cast_weights(policy.model, dtype)
    group = made(policy, pictures[0], answers())
    plain = made(policy, pictures[0], answers("", weighed=False))
    floor = noise_floor(policy, [group, plain])
    ours = response_logps(policy.model, collate(policy, [group], share)).sums[0].double()
    limit = MARGIN * max(floor, 1e-5)
    assert float((ours - slow_logps(policy, group).double()).abs().max()) <= limit
    whole = response_logps(policy.model, collate(policy, [plain], share)).sums[0].double()
    assert float((ours - whole).abs().min()) > limit, "the parts make a difference"


@torch.no_grad()
@pytest.mark.parametrize("share", [True, False])
def test_the_rest_is_what_follows_a_prompt_with_the_beginning(
    share: bool, policy: Policy, pictures: list[Image.Image]
) -> None:
    """The beginning moved into the prompt by hand gives the same sums, and as many tokens."""
    group = made(policy, pictures[0], answers(weighed=False))
    texts, ids = group.response_texts, group.response_ids
    given = [int((~group.learned_of(i)).sum()) for i in range(2)]
    cut = [text.index(PREFIX) + len(PREFIX) for text in texts]
    assert given[0] == given[1] > 0 and cut[0] == cut[1]
    moved = Group(
        "a", group.images, group.prompt_text + texts[0][: cut[0]],
        tuple(text[cut[0] :] for text in texts), tuple(one[given[0] :] for one in ids), group.cut,
    )  # fmt: skip
    ours, by_hand = (
        response_logps(policy.model, collate(policy, [one], share)) for one in (group, moved)
    )
    assert torch.allclose(ours.sums, by_hand.sums, rtol=0, atol=1e-10)
    assert ours.counts.tolist() == by_hand.counts.tolist()


@torch.no_grad()
def test_weights_of_1_change_no_bit_and_whole_answers_weigh_with_their_end(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    texts = [text for text, _ in ANSWERS]
    plain = made(policy, pictures[0], [Answer([assistant_message(t)]) for t in texts])
    ones = made(
        policy, pictures[0], [Answer([assistant_message(t)], spans=[(3, 9, 1.0)]) for t in texts]
    )
    assert ones.weights is None and pair_key(policy, ones) == pair_key(policy, plain)
    twice = made(
        policy, pictures[0], [Answer([assistant_message(t)], spans=[(None, None, 2.0)])
                              for t in texts],
    )  # fmt: skip
    assert pair_key(policy, twice) != pair_key(policy, plain)
    for share in (True, False):
        one, two = (
            response_logps(policy.model, collate(policy, [group], share))
            for group in (plain, twice)
        )
        assert torch.equal(two.sums, 2 * one.sums)
        assert one.lengths is None and two.lengths is not None
        assert torch.equal(two.lengths, 2.0 * one.counts)
        # A batch of both: the row without weights keeps every bit.
        both = response_logps(policy.model, collate(policy, [plain, twice], share)).sums
        alone = response_logps(policy.model, collate(policy, [plain, plain], share)).sums
        assert torch.equal(both[0], alone[0])


def test_a_limit_cuts_what_counts_and_never_the_beginning(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    whole = made(policy, pictures[0], answers())
    given = [int((~whole.learned_of(i)).sum()) for i in range(2)]
    cut = made(policy, pictures[0], answers(), max_response_tokens=3)
    assert [len(ids) for ids in cut.response_ids] == [n + 3 for n in given]
    assert [int(cut.learned_of(i).sum()) for i in range(2)] == [3, 3]
    assert cut.cut == (True, True) and cut.token_counts == whole.token_counts
    for i in range(2):
        assert torch.equal(cut.weights_of(i), whole.weights_of(i)[: given[i] + 3])
    for share in (True, False):
        assert response_logps(policy.model, collate(policy, [cut], share)).counts.tolist() == [
            [3, 3]
        ]


@pytest.mark.parametrize(
    ("text", "prefix", "rest"),
    [
        ("A park. There.", "A park.", "There."),
        ("A park. There.", "A par", "park. There."),  # a token that reaches across counts
        ("  A park. There. \n", "A park. There", "."),
        ("A park.", "A park.", ""),  # the end token alone
    ],
)
def test_what_counts_begins_behind_the_prefix(
    text: str, prefix: str, rest: str, policy: Policy, pictures: list[Image.Image]
) -> None:
    group = made(policy, pictures[0], [Answer([assistant_message(text)], prefix=prefix)])
    tokenizer = policy.processor.tokenizer
    learned = tokenizer.decode(group.response_ids[0][group.learned_of(0)]).strip()
    assert learned == f"{rest}{tokenizer.eos_token}"


def test_a_space_at_the_end_of_a_part_does_not_reach_the_next_word() -> None:
    """Of the tokens "A", " red", " cup", where " red" has its space before it."""
    text, tokens = "A red cup", Tokens([1, 2, 3], [1, 5, 9])
    where = places([assistant_message(text)], assistant_message(text), len(text))
    for span in ((2, 5, 2.0), (2, 6, 2.0), (1, 5, 2.0)):
        weights = token_weights([span], where, text, tokens, 0)
        assert weights is not None and weights.tolist() == [1.0, 2.0, 1.0]
