"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture
def test_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real photographs and captions that VERIDICAL_TEST_DATA names."""
    folder = os.environ.get("VERIDICAL_TEST_DATA", "")
    if folder and Path(folder).is_dir():
        return Path(folder)
    reason = "set VERIDICAL_TEST_DATA to the folder with the test data"
    if request.node.get_closest_marker("slow"):
        pytest.fail(reason)
    pytest.skip(reason)
