"""YAML that people write: no key twice, and no aliases that stand for more than was written."""

from __future__ import annotations

import math
from typing import Any

import yaml

from veridical.runtime.errors import UserError

LARGEST = 100_000
"""Values that a file may stand for, aliases counted wherever they are used."""


class DistinctKeys(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, but a key that a mapping has twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """The mapping.

        Raises:
            yaml.YAMLError: it has a key twice; the key and the line are named.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value!r} is there twice (line {line})")
                seen.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(text: str, place: str) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: it is none, or its aliases make it endless or huge.
    """
    try:
        content = yaml.load(text, DistinctKeys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place} is not YAML: {reason}.") from None
    check_size(content, place)
    return content


def check_size(content: object, place: str) -> None:
    """Refuse a value whose aliases make it endless, or far larger than what was written.

    Raises:
        UserError: names the place.
    """
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, list | dict):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = math.inf  # met again within itself, it has no end
            inner = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item) for item in inner)
        return sizes[id(value)]

    try:
        found = size(content)
    except RecursionError:
        found = math.inf
    if found > LARGEST:
        raise UserError(f"{place} is nested too deeply, or its aliases (*) stand for too much.")
