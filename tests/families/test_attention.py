"""Each implementation of attention gives the same numbers, in float32 and bfloat16."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from every_family import FAMILIES
from family_models import Family, can_be_built
from PIL import Image

from veridical.checks.prefix_sharing import sharing
from veridical.checks.probes import masking_refusal
from veridical.checks.proving import prove
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models import load
from veridical.models.attention import attentions_of
from veridical.models.batching import collate
from veridical.models.cache_keys import surroundings
from veridical.models.load import load_policy
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.rendering import Group
from veridical.models.token_scores import token_scores
from veridical.runtime.errors import UserError
from veridical.sampling import Decoding, Request, complete_masked, never_sampled, respond
from veridical.sampling.rollouts import roll_out, rollout_group

NAMES = ("LLaVA", "Qwen2.5-VL", "Idefics2", "Idefics3", "Gemma 3")
"""A plain one, one with positions in three dimensions, two of Idefics, one with windows and image
tokens that look ahead."""
BOUNDS = {"float32": 2e-5, "bfloat16": 0.1}
"""How far log-probs may be from SDPA's, in nats, times the root of a response's tokens."""


def test_the_families_are_known() -> None:
    assert {*NAMES} <= {family.name for family in FAMILIES}


@pytest.fixture(
    scope="module",
    params=[family for family in FAMILIES if family.name in NAMES],
    ids=lambda family: family.name,
)
def family(request: pytest.FixtureRequest) -> Family:
    asked: Family = request.param
    if not can_be_built(asked):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    return asked


@pytest.fixture(scope="module")
def built(family: Family) -> Policy:
    torch.manual_seed(0)
    return family.build()


@pytest.fixture(params=list(BOUNDS))
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def usual(built: Policy, dtype: str) -> Policy:
    model = cast_weights(copy.deepcopy(built.model), getattr(torch, dtype))
    return Policy(model, built.processor, built.name)


@pytest.fixture(params=["eager", "flex_attention"])
def policy(request: pytest.FixtureRequest, usual: Policy) -> Policy:
    model = copy.deepcopy(usual.model)
    if request.param == "flex_attention" and not model._supports_flex_attn:
        pytest.skip("Transformers does not support FlexAttention for it")
    model.set_attn_implementation(request.param)
    assert model.config.get_text_config()._attn_implementation == request.param
    return Policy(model, usual.processor, usual.name)


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """Compiling FlexAttention for the CPU takes half a minute for each shape."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def test_log_probs_are_those_of_sdpa_in_both_layouts(
    family: Family, usual: Policy, policy: Policy, groups: list[Group], dtype: str
) -> None:
    for share in (False, True):
        if share and family.shares is not None:
            continue
        ours = response_logps(policy.model, collate(policy, groups, share))
        theirs = response_logps(usual.model, collate(usual, groups, share))
        bound = BOUNDS[dtype] * ours.counts.double().sqrt()
        assert ((ours.sums - theirs.sums).abs() <= bound).all()


def test_probes_and_proofs_decide_the_same(
    family: Family, policy: Policy, groups: list[Group], pictures: list[Image.Image]
) -> None:
    shares = sharing(policy, groups)
    assert shares.allowed == (family.shares is None), shares.reason
    request = Request(Prompt("r", pictures[:1], [user_message("Describe the image.")]))
    refusal = masking_refusal(policy, request)
    assert (refusal is None) == (family.masks is None), refusal
    proofs = prove(policy, groups, lambda own, rows: collate(own, rows, shares.allowed))
    assert all(proof.passed and not proof.blind for proof in proofs), proofs


def test_a_family_without_flex_attention_is_refused_before_it_loads(
    family: Family, built: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast_weights(copy.deepcopy(built.model), torch.float32).save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    if built.core._supports_flex_attn:
        loaded = load_policy(str(tmp_path), attention="flex")
        assert attentions_of(loaded.core) == "flex_attention"
        assert surroundings(loaded) != surroundings(load_policy(str(tmp_path)))
        return
    monkeypatch.setattr(load, "_load_model", pytest.fail)
    with pytest.raises(UserError, match="can't compute with --attention flex"):
        load_policy(str(tmp_path), attention="flex")


@pytest.fixture
def requests(pictures: list[Image.Image]) -> list[Request]:
    """Prompts of different lengths, so that a batch is padded."""
    said = "Describe the image."
    return [
        Request(Prompt(str(n), [picture], [user_message(" ".join([said] * (n + 1)))]))
        for n, picture in enumerate(pictures[:3])
    ]


def test_samples_and_bdhs_completions_are_those_of_sdpa(
    family: Family, usual: Policy, policy: Policy, requests: list[Request], dtype: str
) -> None:
    if dtype != "float32":
        pytest.skip("in half precision a token may be another by rounding, and all behind it")
    decoding = Decoding(max_new_tokens=6, temperature=1.0, batch_size=2)
    assert respond(policy, requests, decoding) == respond(usual, requests, decoding)
    if family.masks is None:
        keys = [request.prompt.id for request in requests]
        for drop in (True, False):
            given = (requests, keys, 0.5, decoding, False, drop)
            assert complete_masked(policy, *given) == complete_masked(usual, *given)


@torch.no_grad()
def test_samples_have_the_log_probs_of_sdpas_forward(
    usual: Policy, policy: Policy, requests: list[Request], dtype: str
) -> None:
    rolled = roll_out(policy, requests, Decoding(max_new_tokens=6, temperature=1.0), k=1)
    groups = [rollout_group(usual, *pair) for pair in zip(requests, rolled, strict=True)]
    batch = collate(usual, groups, False)
    logps = token_scores(usual.model, batch, 1.0, never_sampled(usual)).logps
    for row, (sample,) in zip(logps, rolled, strict=True):
        drawn = torch.tensor(sample.logps, dtype=torch.float64)
        assert float((row[: len(drawn)].double() - drawn).abs().max()) < 3 * BOUNDS[dtype]
