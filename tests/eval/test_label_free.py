"""The label-free check against the stock forward and by hand, and refusals by their words."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from veridical.cli import main
from veridical.data.messages import assistant_message, user_message
from veridical.data.records import write_records
from veridical.eval.benchmark import differences, score_rows
from veridical.eval.label_free import BENCHMARK
from veridical.eval.scores import read_scores
from veridical.models.load import load_policy
from veridical.models.measures import logps_measure
from veridical.models.rendering import render_group
from veridical.runtime.files import read_jsonl, write_jsonl
from veridical.scoring.refusals import is_refusal

QUESTION = user_message("Describe the image.")
TRUE, FALSE = "There is a red cup on the table.", "There is a dog near the window."
FIELDS = ("true", "false", "blind_true", "blind_false", "text")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two rows, one of which has a larger picture."""
    rows = [
        {
            "id": str(n),
            "images": [Image.effect_noise((size, size), 60).convert("RGB")],
            "prompt": [QUESTION],
            "chosen": [assistant_message(TRUE)],
            "rejected": [assistant_message(FALSE * (n + 1))],
        }
        for n, size in enumerate((96, 120))
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    return tmp_path / "pairs.parquet"


def stock_sums(images: list[Image.Image], answers: list[str]) -> list[float]:
    """The answers' log-probabilities by Transformers' own processor and forward."""
    policy = load_policy("embedded")
    content = [block for block in QUESTION["content"] if images or block["type"] != "image"]
    said = [[assistant_message(answer)] for answer in answers]
    group = render_group(policy, "x", images, [{**QUESTION, "content": content}], said)
    return [float(sum_) for sum_ in logps_measure(policy).stock(group)]


def test_log_probabilities_are_those_of_the_stock_forward(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "label_free", "embedded", "--data", str(pairs), "--max-new-tokens", "8"]
    assert main([*words, "--batch-size", "2", "--out", str(tmp_path / "two")]) == 0
    assert "does not count hallucinations" in capsys.readouterr().out
    assert main([*words, "--batch-size", "1", "--out", str(tmp_path / "one")]) == 0
    rows = read_jsonl(tmp_path / "two" / "answers.jsonl")
    for row, alone in zip(rows, read_jsonl(tmp_path / "one" / "answers.jsonl"), strict=True):
        for name in FIELDS:
            assert row[name] == pytest.approx(alone[name], abs=1e-3)
    gray = [Image.new("RGB", (96, 96), (127, 127, 127))]
    blind = [rows[0]["blind_true"], rows[0]["blind_false"]]
    assert blind == pytest.approx(stock_sums(gray, [TRUE, FALSE]), abs=1e-3)
    assert [rows[0]["text"]] == pytest.approx(stock_sums([], [TRUE]), abs=1e-3)
    assert rows[0]["true"] != pytest.approx(rows[0]["blind_true"], abs=1e-2)
    scores = read_scores(tmp_path / "two")
    lead = [row["true"] - row["false"] for row in rows]
    assert scores["lead"]["value"] == pytest.approx(sum(lead) / 2)


def judged(image: str, true: float, blind: float, words: int = 3) -> dict[str, object]:
    return {
        "image_id": image, "true": true, "false": -4.0, "blind_true": blind, "blind_false": -4.0,
        "tokens": 4, "text": -8.0, "text_tokens": 2 * words, "words": words, "refusal": words < 2,
    }  # fmt: skip


def test_scores_by_hand() -> None:
    """Leads with the image: 2, 3 and -1; without: 0 (a tie), 1 and 2."""
    rows = [judged("a", -2, -4), judged("b", -1, -3), judged("c", -5, -2, words=1)]
    found = score_rows(BENCHMARK, rows)
    assert found["preferred"].value == pytest.approx(2 / 3)
    assert found["blind_preferred"].value == pytest.approx(2.5 / 3)
    assert found["lead"].value == pytest.approx((2 + 3 - 1) / 3)
    assert found["from_image"].value == pytest.approx((2 + 2 - 3) / 3)
    assert found["nats"].value == pytest.approx(8 / 12)
    assert found["text_nats"].value == pytest.approx(24 / 14)
    assert found["words"].value == pytest.approx(7 / 3)
    assert found["refusals"].value == pytest.approx(1 / 3)
    better = [judged("a", -1, -4), judged("b", 0, -3), judged("c", -4, -2, words=1)]
    assert differences(BENCHMARK, better, rows)["from_image"].value == pytest.approx(1)


def test_answers_made_elsewhere_are_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"image_id": "1", "answer": "x"}\n')
    words = ["eval", "label_free", "--data", str(pairs), "--answers", str(tmp_path / "a.jsonl")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "needs a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "declines"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI language model, I have no eyes.", True),
        ("I can\N{RIGHT SINGLE QUOTATION MARK}t see the image you mention.", True),
        ("I cannot describe people.", True),
        ("I can't see a dog in the picture.", False),
        ("No, there is no dog.", False),
        ("A man says: I will not go. He holds a cup.", False),
        ("", False),
    ],
)
def test_refusals_are_told_by_their_words(answer: str, declines: bool) -> None:
    assert is_refusal(answer) == declines


def test_rows_that_the_model_refuses_are_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One answer has a special token of the model, one row has no picture, one nothing wrong."""
    image = Image.effect_noise((96, 96), 60).convert("RGB")
    image.save(tmp_path / "a.png")
    pair = {"images": ["a.png"], "prompt": "Describe the image.", "chosen": TRUE, "rejected": FALSE}
    rows = [pair | {"id": "good"}, pair | {"id": "end", "chosen": f"{TRUE}</s>"}]
    rows.append(pair | {"id": "gone", "images": ["b.png"]})
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["eval", "label_free", "embedded", "--data", str(tmp_path / "pairs.jsonl")]
    words += ["--max-new-tokens", "8", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "2 of 3 pairs cannot be used, more than --max-bad-fraction 0.01 allows" in told
    assert main([*words, "--max-bad-fraction", "0.7"]) == 0
    assert [row["question_id"][:4] for row in read_jsonl(tmp_path / "out/answers.jsonl")] == [
        "good"
    ]
    skipped = read_jsonl(tmp_path / "out/skipped.jsonl")
    assert [(row["id"], row["row"]) for row in skipped] == [("gone", 3), ("end", 2)]
    assert "special token" in skipped[1]["reason"]


def test_rows_behind_the_first_pairs_do_not_count(tmp_path: Path) -> None:
    """One bad row lies before the second of two pairs, and one behind it."""
    Image.effect_noise((96, 96), 60).convert("RGB").save(tmp_path / "a.png")
    pair = {"images": ["a.png"], "prompt": "Describe the image.", "chosen": TRUE, "rejected": FALSE}
    files = ("a.png", "gone.png", "a.png", "gone.png", "a.png")
    rows = [pair | {"id": str(n), "images": [file]} for n, file in enumerate(files)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    words = ["eval", "label_free", "embedded", "--data", str(tmp_path / "pairs.jsonl")]
    words += ["--max-new-tokens", "1"]
    for limit, lost in ((1, []), (2, ["1"]), (3, ["1", "3"])):
        out = tmp_path / str(limit)
        own = ["--out", str(out), "--limit", str(limit), "--max-bad-fraction", "0.4"]
        assert main([*words, *own]) == 0
        assert [row["id"] for row in read_jsonl(out / "skipped.jsonl")] == lost
    assert main([*words, "--out", str(tmp_path / "one"), "--limit", "1"]) == 0
