"""More families, built as in `family_models.py`: those whose marks or layers are special."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from family_models import (
    CLIP_VISION,
    LANGUAGE,
    MROPE,
    QWEN_SIZE,
    QWEN_VISION,
    SIGLIP_VISION,
    TILE,
    build_tokenizer,
    finish,
    ids,
    qwen_ids,
    qwen_tokenizer,
)
from real_templates import template_of
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
    DeepseekVLImageProcessorPil,
)
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from veridical.models import Policy

CHATML = ("<|im_start|>ROLE\n", "<|im_end|>\n")
TEMPLATE = (
    "{{ 'BOS' }}{% for message in messages %}"
    "{% set role = 'ASSISTANT' if message['role'] == 'assistant' else message['role'] %}"
    "{{ 'TURN'.replace('ROLE', role) + 'GAP' }}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}{{ 'END' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'TURN'.replace('ROLE', 'ASSISTANT') }}{% endif %}"
)


def chat_template(
    turn: str, image: str, end: str, bos: str = "", assistant: str = "assistant", gap: str = ""
) -> str:
    """A conversation in the family's own marks; a prompt is a prefix of its conversation."""
    marks = {"TURN": turn, "GAP": gap, "IMAGE": image, "END": end, "BOS": bos}
    marks["ASSISTANT"] = assistant
    template = TEMPLATE
    for name, mark in marks.items():
        template = template.replace(f"'{name}'", repr(mark))
    return template


def token_id(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def qwen2_vl() -> Policy:
    tokenizer = qwen_tokenizer()
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen2VLVideoProcessor(),
        chat_template=template_of("Qwen2-VL, Qwen2.5-VL").text,
    )
    vision = {name: value for name, value in QWEN_VISION.items() if name != "out_hidden_size"}
    config = transformers.Qwen2VLConfig(
        text_config={**LANGUAGE, **ids(tokenizer), "rope_parameters": MROPE},
        vision_config={**vision, "embed_dim": 32, "mlp_ratio": 1},
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen2VLForConditionalGeneration(config), processor)


def qwen3_vl_moe() -> Policy:
    tokenizer = qwen_tokenizer()
    processor = transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(),
        chat_template=template_of("Qwen3-VL").text,
    )
    config = transformers.Qwen3VLMoeConfig(
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "head_dim": 8,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rope_parameters": {**MROPE, "mrope_interleaved": True},
        },
        vision_config={
            **QWEN_VISION,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **qwen_ids(tokenizer),
    )
    return finish(transformers.Qwen3VLMoeForConditionalGeneration(config), processor)


def llava_qwen2() -> Policy:
    tokenizer = build_tokenizer(
        ["<|im_start|>"], None, "<|im_end|>", "<|endoftext|>", image_token="<image>"
    )
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size=TILE, crop_size=TILE, do_center_crop=False),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(CHATML[0], "<image>\n", CHATML[1]),
    )
    config = transformers.LlavaConfig(
        vision_config=CLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen2"},
        image_token_index=token_id(tokenizer, "<image>"),
        image_seq_length=4,
    )
    return finish(transformers.LlavaForConditionalGeneration(config), processor)


PIXTRAL_VISION: dict[str, Any] = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 48,
    "patch_size": 4,
    "initializer_range": 0.2,
}
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' }}{% endif %}"
    "{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ block['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '[/INST]' if message['role'] == 'user' else eos_token }}{% endfor %}"
)


def pixtral_processor(merge: int) -> Any:
    tokenizer = build_tokenizer(
        ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], "<s>", "</s>", "<pad>"
    )
    return transformers.PixtralProcessor(
        PixtralImageProcessorPil(
            size={"longest_edge": 24}, patch_size={"height": 4 * merge, "width": 4 * merge}
        ),
        tokenizer,
        patch_size=4,
        spatial_merge_size=merge,
        chat_template=MISTRAL_TEMPLATE,
    )


