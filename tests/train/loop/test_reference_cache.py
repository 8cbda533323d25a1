"""Reference log-probs that are kept: what is computed again, what is not, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from veridical.models.batching import layout_shape
from veridical.models.logprobs import compute_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.runtime.cache import Cache, digest
from veridical.train.loop import reference_cache as module
from veridical.train.loop.reference_cache import pair_key, precompute, reference_key

WEIGHTS = digest("weights")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of every row that goes through the model."""
    ids: list[str] = []
    honest = compute_logps

    def counted(policy: Policy, groups: list[Group], share: bool, size: int) -> Tensor:
        ids.extend(group.id for group in groups)
        return honest(policy, groups, share, size)

    monkeypatch.setattr(module, "compute_logps", counted)
    return ids


def run(policy: Policy, groups: list[Group], folder: Path, **other: Any) -> Any:
    options = {"share_prefix": True, "weights": WEIGHTS, **other}
    return precompute(
        policy, groups, batch_size=2, tolerance=1e-9, cache=Cache(folder, 1e9), **options
    )


def test_other_subsets_orders_and_names_reuse_pairs(
    policy: Policy, groups: list[Group], tmp_path: Path, computed: list[str]
) -> None:
    want = compute_logps(policy, groups, True, 6)
    first = run(policy, groups[:4], tmp_path)
    assert first.reused == 0
    computed.clear()
    renamed = [dataclasses.replace(group, id=f"other-{group.id}") for group in reversed(groups)]
    second = run(policy, renamed, tmp_path)
    assert second.reused == 4
    # Two rows of the four are spot-checked; the two that are new are computed.
    assert sorted(computed)[-2:] == ["other-pair-4", "other-pair-5"]
    assert len(computed) == 4
    assert torch.allclose(second.logps, want.flip(0), atol=1e-10, rtol=0)


def test_rows_that_come_several_times_are_computed_once(
    policy: Policy, groups: list[Group], tmp_path: Path, computed: list[str]
) -> None:
    want = compute_logps(policy, groups, True, 6)
    places = [0, 0, 0, 1, 2, 2]
    found = run(policy, [groups[place] for place in places], tmp_path, proof=[0])
    assert computed == ["pair-0", "pair-1", "pair-2"]
    assert torch.allclose(found.logps, want[places], atol=1e-10, rtol=0)


def test_what_changes_the_log_probs_changes_the_key(
    policy: Policy, groups: list[Group], tmp_path: Path, computed: list[str]
) -> None:
    run(policy, groups[:2], tmp_path)
    for other in ({"share_prefix": False}, {"weights": digest("others")}):
        assert run(policy, groups[:2], tmp_path, **other).reused == 0
    group = groups[0]
    gray = dataclasses.replace(group, images=(Image.new("RGB", (48, 48), (127, 127, 127)),))
    ids = dataclasses.replace(group, response_ids=(group.response_ids[0][1:], *group.response_ids))
    text = dataclasses.replace(group, prompt_text=group.prompt_text + " ")
    keys = {pair_key(policy, each) for each in (group, gray, ids, text)}
    assert len(keys) == 4
    before = reference_key(policy, True, WEIGHTS)
    policy.model.float()
    assert reference_key(policy, True, WEIGHTS) != before


def test_the_key_of_a_pair_is_the_same_in_the_next_version() -> None:
    """The cache would be computed again by whatever else gets into it."""
    tokenizer = lambda *_, **__: {"input_ids": [5, 6]}  # noqa: E731
    policy: Any = SimpleNamespace(processor=SimpleNamespace(tokenizer=tokenizer))
    ids = (torch.tensor([7, 8]), torch.tensor([9]))
    group = Group("name", (), "What?", ("Yes.", "No."), ids, (False, True))
    renamed = dataclasses.replace(group, id="other", prompt_tokens=(2, 2), beta_factor=2.0)
    known = "3b9aef3a9b689676ed2657dd9f15a1e7a4dc545791054677cea4f59cb4e8c318"
    assert [pair_key(policy, each) for each in (group, renamed)] == [known, known]


