"""What a forward's digits depend on beside the model's files, as parts of the caches' keys."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import mixing
from veridical.runtime.cache import digest

LIBRARIES = ("veridical", "torch", "transformers")


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


def _plain(configuration: dict[str, Any]) -> str:
    kept = {name: value for name, value in configuration.items() if name != "_name_or_path"}
    return json.dumps(kept, sort_keys=True, default=str)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
