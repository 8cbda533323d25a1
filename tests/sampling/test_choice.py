"""The choice of one token: exact distribution, keyed noise, and numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from veridical.sampling.choice import BLOCK, NO_NUMBER, choose, token_noise

CPU = torch.device("cpu")
NONE = torch.tensor([], dtype=torch.long)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def drawn(logits: torch.Tensor, draws: int, temperature: float, banned: torch.Tensor) -> np.ndarray:
    """How often each token comes up in draws by rows of their own."""
    counts = torch.zeros(len(logits), dtype=torch.long)
    rows = min(draws, 4_000_000 // len(logits))
    for start in range(0, draws, rows):
        noise = token_noise(0, [f"{start}/{row}" for row in range(rows)], 1, CPU)[:, 0]
        tokens = choose(logits.repeat(rows, 1), noise, temperature, banned).tokens
        counts += torch.bincount(tokens, minlength=len(logits))
    return counts.numpy()


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of the counts; tokens that are expected less than five times count together."""
    expected = probabilities * counts.sum()
    often = expected >= 5
    seen = [*counts[often], counts[~often].sum()]
    wanted = [*expected[often], expected[~often].sum()]
    terms = [(a - b) ** 2 / b for a, b in zip(seen, wanted, strict=True) if b > 1e-9]
    return float(chi2.sf(sum(terms), len(terms) - 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "temperature"), [(7, 1.0), (500, 0.7), (3 * BLOCK + 17, 1.0)])
def test_tokens_follow_the_exact_softmax(dtype: torch.dtype, size: int, temperature: float) -> None:
    torch.manual_seed(size)
    logits = (2 * torch.randn(size)).to(dtype)
    banned = torch.tensor([1, size - 1])
    exact = logits.double() / temperature
    exact[banned] = -torch.inf
    counts = drawn(logits, 40_000, temperature, banned)
    assert not counts[banned.numpy()].any()
    assert chi_square(counts, exact.softmax(-1).numpy()) > 1e-3
    # The test can fail: a temperature that is a tenth off is seen.
    wrong = (exact / 1.1).softmax(-1).numpy()
    assert size < 100 or chi_square(counts, wrong) < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_vocabulary_is_inverted_as_in_float64(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = torch.randn(8, 152_064).to(dtype)
    noise = torch.cat([torch.linspace(0, 1, 7, dtype=torch.float64)[:-1],
                       torch.tensor([1 - 2.0**-53, 0.999999], dtype=torch.float64)])  # fmt: skip
    tokens = choose(rows.clone(), noise, 1.0, NONE).tokens
    cumulative = rows.double().softmax(-1).cumsum(-1)
    above = cumulative.gather(-1, tokens[:, None])[:, 0]
    below = above - rows.double().softmax(-1).gather(-1, tokens[:, None])[:, 0]
    # A flat vocabulary of this size has intervals of 7e-6: float32 sums would miss many of them.
    assert torch.all(below <= noise + 2e-7)
    assert torch.all(noise <= above + 2e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_greedy_takes_the_first_of_the_largest(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(size)
    logits = torch.randn(64, size).to(dtype)
    logits[1] = 0.5
    found = choose(logits.clone(), torch.zeros(64), 0, torch.tensor([0]), with_logps=True)
    logits[:, 0] = -torch.inf
    assert torch.equal(found.tokens, logits.argmax(-1))
    assert found.tokens[1] == 1
    exact = logits.double().log_softmax(-1).gather(-1, found.tokens[:, None])[:, 0]
    assert found.logps is not None
    close = 1e-12 if dtype == torch.float64 else 1e-5
    assert torch.allclose(found.logps.double(), exact, rtol=0, atol=close)


def test_log_probs_are_those_of_the_tokens_at_the_temperature() -> None:
    torch.manual_seed(0)
    logits, banned = torch.randn(200, 700, dtype=torch.float64), torch.tensor([3, 650])
    noise = torch.rand(200, dtype=torch.float64)
    found = choose(logits.clone(), noise, 0.7, banned, with_logps=True)
    logits[:, banned] = -torch.inf
    exact = (logits / 0.7).log_softmax(-1).gather(-1, found.tokens[:, None])[:, 0]
    assert found.logps is not None
    assert torch.allclose(found.logps, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("uniform", [0.0, 2.0**-53, 1 - 2.0**-53])
def test_what_has_no_probability_is_not_chosen_at_either_end(uniform: float) -> None:
    logits = torch.full((1, 2 * BLOCK + 9), -torch.inf)
    logits[0, [BLOCK - 1, BLOCK + 3, 2 * BLOCK + 2]] = torch.tensor([0.0, 1.0, 2.0])
    noise = torch.tensor([uniform], dtype=torch.float64)
    token = int(choose(logits, noise, 1.0, NONE).tokens)
    assert token == (BLOCK - 1 if uniform < 0.5 else 2 * BLOCK + 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, BLOCK + 40, 2 * BLOCK + 3])
def test_what_is_no_number_gives_no_token(
    dtype: torch.dtype, bad: float, temperature: float, place: int
) -> None:
    logits = torch.randn(3, 2 * BLOCK + 4).to(dtype)
    logits[1, place] = bad
    logits[2, place] = -torch.inf  # how models rule a token out themselves
    found = choose(logits, torch.full((3,), 0.5), temperature, NONE, with_logps=True)
    assert (found.tokens == NO_NUMBER).tolist() == [False, True, False]
    nothing = torch.full((1, 9), -torch.inf, dtype=dtype)
    assert choose(nothing, torch.zeros(1), temperature, NONE).tokens.tolist() == [NO_NUMBER]


def test_noise_is_of_the_row_and_the_position_alone() -> None:
    together = token_noise(3, ["a", "b"], 40, CPU)
    assert torch.equal(together[1:], token_noise(3, ["b"], 40, CPU))
    assert torch.equal(together[:, :7], token_noise(3, ["a", "b"], 7, CPU))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[1:], token_noise(4, ["b"], 40, CPU))
    assert together.dtype == torch.float64
    assert bool(((together >= 0) & (together < 1)).all())
