"""Tensors of a checkpoint that its model class does not load, and how they come along.

Some checkpoints hold more than the model that Transformers builds, above all multi-token prediction
heads, which servers use to speak faster. Transformers skips them in silence, so a model that is
saved again would have lost them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from veridical.runtime.files import write_json

_DERIVED = re.compile(r"(inv_freq|position_ids|relative_position_index)$")
"""Buffers that older versions saved and that every model computes by itself."""

_PRIVATE = "_adjust_missing_and_unexpected_keys"
"""Transformers' own method that sees every name before a class's list of names to pass over. A
release without it, or with other arguments, loads as ever, and nothing is found."""

_OLDER = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
"""How PyTorch's own format is named; other files with this ending hold no weights."""

HEAD_ENDING = "_head.safetensors"
"""How files of reward heads end, which are not part of the model."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@contextmanager
def watch_skipped() -> Iterator[set[str]]:
    """Collect the names of tensors that a `from_pretrained` within finds no place for.

    Those that a class asks to be skipped in silence are among them.
    """
    found: set[str] = set()
    stock = getattr(PreTrainedModel, _PRIVATE, None)
    if stock is None:
        yield found
        return

    def noting(model: PreTrainedModel, *given: object, **named: object) -> object:
        for one in (*given, *named.values()):
            unexpected = getattr(one, "unexpected_keys", ())
            found.update(name for name in unexpected if not _DERIVED.search(name))
        return stock(model, *given, **named)

    setattr(PreTrainedModel, _PRIVATE, noting)
    try:
        yield found
    finally:
        setattr(PreTrainedModel, _PRIVATE, stock)


def keep_skipped(names: Sequence[str], files: Sequence[Path], folder: Path) -> str:
    """Copy tensors that were not loaded from a model's files into a saved model.

    Args:
        names: from `watch_skipped`; may be none.
        files: what the model was loaded from.
        folder: where it was saved.

    Returns:
        What was done, for the log; "" if there was nothing to do.
    """
    found = read_skipped(files, names)
    if found:
        add_to_checkpoint(folder, found)
    lost = sorted(set(names) - found.keys())
    told = []
    if found:
        told.append(f"Copied unchanged into {folder.name}/: {_rest(sorted(found))}.")
    if lost:
        told.append(
            f"Missing in {folder.name}/, since the checkpoint's files name them otherwise: "
            f"{_rest(lost)}."
        )
    unread = _unread_files(files)
    if unread:
        told.append(
            f"Not in {folder.name}/, since Transformers does not read them: {', '.join(unread)}. "
            "Copy them if a server needs them."
        )
    return " ".join(told)


def _unread_files(files: Sequence[Path]) -> list[str]:
    """Files of weights beside a model's own that nothing names, such as model-mtp.safetensors."""
    found = []
    for folder in {file.parent for file in files if file.name == "config.json"}:
        index = folder / INDEX
        single = (folder / WEIGHTS).is_file() or not index.is_file()
        own = {WEIGHTS} if single else set(json.loads(index.read_text())["weight_map"].values())
        others = {path.name for path in folder.glob("*.safetensors")} - own
        found += sorted(name for name in others if not name.endswith(HEAD_ENDING))
    return found


def read_skipped(files: Sequence[Path], names: Sequence[str]) -> dict[str, Tensor]:
    """Those of the named tensors that these files hold under that name."""
    wanted, found = set(names), {}
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as content:
                found.update({n: content.get_tensor(n) for n in wanted & set(content.keys())})
        elif _OLDER.fullmatch(path.name):
            held = torch.load(path, map_location="cpu", weights_only=True)
            found.update({n: held[n] for n in wanted & held.keys()})
    return found


class _Index(TypedDict):
    """Which file of a saved model holds which tensor."""

    metadata: dict[str, int]
    weight_map: dict[str, str]


def add_to_checkpoint(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Put tensors beside those of a saved model, in a file of their own that its index names."""
    single, index_path = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        with safe_open(single, "pt") as content:
            weight_map = dict.fromkeys(content.keys(), "model-00001-of-00002.safetensors")
            total = sum(_bytes(content.get_tensor(name)) for name in content.keys())  # noqa: SIM118
        single.rename(folder / "model-00001-of-00002.safetensors")
        index: _Index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        file = "model-00002-of-00002.safetensors"
    else:
        index = json.loads(index_path.read_text())
        file = "model-rest.safetensors"
    save_file(
        {n: t.contiguous() for n, t in tensors.items()}, folder / file, metadata={"format": "pt"}
    )
    index["weight_map"] |= dict.fromkeys(tensors, file)
    index["metadata"]["total_size"] += sum(map(_bytes, tensors.values()))
    write_json(index_path, index)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _rest(names: Sequence[str]) -> str:
    many = "1 tensor" if len(names) == 1 else f"{len(names)} tensors"
    return f"{many} that Transformers does not load ({_few(names)})"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
