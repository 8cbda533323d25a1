"""Similarity: the same answer is refused, another is not, and nothing is put in its place."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random

import pytest

from veridical.bdhs.similarity import edit_similarity, load_similarity
from veridical.runtime.errors import UserError

DESCRIPTION = (
    "The picture shows a kitchen with a wooden table. On the table, there are two red cups and a "
    "plate. A cat sits under the table next to a chair. The wall behind it is blue, and there is "
    "a clock on it."
)


def test_arithmetic() -> None:
    # red cup / blue cup here: 1 of 2 words replaced, then 1 of 3 inserted.
    assert edit_similarity("a red cup", "the blue cup") == 1 - 1 / 2
    assert edit_similarity("red cup", "red cup here") == pytest.approx(1 - 1 / 3)
    assert edit_similarity("one two three", "three") == pytest.approx(1 - 2 / 3)
    assert edit_similarity("", "cup") == 0
    assert edit_similarity("", "") == 1
    assert edit_similarity("3.5 cm", "35 cm") == 0.5


@pytest.mark.parametrize(
    "other",
    [
        DESCRIPTION,
        DESCRIPTION.upper(),
        DESCRIPTION.replace(",", "").replace(".", "!"),
        DESCRIPTION.replace(" a ", " the "),
        DESCRIPTION + "\n",
    ],
)
def test_edit_refuses_the_same_answer_in_another_dress(other: str) -> None:
    similarity = load_similarity("edit")
    assert similarity.scores([(DESCRIPTION, other)]) == [1.0]
    assert similarity.default_threshold <= 1.0


@pytest.mark.parametrize(
    "change", [("red", "green"), ("two", "three"), ("cat", "dog"), ("under", "on"), ("a clock", "")]
)
def test_edit_accepts_one_changed_word_in_a_description(change: tuple[str, str]) -> None:
    similarity = load_similarity("edit")
    (score,) = similarity.scores([(DESCRIPTION, DESCRIPTION.replace(*change, 1))])
    assert score < similarity.default_threshold


def test_order_of_a_pair_does_not_matter() -> None:
    one, other = "a red cup on a table", "a table with two red cups and a dog"
    assert edit_similarity(one, other) == edit_similarity(other, one)


def test_distance_is_that_of_the_textbook() -> None:
    """Also beyond the 64 words that the library compares at once."""

    def distance(a: list[str], b: list[str]) -> int:
        row = list(range(len(b) + 1))
        for i, word in enumerate(a, start=1):
            diagonal, row[0] = row[0], i
            for j, other in enumerate(b, start=1):
                replaced = diagonal + (word != other)
                diagonal = row[j]
                row[j] = min(replaced, row[j] + 1, row[j - 1] + 1)
        return row[-1]

    random = Random(0)
    for length in (1, 3, 20, 63, 64, 65, 150):
        for words in (2, 5, 50):
            a, b = ([f"w{random.randrange(words)}" for _ in range(length)] for _ in range(2))
            b = b[: random.randint(1, length)]
            assert edit_similarity(" ".join(a), " ".join(b)) == 1 - distance(a, b) / length


def test_long_answers_take_no_minutes() -> None:
    """Word by word in Python, 20,000 words took more than a minute."""
    random = Random(0)
    one, other = (" ".join(random.choices(DESCRIPTION.split(), k=20_000)) for _ in range(2))
    began = time.thread_time()
    assert 0 < edit_similarity(one, other) < 1
    assert time.thread_time() - began < 5


def test_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="mpnet, edit"):
        load_similarity("mnet")


def test_missing_package_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"veridical\[similarity\].*edit"):
        load_similarity("mpnet")


def test_missing_weights_name_the_alternative(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="give --similarity edit"):
        load_similarity(str(tmp_path))


def test_embeddings_from_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = tiny_sentence_model(tmp_path)
    similarity = load_similarity(str(folder))
    assert similarity.default_threshold == 0.97
    same, other, mirrored = similarity.scores(
        [("red cup", "red cup"), ("red cup", "blue dog"), ("blue dog", "red cup")]
    )
    assert same == pytest.approx(1.0, abs=1e-6)
    assert other == mirrored < same
    assert similarity.scores([]) == []


def tiny_sentence_model(folder: Path) -> Path:
    """A two-layer BERT of random weights with mean pooling, built and saved offline."""
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "cup", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(folder / "bert")
    transformer = models.Transformer(str(folder / "bert"))
    pooling = models.Pooling(16)
    SentenceTransformer(modules=[transformer, pooling]).save(str(folder / "model"))
    return folder / "model"


def test_edit_tells_vowel_signs_apart_and_counts_characters_without_spaces() -> None:
    assert edit_similarity("उसकी किताब", "उसका किताब") == 0.5
    assert edit_similarity("一只狗在睡觉。", "一只猫在睡觉") == 1 - 1 / 6
    assert edit_similarity("有一只狗。", "有一只狗") == 1.0
