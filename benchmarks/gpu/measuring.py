"""What every part of the GPU benchmark shares: its settings, its clock, its figures in a file."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "tokenizers", "torchvision", "datasets", "trl",
    "vllm",
)  # fmt: skip

# What the parts import: the product, the other benchmarks' models, the tests' tiny families.
for folder in (ROOT / "src", ROOT / "benchmarks", ROOT / "tests" / "families", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["VERIDICAL_CACHE"] = "none"

if os.environ.get("VERIDICAL_TORCHVISION"):
    import torchvision_beside  # noqa: F401 - before Transformers looks for torchvision

import torch  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What one part is asked to do.

    Attributes:
        part: its name.
        device: `cuda` or `cpu`.
        tiny: small models, to see whether everything runs.
        seconds: that the part may take, its imports included.
        out: the JSON file for its figures.
        quick: the first model and picture size alone.
        rate: measured floating-point operations a second of a matrix product, or None.
        began: when it was started, in seconds since 1970.
    """

    part: str
    device: str
    tiny: bool
    seconds: float
    out: str
    quick: bool = False
    rate: float | None = None
    began: float = field(default_factory=time.time)

    @property
    def dtype(self) -> torch.dtype:
        """Of the models: bfloat16, also on a CPU, since it is what is being tried."""
        return torch.bfloat16


class Figures:
    """A part's figures, in a file as soon as they are there.

    Attributes:
        rows: what was measured, one row a configuration.
        notes: what was left out, and why.
    """

    def __init__(self, settings: Settings) -> None:
        """Begin the file."""
        self.settings = settings
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.write("running")

    def left(self) -> float:
        """Seconds that the part still has."""
        return self.settings.seconds - self.passed()

    def passed(self) -> float:
        """Seconds since the part was started."""
        return time.time() - self.settings.began

    def write(self, status: str, reason: str = "") -> None:
        """Replace the file."""
        content = {
            "part": self.settings.part,
            "status": status,
            "reason": reason,
            "seconds": round(self.passed(), 1),
            "tiny": self.settings.tiny,
            "machine": describe(self.settings.device),
            "notes": self.notes,
            "rows": self.rows,
        }
        replace_file(Path(self.settings.out), content)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and say so."""
        self.rows.append(row)
        self.write("running")
        print(" ".join(f"{name}={_short(value)}" for name, value in row.items()), flush=True)

    def note(self, text: str) -> None:
        """Keep what was left out, and why."""
        self.notes.append(text)
        self.write("running")
        print(text, flush=True)

    def skip(self, label: dict[str, Any], needs: float, left: float) -> None:
        """Keep that there was no time for a configuration."""
        self.add({**label, "skipped": f"needs some {needs:.0f} s; {max(left, 0):.0f} s left"})

    def attempt(
        self, label: dict[str, Any], needs: float, measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Measure one configuration if there is time; a failure is a row too.

        Args:
            label: what tells this row from others.
            needs: about how many seconds it takes.
            measure: gives the rest of the row.

        Returns:
            The row, or None where there are no figures.
        """
        if needs > self.left():
            self.skip(label, needs, self.left())
            return None
        try:
            row = {**label, **measure()}
        except Exception as error:
            row = {**label, "failed": in_short(error)}
            if not out_of_memory(error):
                traceback.print_exc()
        # Outside the handler: the error's frames hold the tensors that filled the memory.
        free_memory()
        self.add(row)
        return None if "failed" in row else row


def run_part(measure: Callable[[Settings, Figures], None]) -> None:
    """Run a part as its own process: its settings, as JSON, are the command line."""
    settings = Settings(**json.loads(sys.argv[1]))
    if settings.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    figures = Figures(settings)
    try:
        measure(settings, figures)
    except Exception as error:
        traceback.print_exc()
        figures.write("failed", in_short(error))
        sys.exit(1)
    figures.write("done")


def replace_file(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file that a reader never sees half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def in_short(error: BaseException) -> str:
    """An error in one line."""
    if out_of_memory(error):
        return "out of memory"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory, by the error or by what it came from."""
    return isinstance(error, torch.OutOfMemoryError) or (
        error.__cause__ is not None and out_of_memory(error.__cause__)
    )


def free_memory() -> None:
    """Give back what nothing refers to any longer."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(act: Callable[[], object]) -> float:
    """How long something takes on the device."""
    synchronize()
    began = time.perf_counter()
    act()
    synchronize()
    return time.perf_counter() - began


def start_peak(device: str) -> None:
    """Let the high-water mark of memory start from what is in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: str) -> int:
    """The high-water mark: of tensors on a GPU, of the whole process on a CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def describe(device: str) -> dict[str, Any]:
    """The card, and the versions of what runs on it."""
    found: dict[str, Any] = {"device": device, "python": platform.python_version()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_bytes": card.total_memory, "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
