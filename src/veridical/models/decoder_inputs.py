"""What a model gives its language model: image features in place, and who may look ahead.

Read from the model's own forward, which is stopped there. So nothing about a family has to be
known: whether it scales its embeddings, adds features to them or puts marks around an image.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers import PreTrainedModel

from veridical.runtime.errors import UserError

Rule = Literal["runs", "all"]
"""Which image tokens see each other in both directions: those of a run without a gap (Gemma), or
all of a row (Molmo 2)."""

KINDS = ("token_type_ids", "mm_token_type_ids")
"""Names under which processors say of each token whether it belongs to an image."""


@dataclass(frozen=True)
class Lookahead:
    """Which image tokens see each other in both directions.

    Attributes:
        rules: by the kind of layer; kinds in which tokens only look back are not named.
        name: the processor's output that the rules go by; empty without rules.
    """

    rules: Mapping[str, Rule]
    name: str


class _ReachedDecoderError(Exception):
    """Carries what the language model was given out of the forward."""


@torch.no_grad()
def decoder_inputs(core: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a model's forward gives its language model.

    Args:
        core: Transformers' model.
        inputs: what its forward takes.

    Raises:
        UserError: the language model is not called from within that forward.
    """
    seen: dict[str, object] = {}

    def stop(_: Any, __: Any, given: dict[str, object]) -> None:
        seen.update(given)
        raise _ReachedDecoderError

    handle = core.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    try:
        core.model(**inputs)
    except _ReachedDecoderError:
        pass
    finally:
        handle.remove()
    if not isinstance(seen.get("inputs_embeds"), Tensor):
        raise UserError(
            f"{type(core).__name__} does not hand its language model embeddings with the image "
            "features in place, so they can't be read."
        )
    return seen


_LOOKAHEAD: weakref.WeakKeyDictionary[object, Lookahead] = weakref.WeakKeyDictionary()


def known_lookahead(core: PreTrainedModel) -> Lookahead | None:
    """What `find_lookahead` found for this model."""
    return _LOOKAHEAD.get(core)


def find_lookahead(core: PreTrainedModel, inputs: Mapping[str, Any]) -> Lookahead:
    """Find which image tokens look ahead, from the masks that the model makes of a prompt.

    The result is kept, since it never changes. Where no rule gives the model's own mask, none is
    taken; a layout that brings its own mask will then differ from the model, which probes notice.

    Args:
        core: Transformers' model.
        inputs: a processed prompt with two images and text between them, so that rules differ.
    """
    found = Lookahead({}, "")
    names = [name for name in KINDS if name in inputs]
    mask = decoder_inputs(core, inputs).get("attention_mask") if names else None
    by_kind = mask if isinstance(mask, dict) else {"full_attention": mask}
    ahead = {kind: _ahead(one) for kind, one in by_kind.items()}
    for name in names:
        rules = {kind: _rule(pairs, inputs[name]) for kind, pairs in ahead.items()}
        fitting = {kind: rule for kind, rule in rules.items() if rule}
        if len(fitting) > len(found.rules):
            found = Lookahead(fitting, name)
    _LOOKAHEAD[core] = found
    return found


def _rule(ahead: Tensor | None, kinds: Tensor) -> Rule | None:
    """The rule that gives what sees what is ahead of it; None if nothing does, or no rule."""
    if ahead is None or not ahead.any():
        return None
    rules: tuple[Rule, ...] = ("runs", "all")
    return next((rule for rule in rules if torch.equal(_pairs(kinds, rule), ahead)), None)


def decoder_blocks(kinds: Tensor, rule: Rule) -> Tensor:
    """The number of the block whose tokens all see each other, from 0; -1 for other tokens.

    Args:
        kinds: 1 at image tokens, as the processor says. Shape: (rows, length).
        rule: which image tokens make up a block.

    Returns:
        Shape: (rows, length).
    """
    is_image = kinds == 1
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    numbers = starts.cumsum(-1) - 1 if rule == "runs" else torch.zeros_like(kinds)
    return torch.where(is_image, numbers, -1)


def _pairs(kinds: Tensor, rule: Rule) -> Tensor:
    """True where a query sees a later key by this rule. Shape: (rows, length, length)."""
    own = decoder_blocks(kinds, rule)
    return ((own[:, :, None] == own[:, None, :]) & (own[:, None, :] >= 0)).triu(1)


def _ahead(mask: object) -> Tensor | None:
    """True where a query sees a later key, by a mask as a model makes it; None if it is causal."""
    if isinstance(mask, BlockMask):
        rows, _, queries, keys = mask.shape
        mask = create_mask(mask.mask_mod, rows, 1, queries, keys, mask.kv_indices.device)
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return None
    allowed = mask if mask.dtype == torch.bool else mask == 0
    return allowed[:, 0].triu(1)
