"""The GPU benchmark: its parts stand alone, are cut by their time, and count operations right."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
PROVIDED = {
    "typing_extensions",  # comes with PyTorch
    "accelerate", "filelock", "huggingface_hub", "jinja2", "matplotlib", "numpy", "peft", "pillow",
    "psutil", "pyarrow", "pyyaml", "regex", "safetensors", "scipy", "tokenizers", "torch", "tqdm",
    "transformers",
}  # fmt: skip
"""What a machine for training has anyway."""


@pytest.fixture(scope="module")
def modules() -> Iterator[Any]:
    """The benchmark's modules, by name; afterwards nothing is left of them."""
    path, environment, known = list(sys.path), dict(os.environ), set(sys.modules)
    os.environ.pop("VERIDICAL_TORCHVISION", None)  # or other tests would find torchvision
    sys.path.insert(0, str(GPU))
    hidden = {file.stem: sys.modules.pop(file.stem, None) for file in GPU.glob("*.py")}
    yield importlib.import_module
    for name in sys.modules.keys() - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(GPU.parent)):
            del sys.modules[name]
    for name in hidden:
        sys.modules.pop(name, None)
    sys.modules.update({name: module for name, module in hidden.items() if module})
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)


def settings(modules: Any, out: Path, seconds: float = 600.0) -> Any:
    return modules("measuring").Settings("some", "cpu", True, seconds, str(out / "some.json"))


def run_script(modules: Any, tmp_path: Path, text: str, seconds: float = 600.0) -> dict[str, Any]:
    script = tmp_path / "part.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(GPU)!r})\n{text}")
    run = modules("run_parts")
    run.GRACE = 1.0
    found: dict[str, Any] = run.run_part_alone(script, settings(modules, tmp_path, seconds))
    assert json.loads((tmp_path / "some.json").read_text()) == found
    return found


PART = """
from measuring import run_part
def measure(settings, figures):
    figures.attempt({"number": 1}, 0.0, lambda: {"value": 1.5})
    figures.attempt({"number": 2}, 0.0, lambda: {"value": 1 / 0})
    figures.attempt({"number": 3}, 1e6, lambda: {"value": 2.5})
    figures.attempt({"number": 4}, 0.0, lambda: {"value": 3.5})
    END
run_part(measure)
"""
ROWS: list[dict[str, Any]] = [
    {"number": 1, "value": 1.5},
    {"number": 2, "failed": "ZeroDivisionError: division by zero"},
    {"number": 3, "skipped": "needs some 1000000 s; "},
    {"number": 4, "value": 3.5},
]


def test_a_failed_measurement_is_a_row_and_the_others_still_run(
    modules: Any, tmp_path: Path
) -> None:
    found = run_script(modules, tmp_path, PART.replace("END", "pass"))
    assert found["status"] == "done"
    assert found["machine"]["torch"] == torch.__version__
    found["rows"][2]["skipped"] = found["rows"][2]["skipped"].split(";")[0] + "; "
    assert found["rows"] == ROWS


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        ("raise ValueError('no card')", "failed", "ValueError: no card"),
        ("import os; os.abort()", "failed", "exit status -6"),
        ("import time; time.sleep(3600)", "cut", "stopped after 601 s"),
    ],
)
def test_a_part_that_fails_dies_or_hangs_keeps_its_figures(
    modules: Any,
    tmp_path: Path,
    end: str,
    status: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if status == "cut":
        wait, file = subprocess.Popen.wait, tmp_path / "some.json"

        def out_of_time(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
            """The time is over when the part hangs, however long its imports took."""
            while timeout and self.poll() is None:
                if file.is_file() and len(json.loads(file.read_text())["rows"]) == 4:
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.05)
            return wait(self)

        monkeypatch.setattr(subprocess.Popen, "wait", out_of_time)
    found = run_script(modules, tmp_path, PART.replace("END", end))
    assert found["status"] == status
    assert found["reason"].startswith(reason)
    assert [row["number"] for row in found["rows"]] == [1, 2, 3, 4]


def test_a_part_that_does_not_start_says_why(modules: Any, tmp_path: Path) -> None:
    found = run_script(modules, tmp_path, "import nowhere_to_be_found")
    assert found["status"] == "failed"
    assert "nowhere_to_be_found" in found["reason"]


def test_it_runs_without_a_card_and_without_being_installed(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "run_parts.py"), "--device", "cpu", "--out", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--parts", "ppo"], capture_output=True, text=True, env=environment, timeout=1200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ppo = json.loads((tmp_path / "ppo.json").read_text())
    found = {row["part"]: row for row in ppo["rows"] if row["shape"] == "tiny LLaVA"}
    assert found["whole step"]["response_tokens"] > 0
    halves = found["gather experience"]["share"] + found["learn"]["share"]
    assert halves == pytest.approx(1.0)
    inside = [row["seconds"] for name, row in found.items() if name.startswith("of these")]
    assert len(inside) == 7
    assert sum(inside) < found["whole step"]["seconds"] * 1.05
    assert "whole step" in done.stdout


def test_the_needed_wheels_are_all_listed_with_the_pinned_versions() -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.MULTILINE)
        return {name.lower().replace("-", "_"): version for name, version in lines}

    listed = pins(GPU / "requirements.txt")
    known = pins(ROOT / "constraints.txt") | pins(ROOT / "tests" / "families" / "requirements.txt")
    assert listed == {name: known.get(name) for name in listed}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {
        re.split(r"[\[><=!~ ]", one)[0].lower().replace("-", "_") for one in project["dependencies"]
    }
    assert needed - PROVIDED <= listed.keys()


