"""One batch, two layouts: where each response token is predicted, and what stands beside it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.models.batching import collate, draft, layout_shape, row_batch
from veridical.models.lengths import check_lengths
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.token_scores import token_scores


def with_three_answers(groups: list[Group], own: int) -> list[Group]:
    """Each group's answers and one more, that of another group; one of them has its own image."""
    other = Image.radial_gradient("L").convert("RGB")
    made = []
    for i, group in enumerate(groups):
        more = groups[(i + 1) % len(groups)]
        images = [None, None, None]
        made.append(
            dataclasses.replace(
                group,
                response_texts=(*group.response_texts, more.response_texts[0]),
                response_ids=(*group.response_ids, more.response_ids[0]),
                cut=(*group.cut, False),
                token_counts=(),
                response_images=tuple((other,) if j == own else images[j] for j in range(3)),
            )
        )
    return made


@torch.no_grad()
@pytest.mark.parametrize("own", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_tokens_come_by_response_where_one_has_its_own_image(
    own: int, dtype: torch.dtype, policy: Policy, groups: list[Group]
) -> None:
    """Its row comes behind the others', but not its tokens."""
    policy.model.to(dtype)
    three = with_three_answers(groups[:2], own)
    shared, rows = (collate(policy, three, share) for share in (True, False))
    assert (shared.shares_prefix, rows.shares_prefix) == (True, False)
    lengths = [len(ids) for group in three for ids in group.response_ids]
    for batch in (shared, rows):
        assert batch.owners.tolist() == sorted(batch.owners.tolist())
        assert batch.token_counts.flatten().tolist() == lengths
        assert batch.targets.tolist() == [
            int(t) for g in three for ids in g.response_ids for t in ids
        ]
        # The last token of each response is the one that `ends` points at.
        ends = batch.inputs["input_ids"][batch.ends[:, 0], batch.ends[:, 1]]
        assert ends.tolist() == [int(ids[-1]) for group in three for ids in group.response_ids]
    one, other = (token_scores(policy.model, batch) for batch in (shared, rows))
    assert one.mask.sum(-1).tolist() == lengths
    limit = {torch.float64: 1e-9, torch.float16: 0.05, torch.bfloat16: 0.3}[dtype]
    assert float((one.logps - other.logps).abs().max()) < limit


@pytest.mark.parametrize("share", [True, False])
def test_a_batch_has_factors_on_beta_where_a_row_has_one(
    share: bool, policy: Policy, groups: list[Group]
) -> None:
    assert collate(policy, groups[:2], share).beta_factors is None
    two = [groups[0], dataclasses.replace(groups[1], beta_factor=2.5)]
    factors = collate(policy, two, share).beta_factors
    assert factors is not None and factors.tolist() == [[1.0], [2.5]]


@torch.no_grad()
def test_no_forward_reads_what_was_cut_off_a_response(
    policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proofs and the rows of training take the memory of what is kept, not of the whole."""
    whole = [dataclasses.replace(group, learned=()) for group in groups[:2]]
    cut = [
        dataclasses.replace(
            group,
            response_ids=tuple(ids[:3] for ids in group.response_ids),
            cut=(True, True),
            token_counts=tuple(map(len, group.response_ids)),
        )
        for group in check_lengths(policy, whole, None).fit
    ]
    batch = row_batch(policy, cut)
    widest = max(layout_shape(group, False)[1] for group in cut)
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape == (4, widest)
    assert widest == max(*cut[0].prompt_tokens, *cut[1].prompt_tokens) + 3
    assert batch.targets.tolist() == [int(t) for g in cut for ids in g.response_ids for t in ids]
    first = token_scores(policy.model, row_batch(policy, whole)).logps[:, :3].sum(-1).view(2, 2)
    assert torch.allclose(response_logps(policy.model, batch).sums, first.double(), atol=1e-4)

    seen: list[int] = []
    forward = policy.core.forward

    def counted(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"].shape[1])
        return forward(**inputs)

    monkeypatch.setattr(policy.core, "forward", counted)
    stock = torch.stack([stock_logps(policy, group) for group in cut])
    assert seen == [tokens + 3 for group in cut for tokens in group.prompt_tokens]
    assert torch.allclose(stock.double(), first.double(), atol=1e-4)


@pytest.mark.parametrize("share", [False, True])
def test_the_host_reads_nothing_back_of_a_batch_that_it_sent(
    policy: Policy, groups: list[Group], share: bool
) -> None:
    """On the meta device nothing can be read: whoever asks for a value there fails."""
    sent = draft(policy, groups, share)
    batch = collate(policy, groups, share)
    elsewhere = dataclasses.replace(policy, model=copy.deepcopy(policy.model).to("meta"))
    moved = sent.on(elsewhere)
    found = {**moved.inputs, "rows": moved.rows, "targets": moved.targets, "ends": moved.ends}
    wanted = {**batch.inputs, "rows": batch.rows, "targets": batch.targets, "ends": batch.ends}
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value.device.type == "meta"
        assert (value.shape, value.dtype) == (wanted[name].shape, wanted[name].dtype)
    sums = moved.sum_by_response(torch.zeros(len(moved.targets), device="meta"))
    assert sums.shape == moved.token_counts.shape == moved.lengths.shape == (len(groups), 2)
    assert all(value.device.type == "cpu" for value in sent.batch.inputs.values())
