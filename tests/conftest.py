"""What several tests share."""

from __future__ import annotations

import copy
import dataclasses
import gc
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings
from PIL import Image
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from veridical import sampling
from veridical.bdhs import algorithm
from veridical.cli import COMMANDS
from veridical.data.records import assistant_message, user_message
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_group
from veridical.runtime.files import read_json
from veridical.runtime.run_folders import WRITTEN
from veridical.runtime.runs import Run
from veridical.world.model import build_model, build_processor

os.environ["VERIDICAL_CACHE"] = "none"  # tests that want a cache name a folder of their own
# The same examples everywhere, and no time limit on a busy machine.
settings.register_profile("veridical", derandomize=True, deadline=None, database=None)
settings.load_profile("veridical")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_finish() -> None:
    """Take what is imported out of the garbage collector's sight.

    Transformers' `Trainer` collects once a training. Among half a million objects of libraries that
    takes longer than a step of a tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Let a fixture draw the same numbers whichever tests ran before, in whichever process."""
    torch.default_generator.manual_seed(zlib.crc32(fixturedef.argname.encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Let a test draw the same numbers too, others than its fixtures."""
    torch.default_generator.manual_seed(20_000)


@pytest.fixture(autouse=True)
def _names_that_runs_write_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_folders.WRITTEN` has every name, or a user's file of that name could be replaced."""
    end = Run._end

    def checked(self: Run, status: str, **additions: Any) -> None:
        end(self, status, **additions)
        if self.writes and self.record["command"] in COMMANDS:
            files = read_json(self.folder / "run.json")["files"]
            names = {name.split("/")[0] for name in files if not name.endswith("/run.json")}
            assert [name for name in names if not WRITTEN.fullmatch(name)] == []

    monkeypatch.setattr(Run, "_end", checked)


@pytest.fixture
def commit(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str, Mapping[str, bytes]], None]:
    """An empty cache of a hub that can't be reached; a call adds a model's newest commit to it.

    The call takes the model's name, the commit and its files.
    """
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def add(name: str, revision: str, files: Mapping[str, bytes]) -> None:
        model = cache / f"models--{name.replace('/', '--')}"
        snapshot = model / "snapshots" / revision
        for folder in (snapshot, model / "blobs", model / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            blob = model / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (snapshot / file).unlink(missing_ok=True)
            (snapshot / file).symlink_to(blob)
        (model / "refs" / "main").write_text(revision)

    return add


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


@pytest.fixture(scope="session")
def tiny_model() -> Policy:
    """A LLaVA of Transformers' own classes with random weights, in float64."""
    torch.manual_seed(0)
    processor = build_processor()
    model = build_model(processor).double().eval()
    keep_norms_exact(model)
    return Policy(model, processor, "tiny")


def keep_norms_exact(model: torch.nn.Module) -> None:
    """Llama's norm rounds to float32 inside, which would hide what float64 tests look for."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = torch.nn.RMSNorm(len(child.weight), eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(parent, name, norm)


@pytest.fixture
def policy(tiny_model: Policy) -> Policy:
    """A copy of the tiny model and its processor, so that tests may change them."""
    return Policy(copy.deepcopy(tiny_model.model), copy.deepcopy(tiny_model.processor), "tiny")


@pytest.fixture
def answers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """BDHS takes what a random model says as finished: it would nearly always reach its limit."""
    masked, seen = sampling.complete_masked, sampling.respond

    def complete(*given: Any) -> Any:
        answers, shares = masked(*given)
        return [dataclasses.replace(answer, stop_reason="end") for answer in answers], shares

    def answer(*given: Any) -> Any:
        return [dataclasses.replace(answer, stop_reason="end") for answer in seen(*given)]

    monkeypatch.setattr(algorithm, "complete_masked", complete)
    monkeypatch.setattr(algorithm, "respond", answer)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Pictures of odd sizes."""
    noise = np.random.default_rng(0)
    sizes = [(48, 48), (61, 33), (20, 90), (48, 48), (100, 100), (7, 5)]
    return [
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


CHOSEN = [
    "This is a park. There is a red cup at the top left.",
    "There is a blue dog at the bottom. There is a green chair on the right.",
    "This is a kitchen.",
    "Yes.",
    "There is a red cup at the top left. There is a blue dog at the bottom.",
    "This is a park. There is a green cup.",
]
REJECTED = [
    "This is a park. There is a red dog at the top left. There is a blue cup.",
    "There is a blue cup at the bottom.",
    "This is a kitchen. There is a green chair.",
    "No.",
    "There is a red cup at the top left.",
    "This is a street. There is a red cup at the bottom right.",
]


@pytest.fixture
def groups(policy: Policy, pictures: list[Image.Image]) -> list[Group]:
    """Pairs of different lengths over the pictures."""
    return [
        render_group(
            policy,
            f"pair-{index}",
            [picture],
            [user_message("Describe the image.")],
            [[assistant_message(chosen)], [assistant_message(rejected)]],
        )
        for index, (picture, chosen, rejected) in enumerate(
            zip(pictures, CHOSEN, REJECTED, strict=True)
        )
    ]
