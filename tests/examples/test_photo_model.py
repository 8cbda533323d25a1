"""The example's model in miniature, with random weights: saved, loaded, laid out, taught."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import assemble
import lessons
import photos
import pytest
import teach
import text
import torch
import tower
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from veridical.data.messages import assistant_message, user_message
from veridical.models.load import load_policy
from veridical.models.policy import Policy

REAL_PHOTOS = Path(tower.__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
NAMES = ["cat", "cup", "dog", "person"]
STAGES = [[1, 3, 1, 1, 8], [2, 3, 2, 2, 12]]


def small_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    words = ["user\n", "assistant\n", " cat cup dog person", "Is there a in the image? Yes. No."]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(words * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0],
        extra_special_tokens={"image_token": SPECIAL[3]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    words = small_tokenizer()
    shape = tower.EfficientNetLiteConfig(
        image_size=32, grid=2, stages=STAGES, stem=4, hidden_size=16
    )
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    model = assemble.join(tower.EfficientNetLite(shape), language, words)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    assemble.processor(words, shape).save_pretrained(path)
    return path


@pytest.fixture
def policy(folder: Path) -> Policy:
    return load_policy(str(folder))


@pytest.fixture
def taken(tmp_path: Path) -> list[photos.Photo]:
    """Four photographs, each of one colour with one thing all over it."""
    made = []
    for name, colour in zip(NAMES, ("red", "green", "blue", "white"), strict=True):
        file = tmp_path / f"{name}.png"
        Image.new("RGB", (48, 32), colour).save(file)
        made.append(photos.Photo(name, file, (name,), (photos.Box(name, 0, 0, 1, 1),)))
    return made


def test_padding_is_tensorflows() -> None:
    # 5 pixels, kernel 3, stride 2: 3 outputs need 7 inputs, one more on either side. 4 pixels: 2
    # outputs need 5 inputs, the one more at the end.
    layer = tower.Convolution(1, 1, kernel=3, stride=2, clipped=False).eval()
    torch.nn.init.constant_(layer.convolution.weight, 1.0)
    assert layer(torch.ones(1, 1, 5, 5)).shape[-1] == 3
    edges = layer(torch.ones(1, 1, 4, 4))[0, 0] / layer(torch.ones(1, 1, 3, 3)).max() * 9 / 9
    # Sums of ones under the kernel: 9 where it is inside, 6 at one edge, 4 in the last corner.
    expected = torch.tensor([[9.0, 6.0], [6.0, 4.0]])
    assert torch.allclose(edges / edges[0, 0] * 9, expected)


def test_published_weights_are_taken_in_their_order() -> None:
    shape = tower.EfficientNetLiteConfig(image_size=32, grid=2, stages=STAGES, stem=4)
    one, other = tower.EfficientNetLite(shape), tower.EfficientNetLite(shape)
    published = {f"_{number}": value for number, value in enumerate(one.state_dict().values())}
    tower.load_published(other, published | {"_fc.weight": torch.zeros(3)})
    assert all(torch.equal(a, b) for a, b in zip(
        one.state_dict().values(), other.state_dict().values(), strict=True))  # fmt: skip
    with pytest.raises(ValueError, match="tensors were published"):
        tower.load_published(other, dict(list(published.items())[1:]))
    wrong = published | {"_0": torch.zeros(1)}
    with pytest.raises(ValueError, match="has shape"):
        tower.load_published(other, wrong)


def test_the_tower_stays_in_evaluation_mode(policy: Policy) -> None:
    policy.model.train()
    assert not any(m.training for m in policy.core.model.vision_tower.modules())


@pytest.mark.slow
def test_a_fresh_process_loads_it_by_the_import_option(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    command = [
        sys.executable, "-m", "veridical", "ask", str(folder), str(tmp_path / "a.png"),
        "Is there a dog in the image?", "--max-new-tokens", "3",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with_it = subprocess.run(
        [*command, "--import", str(REAL_PHOTOS / "tower.py")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert with_it.returncode == 0, with_it.stderr
    without = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert without.returncode == 2, without.stderr
    assert "efficientnet_lite" in without.stderr


def test_lessons_let_yes_and_no_count_the_same(taken: list[photos.Photo]) -> None:
    shown = photos.view(taken[2], (0.0, 0.0, 1.0, 1.0), False)
    asked = lessons.lessons_of(shown, ["cat", "cat", "dog"], NAMES, 4, seed=0)
    assert asked[0].answer == "There is a dog."
    assert [(a.question, a.answer) for a in asked[1:4]] == [
        ("How many dogs are in the image?", "One."),
        ("Is there a dog in the image?", "Yes."),
        ("Is there a cat in the image?", "No."),  # the other thing seen elsewhere is here too
    ]
    no = {a.question for a in asked[3:]}
    assert no == {f"Is there a {name} in the image?" for name in ("cat", "cup", "person")}
    assert sum(a.weight for a in asked if a.answer == "No.") == pytest.approx(1)


def test_a_page_gives_each_lesson_what_it_gets_alone(policy: Policy) -> None:
    """Each lesson's hidden states behind a shared picture = those of the stock processor's row."""
    policy.model.double()
    several = [
        lessons.Lesson("Is there a dog in the image?", "Yes."),
        lessons.Lesson("Describe the image.", "There is a cup."),
    ]
    page = lessons.make_pages(policy.processor, 4, [several, several[:1]])
    image = Image.new("RGB", (32, 32), (200, 10, 60))
    pixels = policy.processor.image_processor(images=[image], return_tensors="pt")
    features = policy.core.get_image_features(pixels["pixel_values"].double()).pooler_output[0]
    both = features.expand(2, -1, -1)
    packed = teach.read(policy.core, page, both, policy.core.config.image_token_id)
    for number, lesson in enumerate(several):
        turns = [
            user_message(lesson.question),
            assistant_message(lesson.answer),
        ]
        whole = policy.processor.apply_chat_template(turns, tokenize=False)
        row = policy.processor(images=[image], text=whole, return_tensors="pt")
        row["pixel_values"] = row["pixel_values"].double()
        alone = policy.core.model(**row).last_hidden_state[0]
        ids = row["input_ids"][0]
        learned = (page.targets[0] != lessons.IGNORED).nonzero()[:, 0]
        length = len(policy.processor.tokenizer(lesson.answer)["input_ids"]) + 1
        first = sum(
            len(policy.processor.tokenizer(other.answer)["input_ids"]) + 1
            for other in several[:number]
        )
        mine = learned[first : first + length]
        end = len(ids) - 2  # the template ends the turn by a line break
        assert torch.equal(page.targets[0, mine], ids[end - length + 1 : end + 1])
        difference = (packed[0, mine] - alone[end - length : end]).abs().max()
        assert float(difference.detach()) < 1e-6  # Llama's norm rounds to float32 inside


def test_every_lesson_counts_what_it_was_given(policy: Policy) -> None:
    rows = [[lessons.Lesson("Is there a dog in the image?", "Yes.", 0.5)] * 3]
    page = lessons.make_pages(policy.processor, 4, rows)
    assert float(page.weights.sum()) == pytest.approx(1.5)
    assert bool(((page.weights > 0) == (page.targets != lessons.IGNORED)).all())


def test_teaching_moves_what_it_should_and_is_merged_exactly(
    policy: Policy, taken: list[photos.Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    course = teach.Course(
        views=4, fit_steps=5, batch=4, epochs=6, rate=1e-2, projector_rate=1e-2, rank=2,
        text_tokens=8,
    )  # fmt: skip
    views = [one for photo in taken for one in photos.make_views(photo, 4)]
    seen = teach.look(policy, views)
    assert seen.features.shape == (16, 4, 16)
    words = teach.name_embeddings(policy, NAMES, ["tabby cat", "coffee cup", "poodle (dog)"])
    weights = {"_fc.weight": torch.randn(3, 16), "_fc.bias": torch.zeros(3)}
    near = torch.tensor([[0.9, 0, 0.1, 0], [0, 1, 0, 0], [0, 0, 0.9, 0.1]])
    monkeypatch.setattr(teach, "nearness", lambda *_: near)
    parts: Any = SimpleNamespace(
        tower_weights=lambda: weights, imagenet_names=lambda: ["tabby cat", "coffee cup", "poodle"]
    )
    before = policy.core.model.multi_modal_projector.linear_1.weight.clone()
    teach.fit_projector(policy, seen, words, parts, course)
    after = policy.core.model.multi_modal_projector.linear_1.weight.clone()
    assert not torch.equal(before, after)
    adapted, log = teach.teach(policy, seen, NAMES, course, seen)
    assert len(log) == 24
    assert log[-1]["loss"] < log[0]["loss"]
    assert 0 <= log[-1]["development_auc"] <= 1
    assert log[0]["text"] == pytest.approx(0, abs=1e-4)  # a new adapter changes nothing
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        wanted = adapted(input_ids=ids).logits
        taught = adapted.base_model.model.model.multi_modal_projector.linear_1.weight.clone()
        merged = adapted.merge_and_unload()
        found = merged(input_ids=ids).logits
    assert torch.allclose(wanted, found, atol=1e-5)
    assert torch.equal(merged.model.multi_modal_projector.linear_1.weight, taught)
    assert not torch.equal(taught, after)


def test_labels_leave_out_what_is_unclear(taken: list[photos.Photo]) -> None:
    shown = photos.view(
        photos.Photo("x", taken[0].file, ("cat", "person"), taken[0].boxes), (0, 0, 1, 1), False
    )
    there, known = teach.labels([shown], NAMES)
    assert there.tolist() == [[1, 0, 0, 0]]
    assert known.tolist() == [[1, 1, 1, 0]]  # a person is named and in no box


def test_perplexity_of_a_uniform_model_is_its_vocabulary() -> None:
    class Uniform:
        device = "cpu"

        def __call__(self, input_ids: torch.Tensor) -> Any:
            return SimpleNamespace(logits=torch.zeros(1, input_ids.shape[1], 500))

    words = small_tokenizer()
    assert text.perplexity(Uniform(), words, "Is there\na dog?\n\nNo.") == pytest.approx(500)
    assert text.paragraphs("a\nb\n\n c \n") == ["a b", "c"]


def test_batches_hold_views_of_like_length() -> None:
    lengths = [i % 7 for i in range(100)]
    found = lessons.batches(lengths, 8, 0, 0)
    assert [len(batch) for batch in found] == [8] * 12
    assert len({place for batch in found for place in batch}) == 96
    assert found == lessons.batches(lengths, 8, 0, 0) != lessons.batches(lengths, 8, 0, 1)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in found]
    assert sum(spread) / len(spread) < 1.5
    assert lessons.batches([1, 2], 8, 0, 0)[0] in ([0, 1], [1, 0])