def pixtral() -> Policy:
    processor = pixtral_processor(1)
    tokenizer = processor.tokenizer
    config = transformers.LlavaConfig(
        vision_config=PIXTRAL_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "mistral", "sliding_window": None},
        image_token_index=token_id(tokenizer, "[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return finish(transformers.LlavaForConditionalGeneration(config), processor)


def mistral3() -> Policy:
    processor = pixtral_processor(2)
    tokenizer = processor.tokenizer
    config = transformers.Mistral3Config(
        vision_config=PIXTRAL_VISION,
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "model_type": "mistral",
            "head_dim": 8,
            "sliding_window": None,
        },
        image_token_index=token_id(tokenizer, "[IMG]"),
        tie_word_embeddings=False,
    )
    return finish(transformers.Mistral3ForConditionalGeneration(config), processor)


def glm4v() -> Policy:
    marks = [f"<|{edge}_of_{kind}|>" for edge in ("begin", "end") for kind in ("image", "video")]
    tokenizer = build_tokenizer(
        [*marks, "<|user|>", "<|assistant|>", "[gMASK]", "<sop>"],
        None,
        "<|user|>",
        "<|endoftext|>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    processor = transformers.Glm4vProcessor(
        Glm4vImageProcessorPil(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Glm4vVideoProcessor(),
        chat_template=chat_template("<|ROLE|>\n", image, "", bos="[gMASK]<sop>"),
    )
    config = transformers.Glm4vConfig(
        text_config={**LANGUAGE, **ids(tokenizer), "rope_parameters": {**MROPE}},
        vision_config={**QWEN_VISION, "image_size": 48},
        image_token_id=token_id(tokenizer, "<|image|>"),
        video_token_id=token_id(tokenizer, "<|video|>"),
        image_start_token_id=token_id(tokenizer, "<|begin_of_image|>"),
        image_end_token_id=token_id(tokenizer, "<|end_of_image|>"),
        video_start_token_id=token_id(tokenizer, "<|begin_of_video|>"),
        video_end_token_id=token_id(tokenizer, "<|end_of_video|>"),
    )
    return finish(transformers.Glm4vForConditionalGeneration(config), processor)


def idefics2() -> Policy:
    tokenizer = build_tokenizer(
        ["<end_of_utterance>"],
        "<s>",
        "</s>",
        "<unk>",
        image_token="<image>",
        image_boundary_token="<fake_token_around_image>",
    )
    processor = transformers.Idefics2Processor(
        Idefics2ImageProcessorPil(size={"shortest_edge": 12, "longest_edge": 24}),
        tokenizer,
        image_seq_len=4,
        chat_template=chat_template(
            "ROLE:", "<image>", "<end_of_utterance>\n", bos="<s>", assistant="Assistant", gap=" "
        ),
    )
    vision = {n: v for n, v in CLIP_VISION.items() if n != "model_type"}
    config = transformers.Idefics2Config(
        vision_config={**vision, "patch_size": 4, "image_size": 32},
        perceiver_config={
            "hidden_size": 32,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "model_type": "mistral",
            "sliding_window": None,
        },
        image_token_id=token_id(tokenizer, "<image>"),
    )
    policy = finish(transformers.Idefics2ForConditionalGeneration(config), processor)
    end = token_id(tokenizer, "<end_of_utterance>")
    policy.model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    return policy


COHERE_TURN = "<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>"
COHERE_END = "<|END_OF_TURN_TOKEN|>"


def cohere_template(image: str) -> str:
    turn = "<|START_OF_TURN_TOKEN|><|ROLE|>"
    return chat_template(turn, image, COHERE_END, bos="<BOS>", assistant="chatbot")


def cohere_text(tokenizer: Any) -> dict[str, Any]:
    return {
        **LANGUAGE,
        **ids(tokenizer),
        "model_type": "cohere2",
        "head_dim": 8,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "logit_scale": 0.25,
        "tie_word_embeddings": True,
    }


def aya_vision() -> Policy:
    tiles = [f"TILE_{n}" for n in range(1, 5)]
    tokenizer = build_tokenizer(
        [
            "<|START_OF_TURN_TOKEN|>",
            "<|user|>",
            "<|chatbot|>",
            "<image>",
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_PATCH|>",
            "<|IMG_LINE_BREAK|>",
            "TILE_GLOBAL",
            *tiles,
        ],
        "<BOS>",
        COHERE_END,
        "<PAD>",
    )
    processor = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessor(size=TILE, max_patches=4),
        tokenizer,
        patch_size=4,
        img_size=16,
        downsample_factor=2,
        chat_template=cohere_template("<image>"),
    )
    config = transformers.AyaVisionConfig(
        vision_config=SIGLIP_VISION,
        text_config=cohere_text(tokenizer),
        image_token_index=token_id(tokenizer, "<|IMG_PATCH|>"),
    )
    return finish(transformers.AyaVisionForConditionalGeneration(config), processor)


