"""A pytest plugin that makes torchvision importable for these tests, and for no others.

Some processors (Qwen's, InternVL's, SmolVLM's, LLaVA-OneVision's) want it for videos. It lies in a
folder of its own, which VERIDICAL_TORCHVISION names (else `torchvision-for-tests` of the
environment), since the core has to work without it and Transformers behaves differently where it
can be imported. Beside PyTorch's CPU build its compiled operators, which no image processor calls,
cannot be loaded; they are declared, so that the rest can be imported.

    python -m pip install --no-deps --target .venv/torchvision-for-tests \
        -r tests/families/requirements.txt
    PYTHONPATH=tests/families python -m pytest -p torchvision_beside tests/families

`make families` does both.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

FOLDER = Path(os.environ.get("VERIDICAL_TORCHVISION", f"{sys.prefix}/torchvision-for-tests"))
DECLARED = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """What torchvision registers shapes for when it is imported."""
    try:
        torch.ops.load_library(FOLDER / "torchvision" / "_C.so")
    except OSError:
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            DECLARED.define(operator + signature)


if FOLDER.is_dir():
    declare_operators()
    sys.path.append(str(FOLDER))
