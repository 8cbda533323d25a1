"""More families, built as in `family_models.py`: those whose marks or layers are special."""

from __future__ import annotations

from collections.abc import Iterable
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
from real_templates import RealTemplate, template_of
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

from veridical.models.policy import Policy


def tokenizer_of(
    template: RealTemplate, pad: str, further: Iterable[str] = (), **named: str
) -> Any:
    """A tokenizer with every special token that the template writes, and further ones."""
    special = [*template.special, *template.ends, *further]
    return build_tokenizer(special, template.bos, template.eos, pad, **named)


def finish_as(template: RealTemplate, model: Any, processor: Any) -> Policy:
    """Finished, with every end token that the family's generation settings name."""
    policy = finish(model, processor)
    tokenizer = processor.tokenizer
    ends = [token_id(tokenizer, end) for end in (template.eos, *template.ends)]
    policy.model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    return policy


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
    template = template_of("LLaVA-OneVision")
    tokenizer = tokenizer_of(template, "<|endoftext|>", image_token="<image>")
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size=TILE, crop_size=TILE, do_center_crop=False),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template.text,
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


def pixtral_processor(template: RealTemplate, merge: int) -> Any:
    tokenizer = tokenizer_of(template, "<pad>", ["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    return transformers.PixtralProcessor(
        PixtralImageProcessorPil(
            size={"longest_edge": 24}, patch_size={"height": 4 * merge, "width": 4 * merge}
        ),
        tokenizer,
        patch_size=4,
        spatial_merge_size=merge,
        chat_template=template.text,
    )


def pixtral() -> Policy:
    processor = pixtral_processor(template_of("Pixtral"), 1)
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
    processor = pixtral_processor(template_of("Mistral 3"), 2)
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
    template = template_of("GLM-4V")
    tokenizer = tokenizer_of(
        template,
        "<|endoftext|>",
        ["<|begin_of_video|>", "<|end_of_video|>"],
        image_token="<|image|>",
        video_token="<|video|>",
    )
    processor = transformers.Glm4vProcessor(
        Glm4vImageProcessorPil(size=QWEN_SIZE, patch_size=4, merge_size=2),
        tokenizer,
        transformers.Glm4vVideoProcessor(),
        chat_template=template.text,
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
    return finish_as(template, transformers.Glm4vForConditionalGeneration(config), processor)


def idefics2() -> Policy:
    template = template_of("Idefics2")
    tokenizer = tokenizer_of(
        template,
        "<unk>",
        image_token="<image>",
        image_boundary_token="<fake_token_around_image>",
    )
    processor = transformers.Idefics2Processor(
        Idefics2ImageProcessorPil(size={"shortest_edge": 12, "longest_edge": 24}),
        tokenizer,
        image_seq_len=4,
        chat_template=template.text,
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
    return finish_as(template, transformers.Idefics2ForConditionalGeneration(config), processor)


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
    template = template_of("Aya Vision")
    tiles = [f"TILE_{n}" for n in range(1, 5)]
    marks = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"]
    further = ["<image>", *marks, "TILE_GLOBAL", *tiles]
    tokenizer = tokenizer_of(template, "<PAD>", further)
    processor = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessor(size=TILE, max_patches=4),
        tokenizer,
        patch_size=4,
        img_size=16,
        downsample_factor=2,
        chat_template=template.text,
    )
    config = transformers.AyaVisionConfig(
        vision_config=SIGLIP_VISION,
        text_config=cohere_text(tokenizer),
        image_token_index=token_id(tokenizer, "<|IMG_PATCH|>"),
    )
    return finish(transformers.AyaVisionForConditionalGeneration(config), processor)


def cohere2_vision() -> Policy:
    template = template_of("Cohere2 Vision")
    tokenizer = tokenizer_of(
        template,
        "<PAD>",
        image_token="<|IMG_PATCH|>",
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    processor = transformers.Cohere2VisionProcessor(
        transformers.Cohere2VisionImageProcessor(size=TILE, max_patches=4, patch_size=2),
        tokenizer,
        chat_template=template.text,
    )
    config = transformers.Cohere2VisionConfig(
        vision_config=SIGLIP_VISION,
        text_config=cohere_text(tokenizer),
        image_token_id=token_id(tokenizer, "<|IMG_PATCH|>"),
        alignment_intermediate_size=64,
    )
    return finish(transformers.Cohere2VisionForConditionalGeneration(config), processor)


def gemma4_of(bidirectional: str | None, shared_layers: int, per_layer: int) -> Policy:
    template = template_of("Gemma 4")
    tokenizer = tokenizer_of(
        template,
        "<pad>",
        ["<|video|>"],
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
        chat_template=template.text,
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
    return finish_as(template, transformers.Gemma4ForConditionalGeneration(config), processor)


def gemma4() -> Policy:
    return gemma4_of("vision", 0, 0)


def gemma4_small() -> Policy:
    """The kind of E2B and E4B: embeddings of each layer's own, keys and values shared."""
    return gemma4_of(None, 1, 8)


def lfm2_vl() -> Policy:
    template = template_of("LFM2-VL")
    tokenizer = tokenizer_of(
        template,
        "<|pad|>",
        ["<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]
        + [f"<|img_row_{r}_col_{c}|>" for r in range(1, 4) for c in range(1, 4)],
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
        chat_template=template.text,
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
    template = template_of("Ovis2")
    tokenizer = tokenizer_of(template, "<|endoftext|>", ["<image>", "<IMG_ATOM>", *marks])
    processor = transformers.Ovis2Processor(
        Ovis2ImageProcessorPil(size=TILE, crop_to_patches=True, max_patches=4),
        tokenizer,
        image_seq_length=4,
        chat_template=template.text,
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
    template = template_of("DeepSeek-VL")
    tokenizer = tokenizer_of(template, "<pad>", image_token="<image_placeholder>")
    processor = transformers.DeepseekVLProcessor(
        DeepseekVLImageProcessorPil(size=TILE),
        tokenizer,
        num_image_tokens=16,
        chat_template=template.text,
    )
    config = transformers.DeepseekVLConfig(
        vision_config=SIGLIP_VISION,
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        image_token_id=token_id(tokenizer, "<image_placeholder>"),
        tie_word_embeddings=False,
    )
    return finish(transformers.DeepseekVLForConditionalGeneration(config), processor)


def mllama() -> Policy:
    template = template_of("Llama 3.2 Vision")
    further = ["<|python_tag|>", "<|image|>"]
    tokenizer = tokenizer_of(template, "<|finetune_right_pad_id|>", further)
    processor = transformers.MllamaProcessor(
        MllamaImageProcessorPil(size=TILE, max_image_tiles=4),
        tokenizer,
        chat_template=template.text,
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
    template = template_of("Llama 4")
    further = "image image_start image_end patch tile_x_separator tile_y_separator"
    tokenizer = tokenizer_of(
        template, "<|finetune_right_pad|>", [f"<|{mark}|>" for mark in further.split()]
    )
    processor = transformers.Llama4Processor(
        transformers.Llama4ImageProcessor(size=TILE, max_patches=4),
        tokenizer,
        patch_size=4,
        pixel_shuffle_ratio=0.5,
        chat_template=template.text,
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
    template = template_of("InternVL")
    tokenizer = tokenizer_of(
        template,
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
        chat_template=template.text,
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
    template = template_of("Kimi K2.5")
    tokenizer = tokenizer_of(
        template,
        "[PAD]",
        image_token="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )
    processor = transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(patch_size=4, merge_size=2, max_patches=36),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=template.text,
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
    template = template_of("Molmo 2")
    tokenizer = tokenizer_of(
        template,
        "<|endoftext|>",
        [f"<{mark}>" for mark in marks.split()],
        image_token="<|image|>",
        video_token="<|video|>",
    )
    processor = transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(
            size=TILE, max_crops=2, overlap_margins=[1, 1], patch_size=4, pooling_size=[2, 2]
        ),
        transformers.Molmo2VideoProcessor(),
        tokenizer,
        chat_template=template.text,
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


MINICPM_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for block in message['content'] %}"
    "{{ '<|image_pad|>\\n' if block['type'] == 'image' else block['text'] }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Of our own, in ChatML: what the checkpoint's own writes is not known here."""


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
        chat_template=MINICPM_TEMPLATE,
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