def cohere2_vision() -> Policy:
    tokenizer = build_tokenizer(
        ["<|START_OF_TURN_TOKEN|>", "<|user|>", "<|chatbot|>"],
        "<BOS>",
        COHERE_END,
        "<PAD>",
        image_token="<|IMG_PATCH|>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    processor = transformers.Cohere2VisionProcessor(
        transformers.Cohere2VisionImageProcessor(size=TILE, max_patches=4, patch_size=2),
        tokenizer,
        chat_template=cohere_template("<|IMG_PATCH|>"),
    )
    config = transformers.Cohere2VisionConfig(
        vision_config=SIGLIP_VISION,
        text_config=cohere_text(tokenizer),
        image_token_id=token_id(tokenizer, "<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    return finish(transformers.Cohere2VisionForConditionalGeneration(config), processor)


def gemma4_of(bidirectional: str | None, shared_layers: int, per_layer: int) -> Policy:
    tokenizer = build_tokenizer(
        ["<|turn>", "<turn|>", "<|video|>"],
        "<bos>",
        "<turn|>",
        "<pad>",
        boi_token="<|image>",
        eoi_token="<image|>",
        image_token="<|image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
    )
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessorPil(max_soft_tokens=70, patch_size=2, pooling_kernel_size=2),
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        chat_template=chat_template(
            "<|turn>ROLE\n", "<|image|>", "<turn|>\n", bos="<bos>", assistant="model"
        ),
    )
    shared = {"num_hidden_layers": 2 + 2 * shared_layers, "num_kv_shared_layers": 2 * shared_layers}
    config = transformers.Gemma4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 2,
            "pooling_kernel_size": 2,
            "position_embedding_size": 128,
            "initializer_range": 0.2,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            **shared,
            "head_dim": 8,
            "global_head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * (1 + shared_layers),
            "sliding_window": 12,
            "use_bidirectional_attention": bidirectional,
            "hidden_size_per_layer_input": per_layer,
            "vocab_size_per_layer_input": len(tokenizer),
            "tie_word_embeddings": True,
        },
        audio_config=None,
        boi_token_id=token_id(tokenizer, "<|image>"),
        eoi_token_id=token_id(tokenizer, "<image|>"),
        image_token_id=token_id(tokenizer, "<|image|>"),
        video_token_id=token_id(tokenizer, "<|video|>"),
        audio_token_id=token_id(tokenizer, "<|audio|>"),
        boa_token_id=token_id(tokenizer, "<|audio>"),
        eoa_token_index=token_id(tokenizer, "<audio|>"),
    )
    return finish(transformers.Gemma4ForConditionalGeneration(config), processor)


def gemma4() -> Policy:
    return gemma4_of("vision", 0, 0)


def gemma4_small() -> Policy:
    """The kind of E2B and E4B: embeddings of each layer's own, keys and values shared."""
    return gemma4_of(None, 1, 8)


def lfm2_vl() -> Policy:
    tokenizer = build_tokenizer(
        ["<|im_start|>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
        + [f"<|img_row_{r}_col_{c}|>" for r in range(1, 4) for c in range(1, 4)],
        "<|startoftext|>",
        "<|im_end|>",
        "<|pad|>",
        image_token="<image>",
    )
    processor = transformers.Lfm2VlProcessor(
        transformers.Lfm2VlImageProcessor(
            downsample_factor=2,
            tile_size=16,
            encoder_patch_size=4,
            min_image_tokens=1,
            max_image_tokens=4,
            max_tiles=4,
            min_tiles=2,
            size=TILE,
        ),
        tokenizer,
        chat_template=chat_template(CHATML[0], "<image>", CHATML[1], bos="<|startoftext|>"),
    )
    vision = {n: v for n, v in SIGLIP_VISION.items() if n not in ("image_size",)}
    config = transformers.Lfm2VlConfig(
        vision_config={**vision, "model_type": "siglip2_vision_model", "num_patches": 16},
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "model_type": "lfm2",
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": True,
        },
        image_token_id=token_id(tokenizer, "<image>"),
        projector_hidden_size=32,
    )
    return finish(transformers.Lfm2VlForConditionalGeneration(config), processor)


