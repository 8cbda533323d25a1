"""Faults in float32, bfloat16 and float16: probes and proofs reject each, or say they can't tell.

Each is tried where a float32 copy of the model decides, and where none fits memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.checks import before_training, controls, prefix_sharing, probes, proving
from veridical.checks.prefix_sharing import Sharing, sharing, sharing_of_all
from veridical.checks.probes import kept_features_refusal, masking_refusal
from veridical.checks.proof_texts import print_proofs
from veridical.checks.proofs import Layout, Proof
from veridical.checks.proving import noise_floor, prove
from veridical.checks.starts import prove_declared_reference, prove_start
from veridical.data.prompts import Prompt
from veridical.data.records import user_message
from veridical.models import precision
from veridical.models.batch import Batch
from veridical.models.batching import collate, row_batch, shared_batch
from veridical.models.logprobs import compute_logps, response_logps
from veridical.models.masked_prompts import EncodedImages, encode_prompts, masked_prompt_batch
from veridical.models.measures import MeasureOf, logps_measure
from veridical.models.policy import Policy, frozen_copy
from veridical.models.precision import cast_weights, exact, free_bytes
from veridical.models.prompt_batches import PromptBatch
from veridical.models.prompt_texts import render_prompt
from veridical.models.rendering import Group
from veridical.models.reward_model import reward_measure
from veridical.models.rounding import rounding_of_logps
from veridical.models.vision_cache import VisionCache
from veridical.objectives.preference import Preference
from veridical.runtime import processes
from veridical.runtime.cache import Cache, open_cache
from veridical.runtime.errors import UserError
from veridical.sampling import Request
from veridical.train.loop.items import Items
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.pair_proofs import check_pairs
from veridical.train.loop.reference_cache import precompute
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.task import Task
from veridical.train.loop.training_set import proof_rows

DTYPES = ["float32", "bfloat16", "float16"]
HALVES = DTYPES[1:]
PROMPT = [user_message("Describe the image.")]


@pytest.fixture(params=DTYPES)
def typed(request: pytest.FixtureRequest, policy: Policy) -> Policy:
    cast_weights(policy.model, getattr(torch, request.param))
    return policy


@contextmanager
def no_room(policy: Policy, together: bool = False) -> Iterator[Policy | None]:
    yield None


@pytest.fixture(params=["copy", "no room"])
def route(request: pytest.FixtureRequest, typed: Policy, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a float32 copy fits memory."""
    if request.param == "no room" and not precision.is_half(typed):
        pytest.skip("a model in float32 needs no copy")
    if request.param == "no room":
        for module in (prefix_sharing, probes, proving):
            monkeypatch.setattr(module, "exact", no_room)
    return str(request.param)


