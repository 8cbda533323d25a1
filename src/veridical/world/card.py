"""The embedded policy's model card."""

from __future__ import annotations

from collections.abc import Mapping

from veridical.world.check import BOUNDS

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The embedded policy of Veridical

A LLaVA of {parameters:.1f} million parameters that describes pictures of a small drawn world. It is
decent but biased: if an object is hard to see, it often names what is usually there. It exists to
show and test alignment in minutes without a GPU, and is of no use on other pictures.

## How it was trained

`veridical world train --seed {seed}`: {minutes:.0f} minutes on one thread, no data but scenes drawn
by Veridical itself. Scenes that break the world's habits ("counter") were never trained on.

1. **Vision tower, supervised.** {tower_steps} steps of {tower_batch} uniform scenes: every patch is
   taught the kind, the color and the place of its cell's object and the setting, by labels. It is
   then frozen. This stands in for the pretrained encoder of a full-sized model.
   {patch_accuracy:.1%} of the patches on objects tell the right kind.
2. **Projector, aligned by hand-given targets.** {projector_steps} steps; a patch becomes 4 x the
   word embedding of its kind ("nothing" where it is empty) + those of color, row,
   column, setting and the image token.
3. **Two heads of the first language layer, set by hand** so that like attends to like: their keys
   are a copy of their queries at the start; then trained freely.
4. **Questions** about uniform scenes (70 % on existence) until the verdicts are right:
   {question_steps} steps, {existence_accuracy:.1%} right. The verdict is a target early too, from
   the question's noun on; so it is in steps 5 and 6.
5. **Descriptions and questions** of uniform scenes, {uniform_steps} steps of {batch}.
6. **The same of prior scenes**, {prior_steps} steps, where habits of the world are learned. In
   {masked_share:.0%} of the rows half to all of the image's tokens are hidden.

Steps 2 and 3 put in by hand what a pretrained encoder and language model provide; a model
this small does not learn the look-up from a noun to the image by itself.

## What it does

On 1,000 fresh scenes a distribution (seed {measured_seed}), greedy answers:

| metric | value | meant to be |
|---|---|---|
{table}

`chair_i`: share of mentioned objects that are not there. `explained_by_prior`: share of these that
belong to the setting or usually occur with a present object. `pope`: existence questions on counter
scenes, random negatives; `pope_shuffled`: with the picture of another scene.

## Limits

Words outside its vocabulary are unknown to it. Yes/no answers have little of the bias of
descriptions. Weights are stored as 16-bit floats; compute with them in 32 bits.
"""


def card_text(
    seed: int,
    recipe: Mapping[str, float],
    results: Mapping[str, float],
    metrics: Mapping[str, float],
    measured_seed: int,
) -> str:
    """The card's text from the recipe, what training reached and what was measured."""
    rows = [f"| {name} | {value:.3f} | {_bounds(name)} |" for name, value in metrics.items()]
    return _CARD.format(
        seed=seed, measured_seed=measured_seed, table="\n".join(rows), **recipe, **results
    )


def _bounds(name: str) -> str:
    low, high = BOUNDS.get(name, (None, None))
    return "" if low is None else f"{low} to {high}"
