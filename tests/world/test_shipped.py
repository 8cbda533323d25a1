"""The policy inside the package: whole, small, and decent but biased on a small sample."""

from __future__ import annotations

from veridical.runtime.fingerprint import EMBEDDED_MODEL
from veridical.world.check import BOUNDS, measure, out_of_bounds


def test_weights_and_card_are_there() -> None:
    assert (EMBEDDED_MODEL / "config.json").is_file()
    size = sum(file.stat().st_size for file in EMBEDDED_MODEL.rglob("*") if file.is_file())
    assert size <= 16 * 2**20
    card = (EMBEDDED_MODEL / "README.md").read_text(encoding="utf-8")
    assert "supervised" in card and "by hand" in card
    assert all(name in card for name in BOUNDS)


def test_decent_but_biased_on_a_small_sample() -> None:
    """Wider than `BOUNDS`, as 60 scenes are few; the card has the figures on 1,000."""
    metrics = measure(EMBEDDED_MODEL, count=60, seed=3)
    assert 0.07 < metrics["counter/chair_i"] < 0.35
    assert metrics["counter/recall"] > 0.70
    assert metrics["counter/explained_by_prior"] > 0.45
    assert metrics["prior/chair_i"] < 0.10
    assert metrics["pope/accuracy"] > 0.82
    assert 0.35 < metrics["pope_shuffled/accuracy"] < 0.65


def test_metrics_out_of_bounds_are_named() -> None:
    middle = {name: (low + high) / 2 for name, (low, high) in BOUNDS.items()}
    assert out_of_bounds(middle) == []
    (line,) = out_of_bounds(middle | {"prior/chair_i": 0.2})
    assert "prior/chair_i is 0.200" in line
