"""What a model makes of plain English: its perplexity, before and after it learned to see.

    python text.py MODEL [--text FILE] [--out FILE]

`english.txt` was written for this example, so no model has read it.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from photos import taught_errors
from torch import Tensor

from veridical.models.load import load_policy
from veridical.runtime.files import require_file, write_json
from veridical.runtime.local_code import import_file

HERE = Path(__file__).parent
ENGLISH = HERE / "english.txt"


def paragraphs(text: str) -> list[str]:
    """The text's paragraphs, each on one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


@torch.no_grad()
def perplexity(model: Any, words: Any, text: str) -> float:
    """How many tokens the model wavers between, on average: exp(-mean log-likelihood).

    Args:
        model: a model with a head for text.
        words: its tokenizer.
        text: the first token of each paragraph is given, not foretold.
    """
    total, count = 0.0, 0
    for paragraph in paragraphs(text):
        ids = words(paragraph, add_special_tokens=False, return_tensors="pt")["input_ids"]
        logits = model(input_ids=ids.to(model.device)).logits[0, :-1].float()
        chosen = logits.log_softmax(-1).gather(1, ids[0, 1:, None].to(logits.device))
        total, count = total - float(chosen.sum()), count + len(chosen)
    return math.exp(total / count)


def chunks(words: Any, text: str, length: int) -> Iterator[Tensor]:
    """A text's tokens in rows of `length`; the rest is left out. Shape of each: (1, length)."""
    ids: Sequence[int] = words(text, add_special_tokens=False)["input_ids"]
    for start in range(0, len(ids) - length + 1, length):
        yield torch.tensor([ids[start : start + length]])


def main() -> None:
    """Read the command line; print the perplexity."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("model")
    reader.add_argument("--text", type=Path, default=ENGLISH)
    reader.add_argument("--out", type=Path, help="also write it there, as JSON")
    given = reader.parse_args()
    import_file(HERE / "tower.py")
    with taught_errors():
        require_file(given.text, "--text")
        policy = load_policy(given.model)
    text = given.text.read_text(encoding="utf-8")
    found = perplexity(policy.model, policy.processor.tokenizer, text)
    print(f"perplexity {found:.1f} on {given.text.name}")
    if given.out:
        write_json(given.out, {"model": given.model, "text": given.text.name, "perplexity": found})


if __name__ == "__main__":
    main()
