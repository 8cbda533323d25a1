"""The whole way on real photographs, through the command line alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from veridical.runtime.files import read_json, read_jsonl

PIXELS, PATCH = 96, 16
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
QUESTION = "What can be seen in this photograph?"
# LLaVA-1.5's own: it leaves the end token to whoever trains.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for block in message['content'] if block['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for block in message['content'] if block['type'] == 'text' %}"
    "{{ block['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SETTINGS = ["--tuning", "full", "--batch-size", "8", "--accumulation", "2", "--evaluations", "2"]


def veridical(*arguments: str | Path) -> str:
    """Run the command as a user would; its output, if it ends well."""
    command = [str(Path(sys.executable).parent / "veridical"), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout


def description(boxes: list[list[Any]]) -> str:
    """True sentences made from a photograph's boxes, as a user without captions would."""
    counts = Counter(box[0] for box in boxes)
    sentences = [
        f"There {'is one' if n == 1 else f'are {n}'} {name}{'s' if n > 1 else ''} in the picture."
        for name, n in counts.most_common()
    ]
    return " ".join(sentences) or "There is nothing to name."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


def write_user_files(data: Path, folder: Path) -> tuple[Path, Path, list[str]]:
    """A JSON Lines file and an object list, as somebody might write them by hand."""
    rows = [json.loads(line) for line in (data / "coco128" / "coco128.jsonl").open()]
    shutil.copytree(data / "coco128" / "images", folder / "images")
    texts = [description(row["boxes"]) for row in rows]
    lines = [
        {
            "image": row["file"],
            "messages": [
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": text},
            ],
        }
        for row, text in zip(rows, texts, strict=True)
    ]
    path = folder / "photos.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    objects = {f"{row['image_id']:012d}": row["chair_objects"] for row in rows}
    (folder / "objects.json").write_text(json.dumps(objects))
    return path, folder / "objects.json", texts


def build_llava(folder: Path, texts: list[str]) -> Path:
    """A small LLaVA with a byte-level BPE trained on the texts, saved as any model is."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = "Yes. No. Is there a an in the image? USER: ASSISTANT:"
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False)
    bpe.train_from_iterator([*texts, QUESTION, names] * 3, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": PIXELS, "width": PIXELS}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": PIXELS}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=64, intermediate_size=128, num_hidden_layers=3,
                num_attention_heads=4, image_size=PIXELS, patch_size=PATCH,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256,
                num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=3,
            ),
            image_token_index=SPECIAL.index("<image>"),
            image_seq_length=(PIXELS // PATCH) ** 2,
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder / "llava")
    processor.save_pretrained(folder / "llava")
    return folder / "llava"


@pytest.mark.slow
def test_from_photographs_to_a_report(test_data: Path, folder: Path) -> None:
    data, objects, texts = write_user_files(test_data, folder)
    untrained = build_llava(folder, texts)
    veridical(
        "train", "sft", untrained, "--data", data, "--out", folder / "sft", *SETTINGS,
        "--learning-rate", "2e-3", "--max-steps", "120", "--train-vision", "--train-projector",
    )  # fmt: skip
    base = folder / "sft" / "model"
    assert "picture" in veridical("ask", base, folder / "images" / "000000000009.jpg", QUESTION)

    veridical(
        "build", "bdhs", base, "--data", data, "--out", folder / "pairs", "--similarity", "edit",
        "--mask-threshold", "0.9", "--max-new-tokens", "40",
    )  # fmt: skip
    summary = read_json(folder / "pairs" / "summary.json")
    assert summary["pairs"] + summary["skipped"] == 128
    assert summary["pairs"] > 100

    told = veridical(
        "train", "dpo", base, "--data", folder / "pairs" / "pairs.parquet",
        "--out", folder / "dpo", "--learning-rate", "5e-4", "--max-steps", "30", "--nll-weight",
        "0.5", "--lora-rank", "8", "--lora-alpha", "16", *SETTINGS[2:],
    )  # fmt: skip
    assert "Prefix sharing: yes" in told
    proofs = {proof["name"]: proof for proof in read_json(folder / "dpo" / "proofs.json")}
    assert len(proofs) == 5
    assert all(proof["passed"] and proof["applicable"] for proof in proofs.values())
    log = read_jsonl(folder / "dpo" / "log.jsonl")
    assert log[-1]["rewards_margin"] > 0

    vocabulary = test_data / "chair" / "vocabulary.json"
    for name, model in (("base", base), ("dpo", folder / "dpo" / "model")):
        common: list[str | Path] = ["--images", folder / "images", "--objects", objects]
        veridical(
            "eval", "chair", model, *common, "--vocabulary", vocabulary, "--prompt", QUESTION,
            "--max-new-tokens", "60", "--out", folder / name / "chair",
        )  # fmt: skip
        veridical(
            "eval", "pope", model, *common, "--max-new-tokens", "8", "--limit", "40",
            "--out", folder / name / "pope",
        )  # fmt: skip
        chair = read_json(folder / name / "chair" / "scores.json")["scores"]
        assert {"chair_i", "chair_s", "recall", "mean_length"} <= set(chair)
        assert 0 <= chair["chair_i"]["low"] <= chair["chair_i"]["high"] <= 1
        assert chair["chair_i"]["clusters"] > 100
        pope = read_json(folder / name / "pope" / "scores.json")["scores"]
        assert {"accuracy", "precision", "recall", "f1", "yes_rate", "unparsed"} <= set(pope)
    told = veridical(
        "eval", "compare", folder / "base" / "chair", folder / "dpo" / "chair",
        "--out", folder / "compare",
    )  # fmt: skip
    assert "chair_i" in told
    page = folder / "report.html"
    runs = [folder / name for name in ("pairs", "dpo", "base", "dpo", "compare")]
    veridical("report", *dict.fromkeys(runs), "--out", page)
    html = page.read_text()
    assert "data:image/jpeg;base64," in html
    assert "<script" not in html


@pytest.mark.slow
def test_broken_input_teaches(test_data: Path, tmp_path: Path) -> None:
    data, _, texts = write_user_files(test_data, tmp_path)
    model = build_llava(tmp_path, texts[:10])
    lines = data.read_text().splitlines()
    missing = json.loads(lines[0]) | {"image": "images/nowhere.jpg"}
    (tmp_path / "some.jsonl").write_text("\n".join([json.dumps(missing), *lines[1:]]))
    (tmp_path / "many.jsonl").write_text("\n".join([json.dumps(missing)] * 9 + lines[1:20]))
    build: list[str | Path] = [
        "build",
        "bdhs",
        model,
        "--similarity",
        "edit",
        "--max-new-tokens",
        "4",
    ]
    veridical(*build, "--data", tmp_path / "some.jsonl", "--out", tmp_path / "ok", "--limit", "9")
    listed = read_jsonl(tmp_path / "ok" / "skipped.jsonl")
    assert any("nowhere.jpg" in row["reason"] for row in listed)
    with pytest.raises(AssertionError, match="nowhere"):
        veridical(*build, "--data", tmp_path / "many.jsonl", "--out", tmp_path / "bad")
