"""Text comes back from the tokenizer as it went in, and answers continue their prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from veridical.world.drawing import draw_scene, render_array
from veridical.world.language import describe_scene, existence_question, sample_questions
from veridical.world.model import PATCHES, build_model, build_processor, save_policy
from veridical.world.packing import PackedRow, Packer, pixels, visible_patches
from veridical.world.scenes import KINDS, sample_scenes
from veridical.world.train import text_loss

SCENES = sample_scenes("prior", 20, 4)


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor()


@pytest.fixture(scope="module")
def model(processor: Any) -> Any:
    torch.manual_seed(0)
    return build_model(processor).eval()


def _messages(prompt: str, answer: str | None = None) -> list[dict[str, Any]]:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        text = [{"type": "text", "text": answer}]
        messages.append({"role": "assistant", "content": text})
    return messages


def test_text_round_trips(processor: Any) -> None:
    texts = [describe_scene(scene) for scene in SCENES]
    texts += [q.text for scene in SCENES for q in sample_questions(scene, 5, 0)]
    texts += [existence_question(kind, SCENES[0]).text for kind in KINDS]
    for text in texts:
        ids = processor.tokenizer(text).input_ids
        assert processor.tokenizer.unk_token_id not in ids, text
        assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_template_and_tokens_are_prefix_stable(processor: Any) -> None:
    scene = SCENES[0]
    answer = describe_scene(scene)
    prompt = processor.apply_chat_template(
        _messages("Describe the image."), add_generation_prompt=True
    )
    assert prompt == "USER: <image>\nDescribe the image. ASSISTANT:"
    whole = processor.apply_chat_template(_messages("Describe the image.", answer))
    assert whole == f"{prompt} {answer}</s>"
    ids = processor.tokenizer(whole).input_ids
    words = answer.split(" ")
    for cut in range(len(words) + 1):
        begun = " ".join([prompt, *words[:cut]])
        begun_ids = processor.tokenizer(begun).input_ids
        assert ids[: len(begun_ids)] == begun_ids
    assert ids[-1] == processor.tokenizer.eos_token_id


def test_answer_tokens_decode_to_the_answer(processor: Any) -> None:
    prompt = processor.tokenizer("USER: <image>\nDescribe the image. ASSISTANT:").input_ids
    text = describe_scene(SCENES[0])
    whole = processor.tokenizer(
        f"USER: <image>\nDescribe the image. ASSISTANT: {text}</s>"
    ).input_ids
    assert processor.tokenizer.decode(whole[len(prompt) :], skip_special_tokens=True) == text


def test_the_processor_sees_what_training_saw(processor: Any) -> None:
    scene = SCENES[0]
    inputs = processor(images=draw_scene(scene), text="USER: <image>\nHi", return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], pixels(render_array(scene)[None]))
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == PATCHES


def test_saved_policy_loads_with_auto_classes(processor: Any, model: Any, tmp_path: Path) -> None:
    save_policy(tmp_path, model, processor, "card")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    text = "USER: <image>\nDescribe the image. ASSISTANT:"
    first, second = (
        each(images=draw_scene(SCENES[0]), text=text, return_tensors="pt")
        for each in (processor, again)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    with torch.no_grad():
        difference = (loaded(**second).logits - model(**first).logits).abs().max()
    assert float(difference) < 0.05


def test_packed_segments_are_what_they_would_be_alone(processor: Any, model: Any) -> None:
    """The loss of packed rows equals that of one text a row, through the model's own forward."""
    packer = Packer(processor)
    scene = SCENES[0]
    texts = [packer.description(scene), *map(packer.question, sample_questions(scene, 3, 0))]
    visible = visible_patches(scene, masked=False)
    with torch.no_grad():
        batch = packer.batch(
            [PackedRow(scene, texts, visible), PackedRow(SCENES[1], texts[:1], visible)]
        )
        packed, _ = text_loss(model, batch)
        described: list[torch.Tensor] = []
        answered: list[torch.Tensor] = []
        for index, (where, segment) in enumerate(
            [(scene, text) for text in texts] + [(SCENES[1], texts[0])]
        ):
            ids = torch.tensor([packer.prefix + segment.ids])
            logits = model(input_ids=ids, pixel_values=pixels(render_array(where)[None])).logits
            targets = torch.tensor(segment.targets)
            losses = torch.nn.functional.cross_entropy(
                logits[0, len(packer.prefix) :], targets, reduction="none", ignore_index=-100
            )[targets != -100]
            (described if index in (0, len(texts)) else answered).append(losses)
    expected = torch.cat(described).mean() + torch.cat(answered).mean()
    assert abs(float(packed) - float(expected)) < 1e-4


def test_hidden_patches_change_nothing(processor: Any, model: Any) -> None:
    packer = Packer(processor)
    scene = SCENES[0]
    visible = visible_patches(scene, masked=True)
    assert visible.sum() <= PATCHES / 2
    with torch.no_grad():
        batch = packer.batch([PackedRow(scene, [packer.description(scene)], visible)])
        loss, _ = text_loss(model, batch)
        embeddings = model.get_input_embeddings().weight.clone()
        changed = batch.allowed.clone()
        changed[..., batch.image_start : batch.image_start + PATCHES] &= torch.from_numpy(visible)
        kept = torch.ones(batch.ids.shape[1], dtype=torch.bool)
        kept[batch.image_start : batch.image_start + PATCHES] = torch.from_numpy(visible)
        features = model.model.vision_tower(batch.pixel_values, output_hidden_states=True)
        image = model.model.multi_modal_projector(features.hidden_states[-1][:, 1:])
        inputs = embeddings[batch.ids]
        inputs[:, batch.image_start : batch.image_start + PATCHES] = image
        hidden = model.model.language_model(
            inputs_embeds=inputs[:, kept], position_ids=batch.positions[:, kept]
        ).last_hidden_state
        targets = batch.targets[:, kept]
        asked = targets != -100
        dropped = torch.nn.functional.cross_entropy(model.lm_head(hidden[asked]), targets[asked])
    assert abs(float(loss) - float(dropped)) < 1e-4
