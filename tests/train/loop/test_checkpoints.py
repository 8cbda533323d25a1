"""Only checkpoints that are whole are resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from veridical.train.loop.checkpoints import newest_verified, write_manifest


@pytest.mark.parametrize(
    "manifest",
    ["", "[", "null", "[]", "{}", "3", '{"a": null}', '{"\\u0000": "x"}', "[" * 100_000,
     '{"%s": "x"}' % ("n" * 300), '{".": "x"}', '{"gone": "x"}'],
)  # fmt: skip
def test_a_checkpoint_whose_manifest_was_changed_is_not_used(tmp_path: Path, manifest: str) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "a").write_text("a")
    write_manifest(checkpoint)
    assert newest_verified(tmp_path) == (checkpoint, [])
    (checkpoint / "manifest.json").write_text(manifest)
    found, (problem,) = newest_verified(tmp_path)
    assert found is None
    assert problem.startswith("checkpoint-1 is not used: ")
