"""Families whose image encoder is the package timm's, which wants torchvision."""

from __future__ import annotations

import torch
import transformers
from family_models import LANGUAGE, finish, ids
from more_models import token_id, tokenizer_of
from real_templates import template_of
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from veridical.models.policy import Policy

SIDE = {"height": 64, "width": 64}


def fast_vlm() -> Policy:
    template = template_of("LLaVA-OneVision")
    tokenizer = tokenizer_of(template, "<|endoftext|>", image_token="<image>")
    processor = transformers.LlavaProcessor(
        CLIPImageProcessorPil(size=SIDE, crop_size=SIDE, do_center_crop=False, do_normalize=False),
        tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=template.text,
    )
    config = transformers.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_t8",
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": 32,
            "model_args": {
                "inference_mode": True,
                "embed_dims": [8, 8, 8, 16],
                "layers": [1, 1, 1, 1],
            },
        },
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "qwen2"},
        image_token_index=token_id(tokenizer, "<image>"),
        image_seq_length=4,
    )
    model = transformers.FastVlmForConditionalGeneration(config)
    for weight in model.model.vision_tower.parameters():
        if weight.dim() > 1:  # as timm begins, all images look nearly the same
            torch.nn.init.normal_(weight, std=0.2)
    return finish(model, processor)


def perception_lm() -> Policy:
    template = template_of("LLaVA-OneVision")
    tokenizer = tokenizer_of(
        template, "<|endoftext|>", image_token="<image>", video_token="<video>"
    )
    processor = transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(),
        transformers.PerceptionLMImageProcessor(
            tile_size=16, max_num_tiles=4, vision_input_type="vanilla"
        ),
        tokenizer,
        patch_size=4,
        pooling_ratio=2,
        chat_template=template.text,
    )
    config = transformers.PerceptionLMConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_tiny_patch16_384",
            "do_pooling": False,
            "global_pool": "map",
            "hidden_size": 32,
            "model_args": {
                "embed_dim": 32,
                "depth": 2,
                "num_heads": 2,
                "img_size": [16, 16],
                "patch_size": 4,
                "global_pool": "",
                "ref_feat_shape": [4, 4],
            },
        },
        text_config={**LANGUAGE, **ids(tokenizer), "model_type": "llama"},
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=token_id(tokenizer, "<image>"),
        video_token_id=token_id(tokenizer, "<video>"),
    )
    return finish(transformers.PerceptionLMForConditionalGeneration(config), processor)