def ovis2() -> Policy:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = build_tokenizer(
        ["<|im_start|>", "<image>", "<IMG_ATOM>", *marks], None, "<|im_end|>", "<|endoftext|>"
    )
    processor = transformers.Ovis2Processor(
        Ovis2ImageProcessorPil(size=TILE, crop_to_patches=True, max_patches=4),
        tokenizer,
        image_seq_length=4,
        chat_template=chat_template(CHATML[0], "<image>\n", CHATML[1]),
    )
    config = transformers.Ovis2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "vocab_size": 40,
            "hidden_stride": 2,
            "initializer_range": 0.2,
        },
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen2"},
        image_token_id=token_id(tokenizer, "<IMG_ATOM>"),
        visual_indicator_token_ids=[token_id(tokenizer, mark) for mark in marks],
        vocab_size=len(tokenizer),
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return finish(transformers.Ovis2ForConditionalGeneration(config), processor)


def deepseek_vl() -> Policy:
    tokenizer = build_tokenizer([], "<bos>", "<eos>", "<pad>", image_token="<image_placeholder>")
    processor = transformers.DeepseekVLProcessor(
        DeepseekVLImageProcessorPil(size=TILE),
        tokenizer,
        num_image_tokens=16,
        chat_template=chat_template(
            "ROLE:", "<image_placeholder>", "\n\n", bos="<bos>", assistant="Assistant", gap=" "
        ),
    )
    config = transformers.DeepseekVLConfig(
        vision_config=SIGLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        image_token_id=token_id(tokenizer, "<image_placeholder>"),
        tie_word_embeddings=False,
    )
    return finish(transformers.DeepseekVLForConditionalGeneration(config), processor)


def mllama() -> Policy:
    tokenizer = build_tokenizer(
        ["<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|image|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
    )
    processor = transformers.MllamaProcessor(
        MllamaImageProcessorPil(size=TILE, max_image_tiles=4),
        tokenizer,
        chat_template=chat_template(
            "<|start_header_id|>ROLE<|end_header_id|>\n\n",
            "<|image|>",
            "<|eot_id|>",
            bos="<|begin_of_text|>",
        ),
    )
    config = transformers.MllamaConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "image_size": 16,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "num_hidden_layers": 3,
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
        image_token_index=token_id(tokenizer, "<|image|>"),
    )
    model = transformers.MllamaForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.numel() == 1:
            torch.nn.init.constant_(parameter, 0.5)
    return finish(model, processor)


def llama4() -> Policy:
    tokenizer = build_tokenizer(
        [
            "<|header_start|>",
            "<|header_end|>",
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ],
        "<|begin_of_text|>",
        "<|eot|>",
        "<|finetune_right_pad|>",
    )
    processor = transformers.Llama4Processor(
        transformers.Llama4ImageProcessor(size=TILE, max_patches=4),
        tokenizer,
        patch_size=4,
        pixel_shuffle_ratio=0.5,
        chat_template=chat_template(
            "<|header_start|>ROLE<|header_end|>\n\n",
            "<|image|>",
            "<|eot|>",
            bos="<|begin_of_text|>",
        ),
    )
    config = transformers.Llama4Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "image_size": 16,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "intermediate_size_mlp": 48,
            "head_dim": 8,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "no_rope_layers": [1, 0],
            "attention_chunk_size": 16,
        },
        boi_token_index=token_id(tokenizer, "<|image_start|>"),
        eoi_token_index=token_id(tokenizer, "<|image_end|>"),
        image_token_index=token_id(tokenizer, "<|patch|>"),
    )
    return finish(transformers.Llama4ForConditionalGeneration(config), processor)


