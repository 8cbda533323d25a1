"""What the benchmarks compute on: models of random weights, their processors, random pairs.

    python benchmarks/cases.py FOLDER/case.json

writes model and pairs beside that file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.policy import Policy
from veridical.runtime.files import read_json
from veridical.world.dataset import conversation
from veridical.world.drawing import draw_scene
from veridical.world.model import CHAT_TEMPLATE, EOS, IMAGE, PAD, UNKNOWN
from veridical.world.scenes import sample_scenes

LEARNING_RATE = 1e-5

QWEN_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] }}"
    "{% for block in message['content'] %}{% if block['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ ' ' + block['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """A model and its pairs.

    Attributes:
        image_tokens: a square number of `patch`-pixel patches, all of them image tokens.
        prompt_tokens: text tokens of the prompt.
        response_tokens: of each of the two responses, its end token included.
    """

    vision_width: int = 128
    vision_layers: int = 4
    patch: int = 8
    image_tokens: int = 576
    width: int = 512
    intermediate: int = 1376
    layers: int = 6
    heads: int = 8
    vocabulary: int = 32_000
    prompt_tokens: int = 60
    response_tokens: int = 120

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of a picture: as square as the number of image tokens allows."""
        rows = max(
            d for d in range(1, int(self.image_tokens**0.5) + 1) if self.image_tokens % d == 0
        )
        return self.image_tokens // rows * self.patch, rows * self.patch


TINY = Size(32, 1, 8, 16, 64, 172, 2, 4, 500, 20, 12)
"""For a look at whether everything runs."""


def build_tokenizer(
    size: Size, special: tuple[str, ...], end: str, pad: str, image: str, words: tuple[str, ...]
) -> PreTrainedTokenizerFast:
    """The special tokens, the template's `words`, then `w0`, `w1`, ...; a word is a token."""
    first = (UNKNOWN, end, pad, image, *special, *words)
    tokens = [*first, *(f"w{i}" for i in range(size.vocabulary - len(first)))]
    tokenizer = Tokenizer(WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in first[: 4 + len(special)]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=pad,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": image},
        model_max_length=8192,
    )


def llava(size: Size) -> Policy:
    """A LLaVA of random weights in float32."""
    width, height = size.pixels
    if width != height:
        raise ValueError(f"LLaVA's pictures are square; {size.image_tokens} tokens are not")
    square = {"height": height, "width": width}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer=build_tokenizer(size, (), EOS, PAD, IMAGE, ("USER:", "ASSISTANT:")),
        patch_size=size.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer = processor.tokenizer
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=size.vision_width, intermediate_size=4 * size.vision_width,
                num_hidden_layers=size.vision_layers, num_attention_heads=4,
                image_size=height, patch_size=size.patch,
            ),
            text_config=LlamaConfig(
                vocab_size=size.vocabulary, hidden_size=size.width,
                intermediate_size=size.intermediate, num_hidden_layers=size.layers,
                num_attention_heads=size.heads, num_key_value_heads=size.heads,
                max_position_embeddings=8192, tie_word_embeddings=False, **ends,
            ),
            image_token_index=processor.image_token_id,
            image_seq_length=size.image_tokens,
            tie_word_embeddings=False,
            **ends,
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Policy(model.eval(), processor, "random LLaVA")


def qwen(size: Size) -> Policy:
    """A Qwen2.5-VL of random weights in float32, input and output embedding tied as in its 3B.

    Its processor wants torchvision.
    """
    marks = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = build_tokenizer(
        size, marks, "<|im_end|>", "<|endoftext|>", "<|image_pad|>", ("user", "assistant")
    )
    width, height = size.pixels
    patch = size.patch // 2  # two by two patches become one image token
    limits = {"shortest_edge": width * height, "longest_edge": width * height}
    processor = transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(size=limits, patch_size=patch, merge_size=2),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
        for name, mark in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    half = size.width // size.heads // 2
    model = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(
            vision_config={
                "depth": size.vision_layers, "hidden_size": size.vision_width, "num_heads": 4,
                "intermediate_size": 4 * size.vision_width, "patch_size": patch,
                "window_size": 8 * size.patch, "out_hidden_size": size.width,
                "fullatt_block_indexes": [size.vision_layers - 1],
            },
            text_config={
                "vocab_size": size.vocabulary, "hidden_size": size.width,
                "intermediate_size": size.intermediate, "num_hidden_layers": size.layers,
                "num_attention_heads": size.heads, "num_key_value_heads": size.heads,
                "max_position_embeddings": 8192, "tie_word_embeddings": True, **ends,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e6,
                    "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
                },
            },
            tie_word_embeddings=True, **ids, **ends,
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Policy(model.eval(), processor, "random Qwen2.5-VL")


def random_pairs(size: Size, count: int, marks: int) -> Iterator[dict[str, Any]]:
    """Pairs of random words about random pictures.

    Args:
        size: how many tokens.
        count: how many pairs.
        marks: tokens that the chat template adds to the prompt; to the response it adds one.
    """
    noise = np.random.default_rng(0)
    width, height = size.pixels

    def words(number: int) -> str:
        return " ".join(f"w{i}" for i in noise.integers(0, size.vocabulary - 100, number))

    for index in range(count):
        pixels = noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
        yield {
            "id": f"pair-{index}",
            "images": [Image.fromarray(pixels)],
            "prompt": [user_message(words(size.prompt_tokens - marks))],
            "chosen": [assistant_message(words(size.response_tokens - 1))],
            "rejected": [assistant_message(words(size.response_tokens - 1))],
        }


def world_pairs(count: int) -> Iterator[dict[str, Any]]:
    """A scene's true description, and that of another scene."""
    scenes = sample_scenes("prior", count + 1, 0)
    rows = [conversation(scene) for scene in scenes]
    for index in range(count):
        yield {
            "id": scenes[index].id,
            "images": [draw_scene(scenes[index])],
            "prompt": rows[index]["messages"][:1],
            "chosen": rows[index]["messages"][1:],
            "rejected": rows[index + 1]["messages"][1:],
        }


def write_case(folder: Path, case: str, size: Size, pairs: int) -> None:
    """Write `pairs.parquet`, and the model where it does not ship with the package."""
    folder.mkdir(parents=True, exist_ok=True)
    if case == "world":
        write_records(world_pairs(pairs), folder / "pairs.parquet", "preference")
        return
    policy = qwen(size) if case == "qwen" else llava(size)
    policy.model.save_pretrained(folder / "model")
    policy.processor.save_pretrained(folder / "model")
    marks = 7 if case == "qwen" else 2
    write_records(random_pairs(size, pairs, marks), folder / "pairs.parquet", "preference")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    wanted = read_json(path)
    write_case(path.parent, wanted["case"], Size(**wanted["size"]), wanted["pairs"])
