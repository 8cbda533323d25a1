"""Tiny models of every family on a device in a dtype, and the same in float64 on the CPU.

Tests run on a CUDA device (marked `gpu`) and, as they stand, on the CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import family_models
import numpy as np
import pytest
import torch
from family_models import FAMILIES, Family, can_be_built
from PIL import Image

from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message
from veridical.models.policy import Policy
from veridical.models.precision import cast_weights
from veridical.models.rendering import Group, render_group
from veridical.sampling import Request

HERE = Path(__file__).parent
SUPPORTED = [family for family in FAMILIES if family.refused is None]


@dataclass(frozen=True)
class Bounds:
    """How far a device may be from float64 on the CPU.

    A CPU in float32 and bfloat16 is off by up to 5e-6 and 0.03 (log-probs), 4e-6 and 0.04
    (gradients; Qwen3.5's DPO: 0.16), 6e-7 and 0.006 (losses). The bounds are several times that,
    since a GPU adds in another order.

    Attributes:
        logps: of a response's log-probability, in nats, times the root of its tokens.
        gradient: of a gradient, relative to its length.
        loss: of a loss.
    """

    logps: float
    gradient: float
    loss: float


BOUNDS = {
    "float32": Bounds(logps=1e-4, gradient=1e-4, loss=1e-5),
    "bfloat16": Bounds(logps=0.15, gradient=0.3, loss=0.03),
}


@dataclass(frozen=True)
class Tried:
    """A tiny model as it runs on the device, and what it is compared with.

    Attributes:
        policy: on the device, in the dtype.
        exact: the same weights, rounded to that dtype, in float64 on the CPU.
        bounds: how far apart the two may be.
        half: whether the dtype is half precision.
    """

    policy: Policy
    exact: Policy
    bounds: Bounds
    half: bool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On the CPU one family is enough for every day: others are tested there in float64."""
    for item in items:
        if isinstance(item, pytest.Function) and HERE in item.path.parents:
            given = getattr(item, "callspec", None)
            chosen = given.params if given else {}
            usual = chosen.get("family") is SUPPORTED[0]
            if chosen.get("device") == "cpu" and not usual:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(params=[pytest.param("cuda", marks=pytest.mark.gpu), "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return str(request.param)


@pytest.fixture(params=list(BOUNDS))
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=SUPPORTED, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    asked: Family = request.param
    if not can_be_built(asked):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    return asked


@pytest.fixture(scope="module")
def built(family: Family) -> Policy:
    """With the norms that users have, which compute in float32."""
    honest = family_models.keep_norms_exact
    family_models.keep_norms_exact = lambda model: None
    try:
        torch.manual_seed(0)
        return family.build()
    finally:
        family_models.keep_norms_exact = honest


@pytest.fixture
def tried(built: Policy, device: str, dtype: str) -> Tried:
    rounded = cast_weights(copy.deepcopy(built.model), getattr(torch, dtype))
    # Not `model.to(dtype)`: rotary frequencies stay in float32.
    exact = cast_weights(copy.deepcopy(rounded), torch.float64)
    return Tried(
        Policy(rounded.to(device), built.processor, built.name),
        Policy(exact, built.processor, built.name),
        BOUNDS[dtype],
        dtype == "bfloat16",
    )


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """Patches are embedded by a convolution, which CUDA computes in TF32 unless told not to."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(48, 48), (61, 33), (20, 90), (100, 40)]
    return [
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.fixture
def groups(built: Policy, pictures: list[Image.Image]) -> list[Group]:
    """One image, two of other sizes, none."""
    return [
        make_group(
            built, "one", pictures[:1], "Describe the image.", "This is a park. Yes.", "No."
        ),
        make_group(
            built,
            "two",
            pictures[1:3],
            "Compare the two pictures.",
            "There is a red cup.",
            "There is a blue dog at the bottom. There is a green chair.",
        ),
        make_group(built, "none", [], "What do you see?", "This is a kitchen.", "A red cup."),
    ]


def make_group(
    policy: Policy, id: str, images: list[Image.Image], question: str, *answers: str
) -> Group:
    prompt = [user_message(question, images=len(images))]
    return render_group(
        policy, id, images, prompt, [[assistant_message(answer)] for answer in answers]
    )


@pytest.fixture
def requests(pictures: list[Image.Image]) -> list[Request]:
    """One image, two, none."""
    return [
        Request(Prompt("a", pictures[:1], [user_message("Describe the image.")])),
        Request(
            Prompt("b", pictures[1:3], [user_message("Compare the two pictures. Yes.", images=2)])
        ),
        Request(Prompt("c", [], [user_message("What do you see?", images=0)])),
    ]


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str, float], float]:
    """Keep a figure beside the test's outcome."""

    def keep(name: str, value: float) -> float:
        record_property(name, f"{value:.3g}")
        return value

    return keep
