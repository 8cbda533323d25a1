"""Tiny random models of many families, with the real processors of each, made without a hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from real_templates import template_of
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import is_timm_available, is_torchvision_available

from veridical.models.load import use_plain_experts
from veridical.models.policy import Policy

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


PALIGEMMA_TEMPLATE = (
    "{% for message in messages %}{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ '<image>' }}{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
"""Of our own: the checkpoints have none."""

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
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "initializer_range": 0.2,
}
QWEN_SIZE = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}


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


def qwen2_5_vl() -> Policy:
    tokenizer = qwen_tokenizer()
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=template_of("Qwen2-VL, Qwen2.5-VL").text,
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
            **QWEN_VISION,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen3_vl_processor(tokenizer: Any, template: str) -> Any:
    return transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(),
        chat_template=template_of(template).text,
    )


def qwen3_vl() -> Policy:
    tokenizer = qwen_tokenizer()
    processor = qwen3_vl_processor(tokenizer, "Qwen3-VL")
    config = transformers.Qwen3VLConfig(
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "num_hidden_layers": 3,
            "head_dim": 8,
            "rope_parameters": {**MROPE, "mrope_interleaved": True},
        },
        vision_config={
            **QWEN_VISION,
            "depth": 3,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen3VLForConditionalGeneration(config), processor)


def qwen3_5() -> Policy:
    tokenizer = qwen_tokenizer()
    processor = qwen3_vl_processor(tokenizer, "Qwen3.5")
    config = transformers.Qwen3_5Config(
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": {**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 0.5},
        },
        vision_config={**QWEN_VISION, "num_position_embeddings": 64},
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen3_5ForConditionalGeneration(config), processor)


CLIP_VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "initializer_range": 0.2,
}
SIGLIP_VISION = {
    **CLIP_VISION,
    "model_type": "siglip_vision_model",
    "patch_size": 4,
    "vision_use_head": False,
}
TILE = {"height": 16, "width": 16}


def llava() -> Policy:
    tokenizer = build_tokenizer([], "<s>", "</s>", "<pad>", image_token="<image>")
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size=TILE, crop_size=TILE, do_center_crop=False),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template_of("LLaVA-1.5").text,
    )
    config = transformers.LlavaConfig(
        vision_config=CLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    return finish(transformers.LlavaForConditionalGeneration(config), processor)


def llava_next() -> Policy:
    tokenizer = build_tokenizer([], "<s>", "</s>", "<pad>", image_token="<image>")
    pinpoints = [[16, 32], [32, 16], [32, 32]]
    processor = transformers.LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size=TILE, image_grid_pinpoints=pinpoints
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template_of("LLaVA-NeXT (Mistral)").text,
    )
    config = transformers.LlavaNextConfig(
        vision_config=CLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=4,
    )
    return finish(transformers.LlavaNextForConditionalGeneration(config), processor)


def llava_onevision() -> Policy:
    tokenizer = build_tokenizer(
        ["<|im_start|>"],
        None,
        "<|im_end|>",
        "<|endoftext|>",
        image_token="<image>",
        video_token="<video>",
    )
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=TILE, image_grid_pinpoints=pinpoints),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=TILE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template_of("LLaVA-OneVision").text,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return finish(transformers.LlavaOnevisionForConditionalGeneration(config), processor)


def idefics3_tokenizer(bos: str = "<|im_start|>") -> Any:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    return build_tokenizer(
        ["<fake_token_around_image>", "<image>", "<global-img>", *tiles],
        bos,
        "<end_of_utterance>",
        "<|im_end|>",
    )


IDEFICS3_SIZES: dict[str, Any] = {
    "size": {"longest_edge": 32},
    "max_image_size": {"longest_edge": 16},
}


def idefics3_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "vision_config": {**CLIP_VISION, "model_type": "idefics3_vision", "patch_size": 4},
        "text_config": {**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "scale_factor": 2,
    }


def idefics3() -> Policy:
    tokenizer = idefics3_tokenizer("<|begin_of_text|>")
    processor = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(**IDEFICS3_SIZES),
        tokenizer,
        image_seq_len=4,
        chat_template=template_of("Idefics3").text,
    )
    config = transformers.Idefics3Config(**idefics3_config(tokenizer))
    return finish(transformers.Idefics3ForConditionalGeneration(config), processor)


def smolvlm() -> Policy:
    tokenizer = idefics3_tokenizer()
    processor = transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**IDEFICS3_SIZES),
        tokenizer,
        transformers.SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=template_of("SmolVLM").text,
    )
    shapes = idefics3_config(tokenizer)
    shapes["vision_config"]["model_type"] = "smolvlm_vision"
    config = transformers.SmolVLMConfig(**shapes)
    return finish(transformers.SmolVLMForConditionalGeneration(config), processor)


def internvl() -> Policy:
    tokenizer = build_tokenizer(
        ["<|im_start|>"],
        None,
        "<|im_end|>",
        "<|endoftext|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=TILE, max_patches=4),
        tokenizer,
        transformers.InternVLVideoProcessor(size=TILE),
        image_seq_length=4,
        chat_template=template_of("InternVL").text,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [16, 16],
        "patch_size": [4, 4],
        "initializer_range": 0.2,
    }
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen2"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return finish(transformers.InternVLForConditionalGeneration(config), processor)


def gemma3() -> Policy:
    tokenizer = build_tokenizer(
        ["<start_of_turn>", "<end_of_turn>"],
        "<bos>",
        "<eos>",
        "<pad>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    processor = transformers.Gemma3Processor(
        Gemma3ImageProcessorPil(size=TILE),
        tokenizer,
        image_seq_length=4,
        chat_template=template_of("Gemma 3").text,
    )
    config = transformers.Gemma3Config(
        vision_config=SIGLIP_VISION,
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 12,
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        tie_word_embeddings=False,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    policy = finish(model, processor)
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    policy.model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    return policy


def paligemma() -> Policy:
    tokenizer = build_tokenizer([], "<bos>", "<eos>", "<pad>", image_token="<image>")
    image_processor = SiglipImageProcessorPil(size=TILE)
    image_processor.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(
        image_processor, tokenizer, chat_template=PALIGEMMA_TEMPLATE
    )
    config = transformers.PaliGemmaConfig(
        vision_config=SIGLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "head_dim": 8, "model_type": "gemma"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return finish(transformers.PaliGemmaForConditionalGeneration(config), processor)


def finish(model: Any, processor: Any) -> Policy:
    """Float64 all through, with the generation settings of the tokenizer."""
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model = model.double().eval()
    use_plain_experts(model)
    keep_norms_exact(model)
    return Policy(model, processor, type(model).__name__)


class ExactNorm(torch.nn.Module):
    """A norm in the precision of what it is given: root-mean-square, or of the distance from it."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = getattr(norm, "weight", torch.ones(()))
        self.eps = getattr(norm, "variance_epsilon", None) or norm.eps
        # What these families keep is the weight's distance from one.
        offset = ("GemmaRMSNorm", "Gemma3RMSNorm", "Qwen3_5RMSNorm")
        self.offset = float(type(norm).__name__ in offset)
        self.centerd = type(norm).__name__.endswith("LayerNorm")

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.centerd:
            hidden = hidden - hidden.mean(-1, keepdim=True)
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)
        return torch.as_tensor(hidden * scale * (self.offset + self.weight))


