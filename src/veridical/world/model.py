"""The embedded policy: a tiny LLaVA from Transformers' own classes, and its processor."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
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

from veridical.runtime.files import read_json, write_json, write_text_atomic
from veridical.world.drawing import IMAGE_PIXELS
from veridical.world.language import DESCRIPTION_PROMPTS, NUMBERS, PLACES, kind_plural
from veridical.world.scenes import COLOURS, KINDS, SETTINGS

PATCH_PIXELS = 12
PATCHES = (IMAGE_PIXELS // PATCH_PIXELS) ** 2
WIDTH = 128
HEADS = 4
VISION_LAYERS = 4
LANGUAGE_LAYERS = 3
# Our choice: word embeddings must be as large as what attention compares, or look-up never starts.
EMBEDDING_SCALE = 0.5
# Our choice: at Transformers' 0.02 what attention finds drowns in Adam's noise at this width.
INITIAL_SCALE = 0.06
# Our choice, as in Llama 3: a word must recognise a patch forty positions away.
ROPE_THETA = 500_000.0

BOS, EOS, PAD, UNKNOWN, IMAGE = "<s>", "</s>", "<pad>", "<unk>", "<image>"
SPECIAL_TOKENS = (UNKNOWN, BOS, EOS, PAD, IMAGE)

# LLaVA-1.5's conversation, for contents that are lists of blocks; a prompt's rendering is a prefix
# of the rendering with its answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'USER:' }}"
    "{% for block in message['content'] if block['type'] == 'image' %}"
    "{{ ' <image>\n' }}{% endfor %}"
    "{% for block in message['content'] if block['type'] == 'text' %}"
    "{{ (' ' if not loop.first or not (message['content'] | selectattr('type', 'equalto', 'image')"
    " | list) else '') + block['text'] }}{% endfor %}{{ ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT:' }}"
    "{% for block in message['content'] if block['type'] == 'text' %}"
    "{{ ' ' + block['text'] }}{% endfor %}{{ '</s>' }}"
    "{% else %}"
    "{% for block in message['content'] if block['type'] == 'text' %}"
    "{{ block['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

_COMMON_WORDS = (
    "a an and any are assistant at be black blue bottom by can color colour colours contain "
    "contains detail describe detailed do does don't everything exactly for from green has have "
    "here how i image in is it its left list long looks many me middle my near next no not nothing "
    "object objects of on one only or orange photo picture please purple question red right scene "
    "see short sentence sentences seen show shows some that the there these they thing things this "
    "to top two user visible what where which who with word words yes you your"
)


def build_processor() -> LlavaProcessor:
    """LLaVA's processor on Pillow, with a word-level tokenizer for the world's language."""
    size = {"height": IMAGE_PIXELS, "width": IMAGE_PIXELS}
    image_processor = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_PIXELS,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that gives natural text back exactly, but for unknown words.

    A word carries the blank before it, as in Llama's tokenizer; punctuation and line breaks stand
    alone. Words come in any case they were listed in, with and without a blank before.
    """
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *_surface_tokens()))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"),
            pre_tokenizers.Split(Regex(r"\n|[^\w▁'\n]"), behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """An untrained model; its weights come from torch's global generator."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        image_size=IMAGE_PIXELS,
        patch_size=PATCH_PIXELS,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LANGUAGE_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=INITIAL_SCALE,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=language,
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=PATCHES,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_(0.0, EMBEDDING_SCALE)
        embeddings[tokenizer.pad_token_id].zero_()
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save_policy(
    folder: Path, model: LlavaForConditionalGeneration, processor: LlavaProcessor, card: str
) -> None:
    """Write weights as 16-bit floats, the processor and the model's card to `folder`.

    The configuration says 32 bits, so that the weights are computed with in 32 bits unless asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
    configuration = read_json(folder / "config.json") | {"dtype": "float32"}
    for part in ("text_config", "vision_config"):
        configuration[part]["dtype"] = "float32"
    write_json(folder / "config.json", configuration)
    write_text_atomic(folder / "README.md", card)


def _surface_tokens() -> list[str]:
    """Every token of the language: words with and without a blank before, and punctuation."""
    sentences = " ".join((*DESCRIPTION_PROMPTS, *PLACES, *NUMBERS, "USER ASSISTANT"))
    words = set(re.findall(r"[A-Za-z']+", sentences)) | set(_COMMON_WORDS.split())
    words |= {*KINDS, *SETTINGS, *COLOURS, *(kind_plural(kind) for kind in KINDS)}
    words |= {number.lower() for number in NUMBERS}
    words |= {word.capitalize() for word in words if word.islower()}
    marks = ["▁", "\n", ".", ",", ":", ";", "?", "!", "-", '"', "(", ")"]
    return marks + [form for word in sorted(words) for form in (f"▁{word}", word)]
