"""LLaVA-1.5-7B's and Qwen2.5-VL-7B's shapes with random weights, made on the device.

Nothing is downloaded: the processors are Transformers' own, the tokenizers know `w0`, `w1`, ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import measuring  # it says where modules are
import numpy as np
import torch
import transformers
from cases import QWEN_TEMPLATE, Size, build_tokenizer
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import is_torchvision_available

from veridical.data.records import assistant_message, user_message
from veridical.models.policy import Policy
from veridical.world.model import CHAT_TEMPLATE, EOS, IMAGE, PAD

END_WORD, FIRST_WORD = "end.", "So"
"""What a sentence of random words ends with, and what it begins with."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Attributes:
        name: of the model that has them.
        family: `llava` or `qwen`.
        width: of the language model's states.
        intermediate: of its feed-forward layers.
        layers: their number.
        heads: of attention.
        kv_heads: heads that have keys and values of their own.
        vocabulary: tokens.
        vision_width: of the image encoder's states.
        vision_intermediate: of its feed-forward layers.
        vision_layers: their number.
        vision_heads: of attention.
        patch: pixels of a patch's side.
        full_layers: `qwen`: the layers of the image encoder that look everywhere.
        window: `qwen`: pixels of a window's side, in the others.
    """

    name: str
    family: str
    width: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    vision_width: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    patch: int = 14
    full_layers: tuple[int, ...] = ()
    window: int = 112

    @property
    def patches_a_token(self) -> int:
        """Patches of the image that become one image token."""
        return 4 if self.family == "qwen" else 1


SHAPES = (
    Shape("LLaVA-1.5-7B", "llava", 4096, 11008, 32, 32, 32, 32_064, 1024, 4096, 24, 16),
    Shape(
        "Qwen2.5-VL-7B", "qwen", 3584, 18944, 28, 28, 4, 152_064, 1280, 3420, 32, 16,
        full_layers=(7, 15, 23, 31),
    ),
)  # fmt: skip
TINY_SHAPES = (
    Shape("tiny LLaVA", "llava", 64, 172, 2, 4, 4, 500, 32, 64, 2, 4, patch=8),
    Shape("tiny Qwen", "qwen", 64, 172, 2, 4, 2, 500, 32, 64, 2, 4, patch=8, full_layers=(1,),
          window=64),
)  # fmt: skip


def shapes_of(settings: measuring.Settings) -> tuple[Shape, ...]:
    """The models that a part takes."""
    shapes = TINY_SHAPES if settings.tiny else SHAPES
    return shapes[:1] if settings.quick else shapes


def image_tokens_of(settings: measuring.Settings) -> tuple[int, ...]:
    """Image tokens of a picture: LLaVA's pictures are square, so 2,916 stand for 2,900."""
    sizes = (16, 36) if settings.tiny else (576, 2916)
    return sizes[:1] if settings.quick else sizes


def missing(shape: Shape) -> str:
    """Why this model can't be built here; "" if it can."""
    if shape.family == "qwen" and not is_torchvision_available():
        return f"{shape.name} is left out: its processor wants torchvision, which is not installed"
    return ""


def build(shape: Shape, image_tokens: int, device: str, dtype: torch.dtype) -> Policy:
    """A model of this shape whose weights are drawn on the device, as its class starts them."""
    make = _qwen if shape.family == "qwen" else _llava
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        # Not by way of "meta": positions' frequencies are buffers that would stay empty.
        with torch.device(device):
            model, processor = make(shape, image_tokens)
    finally:
        torch.set_default_dtype(before)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Policy(model.eval().requires_grad_(False), processor, shape.name)


def pixels(shape: Shape, image_tokens: int) -> int:
    """The side of a square picture that gives so many image tokens."""
    side = math.isqrt(image_tokens)
    return side * shape.patch * (2 if shape.family == "qwen" else 1)


def pictures(shape: Shape, image_tokens: int, count: int) -> list[Image.Image]:
    """Smooth noise, which is quickly stored and read."""
    noise = np.random.default_rng(0)
    side = pixels(shape, image_tokens)
    drawn = [noise.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in drawn]


def random_rows(
    shape: Shape, image_tokens: int, count: int, prompt_tokens: int, response_tokens: int
) -> list[dict[str, Any]]:
    """Preference records of random words about random pictures.

    Args:
        shape: whose tokenizer reads them.
        image_tokens: of a picture.
        count: of records.
        prompt_tokens: of text, the chat template's own not counted.
        response_tokens: of each response, its end not counted.
    """
    noise = np.random.default_rng(1)

    def words(number: int) -> str:
        return " ".join(f"w{i}" for i in noise.integers(0, shape.vocabulary - 100, number))

    return [
        {
            "id": f"pair-{index}",
            "images": [picture],
            "prompt": [user_message(words(prompt_tokens))],
            "chosen": [assistant_message(words(response_tokens))],
            "rejected": [assistant_message(words(response_tokens))],
        }
        for index, picture in enumerate(pictures(shape, image_tokens, count))
    ]


def _tokenizer(shape: Shape, special: tuple[str, ...], marks: tuple[str, str, str]) -> Any:
    names = ("user", "assistant", "USER:", "ASSISTANT:", END_WORD, FIRST_WORD)
    return build_tokenizer(Size(vocabulary=shape.vocabulary), special, *marks, names)


def _llava(shape: Shape, image_tokens: int) -> tuple[Any, Any]:
    side = pixels(shape, image_tokens)
    square = {"height": side, "width": side}
    tokenizer = _tokenizer(shape, (), (EOS, PAD, IMAGE))
    processor = transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    vision = {
        "model_type": "clip_vision_model", "image_size": side, "patch_size": shape.patch,
        "hidden_size": shape.vision_width, "intermediate_size": shape.vision_intermediate,
        "num_hidden_layers": shape.vision_layers, "num_attention_heads": shape.vision_heads,
    }  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config={"model_type": "llama", **_language(shape, tokenizer)},
        image_token_index=processor.image_token_id,
        image_seq_length=image_tokens,
        tie_word_embeddings=False,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def _qwen(shape: Shape, image_tokens: int) -> tuple[Any, Any]:
    special = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    ends = ("<|im_end|>", "<|endoftext|>", "<|image_pad|>")
    tokenizer = _tokenizer(shape, special, ends)
    area = pixels(shape, image_tokens) ** 2
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(
            size={"shortest_edge": area, "longest_edge": area}, patch_size=shape.patch, merge_size=2
        ),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    tokens = {"image": "image_pad", "video": "video_pad"}
    tokens |= {"vision_start": "vision_start", "vision_end": "vision_end"}
    half = shape.width // shape.heads // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": shape.vision_layers, "hidden_size": shape.vision_width,
            "num_heads": shape.vision_heads, "intermediate_size": shape.vision_intermediate,
            "patch_size": shape.patch, "window_size": shape.window,
            "out_hidden_size": shape.width, "fullatt_block_indexes": list(shape.full_layers),
        },
        text_config={
            **_language(shape, tokenizer),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": sections,
            },
        },
        tie_word_embeddings=False,
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
            for name, mark in tokens.items()
        },
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def _language(shape: Shape, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
