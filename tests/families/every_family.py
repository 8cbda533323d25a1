"""Every family that is tested, and what is expected of it."""

from __future__ import annotations

import family_models
import more_models
import timm_models
from family_models import Family

FAMILIES = [
    *family_models.FAMILIES,
    Family("Qwen2-VL", more_models.qwen2_vl, torchvision=True),
    Family(
        "Qwen3-VL-MoE",
        more_models.qwen3_vl_moe,
        torchvision=True,
        keeps="several of its layers",
        close=1e-6,
    ),
    Family("LLaVA, Qwen2", more_models.llava_qwen2),
    Family("Pixtral", more_models.pixtral),
    Family("Mistral 3", more_models.mistral3),
    Family("GLM-4V", more_models.glm4v, torchvision=True),
    Family("Idefics2", more_models.idefics2),
    Family(
        "Aya Vision",
        more_models.aya_vision,
        torchvision=True,
        masks="sliding_attention",
        close=1e-6,
    ),
    Family(
        "Cohere2 Vision",
        more_models.cohere2_vision,
        torchvision=True,
        masks="sliding_attention",
        close=1e-6,
    ),
    Family("Gemma 4", more_models.gemma4, torchvision=True, masks="sliding_attention"),
    Family("Gemma 4 E", more_models.gemma4_small, torchvision=True, masks="sliding_attention"),
    Family("LFM2-VL", more_models.lfm2_vl, torchvision=True, shares="conv", masks="conv"),
    Family("Ovis2", more_models.ovis2, keeps="more than features"),
    Family("DeepSeek-VL", more_models.deepseek_vl),
    Family("InternVL3.5", more_models.internvl3_5, torchvision=True),
    Family("Kimi K2.5", more_models.kimi_k2_5, torchvision=True, close=1e-6),
    Family("Molmo 2", more_models.molmo2, torchvision=True),
    Family("MiniCPM-V 4.6", more_models.minicpmv4_6, torchvision=True),
    Family("FastVLM", timm_models.fast_vlm, torchvision=True, timm=True),
    Family("PerceptionLM", timm_models.perception_lm, torchvision=True, timm=True),
    Family("Mllama", more_models.mllama, refused="cross-attention"),
    Family("Llama 4", more_models.llama4, torchvision=True, refused="no `model`"),
]