def pixels(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    inputs = {**batch.inputs, "pixel_values": change(batch.inputs["pixel_values"])}
    return dataclasses.replace(batch, inputs=inputs)


def lost_positions(batch: Batch) -> Batch:
    """As if every token stood behind the one before it, other responses' too."""
    ids = batch.inputs["input_ids"]
    counted = torch.arange(ids.shape[1]).expand_as(ids)
    return dataclasses.replace(batch, inputs={**batch.inputs, "position_ids": counted})


def last_positions(batch: Batch) -> Batch:
    """The positions of the last two tokens one too high."""
    positions = batch.inputs["position_ids"].clone()
    positions[..., -2:] += 1
    return dataclasses.replace(batch, inputs={**batch.inputs, "position_ids": positions})


def leak_of_one_token(batch: Batch) -> Batch:
    """The last two tokens see the first of another response."""
    assert batch.shares_prefix
    mask = batch.inputs["attention_mask"].clone()
    mask[..., -2:, int(batch.sources.min()) + 1] = True
    return dataclasses.replace(batch, inputs={**batch.inputs, "attention_mask": mask})


def leak(batch: Batch) -> Batch:
    assert batch.shares_prefix
    return controls.leaking(batch)


def crossed_padding(batch: Batch) -> Batch:
    """Rows padded on the left while mask and responses are those of padding on the right."""
    assert not batch.shares_prefix
    lengths, ids = batch.inputs["attention_mask"].sum(-1).tolist(), batch.inputs["input_ids"]
    crossed = [row.roll(ids.shape[1] - n) for row, n in zip(ids, lengths, strict=True)]
    inputs = {**batch.inputs, "input_ids": torch.stack(crossed)}
    return dataclasses.replace(batch, inputs=inputs)


SHARED_FAULTS: dict[str, Callable[[Batch], Batch]] = {
    "lost positions": lost_positions,
    "positions one too high": controls.shifted,
    "a leak between responses": leak,
    "features in reverse": lambda batch: pixels(batch, lambda p: p.flip(-1, -2)),
    "features zeroed": lambda batch: pixels(batch, torch.zeros_like),
}


def another_image(policy: Policy, groups: Sequence[Group]) -> Batch:
    """The picture of another row."""
    other = Image.radial_gradient("L").convert("RGB")
    return shared_batch(policy, [dataclasses.replace(g, images=(other,)) for g in groups])


@pytest.mark.parametrize("fault", [*SHARED_FAULTS, "another image"])
def test_the_sharing_probe_rejects(
    fault: str, typed: Policy, route: str, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(policy: Policy, rows: Sequence[Group]) -> Batch:
        if fault == "another image":
            return another_image(policy, rows)
        return SHARED_FAULTS[fault](shared_batch(policy, rows))

    monkeypatch.setattr(prefix_sharing, "shared_batch", broken)
    assert not sharing(typed, groups[:2]).allowed


@pytest.mark.parametrize("change", [last_positions, leak_of_one_token])
@pytest.mark.parametrize("dtype", HALVES)
def test_without_room_a_fault_in_few_tokens_is_seen(
    dtype: str,
    change: Callable[[Batch], Batch],
    policy: Policy,
    groups: list[Group],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    monkeypatch.setattr(prefix_sharing, "exact", no_room)
    healthy = sharing(policy, groups)
    assert healthy.allowed or "can't tell" in healthy.reason

    def broken(policy: Policy, rows: Sequence[Group]) -> Batch:
        return change(shared_batch(policy, rows))

    monkeypatch.setattr(prefix_sharing, "shared_batch", broken)
    assert not sharing(policy, groups).allowed


def test_a_difference_in_one_token_counts_as_much_as_one_in_all() -> None:
    noise = torch.full((10, 4), 0.1)
    one = torch.zeros(10, 4)
    one[3] = 0.4
    assert controls.excess(one, [noise]) == pytest.approx(4)
    assert controls.rms(one) / controls.rms(noise) < 1.5
    assert controls.excess(noise, [noise, noise / 2]) == pytest.approx(1)
    assert controls.excess(one, [noise * 0]) == float("inf")


def change_encoding(
    change: Callable[[EncodedImages], EncodedImages],
) -> Callable[..., PromptBatch]:
    def broken(policy: Policy, prompts: Sequence[EncodedImages], *rest: Any) -> PromptBatch:
        return masked_prompt_batch(policy, [change(prompt) for prompt in prompts], *rest)

    return broken


def with_features(
    encoded: EncodedImages, change: Callable[[torch.Tensor], torch.Tensor]
) -> EncodedImages:
    embeddings = encoded.embeddings.clone()
    embeddings[encoded.is_image] = change(embeddings[encoded.is_image])
    return dataclasses.replace(encoded, embeddings=embeddings)


def shifted_prompt(encoded: EncodedImages) -> EncodedImages:
    behind = torch.arange(len(encoded.ids)) > encoded.is_image.nonzero().max()
    return dataclasses.replace(encoded, positions=encoded.positions + behind.long())


MASKING_FAULTS: dict[str, Callable[[EncodedImages], EncodedImages]] = {
    "positions one too high": shifted_prompt,
    "features in reverse": lambda e: with_features(e, lambda f: f.flip(0)),
    "features shuffled": lambda e: with_features(e, lambda f: f.roll(7, 0)),
    "features zeroed": lambda e: with_features(e, torch.zeros_like),
}


@pytest.mark.parametrize("fault", [*MASKING_FAULTS, "another image", "lost positions"])
def test_the_masking_probe_rejects(
    fault: str,
    typed: Policy,
    route: str,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def other(policy: Policy, images: object, texts: Sequence[str]) -> list[EncodedImages]:
        return encode_prompts(policy, [[pictures[4]]], texts)

    def counted(*given: Any) -> PromptBatch:
        batch = masked_prompt_batch(*given)
        mask = batch.inputs["attention_mask"]
        batch.inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return batch

    if fault == "another image":
        monkeypatch.setattr(probes, "encode_prompts", other)
    elif fault == "lost positions":
        monkeypatch.setattr(probes, "masked_prompt_batch", counted)
    else:
        broken = change_encoding(MASKING_FAULTS[fault])
        monkeypatch.setattr(probes, "masked_prompt_batch", broken)
    assert masking_refusal(typed, Request(Prompt("row", [pictures[0]], PROMPT))) is not None


@pytest.mark.parametrize("dtype", HALVES)
def test_healthy_models_in_half_precision_take_the_fast_paths(
    dtype: str, policy: Policy, groups: list[Group], pictures: list[Image.Image]
) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    assert sharing(policy, groups) == prefix_sharing.Sharing(
        True, "equal to the two-row path on a probe row, as a float32 copy"
    )
    assert masking_refusal(policy, Request(Prompt("row", [pictures[0]], PROMPT))) is None


@pytest.mark.parametrize("dtype", HALVES)
def test_an_error_of_half_precision_alone_is_seen(
    dtype: str,
    policy: Policy,
    groups: list[Group],
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a kernel that is wrong in one dtype; the float32 copy can't see it."""
    cast_weights(policy.model, getattr(torch, dtype))

    def shared(some: Policy, rows: Sequence[Group]) -> Batch:
        batch = shared_batch(some, rows)
        return controls.leaking(batch) if precision.is_half(some) else batch

    def masked(some: Policy, *rest: Any) -> PromptBatch:
        honest = masked_prompt_batch(some, *rest)
        if precision.is_half(some):
            honest.inputs["inputs_embeds"] = honest.inputs["inputs_embeds"].roll(1, 1)
        return honest

    monkeypatch.setattr(prefix_sharing, "shared_batch", shared)
    monkeypatch.setattr(probes, "masked_prompt_batch", masked)
    assert f"in {dtype}" in sharing(policy, groups).reason
    refused = masking_refusal(policy, Request(Prompt("row", [pictures[0]], PROMPT)))
    assert f"in {dtype}" in str(refused)
    zeroed = prove(policy, groups[:2], half_zeroed)
    assert [proof.name for proof in zeroed if not proof.passed] == ["path_parity"]


def half_zeroed(policy: Policy, rows: Sequence[Group]) -> Batch:
    batch = shared_batch(policy, rows)
    return pixels(batch, torch.zeros_like) if precision.is_half(policy) else batch


@pytest.mark.parametrize("measure", [logps_measure, reward_measure])
@pytest.mark.parametrize("share", [True, False])
def test_the_proofs_hold_for_healthy_models(
    share: bool, measure: MeasureOf, typed: Policy, groups: list[Group]
) -> None:
    found = prove(typed, groups[:3], lambda p, rows: collate(p, rows, share), measure)
    assert [proof for proof in found if not proof.passed or proof.blind] == []


def row_pixels(policy: Policy, rows: Sequence[Group]) -> Batch:
    """The first row's pixels for all."""
    return pixels(shared_batch(policy, rows), lambda p: p[:1].expand_as(p))


def broken_by(change: Callable[[Batch], Batch]) -> Layout:
    return lambda policy, rows: change(shared_batch(policy, rows))


PROOF_FAULTS: dict[str, Layout] = {
    **{fault: broken_by(change) for fault, change in SHARED_FAULTS.items()},
    "another row's image": row_pixels,
    "wrong padding side": lambda policy, rows: crossed_padding(row_batch(policy, rows)),
}
EXPECTED = {
    "features zeroed": {"image_matters", "path_parity"},
    "another row's image": {"batch_invariance", "path_parity"},
    "wrong padding side": {"batch_invariance", "path_parity"},
}


@pytest.mark.parametrize("measure", [logps_measure, reward_measure])
@pytest.mark.parametrize("fault", PROOF_FAULTS)
def test_the_proofs_reject(
    fault: str, measure: MeasureOf, typed: Policy, groups: list[Group]
) -> None:
    found = prove(typed, groups[:2], PROOF_FAULTS[fault], measure)
    failed = {proof.name for proof in found if not proof.passed}
    assert failed == EXPECTED.get(fault, {"path_parity"})


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("fault", PROOF_FAULTS)
def test_without_room_no_fault_is_proven_right(
    fault: str,
    dtype: str,
    policy: Policy,
    groups: list[Group],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    monkeypatch.setattr(proving, "exact", no_room)
    found = prove(policy, groups[:2], PROOF_FAULTS[fault])
    parity = next(proof for proof in found if proof.name == "path_parity")
    assert parity.blind or not parity.passed


@pytest.mark.parametrize("dtype", HALVES)
def test_without_room_images_matter_by_a_paired_test(
    dtype: str, policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    monkeypatch.setattr(proving, "exact", no_room)
    found = prove(policy, groups[:4], lambda p, rows: collate(p, rows, False))
    matters = next(proof for proof in found if proof.name == "image_matters")
    assert matters.passed and not matters.blind
    assert "p = " in matters.detail


@pytest.mark.parametrize(
    ("moved", "noise", "passed", "blind"),
    [
        # Twelve of twelve move more than rounding: p = 1 / 2^12.
        ([0.3] * 12, [0.1] * 12, True, False),
        # Half of them: the root mean square is larger, but the order may be chance.
        ([0.9] * 6 + [0.0] * 6, [0.1] * 12, True, True),
        ([0.0] * 12, [0.1] * 12, False, False),
        ([0.0] * 12, [0.0] * 12, False, False),
    ],
)
def test_the_paired_test(moved: list[float], noise: list[float], passed: bool, blind: bool) -> None:
    proof = proving._image_matters_by_rank(torch.tensor(moved), torch.tensor(noise), "nats")
    assert (proof.passed, proof.blind) == (passed, blind)


def test_a_blind_proof_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    difference = torch.tensor([0.1, -0.1])
    found = proving._by_controls("path_parity", difference, "answers", (0.5, 0.5), 0.9, "nats")
    assert found.passed and found.blind
    print_proofs([found])
    told = capsys.readouterr().out
    assert "CAN'T TELL" in told and "--share-prefix false" in told
    sees = proving._by_controls("path_parity", difference, "answers", (0.5, 0.5), 1.1, "nats")
    assert sees.passed and not sees.blind
    one = torch.tensor([0.6] + [0.0] * 9)
    found = proving._by_controls("path_parity", one, "answers", (0.5, 0.5), 1.1, "nats")
    assert not found.passed and "worst answer" in found.detail


def test_the_start_is_not_some_other_model(typed: Policy, groups: list[Group]) -> None:
    def proof(reference: torch.Tensor) -> Proof:
        return prove_start(ours, reference, 0.7, 0.7, 0.1, floor)

    with torch.no_grad():
        floor = noise_floor(typed, groups[:4])
        ours = response_logps(typed.model, collate(typed, groups[:4], True)).sums
        alone = [response_logps(typed.model, collate(typed, [g], False)).sums for g in groups[:4]]
        gray = [controls.with_gray_images(group) for group in groups[:4]]
        unseen = response_logps(typed.model, collate(typed, gray, True)).sums
        typed.core.lm_head.weight.mul_(1.1)
        other = response_logps(typed.model, collate(typed, groups[:4], True)).sums
    honest = proof(torch.cat(alone))
    assert honest.passed and not honest.blind
    assert not proof(other).passed
    assert not proof(ours.roll(1, 0)).passed
    assert not proof(unseen).passed
    assert not prove_declared_reference(other, ours, 0.7, floor).passed


def test_a_reference_in_the_step_may_not_differ_from_the_start(
    typed: Policy, groups: list[Group], tmp_path: Path
) -> None:
    """By rounding either: both read the same batch. The floor that is given is far too wide."""
    frozen = frozen_copy(typed)
    loss = Preference()
    task = Task(Scorer(typed, frozen), preference_outcome(loss), len, True, reference_in_step=True)
    items = Items(groups[:4], torch.zeros(4, 2, dtype=torch.float64))
    start = check_pairs(typed, items, task, loss, 100.0, tmp_path / "honest", None)[0]
    assert start.name == "start" and start.passed and not start.blind
    frozen.core.lm_head.weight.data.mul_(1.01)
    with pytest.raises(UserError, match="'start' fails"):
        check_pairs(typed, items, task, loss, 100.0, tmp_path / "other", None)


@pytest.mark.parametrize("declared", [False, True])
def test_a_stored_reference_may_not_differ_either(
    typed: Policy,
    groups: list[Group],
    tmp_path: Path,
    declared: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor one that is declared. Rows are stored in other batches than those that prove them."""
    loss = Preference()
    task = Task(Scorer(typed), preference_outcome(loss), len, True)
    proof = proof_rows(groups)

    honest = compute_logps(typed, [groups[i] for i in proof], True, 4) if declared else None

    def start_holds(reference: Policy, out: str) -> bool:
        stored = precompute(reference, groups, True, 3, 1.0, Cache(None, 0), "w", proof=proof)
        try:
            proofs = check_pairs(
                typed, Items(groups, stored.logps), task, loss, 100.0, tmp_path / out, honest
            )
        except UserError as refused:
            assert "'start' fails" in str(refused)
            return False
        return proofs[0].name == "start" and proofs[0].passed and not proofs[0].blind

    assert start_holds(typed, "honest")
    # The other proofs know nothing of the reference, and have been seen to hold.
    monkeypatch.setattr(before_training, "prove", lambda *_: [])
    for number in range(len(typed.core.get_decoder().layers)):
        wrong = frozen_copy(typed)
        noise = torch.Generator().manual_seed(number)
        for weight in wrong.core.get_decoder().layers[number].parameters():
            weight.data *= 1 + 0.02 * torch.randn(weight.shape, generator=noise).to(weight)
        assert not start_holds(wrong, f"wrong-{number}")


def test_processes_have_a_copy_together_or_not_at_all(
    policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    cast_weights(policy.model, torch.bfloat16)
    seen = []

    def with_another(own: Any) -> list[Any]:
        seen.append(own)
        no = [False] * len(own) if isinstance(own, list) else Sharing(False, "no room there")
        return [own, no]

    monkeypatch.setattr(processes, "gather", with_another)
    with exact(policy) as alone, exact(policy, together=True) as together:
        assert alone is not None and together is None
    assert sharing(policy, groups).allowed
    assert sharing_of_all(policy, groups) == Sharing(False, "no room there")
    assert [True] in seen


def test_a_limit_wider_than_the_rows_range_is_blind() -> None:
    logps = torch.tensor([[-3.0, -4.0], [-3.5, -2.0]])
    assert prove_start(logps, logps.roll(1, 0), 0.7, 0.7, 0.1, 1.0).blind
    assert not prove_start(logps, logps, 0.7, 0.7, 0.1, 0.1).blind


@pytest.mark.parametrize("fault", [None, "reverse", "zeroed", "shuffled", "another image"])
def test_kept_features(
    fault: str | None,
    typed: Policy,
    pictures: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeping = VisionCache(typed, open_cache(str(tmp_path), 1))
    honest = keeping.output

    def broken(policy: Policy, inputs: dict[str, torch.Tensor]) -> Any:
        output = honest(policy, inputs)
        rows = torch.cat(list(output.pooler_output))
        changes = {
            "reverse": rows.flip(0),
            "zeroed": torch.zeros_like(rows),
            "shuffled": rows.roll(3, 0),
            "another image": features.to(rows),
        }
        output.pooler_output = [changes[str(fault)]]
        return output

    text = render_prompt(typed, PROMPT)
    other = encode_prompts(typed, [[pictures[4]]], [text])[0]
    features = other.embeddings[other.is_image].detach()
    if fault is not None:
        monkeypatch.setattr(keeping, "output", broken)
    seeing = dataclasses.replace(typed, vision=keeping)
    with torch.no_grad():
        refused = kept_features_refusal(seeing, [[pictures[0]]], [text])
        assert (refused is None) == (fault is None), refused
        refused = masking_refusal(seeing, Request(Prompt("row", [pictures[0]], PROMPT)))
    assert (refused is None) == (fault is None), refused


@pytest.mark.parametrize("dtype", HALVES)
def test_the_copy_is_the_model_in_float32_and_is_freed(dtype: str, policy: Policy) -> None:
    cast_weights(policy.model, getattr(torch, dtype))
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}
    with exact(policy) as copied:
        assert copied is not None and copied.model is not policy.model
        for name, weight in copied.model.named_parameters():
            assert weight.dtype == torch.float32
            assert torch.equal(weight, before[name].float())
    assert all(weight.numel() == 0 for weight in copied.model.parameters())
    for name, weight in policy.model.named_parameters():
        assert torch.equal(weight, before[name]) and weight.requires_grad


def test_no_copy_where_none_is_needed_or_fits(
    policy: Policy, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    with exact(policy) as precise:
        assert precise is policy
    cast_weights(policy.model, torch.bfloat16)
    monkeypatch.setattr(precision, "free_bytes", lambda device: 2**20)
    with exact(policy) as precise:
        assert precise is None
    verdict = sharing(policy, groups)
    assert ("within rounding" if verdict.allowed else "can't tell") in verdict.reason
    assert free_bytes(torch.device("cpu")) > 0


def test_files_that_can_be_dropped_are_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert free_bytes(torch.device("cpu")) == 100
    (tmp_path / "memory.stat").write_text("active_file 50\ninactive_file 600\nslab 7\n")
    assert free_bytes(torch.device("cpu")) == 700


def test_a_copy_that_fails_leaves_no_setting_behind(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no copy")

    cast_weights(policy.model, torch.bfloat16)
    monkeypatch.setattr(precision, "_widened", fails)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with pytest.raises(RuntimeError, match="no copy"), exact(policy):
        pass
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_limit_follows_from_half_precisions_unit(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="measure it"):
        rounding_of_logps(torch.tensor([-900.0]), dtype, 4)
