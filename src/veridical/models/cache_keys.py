"""What a forward's digits depend on beside the model's files, as parts of the caches' keys."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from veridical.models.attention import attentions_of
from veridical.models.model_argument import Model
from veridical.models.policy import Policy, in_four_bits
from veridical.models.precision import mixing
from veridical.runtime.cache import Cache, digest
from veridical.runtime.fingerprint import Fingerprint, fingerprint
from veridical.runtime.versions import version_of

LIBRARIES = ("veridical", "torch", "transformers")


def tensors_hash(named: Iterable[tuple[str, Tensor]]) -> str:
    """Hash of tensors in memory, with their names."""
    return digest([[name, tensor] for name, tensor in sorted(named, key=lambda pair: pair[0])])


def model_fingerprint(
    model: Model, init_adapter: Path | None = None, cache: Cache | None = None
) -> Fingerprint:
    """Tell which model it is: by its files, or a loaded one by its weights in memory.

    A loaded model may have been changed since, so its name says nothing.

    Args:
        model: its name, or the loaded model.
        init_adapter: an adapter's folder that is loaded on it.
        cache: remembers the hashes of files; the user's own if not given.

    Raises:
        UserError: as for `fingerprint`.
    """
    if isinstance(model, str):
        return fingerprint(model, init_adapter, cache)
    weights = tensors_hash(model.core.state_dict().items())
    files = {
        "weights in memory": weights,
        "processor in memory": processor_hash(model),
        "tokenizer in memory": tokenizer_hash(model),
    }
    return Fingerprint(digest(sorted(files.items())), None, files)


def processor_hash(policy: Policy) -> str:
    """Hash of how images become tensors: the processor's configuration and backend."""
    processor = policy.processor
    classes = [type(processor).__name__, type(processor.image_processor).__name__]
    return digest(classes, _plain(processor.to_dict()), _plain(processor.image_processor.to_dict()))


def tokenizer_hash(policy: Policy) -> str:
    """Hash of how words become tensors: the tokenizer, and the chat templates.

    How a tokenizer last padded and cut is a part of its own text, and is left out.
    """
    processor = policy.processor
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:
        content = json.loads(backend.to_str())
        words = json.dumps({**content, "padding": None, "truncation": None}, sort_keys=True)
    templates = [getattr(one, "chat_template", None) for one in (processor, tokenizer)]
    return digest(type(tokenizer).__name__, words, json.dumps(templates, sort_keys=True))


def surroundings(policy: Policy) -> list[str]:
    """What else moves a forward's digits: libraries, dtype, bits, kind of device, attention."""
    versions = [f"{name} {version_of(name) or 'not installed'}" for name in LIBRARIES]
    attention = attentions_of(policy.core)
    bits = "four bits" if in_four_bits(policy) else "as loaded"
    kind = policy.device.type
    dtypes = sorted({str(p.dtype) for p in policy.core.parameters() if p.is_floating_point()})
    mixed = mixing(policy.device)
    dtypes += [f"computed in {mixed}"] if mixed else []
    return [*versions, " and ".join(dtypes), bits, kind, attention, torch.__version__]


def _plain(configuration: dict[str, object]) -> str:
    kept = {name: value for name, value in configuration.items() if name != "_name_or_path"}
    return json.dumps(kept, sort_keys=True, default=str)
