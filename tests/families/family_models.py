"""Tiny random models of many families, with the real processors of each, made without a hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import is_torchvision_available

from veridical.models import Policy

WORDS = [
    "Describe the image. What do you see? This is a park. There is a red cup at the top left.",
    "user assistant User Assistant Compare the two pictures. There is a blue dog at the bottom.",
    "This is a kitchen. There is a green chair. Yes. No. model USER ASSISTANT street right",
]


def build_tokenizer(special: list[str], bos: str | None, eos: str, pad: str, **named: str) -> Any:
    """A byte-level BPE tokenizer with a few merges, trained on the spot."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    every = [token for token in (bos, eos, pad) if token] + special
    distinct = list(dict.fromkeys([*every, *named.values()]))
    trainer = trainers.BpeTrainer(
        vocab_size=400 + len(distinct),
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in distinct],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens=named or None,
        clean_up_tokenization_spaces=False,
    )


TEMPLATE = (
    "{{ 'BOS' }}{% for message in messages %}"
    "{% set role = 'ASSISTANT' if message['role'] == 'assistant' else message['role'] %}"
    "{{ 'TURN'.replace('ROLE', role) }}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{{ 'END' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'TURN'.replace('ROLE', 'ASSISTANT') }}{% endif %}"
)


def chat_template(
    turn: str, image: str, end: str, bos: str = "", assistant: str = "assistant"
) -> str:
    """A conversation in the family's own marks; a prompt is a prefix of its conversation."""
    marks = {"TURN": turn, "IMAGE": image, "END": end, "BOS": bos, "ASSISTANT": assistant}
    template = TEMPLATE
    for name, mark in marks.items():
        template = template.replace(f"'{name}'", repr(mark))
    return template


LANGUAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}


def ids(tokenizer: Any) -> dict[str, Any]:
    """What a language model's configuration wants to know of its tokenizer."""
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


MROPE: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "mrope_section": [2, 1, 1],
}
CHATML = ("<|im_start|>ROLE\n", "<|im_end|>\n")


def qwen_tokenizer() -> Any:
    return build_tokenizer(
        ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"],
        None,
        "<|im_end|>",
        "<|endoftext|>",
        image_token="<|image_pad|>",
    )


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }


def qwen_template() -> str:
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    return chat_template(CHATML[0], image, CHATML[1])


def qwen2_5_vl() -> Policy:
    tokenizer = qwen_tokenizer()
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(size=size, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=qwen_template(),
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [2, 1, 1],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "window_size": 16,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen3_vl() -> Policy:
    tokenizer = qwen_tokenizer()
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(size=size, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(),
        chat_template=qwen_template(),
    )
    config = transformers.Qwen3VLConfig(
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "num_hidden_layers": 3,
            "head_dim": 8,
            "rope_parameters": {**MROPE, "mrope_interleaved": True},
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.2,
        },
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen3VLForConditionalGeneration(config), processor)


def finish(model: Any, processor: Any) -> Policy:
    """Float64 all through, with the generation settings of the tokenizer."""
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model = model.double().eval()
    keep_norms_exact(model)
    return Policy(model, processor, type(model).__name__)


class ExactNorm(torch.nn.Module):
    """The root-mean-square norm in the precision of what it is given."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        self.offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)
        return torch.as_tensor(hidden * scale * (self.offset + self.weight))


def keep_norms_exact(model: torch.nn.Module) -> None:
    """Transformers' norms round to float32 inside, which would hide what float64 is to show."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, ExactNorm(child))


@dataclass(frozen=True)
class Family:
    """How a family is built, and what is expected of it.

    Attributes:
        name: as people write it.
        build: makes the tiny model with its processor.
        torchvision: whether its processor wants torchvision.
        shares: whether the probe admits a shared prefix; else a word of the reason.
        masks: whether image tokens can be masked; else a word of the reason.
    """

    name: str
    build: Callable[[], Policy]
    torchvision: bool = False
    shares: str | None = None
    masks: str | None = None


FAMILIES = [
    Family("Qwen2.5-VL", qwen2_5_vl, torchvision=True),
    Family("Qwen3-VL", qwen3_vl, torchvision=True, masks="stock forward"),
]


def can_be_built(family: Family) -> bool:
    return not family.torchvision or bool(is_torchvision_available())
