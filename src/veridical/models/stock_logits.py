"""Logits by the model's own forward, and whether its head on hidden states gives the same."""

from __future__ import annotations

import inspect
import weakref

import torch
from torch import Tensor
from transformers import PreTrainedModel


def stock_logits(core: PreTrainedModel, inputs: dict[str, Tensor], positions: Tensor) -> Tensor:
    """Logits of the stock forward at these positions of every row. Shape: (b, positions, v)."""
    if "logits_to_keep" in inspect.signature(core.forward).parameters:
        logits: Tensor = core(**inputs, logits_to_keep=positions).logits
        return logits
    return torch.as_tensor(core(**inputs).logits[:, positions])


_PLAIN: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()


def logits_are_the_heads(core: PreTrainedModel, tokens: Tensor) -> bool:
    """Whether the model's logits are just its head on its last hidden states.

    Some families scale or cap logits after the head (Gemma, Granite, Cohere), or scale hidden
    states before it. It is found out by experiment, once a model: in a stock forward of a few
    tokens the head's output is replaced by known large numbers, which have to come out as they
    are, and what the head was given has to be the last hidden states.

    Args:
        core: Transformers' model.
        tokens: ordinary tokens, at least one. Shape: (n,).
    """
    if core not in _PLAIN:
        _PLAIN[core] = _try_head(core, tokens[:4].unsqueeze(0))
        if not _PLAIN[core]:
            print(
                f"{type(core).__name__} scales or caps logits after its head, or hidden states "
                "before it: its own forward makes them, all at once, which takes more memory."
            )
    return _PLAIN[core]


@torch.no_grad()
def _try_head(core: PreTrainedModel, ids: Tensor) -> bool:
    states: list[Tensor] = []
    planted: list[Tensor] = []

    def plant(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        states.append(inputs[0])
        steps = torch.linspace(-100, 100, output.numel(), device=output.device)
        planted.append(steps.to(output.dtype).view_as(output))
        return planted[-1]

    training = core.training
    core.eval()
    hooks = (
        core.model.register_forward_hook(lambda _, __, out: states.append(out.last_hidden_state)),
        core.get_output_embeddings().register_forward_hook(plant),
    )
    logits = core(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    for hook in hooks:
        hook.remove()
    core.train(training)
    if len(states) != 2 or len(planted) != 1 or not torch.equal(*states):
        return False
    return torch.equal(logits.to(planted[0].dtype), planted[0])