def test_operations_are_those_that_pytorch_counts(modules: Any) -> None:
    flops, shapes, part = modules("flops"), modules("shapes"), modules("part_dpo")
    shape = shapes.TINY_SHAPES[0]
    block = part.Block("veridical", shape, 36, 4, 20, 11)
    policy = shapes.build(shape, 36, "cpu", torch.float32)
    policy.core.set_attn_implementation("eager")  # PyTorch does not count the CPU's fused one
    groups = part.groups_of(policy, block, 1)
    tokens, chosen = len(groups[0].response_ids[0]), groups[0].prompt_text
    prompt = policy.processor(images=groups[0].images, text=chosen)["input_ids"][0]
    rows = flops.two_rows(len(prompt), tokens)

    def counted(act: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            act()
        return int(counter.get_total_flops())

    inputs = policy.processor(images=groups[0].images, text=chosen, return_tensors="pt")
    pictures = inputs["pixel_values"]
    seen = counted(lambda: policy.core.get_image_features(pixel_values=pictures))
    side = shapes.pixels(shape, 36)
    embedding = 2 * 3 * shape.patch**2 * shape.vision_width * (side // shape.patch) ** 2
    projector = 2 * 36 * (shape.vision_width * shape.width + shape.width**2)
    # CLIP's class token is one patch more.
    assert seen == flops.vision_forward(shape, 37) + embedding + projector

    ids = torch.randint(5, 400, (2, rows[0].tokens))
    hidden = counted(lambda: policy.core.model.language_model(input_ids=ids))
    square = [flops.Row(row.tokens, row.tokens**2, 0) for row in rows]  # PyTorch counts the whole
    weights = flops.language_weights(shape)
    assert hidden == flops.language_forward(shape, square, weights)
    adapted = sum(
        p.numel()
        for n, p in part.prepare_training(policy, part.Tuning(rank=4)).model.named_parameters()
        if "lora_" in n
    )
    assert adapted == flops.adapter_weights(shape, 4)


def test_pairs_have_the_lengths_that_the_dry_run_orders_them_by(
    modules: Any, tmp_path: Path
) -> None:
    part, shapes = modules("part_dpo"), modules("shapes")
    policy = shapes.build(shapes.TINY_SHAPES[0], 16, "cpu", torch.float32)
    groups = part.groups_of(policy, part.blocks_of(settings(modules, tmp_path))[0], 2)
    assert len(groups) == 2
    for group in groups:
        rows, width = modules("veridical.models.batching").layout_shape(group, False)
        batch = part.collate(policy, [group], False)
        assert (rows, width) == tuple(batch.inputs["input_ids"].shape)


def test_the_tables_of_scale_are_what_their_script_prints(modules: Any) -> None:
    scale = modules("scale")
    text = (ROOT / "docs" / "scale.md").read_text()
    for name, lines in (("stages", scale.stage_lines()), ("machines", scale.machine_lines())):
        shown = text.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert shown.split("\n")[1:-1] == lines


def test_a_stages_hours_are_its_work_its_model_and_its_end(modules: Any) -> None:
    """Of 64 GPUs, on 8 machines that each read the model, at 50 GB/s together."""
    scale = modules("scale")
    loads = 8 * modules("arithmetic").weight_bytes(scale.LLAVA_34B) / 50e9
    build = scale.Stage("build", 3600.0, alone=100.0, read=1e9)
    assert build.hours(64) == pytest.approx((3600 / 64 + loads + 100) / 3600)
    waits = scale.Stage("train", 3600.0, (1.0, 2.0))  # gathering takes twice as long as computing
    assert waits.hours(64) == pytest.approx((2 * 3600 / 64 + loads) / 3600)
    reads = scale.Stage("read", 3600.0, read=50e9 * 60)
    assert reads.hours(64) == pytest.approx((60 + loads) / 3600)
