"""Each implementation of attention on a device gives what float64 on the CPU gives."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from family_models import Family

from veridical.checks.prefix_sharing import sharing
from veridical.checks.proving import prove
from veridical.models.attention import FLASH_PACKAGES, FLEX, attention_of
from veridical.models.batch import Batch
from veridical.models.batching import collate, row_batch
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.sampling import Decoding, Request, respond

from .conftest import Tried

FLASH = [name for package, name in FLASH_PACKAGES.items() if importlib.util.find_spec(package)]


@pytest.fixture(params=["eager", "flex_attention", *FLASH[:1]])
def attending(request: pytest.FixtureRequest, tried: Tried, device: str) -> Tried:
    core = tried.policy.core
    if request.param == "flex_attention" and not core._supports_flex_attn:
        pytest.skip("Transformers does not support FlexAttention for it")
    if request.param in FLASH and (device == "cpu" or not tried.half):
        pytest.skip("flash attention computes in half precision, on CUDA devices")
    core.set_attn_implementation(request.param)
    return tried


@pytest.fixture(autouse=True)
def uncompiled_on_a_cpu(device: str) -> Iterator[None]:
    """Compiling FlexAttention for a CPU takes half a minute for each shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if device == "cuda":
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield


@torch.no_grad()
def test_log_probs_are_the_cpus(
    family: Family,
    attending: Tried,
    groups: list[Group],
    measured: Callable[[str, float], float],
) -> None:
    policy = attending.policy
    wanted = response_logps(attending.exact.model, row_batch(attending.exact, groups))
    shares = sharing(policy, groups).allowed
    flash = attention_of(policy.core) in FLASH
    assert shares == (family.shares is None and not flash)
    for share in (False, True) if shares else (False,):
        found = response_logps(policy.model, collate(policy, groups, share)).sums
        off = (found.cpu().double() - wanted.sums).abs() / wanted.counts.sqrt()
        assert measured("off", float(off.max())) < attending.bounds.logps


def test_the_proofs_hold(attending: Tried, groups: list[Group]) -> None:
    share = sharing(attending.policy, groups).allowed

    def lay_out(policy: Policy, rows: Sequence[Group]) -> Batch:
        return collate(policy, rows, share)

    found = prove(attending.policy, groups, lay_out)
    assert [(p.name, p.value, p.limit) for p in found if not p.passed] == []


def test_samples_are_the_cpus(attending: Tried, requests: list[Request]) -> None:
    found = respond(attending.policy, requests, Decoding(6, 1.0), label="")
    if not attending.half:
        assert found == respond(attending.exact, requests, Decoding(6, 1.0), label="")


def test_gradients_are_the_cpus(
    attending: Tried,
    groups: list[Group],
    device: str,
    measured: Callable[[str, float], float],
) -> None:
    policy = attending.policy
    if device == "cpu" and attention_of(policy.core) == FLEX:
        pytest.skip("FlexAttention has no backward pass on a CPU")
    share = sharing(policy, groups).allowed
    wanted, found = (
        _gradient(one, groups, shared)
        for one, shared in ((attending.exact, False), (policy, share))
    )
    off = float((found - wanted).norm() / wanted.norm())
    assert measured("off", off) < attending.bounds.gradient


def _gradient(policy: Policy, groups: list[Group], share: bool) -> torch.Tensor:
    weight = policy.core.get_output_embeddings().weight.requires_grad_()
    first = next(p for n, p in policy.core.named_parameters() if "q_proj" in n and "vis" not in n)
    first.requires_grad_()
    total = response_logps(policy.model, collate(policy, groups, share)).sums.sum()
    found = torch.autograd.grad(total, (weight, first))
    return torch.cat([one.flatten().cpu().double() for one in found])
