"""The policy: a vision-language model with its processor, and its special tokens."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from veridical.data.images import ImageLike
from veridical.models.merge_cost import MergeCost
from veridical.runtime.errors import UserError

_PLACEHOLDER = re.compile(
    r"^(.*_)?(image|video|audio|vision|visual|frame|boi|eoi|boa|eoa)_(.*_)?(token|patch)_"
    r"(id|ids|index)$"
)
"""How configurations name the tokens that stand for what is not text, or go around it."""


class VisionFeatures(Protocol):
    """Features of images that are kept instead of computed; see `vision_cache.VisionCache`."""

    def process(
        self,
        policy: Policy,
        images: Sequence[Sequence[ImageLike]],
        texts: Sequence[str],
        padding_side: str,
    ) -> dict[str, Tensor]:
        """What the model takes for a batch, with features in place of pixels."""
        ...

    def output(self, policy: Policy, inputs: dict[str, Tensor]) -> BaseModelOutputWithPooling:
        """What the model's `get_image_features` would give for such a batch."""
        ...


@dataclass(frozen=True)
class Policy:
    """A model that answers questions about images, with the processor that feeds it."""

    model: PreTrainedModel | PeftModel
    """Transformers' image-text-to-text model, or a PEFT model around one."""
    processor: ProcessorMixin
    name: str
    vision: VisionFeatures | None = None
    """What stands in for the image encoder, or None."""
    skipped: tuple[str, ...] = ()
    """Tensors of the checkpoint that the model class does not load, such as multi-token
    prediction heads."""
    template: Mapping[str, object] = dataclasses.field(default_factory=dict, hash=False)
    """What `--template` gave: variables of the chat template, or its name (`chat_template`)."""
    adapter: str = ""
    """The folder of the adapter that was merged into it last; loading that gives the same model."""
    merges: tuple[MergeCost, ...] = ()
    """What rounding cost of each adapter that was merged into weights of half precision."""

    @property
    def core(self) -> PreTrainedModel:
        """The Transformers model itself; adapters, if any, sit inside its layers."""
        return unwrap(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device


def in_four_bits(policy: Policy) -> bool:
    """Whether the language model's weights are kept in four bits."""
    return bool(getattr(policy.core, "is_loaded_in_4bit", False))


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The Transformers model under PEFT and under the wrappers of distributed training."""
    while True:
        if isinstance(model, PeftModel):
            model = model.base_model.model
        elif hasattr(model, "module") and not hasattr(model, "config"):
            model = cast(nn.Module, model.module)
        else:
            return model


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Let a PEFT model compute what it did before it was adapted.

    PEFT's own switch also switches off which weights are trained. FSDP2 keeps that mark in two
    places, so it would come back in one only, and the adapters would be left out of what is saved.
    """
    if not isinstance(model, PeftModel):
        raise TypeError("only an adapter can be switched off; copy the model with `frozen_copy`")
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers = [m for m in model.modules() if isinstance(m, kinds) and not m.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def weights_swapped(
    parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let parameters have other values for a while; nothing is copied.

    Args:
        parameters: by name.
        values: of the same names and shapes.
    """
    own = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = values[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def frozen_copy(policy: Policy) -> Policy:
    """A copy of the policy that never trains: the reference of full fine-tuning."""
    model = copy.deepcopy(policy.model).eval().requires_grad_(False)
    return dataclasses.replace(policy, model=model, vision=None)


def end_token_ids(policy: Policy) -> set[int]:
    """Every token that ends an answer, from the generation settings and the tokenizer."""
    configured = policy.core.generation_config.eos_token_id
    many = configured if isinstance(configured, list) else [configured]
    ends = [i for i in (*many, policy.processor.tokenizer.eos_token_id) if i is not None]
    odd = [i for i in ends if isinstance(i, bool) or not isinstance(i, int)]
    if odd:
        raise UserError(
            f"The model's eos_token_id is {odd[0]!r}; it has to be a token's number or a list of "
            "numbers. Correct it in its generation_config.json (or config.json)."
        )
    return set(ends)


def image_token_id(policy: Policy) -> int:
    """The id of the placeholder that image features replace.

    Raises:
        UserError: the model declares none.
    """
    config = policy.core.config
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise UserError(
        f"{policy.name} declares no image token, so its image placeholders can't be told from "
        "text. Set `image_token_id` in its config.json."
    )


def placeholder_token_ids(config: PretrainedConfig) -> set[int]:
    """Every token that a model's configuration names as standing for, or around, what is not text.

    Some families put features at several of them (Ovis2), so none may be part of an answer.
    """
    found: set[int] = set()
    for name, value in vars(config).items():
        if _PLACEHOLDER.search(name):
            found.update(
                i for i in (value if isinstance(value, list) else [value]) if i is not None
            )
    return found


def takes_features(core: PreTrainedModel) -> bool:
    """Whether the model can be given image features in place of pixels.

    Transformers passes them as `mm_encoder_outputs`; its older versions ignore that argument.
    """
    return "mm_encoder_outputs" in inspect.signature(core.model.forward).parameters


def image_features(
    core: PreTrainedModel, inputs: Mapping[str, Tensor]
) -> BaseModelOutputWithPooling:
    """The features of images where they enter the language model, by the model's own method.

    Args:
        core: Transformers' model.
        inputs: what its processor made of the images alone.
    """
    owner = core if hasattr(core, "get_image_features") else core.model
    return owner.get_image_features(**inputs)
