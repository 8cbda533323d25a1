"""Tokens that models have for themselves, in a text: training leaves such a row out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from veridical.inspection.findings import Finding
from veridical.inspection.rows import Row

NAME = "special tokens"
FAMILIES: dict[str, tuple[str, ...]] = {
    "Llama 2, LLaVA, Mistral and Pixtral": (
        "</s>", "<s>", "<unk>", "[INST]", "[/INST]", "[IMG]", "[IMG_END]", "[IMG_BREAK]",
    ),
    "Llama 3, MLlama and Llama 4": (
        "<|eot_id|>", "<|eot|>", "<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>",
        "<|end_header_id|>",
    ),
    "Qwen, InternVL and LLaVA-OneVision": (
        "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>",
        "<|image_pad|>", "<IMG_CONTEXT>", "<img>", "</img>",
    ),
    "Gemma and PaliGemma": (
        "<eos>", "<bos>", "<pad>", "<end_of_turn>", "<start_of_turn>", "<turn|>", "<|turn>",
        "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<|image>", "<image|>",
    ),
    "Phi": ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    "Idefics and SmolVLM": ("<end_of_utterance>", "<fake_token_around_image>"),
    "Aya Vision": ("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|END_RESPONSE|>"),
    "DeepSeek": (
        "<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    ),
    "LLaVA and most others": ("<image>", "<video>", "<image_placeholder>", "<im_patch>"),
}  # fmt: skip
"""Special tokens of common families, by the families."""
END_TOKENS = (
    "</s>", "<|eot_id|>", "<|eot|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>", "<eos>",
    "<end_of_turn>", "<turn|>", "<|end|>", "<end_of_utterance>", "<|END_OF_TURN_TOKEN|>",
    "<|END_RESPONSE|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[EOS]",
)  # fmt: skip
"""Those that end an answer."""
_OF = {token: family for family, tokens in FAMILIES.items() for token in tokens}
_SPECIAL = re.compile("|".join([*map(re.escape, _OF), r"<\|[\w ]{2,40}\|>"]))
_END = re.compile(rf"(?:\s*(?:{'|'.join(map(re.escape, END_TOKENS))}))+\s*\Z")


def check_special_tokens(row: Row) -> Iterator[Finding]:
    """Check that no text holds a token that common models have for themselves."""
    texts = dict(row.answers)
    if row.record is not None:  # else a tag in a question may be an image's place
        texts = {"the question": row.prompt, **texts}
    for name, text in texts.items():
        found = _SPECIAL.search(text) if "<" in text or "[" in text else None
        if found is None:
            continue
        token = found.group()
        of = f" of {_OF[token]}" if token in _OF else ""
        at_end = name != "the question" and not _SPECIAL.search(_END.sub("", text))
        yield Finding(
            NAME, "warning", row.number, row.id, f"{name} has the text {token!r}",
            f"take it out; it is a special token{of}, and training leaves the row out where it is "
            "one of its model's (--model counts with a model)",
            "strip" if at_end else "",
        )  # fmt: skip