def internvl3_5() -> Policy:
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
        chat_template=chat_template(CHATML[0], "<IMG_CONTEXT>\n", CHATML[1]),
    )
    config = transformers.InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [16, 16],
            "patch_size": [4, 4],
            "initializer_range": 0.2,
        },
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen3", "head_dim": 8},
        image_token_id=token_id(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return finish(transformers.InternVLForConditionalGeneration(config), processor)


def kimi_k2_5() -> Policy:
    tokenizer = build_tokenizer(
        [
            "<|im_user|>",
            "<|im_assistant|>",
            "<|im_middle|>",
            "<|media_begin|>",
            "<|media_end|>",
            "<|media_content|>",
        ],
        "[BOS]",
        "<|im_end|>",
        "[PAD]",
        image_token="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )
    image = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    processor = transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(patch_size=4, merge_size=2, max_patches=36),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=chat_template("<|im_ROLE|>ROLE<|im_middle|>", image, "<|im_end|>"),
    )
    config = transformers.Kimi_K25Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "model_type": "deepseek_v3",
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
        projection_hidden_size=32,
        image_token_id=token_id(tokenizer, "<|media_pad|>"),
        video_token_id=token_id(tokenizer, "<|kimi_k25_video_placeholder|>"),
        vision_start_token_id=token_id(tokenizer, "<|media_begin|>"),
        vision_end_token_id=token_id(tokenizer, "<|media_end|>"),
        tie_word_embeddings=False,
    )
    return finish(transformers.Kimi_K25ForConditionalGeneration(config), processor)


def molmo2() -> Policy:
    marks = "im_patch im_col im_start low_res_im_start frame_start im_end frame_end im_low"
    tokenizer = build_tokenizer(
        ["<|im_start|>", *(f"<{mark}>" for mark in marks.split())],
        None,
        "<|im_end|>",
        "<|endoftext|>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    processor = transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(
            size=TILE, max_crops=2, overlap_margins=[1, 1], patch_size=4, pooling_size=[2, 2]
        ),
        transformers.Molmo2VideoProcessor(),
        tokenizer,
        chat_template=chat_template(CHATML[0], "<|image|>", CHATML[1], bos="<|im_end|>"),
    )
    config = transformers.Molmo2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [16, 16],
            "patch_size": 4,
            "num_position_embeddings": 16,
            "initializer_range": 0.2,
        },
        adapter_config={
            "vision_feature_layer": [-1],
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 48,
            "text_hidden_size": 32,
            "initializer_range": 0.2,
        },
        text_config={
            **LANGUAGE,
            **ids(tokenizer),
            "head_dim": 8,
            "additional_vocab_size": 8,
        },
        image_start_token_id=token_id(tokenizer, "<im_start>"),
        low_res_image_start_token_id=token_id(tokenizer, "<low_res_im_start>"),
        image_end_token_id=token_id(tokenizer, "<im_end>"),
        image_patch_id=token_id(tokenizer, "<im_patch>"),
        frame_start_token_id=token_id(tokenizer, "<frame_start>"),
        frame_end_token_id=token_id(tokenizer, "<frame_end>"),
    )
    return finish(transformers.Molmo2ForConditionalGeneration(config), processor)


def minicpmv4_6() -> Policy:
    tokenizer = build_tokenizer(
        ["<|im_start|>"],
        None,
        "<|im_end|>",
        "<|endoftext|>",
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        image_start_token="<image>",
        image_end_token="</image>",
        slice_start_token="<slice>",
        slice_end_token="</slice>",
        image_id_start_token="<image_id>",
        image_id_end_token="</image_id>",
    )
    from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import (
        MiniCPMV4_6ImageProcessorPil,
    )

    processor = transformers.MiniCPMV4_6Processor(
        MiniCPMV4_6ImageProcessorPil(max_slice_nums=4, scale_resolution=32, patch_size=4),
        transformers.MiniCPMV4_6VideoProcessor(),
        tokenizer,
        chat_template=chat_template(CHATML[0], "<|image_pad|>\n", CHATML[1]),
    )
    config = transformers.MiniCPMV4_6Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "insert_layer_id": 0,
        },
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen3", "head_dim": 8},
        insert_layer_id=0,
        image_size=32,
        image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"),
    )
    return finish(transformers.MiniCPMV4_6ForConditionalGeneration(config), processor)
