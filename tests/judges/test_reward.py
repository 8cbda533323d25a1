"""A reward model as a judge, and `build rate` by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from veridical.cli.dispatch import main
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, read_records, user_message, write_records
from veridical.judges.judging import Case
from veridical.judges.reward import reward_judge
from veridical.models import processing
from veridical.models.lengths import measured
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.reward_model import (
    RewardInputs,
    RewardModel,
    judged_group,
    new_head,
    save_head,
)
from veridical.models.reward_scores import score_groups
from veridical.runtime.files import read_json

PROMPT = [user_message("Describe the image.")]


@pytest.fixture
def reward_model(policy: Policy) -> RewardModel:
    head = new_head(policy)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return RewardModel(policy, head, RewardInputs("Is it so?", with_facts=True))


def case(name: str, picture: Image.Image, *responses: str) -> Case:
    return Case(Prompt(name, [picture], PROMPT, ["There is a red cup."]), responses)


def test_verdicts_are_rewards(reward_model: RewardModel, pictures: list[Image.Image]) -> None:
    """In the order of the cases, whatever their number of responses; what can't be read is said."""
    cases = [
        case("a", pictures[0], "There is a red cup.", "Yes.", "No."),
        case("b", pictures[1], "There is a <image> dog."),
        case("c", pictures[2], "This is a park."),
    ]
    one, broken, three = reward_judge(reward_model, 2)(cases)
    for verdict, given in ((one, cases[0]), (three, cases[2])):
        group = judged_group(
            reward_model.policy, reward_model.reading, given.prompt.id, given.prompt.images, PROMPT,
            [[assistant_message(text)] for text in given.responses], given.prompt.facts,
        )  # fmt: skip
        slow = score_groups(reward_model, [group], 1, False)[0]
        assert [rating["reward"] for rating in verdict.ratings] == pytest.approx(slow, abs=1e-10)
        prompt = measured(reward_model.policy, (tuple(given.prompt.images), group.prompt_of(0)))
        read = prompt + sum(map(len, group.response_ids))
        assert (verdict.cost.input_tokens, verdict.cost.replies) == (read, 1)
    assert broken.ratings == () and "<image>" in broken.problem


@pytest.mark.parametrize("refused", [0, 1])
def test_a_refused_picture_is_a_problem_of_its_case(
    reward_model: RewardModel, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    stock, size = processing._processed, (100, 80)

    def picky(policy: Policy, images: Any, *rest: Any) -> Any:
        if any(image.size == size for row in images for image in row):
            raise ValueError("not this one")
        return stock(policy, images, *rest)

    monkeypatch.setattr(processing, "_processed", picky)
    cases = [
        case(f"row-{n}", Image.new("RGB", size if n == refused else (64, 64)), "Yes.", "No.")
        for n in range(3)
    ]
    verdicts = reward_judge(reward_model, 2)(cases)
    assert "not this one" in verdicts[refused].problem and not verdicts[refused].ratings
    others = [one for n, one in enumerate(verdicts) if n != refused]
    alone = reward_judge(reward_model, 2)([one for n, one in enumerate(cases) if n != refused])
    for one, other in zip(others, alone, strict=True):
        values = [rating["reward"] for rating in other.ratings]
        assert [rating["reward"] for rating in one.ratings] == pytest.approx(values, abs=1e-10)


def test_samples_are_rated_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    policy = load_policy("embedded")
    folder = tmp_path / "model"
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    head = new_head(policy)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    save_head(head, RewardInputs("Is this what the image shows?"), folder)
    texts = ["There is a red cup.", "There is a blue dog at the top.", "This is a park."]
    write_records(
        [
            {
                "id": f"row-{i}",
                "images": [Image.new("RGB", (48, 48), colour)],
                "prompt": PROMPT,
                "responses": [[assistant_message(text)] for text in texts[: 2 + i]],
            }
            for i, colour in enumerate(("red", "blue"))
        ],
        tmp_path / "samples.parquet",
        "sample",
    )

    def run(*words: object) -> int:
        return main([str(word) for word in words])

    rate = ("build", "rate", tmp_path / "samples.parquet", "--judge")
    assert run(*rate, f"reward:{folder}", "--out", tmp_path / "rated") == 0
    rows = read_records(tmp_path / "rated" / "samples.parquet", "sample").rows
    assert [len(row["ratings"]) for row in rows] == [2, 3]
    assert {rating["aspect"] for row in rows for rating in row["ratings"]} == {"reward"}
    assert set(read_json(tmp_path / "rated" / "summary.json")["means"]) == {"reward"}
    assert not (tmp_path / "rated" / "parts").exists()
    pairs = ("build", "pairs", tmp_path / "rated" / "samples.parquet", "--aspects", "[reward]")
    assert run(*pairs, "--margin", 0, "--rule", "extremes", "--out", tmp_path / "pairs") == 0
    assert read_json(tmp_path / "pairs" / "summary.json")["pairs"] == 2

    capsys.readouterr()
    for judge, said in (
        ("exact", "--judge exact and --objects go together"),
        ("reward:", "none of exact, reward:FOLDER"),
        (f"reward:{tmp_path / 'nothing'}", "is not a folder"),
        (f"reward:{tmp_path / 'rated'}", "holds no reward model"),
    ):
        assert run(*rate, judge, "--out", tmp_path / "bad") == 2
        assert said in capsys.readouterr().err
