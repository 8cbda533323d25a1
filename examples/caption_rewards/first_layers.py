"""A smaller base for a reward model: the first layers of a model that others trained.

    python first_layers.py MODEL --layers 12 --out BASE [--import FILE.py]

A reward is read off a hidden state, so the last layers, which turn states into words, can go. What
is left is not the model any more: it says nothing sensible, and has to be trained to judge.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from veridical.models.load import load_policy
from veridical.runtime.local_code import import_file


def keep_first_layers(model: str, layers: int, out: Path) -> None:
    """Load a model, drop its language model's last layers, and save the rest with its processor."""
    policy = load_policy(model, device="cpu")
    decoder = policy.core.get_decoder()
    there = len(decoder.layers)
    if not 1 <= layers <= there:
        raise SystemExit(f"--layers is {layers}; {model} has {there}.")
    decoder.layers = decoder.layers[:layers]
    policy.core.config.get_text_config().num_hidden_layers = layers
    policy.model.save_pretrained(out)
    policy.processor.save_pretrained(out)
    print(f"{layers} of {there} layers are in {out}.")


def main() -> None:
    """Read the command line."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("model")
    reader.add_argument("--layers", type=int, required=True)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument(
        "--import", type=Path, dest="code", help="local code of the model's classes"
    )
    given = reader.parse_args()
    if given.code is not None:
        import_file(given.code)
    keep_first_layers(given.model, given.layers, given.out)


if __name__ == "__main__":
    main()