def test_other_weights_find_the_same_tokens(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    """Also where some of the tokens do not count, and beside pairs without weights."""

    def weigh(group: Group, weight: float) -> Group:
        weights = tuple(1 + weight * (ids % 3 == 0).double() for ids in group.response_ids)
        learned = tuple(torch.arange(len(ids)) > 0 for ids in group.response_ids)
        return dataclasses.replace(group, weights=weights, learned=learned)

    first = [weigh(group, 1.0) if i % 2 else group for i, group in enumerate(groups)]
    found = run(policy, first, tmp_path)
    assert torch.allclose(found.logps, compute_logps(policy, first, True, 6), atol=1e-10, rtol=0)
    other = [weigh(group, 3.0) if i % 2 else group for i, group in enumerate(groups)]
    again = run(policy, other, tmp_path)
    assert again.reused == len(groups)
    assert torch.allclose(again.logps, compute_logps(policy, other, True, 6), atol=1e-10, rtol=0)
    assert (again.logps - found.logps)[1].abs().min() > 1e-3
    both = run(policy, [first[1], other[1]], tmp_path / "both").logps  # in one run, none known
    assert torch.allclose(both, torch.stack([found.logps[1], again.logps[1]]), atol=1e-10, rtol=0)
    assert len({pair_key(policy, one) for one in (groups[1], first[1], other[1])}) == 2


def test_stale_log_probs_are_found_by_the_spot_check(
    policy: Policy,
    groups: list[Group],
    tmp_path: Path,
    computed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(policy, groups, tmp_path)
    with torch.no_grad():  # the same hash for other weights: what must never happen
        policy.core.get_output_embeddings().weight.mul_(1.1)
    capsys.readouterr()
    again = run(policy, groups, tmp_path)
    assert again.reused == 0
    assert "computed again" in capsys.readouterr().out
    assert torch.allclose(again.logps, compute_logps(policy, groups, True, 6), atol=1e-10)
    assert run(policy, groups, tmp_path).reused == 6


def test_a_flipped_bit_is_computed_again(
    policy: Policy, groups: list[Group], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(policy, groups, tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(bytes(content))
    again = run(policy, groups, tmp_path)
    assert again.reused == 0
    assert "checksum" in capsys.readouterr().out
    assert torch.equal(first.logps, again.logps)


def test_an_interruption_keeps_what_is_done(
    policy: Policy, groups: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    honest = compute_logps

    def dying(policy: Policy, some: list[Group], share: bool, size: int) -> Tensor:
        if some[0].id == "pair-4":
            raise KeyboardInterrupt
        return honest(policy, some, share, size)

    monkeypatch.setattr(module, "compute_logps", dying)
    with pytest.raises(KeyboardInterrupt):
        run(policy, groups, tmp_path)
    monkeypatch.setattr(module, "compute_logps", honest)
    assert run(policy, groups, tmp_path).reused == 4


def test_without_a_cache_it_is_the_same(
    policy: Policy, groups: list[Group], tmp_path: Path
) -> None:
    kept = run(policy, groups, tmp_path)
    none = precompute(policy, groups, True, 2, 1e-9, Cache(None, 0), WEIGHTS)
    assert torch.equal(kept.logps, none.logps)


def test_rows_of_like_length_are_computed_together(
    policy: Policy, groups: list[Group], tmp_path: Path, computed: list[str]
) -> None:
    # As reading rows counts them: here the answers alone differ.
    groups = [dataclasses.replace(group, prompt_tokens=(9, 9)) for group in groups]
    usual = run(policy, groups, tmp_path / "usual")
    first, computed[:] = list(computed), []
    found = run(policy, groups, tmp_path / "sorted", by_length=True)
    length_of = {group.id: layout_shape(group, True)[1] for group in groups}
    assert sorted(computed) == sorted(first)
    lengths = [length_of[id] for id in computed]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths != [length_of[id] for id in first]
    assert torch.allclose(found.logps, usual.logps, atol=1e-9)
