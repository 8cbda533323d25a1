"""The chat templates of real families, by name; `templates/README.md` says where each is from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent / "templates"
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
QWEN = (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


@dataclass(frozen=True)
class RealTemplate:
    """A family's chat template, with the tokens that it writes.

    Attributes:
        name: as people write the family.
        file: in TRL's wheel where it begins with `trl:`, else in `templates/`.
        image: what stands for an image in the rendered text.
        special: the other special tokens.
        eos: the tokenizer's end token.
        ends: further end tokens that the generation settings name.
        bos: the tokenizer's beginning token.
    """

    name: str
    file: str
    image: str
    special: tuple[str, ...]
    eos: str
    ends: tuple[str, ...] = ()
    bos: str | None = None

    @property
    def text(self) -> str:
        """The template itself."""
        return read(self.file)


def read(file: str) -> str:
    """A template's text: of TRL's wheel (`trl:NAME`), or of the folder beside this file."""
    if file.startswith("trl:"):
        found = files("trl").joinpath("chat_templates", f"{file.removeprefix('trl:')}.jinja")
        return found.read_text(encoding="utf-8")
    return (HERE / f"{file}.jinja").read_text(encoding="utf-8")


COHERE = (
    "<|START_OF_TURN_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|START_RESPONSE|>",
    "<|END_RESPONSE|>",
)
KIMI = (
    "<|im_system|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_middle|>",
    "<|media_begin|>",
    "<|media_content|>",
    "<|media_end|>",
)
IMAGE, PAD, END = "<image>", "<|image_pad|>", "<|im_end|>"

TEMPLATES = [
    RealTemplate("LLaVA-1.5", "llava_1_5", IMAGE, (), "</s>", bos="<s>"),
    RealTemplate("LLaVA-NeXT (Mistral)", "trl:llava_next", IMAGE, (), "</s>", bos="<s>"),
    RealTemplate("LLaVA-NeXT (Vicuna)", "llava_next_vicuna", IMAGE, (), "</s>", bos="<s>"),
    RealTemplate("LLaVA-OneVision", "llava_onevision", IMAGE, CHATML, END),
    RealTemplate("Qwen2-VL, Qwen2.5-VL", "trl:qwen2_5_vl", PAD, QWEN, END),
    RealTemplate("Qwen3-VL", "trl:qwen3_vl", PAD, QWEN, END),
    RealTemplate("Qwen3.5", "trl:qwen3_5_nothink", PAD, QWEN, END),
    RealTemplate("Qwen3.5 (thinking)", "trl:qwen3_5_think", PAD, QWEN, END),
    RealTemplate("Qwen3.6", "trl:qwen3_6", PAD, QWEN, END),
    RealTemplate("Qwen3.8", "trl:qwen3_8", PAD, QWEN, END),
    RealTemplate("SmolVLM", "trl:smolvlm", IMAGE, CHATML, "<end_of_utterance>"),
    RealTemplate("Idefics2", "idefics2", IMAGE, (), "</s>", ("<end_of_utterance>",), "<s>"),
    RealTemplate(
        "Idefics3",
        "trl:idefics3",
        IMAGE,
        (),
        "<|end_of_text|>",
        ("<end_of_utterance>",),
        "<|begin_of_text|>",
    ),
    RealTemplate("InternVL", "internvl", "<IMG_CONTEXT>", CHATML, END),
    RealTemplate(
        "Gemma 3",
        "trl:gemma3",
        "<start_of_image>",
        ("<start_of_turn>",),
        "<eos>",
        ("<end_of_turn>",),
        "<bos>",
    ),
    RealTemplate(
        "Gemma 4",
        "trl:gemma4_v5",
        "<|image|>",
        ("<|turn>", "<|channel>", "<channel|>", "<|think|>"),
        "<eos>",
        ("<turn|>",),
        "<bos>",
    ),
    RealTemplate("Pixtral", "pixtral", "[IMG]", ("[INST]", "[/INST]"), "</s>", bos="<s>"),
    RealTemplate(
        "Mistral 3",
        "mistral3",
        "[IMG]",
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "</s>",
        bos="<s>",
    ),
    RealTemplate(
        "GLM-4V",
        "glm4v",
        "<|image|>",
        ("[gMASK]", "<sop>", "<|begin_of_image|>", "<|end_of_image|>", "<|assistant|>"),
        "<|endoftext|>",
        ("<|user|>", "<|observation|>"),
    ),
    RealTemplate(
        "Llama 3.2 Vision",
        "llama3_2_vision",
        "<|image|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
        "<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    RealTemplate(
        "Llama 4",
        "llama4",
        "<|image|>",
        ("<|header_start|>", "<|header_end|>"),
        "<|eot|>",
        bos="<|begin_of_text|>",
    ),
    RealTemplate("DeepSeek-VL", "deepseek_vl", "<image_placeholder>", (), "<end>", bos="<begin>"),
    RealTemplate("Aya Vision", "aya_vision", IMAGE, COHERE, "<|END_OF_TURN_TOKEN|>", bos="<BOS>"),
    RealTemplate(
        "Cohere2 Vision",
        "cohere2_vision",
        "<|IMG_PATCH|>",
        COHERE,
        "<|END_OF_TURN_TOKEN|>",
        bos="<BOS>",
    ),
    RealTemplate("LFM2-VL", "lfm2_vl", IMAGE, CHATML, END, bos="<|startoftext|>"),
    RealTemplate("LFM2.5-VL", "trl:lfm2_2_5_vl", IMAGE, CHATML, END, bos="<|startoftext|>"),
    RealTemplate("Ovis2", "ovis2", IMAGE, CHATML, END),
    RealTemplate("Kimi K2.5", "kimi_k2_5", "<|media_pad|>", KIMI, END, bos="[BOS]"),
    RealTemplate("Molmo 2", "molmo2", "<|image|>", CHATML, END),
]


def template_of(name: str) -> RealTemplate:
    """The template of a family.

    Raises:
        KeyError: no template has this name.
    """
    found = {template.name: template for template in TEMPLATES}
    return found[name]
