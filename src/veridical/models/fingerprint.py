"""What a model's answers depend on, as hashes that cost nothing on the second start."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from veridical.models.adapters import adapter_base
from veridical.models.load import EMBEDDED_MODEL
from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import mixing
from veridical.runtime.cache import Cache, digest
from veridical.runtime.files import read_json

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json")
OURS = ("config", "model", "pytorch_model", "adapter")
"""How the names of files begin that hold a model, or say what is in which file."""
LIBRARIES = ("veridical", "torch", "transformers")


def weights_hash(policy: Policy, name: str, init_adapter: Path | None, cache: Cache) -> str:
    """Hash of a policy's weights, from the files that it was loaded from.

    A merged adapter is told by its own files and its base's. Where no files can be found, the
    weights in memory are hashed.

    Args:
        policy: what `load_policy(name, init_adapter=init_adapter)` returned, not yet trained.
        name: what was given for it.
        init_adapter: what was given with it.
        cache: remembers the hashes of files.
    """
    files = weight_files(name, init_adapter)
    if files is None:
        return tensors_hash(policy.core.state_dict().items())
    return digest([[file.name, cache.file_hash(file)] for file in files])


def weight_files(name: str, init_adapter: Path | None = None) -> list[Path] | None:
    """The files that hold a model's weights and configuration; None if they can't be found."""
    folder = EMBEDDED_MODEL if name == "embedded" else Path(name)
    adapted = [folder] if (folder / "adapter_config.json").is_file() else []
    if adapted:
        base = weight_files(adapter_base(folder))
    else:
        base = _files(folder) if folder.is_dir() else _hub_files(name)
    if not base:
        return None
    adapters = [*adapted, *([init_adapter] if init_adapter else [])]
    return [*base, *(file for adapter in adapters for file in _files(adapter))]


def files_elsewhere(name: str, cache: Cache) -> dict[str, Any] | None:
    """What tells a model's files that are not in the folder `name`: those of a hub, or of a base.

    Args:
        name: what was given for the model.
        cache: remembers the hashes of files.

    Returns:
        `revision`, the commit that a hub's files are of, and `files`, a hash by name; None where
        there are no such files, or none is found.
    """
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        base = adapter_base(folder)
        return {"base": base} | (
            files_elsewhere(base, cache) or _told_apart(_files(Path(base)), cache)
        )
    files = None if folder.is_dir() or name == "embedded" else _hub_files(name)
    return _told_apart(files, cache) if files else None


def _told_apart(files: list[Path], cache: Cache) -> dict[str, Any]:
    hashes, revisions = {}, set()
    for file in files:
        real = file.resolve()
        in_hub = file.is_symlink() and real.parent.name == "blobs"
        # The hub's cache names a file's content by its hash.
        hashes[file.name] = real.name if in_hub else cache.file_hash(file)
        revisions |= {file.parent.name} if in_hub else set()
    revision = revisions.pop() if len(revisions) == 1 else None
    return {"revision": revision, "files": hashes}


def tensors_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of tensors in memory, with their names."""
    return digest([[name, tensor] for name, tensor in sorted(named, key=lambda pair: pair[0])])


def processor_hash(policy: Policy) -> str:
    """Hash of how images become tensors: the processor's configuration and backend."""
    processor = policy.processor
    classes = [type(processor).__name__, type(processor.image_processor).__name__]
    return digest(classes, _plain(processor.to_dict()), _plain(processor.image_processor.to_dict()))


def surroundings(policy: Policy) -> list[str]:
    """What else moves a forward's digits: libraries, dtype, bits, kind of device, attention."""
    versions = [f"{name} {_version(name)}" for name in LIBRARIES]
    config = policy.core.config
    attention = str(getattr(config, "_attn_implementation", None))
    bits = "four bits" if in_four_bits(policy) else "as loaded"
    kind = policy.device.type
    dtypes = sorted({str(p.dtype) for p in policy.core.parameters() if p.is_floating_point()})
    mixed = mixing(policy.device)
    dtypes += [f"computed in {mixed}"] if mixed else []
    return [*versions, " and ".join(dtypes), bits, kind, attention, torch.__version__]


def _files(folder: Path) -> list[Path]:
    found = {path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}
    ours = {path for path in found if path.name.startswith(OURS)}
    # An index may give a part of the weights any name, such as mtp.safetensors.
    indexes = [path for path in ours if path.name.endswith(".index.json")]
    named = {folder / file for index in indexes for file in _parts(index)}
    return sorted(ours | {path for path in named if path.is_file()})


def _parts(index: Path) -> set[str]:
    """The files that an index says the weights are in."""
    content = read_json(index)
    parts = content.get("weight_map") if isinstance(content, dict) else None
    return set(map(str, parts.values())) if isinstance(parts, dict) else set()


def _hub_files(name: str) -> list[Path] | None:
    config = try_to_load_from_cache(name, "config.json")
    return _files(Path(config).parent) if isinstance(config, str) else None


def _plain(configuration: dict[str, Any]) -> str:
    kept = {name: value for name, value in configuration.items() if name != "_name_or_path"}
    return json.dumps(kept, sort_keys=True, default=str)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