def keep_norms_exact(model: torch.nn.Module) -> None:
    """Transformers' norms round to float32 inside, which would hide what float64 is to show."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith(("RMSNorm", "Cohere2LayerNorm")):
                setattr(parent, name, ExactNorm(child))


@dataclass(frozen=True)
class Family:
    """How a family is built, and what is expected of it.

    Attributes:
        name: as people write it.
        build: makes the tiny model with its processor.
        torchvision: whether its processor wants torchvision.
        timm: whether its image encoder is timm's.
        shares: whether the probe admits a shared prefix; else a word of the reason.
        masks: whether image tokens can be masked; else a word of the reason.
        refused: None; for a family that cannot be trained at all, a word of the reason.
        keeps: whether image features can be kept; else a word of the reason.
        close: how equal numbers have to be; some round to float32 inside.
    """

    name: str
    build: Callable[[], Policy]
    torchvision: bool = False
    timm: bool = False
    shares: str | None = None
    masks: str | None = None
    refused: str | None = None
    keeps: str | None = None
    close: float = 1e-10


FAMILIES = [
    Family("LLaVA", llava),
    Family("LLaVA-NeXT", llava_next),
    Family("Qwen2.5-VL", qwen2_5_vl, torchvision=True),
    Family("Qwen3-VL", qwen3_vl, torchvision=True, keeps="several of its layers"),
    Family("Idefics3", idefics3),
    Family("SmolVLM", smolvlm, torchvision=True),
    Family("InternVL", internvl, torchvision=True),
    Family("LLaVA-OneVision", llava_onevision, torchvision=True, keeps="beside others"),
    Family("Gemma 3", gemma3, masks="sliding_attention"),
    Family("PaliGemma", paligemma, refused="does not end row"),
    Family(
        "Qwen3.5", qwen3_5, torchvision=True, shares="linear_attention", masks="linear_attention"
    ),
]


def can_be_built(family: Family) -> bool:
    if family.timm and not is_timm_available():
        return False
    return not family.torchvision or bool(is_torchvision_available())
