"""What is asked in conversations that are made of other sets' rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, require_file
from veridical.runtime.randomness import generator
from veridical.runtime.yaml_text import read_yaml

SHIPPED = Path(__file__).with_name("prompts.yaml")
SLOTS: Mapping[str, tuple[str, ...]] = {
    "vqa": ("question",),
    "aokvqa": ("question", "options"),
    "flickr": (),
}
"""What each set's prompts have to hold."""


@dataclass(frozen=True)
class Prompts:
    """The texts for each set, and the seed by which one is drawn."""

    texts: Mapping[str, Sequence[str]]
    seed: int

    def ask(self, name: str, key: str, **slots: str) -> str:
        """A set's prompt with its slots filled; the same key gives the same text."""
        texts = self.texts[name]
        text = texts[self.draw(len(texts), key, "prompt")]
        # One pass, so that braces in a question stay as they are.
        return re.sub(r"\{(\w+)\}", lambda slot: slots.get(slot[1], slot[0]), text)

    def draw(self, count: int, *key: str) -> int:
        """A number below `count`."""
        return int(generator(self.seed, "instruct", *key).integers(count))


def read_prompt_texts(path: Path | None, seed: int) -> Prompts:
    """Read the texts of a YAML file like the one that ships with the package.

    Raises:
        UserError: a set has no text, or a text lacks a slot.
    """
    if path is not None:
        require_file(path, "--prompts")
    path = path or SHIPPED
    content = read_yaml(read_text(path), str(path))
    if not isinstance(content, dict) or set(content) != set(SLOTS):
        raise UserError(f"{path} must have a list of texts for each of {', '.join(SLOTS)}.")
    for name, texts in content.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise UserError(f"{path}: {name} must be a list of texts.")
        for slot in SLOTS[name]:
            if any(text.count(f"{{{slot}}}") != 1 for text in texts):
                raise UserError(f"{path}: {{{slot}}} has to stand in each text of {name} once.")
    return Prompts(content, seed)
