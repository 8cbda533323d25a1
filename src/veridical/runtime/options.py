"""Groups of options that commands share, and a command's options as one flat table.

A parameter of a command whose type is a group stands for the group's fields: on the command line
and in a YAML file they are written like any other option (`--device cpu`, `device: cpu`), in Python
they are set together (`loading=Loading(device="cpu")`). A group may hold another. Nothing here
imports a library, so that a help page comes at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from veridical.runtime.cache import Cache

DtypeName = Literal["auto", "float64", "float32", "bfloat16", "float16"]
AttentionName = Literal["auto", "eager", "sdpa", "flash", "flex"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model computes, and in what numbers.

    Attributes:
        dtype: number format of the weights; `auto` keeps the checkpoint's own (float32 on a CPU).
        device: `auto` (CUDA, then MPS, then the CPU), or a PyTorch device such as `cpu`, `cuda:1`.
        attention: implementation of attention: `eager`, `sdpa`, `flash` (the package flash-attn) or
            `flex` (PyTorch's FlexAttention); `auto` is `sdpa` where the model has it.
    """

    dtype: DtypeName = "auto"
    device: str = "auto"
    attention: AttentionName = "auto"


@dataclass(frozen=True, kw_only=True)
class Loading(Placement):
    """How the model is loaded.

    Attributes:
        template: a variable of the model's chat template, such as enable_thinking=true
            (false where the template reads it and nothing is said); chat_template=NAME chooses one.
    """

    template: dict[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How records are read.

    Attributes:
        limit: use only the first so many records of a file.
        images_root: what image paths are relative to; the records' own folder if not set.
        max_bad_fraction: share of unusable rows above which nothing is done.
    """

    limit: int | None = None
    images_root: Path | None = None
    max_bad_fraction: float = 0.01


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """What runs share on disk.

    Attributes:
        cache: folder that runs share for image features and reference log-probabilities, or `none`;
            if not set, the variable VERIDICAL_CACHE says, else it is the user's folder for caches.
        cache_gigabytes: what that folder may hold, in 10^9 bytes; the longest unused goes first.
        vision_cache: keep each image's features there instead of encoding the image every time; the
            vision tower has to be frozen. If not set, several benchmarks in one `veridical eval`
            do it for a model that takes features, and nothing else does.
    """

    cache: str | None = None
    cache_gigabytes: float = 50.0
    vision_cache: bool | None = None

    def open(self) -> Cache:
        """Open the cache.

        Raises:
            UserError: the folder can't be one, or may hold nothing.
        """
        from veridical.runtime.cache import open_cache

        return open_cache(self.cache, self.cache_gigabytes)


def by_option(arguments: Mapping[str, object]) -> dict[str, object]:
    """A command's arguments by option, as `run.json` keeps them.

    A group gives its fields. A field that is one of several dataclasses to choose from gives the
    chosen one's `name` and its fields; a tuple of dataclasses gives the fields of all.
    """
    found: dict[str, object] = {}
    for name, value in arguments.items():
        if _is_group(value):
            found |= by_option(options_of(value))
        else:
            found[name] = value
    return found


def options_of(group: Any) -> dict[str, Any]:
    """A group's fields; a choice among them is its name and its own fields."""
    found: dict[str, object] = {}
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if _is_group(value) and hasattr(value, "name"):
            found |= {field.name: value.name, **options_of(value)}
        elif isinstance(value, tuple) and any(map(_is_group, value)):
            for item in value:
                found |= options_of(item)
        elif value != ():
            found[field.name] = value
    return found


def _is_group(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
