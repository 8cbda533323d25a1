"""The head in chunks against the head at once; which models it may be taken from."""

from __future__ import annotations

import copy
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from veridical.checks.prefix_sharing import sharing
from veridical.models import chunked_head, heads
from veridical.models.batching import row_batch
from veridical.models.heads import head_logps, token_logps
from veridical.models.logprobs import response_logps
from veridical.models.measures import stock_logps
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.stock_logits import logits_are_the_heads
from veridical.train.loop.memory import LiveTensors


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", ["plain", "with bias"])
def test_head_in_chunks_equals_head_at_once(trained: bool, kind: str) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=kind == "with bias").double().requires_grad_(trained)
    hidden = torch.randn(23, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 50, (23,))
    weights = torch.randn(23, dtype=torch.float64)
    wanted = [hidden, *head.parameters()] if trained else [hidden]
    whole = token_logps(head(hidden), targets)
    pieces = head_logps(head, hidden, targets, chunk=5)
    assert torch.allclose(whole, pieces, rtol=0, atol=1e-12)
    expected = torch.autograd.grad((whole * weights).sum(), wanted)
    found = torch.autograd.grad((pieces * weights).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_only_the_heads_gradient_may_be_wanted() -> None:
    head = nn.Linear(8, 50, bias=False)
    hidden, targets = torch.randn(6, 8), torch.arange(6)
    head_logps(head, hidden, targets, chunk=4).sum().backward()
    found = head.weight.grad
    expected = torch.autograd.grad(token_logps(head(hidden), targets).sum(), head.weight)[0]
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-5)


def test_half_precision_gives_float32_logps() -> None:
    head = nn.Linear(8, 50, bias=False).bfloat16().requires_grad_(False)
    hidden = torch.randn(6, 8, dtype=torch.bfloat16, requires_grad=True)
    logps = head_logps(head, hidden, torch.arange(6), chunk=4)
    logps.sum().backward()
    assert logps.dtype == torch.float32
    assert torch.equal(logps, token_logps(head(hidden), torch.arange(6)))
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


def _cap(model: Any) -> None:
    """Make the model's logits 3 tanh(logits / 3), as Gemma does with another number."""
    stock = model.forward

    def forward(*arguments: Any, logits_to_keep: int | Tensor = 0, **inputs: Any) -> Any:
        output = stock(*arguments, logits_to_keep=logits_to_keep, **inputs)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    model.forward = forward


def test_capped_logits_are_found_out_and_kept(
    policy: Policy, groups: list[Group], capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = groups[0].response_ids[0]
    assert logits_are_the_heads(policy.core, tokens)
    uncapped = response_logps(policy.model, row_batch(policy, groups)).sums
    capped = Policy(copy.deepcopy(policy.model), policy.processor, "capped")
    _cap(capped.model)
    assert not logits_are_the_heads(capped.core, tokens)
    assert "scales or caps" in capsys.readouterr().out
    with torch.no_grad():
        rows = response_logps(capped.model, row_batch(capped, groups)).sums
        stock = torch.stack([stock_logps(capped, group) for group in groups])
    assert torch.allclose(rows, stock, rtol=0, atol=1e-10)
    assert not torch.allclose(rows, uncapped, rtol=0, atol=1e-3)
    verdict = sharing(capped, groups)
    assert not verdict.allowed
    assert "more than its head" in verdict.reason


@pytest.mark.parametrize("scaled", ["hidden states", "logits"])
def test_scaling_is_found_out(scaled: str) -> None:
    class Ones(nn.Module):
        def forward(self, ids: Tensor) -> Any:
            return SimpleNamespace(last_hidden_state=torch.ones(*ids.shape, 4))

    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.head = Ones(), nn.Linear(4, 9)

        def get_output_embeddings(self) -> nn.Linear:
            return self.head

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            hidden = self.model(input_ids).last_hidden_state
            hidden = hidden / 2 if scaled == "hidden states" else hidden
            logits = self.head(hidden)
            return SimpleNamespace(logits=logits / 2 if scaled == "logits" else logits)

    assert not logits_are_the_heads(Scaling(), torch.arange(3))


MEASURE = """
import torch
from pathlib import Path
from veridical.models.heads import head_logps
from veridical.models.heads import token_logps
torch.set_num_threads(1)
def resident(field):
    text = Path("/proc/self/status").read_text()
    return int(text.split(field + ":")[1].split()[0]) * 1024
targets = torch.arange(600)
hidden = torch.randn(600, 16, requires_grad=True)
for whole, trained in ((False, False), (False, True), (True, True)):
    head = torch.nn.Linear(16, 152_000, bias=False).requires_grad_(trained)
    head(hidden[:8]).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    logps = token_logps(head(hidden), targets) if whole else head_logps(head, hidden, targets)
    logps.sum().backward()
    print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_peak_memory_does_not_grow_with_vocabulary_times_tokens() -> None:
    """600 tokens of a 152k vocabulary are 600 x 152,000 x 4 bytes = 365 MB of logits."""
    command = [sys.executable, "-c", MEASURE]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    frozen, trained, whole = map(int, output.split())
    logits = 600 * 152_000 * 4
    # A chunk of 40 MB, and what its logsumexp takes; the trained head's own gradient is 10 MB.
    assert frozen < 0.3 * logits
    assert trained < 0.3 * logits
    assert whole > logits  # the measurement sees logits that exist at once


@pytest.mark.parametrize("trained", [False, True])
def test_a_chunk_is_gone_before_the_next_is_there(trained: bool) -> None:
    """8 positions of 5,000 words are 160 kB; the head itself, as wide, is 40 kB."""
    head = nn.Linear(2, 5000, bias=False).requires_grad_(trained)
    hidden = torch.randn(64, 2, requires_grad=True)
    with LiveTensors(vocabulary=5000) as live:
        head_logps(head, hidden, torch.arange(64), chunk=8).sum().backward()
    assert live.peak["cpu"]["logits"] == 160_000 + 40_000


def test_chunks_follow_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    stock = chunked_head._logits

    def counting(states: Tensor, weight: Tensor) -> Tensor:
        sizes.append(len(states))
        return stock(states, weight)

    monkeypatch.setattr(chunked_head, "_logits", counting)
    monkeypatch.setattr(heads, "CHUNK_LOGITS", 300)
    head = nn.Linear(4, 100, bias=False).requires_grad_(False)
    head_logps(head, torch.randn(7, 4, requires_grad=True), torch.arange(7))
    assert sizes == [3, 3, 1]
