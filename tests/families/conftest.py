"""Which family a test is about, and pairs of rows as hard as a batch can be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from every_family import FAMILIES
from family_models import Family, can_be_built
from PIL import Image

from veridical.data.records import assistant_message, user_message
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_group

SUPPORTED = [family for family in FAMILIES if family.refused is None]
REFUSED = [family for family in FAMILIES if family.refused is not None]


@pytest.fixture(scope="session", params=SUPPORTED, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    asked: Family = request.param
    if not can_be_built(asked):
        pytest.skip("its processor wants torchvision: `make families` brings it")
    return asked


@pytest.fixture(params=REFUSED, ids=lambda family: family.name)
def refused(request: pytest.FixtureRequest) -> Family:
    asked: Family = request.param
    return asked


@pytest.fixture(scope="session")
def built(family: Family) -> Policy:
    torch.manual_seed(0)
    return family.build()


@pytest.fixture
def policy(built: Policy) -> Policy:
    """A copy, so that tests may change it."""
    return Policy(copy.deepcopy(built.model), built.processor, built.name)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(48, 48), (61, 33), (20, 90), (100, 40)]
    return [
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


def make_group(
    policy: Policy, id: str, images: list[Image.Image], question: str, *answers: str
) -> Group:
    prompt = [user_message(question, images=len(images))]
    return render_group(
        policy, id, images, prompt, [[assistant_message(answer)] for answer in answers]
    )


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
