"""A pair whose answers are equal in what is trained on is listed, never trained at margin 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers.normalizers import Replace, Sequence

from veridical.data.record_types import Branch
from veridical.data.records import assistant_message, user_message, write_records
from veridical.models.policy import Policy
from veridical.models.reward_model import RewardInputs
from veridical.objectives.symmpo import SymMPO
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.rows import TrainingRows, read_training_rows
from veridical.train.options import Training
from veridical.train.prompts import read_training_prompts
from veridical.train.reward import read_reward_pairs

COMMON = "This is a park. There is a red cup at the top left. "
TRAINING = Training(learning_rate=1.0, max_bad_fraction=0.9)


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    write_records(rows, folder / "pairs.parquet", "preference")
    return folder / "pairs.parquet"


def pair(number: int, picture: Image.Image, chosen: str, rejected: str, **more: Any) -> Any:
    return {
        "id": f"r{number}",
        "images": [picture],
        "prompt": [user_message("What do you see?")],
        "chosen": [assistant_message(chosen)],
        "rejected": [assistant_message(rejected)],
        **more,
    }


def read(policy: Policy, data: Path, training: Training) -> TrainingRows:
    branches: tuple[Branch, ...] = ("chosen", "rejected")
    return read_training_rows(policy, data, "preference", branches, training, more_rejected=True)


@pytest.fixture
def late(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Pairs that differ late, but for one."""
    rows = [
        pair(i, pictures[i], COMMON + "There is a green chair.", COMMON + "There is a blue dog.")
        for i in range(3)
    ]
    rows.append(pair(3, pictures[3], "There is a green chair.", "There is a blue dog."))
    return write(tmp_path, rows)


def test_what_the_limit_cuts_off_does_not_tell_answers_apart(policy: Policy, late: Path) -> None:
    assert len(read(policy, late, TRAINING).groups) == 4
    rows = read(policy, late, replace(TRAINING, max_response_tokens=8))
    assert [group.id for group in rows.groups] == ["r3"]
    assert {row["id"]: row["reason"] for row in rows.skipped} == {
        f"r{i}": "chosen and rejected are the same in their first 8 tokens, where "
        "--max-response-tokens cuts"
        for i in range(3)
    }
    with pytest.raises(UserError, match="same in their first 8 tokens"):
        read(policy, late, replace(TRAINING, max_response_tokens=8, max_bad_fraction=0.01))


def test_prompts_stay_where_their_pairs_are_not_learned(policy: Policy, late: Path) -> None:
    training = replace(TRAINING, max_response_tokens=8)
    found, rows = read_training_prompts(policy, late, "preference", training, 8)
    assert (len(found), len(rows.skipped)) == (4, 0)
    found, rows = read_training_prompts(policy, late, "preference", training, 8, learns_pairs=True)
    assert ([prompt.asked.id for prompt in found], len(rows.skipped)) == (["r3"], 3)


def test_what_only_concerns_pairs_is_told_where_they_are_not_learned(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor do their answers have to fit: the prompts leave room for what is sampled."""
    rows = [
        pair(0, pictures[0], COMMON + "A chair.", COMMON + "A dog.", answer_prefix=COMMON.strip()),
        pair(1, pictures[1], 30 * COMMON, "A dog.", beta_factor=2.0),
        pair(2, pictures[2], "A chair.", "A dog.", beta_factor=1.0),
    ]
    data, training = write(tmp_path, rows), replace(TRAINING, max_length=200)
    found, _ = read_training_prompts(policy, data, "preference", training, 8)
    assert len(found) == 3
    told = "not learned: answer_prefix (1 row), beta_factor (1 row).\n"
    assert capsys.readouterr().out.endswith(told)
    for learns in ("learns_pairs", "learns_answers"):
        given: dict[str, bool] = {learns: True}
        found, _ = read_training_prompts(policy, data, "preference", training, 8, **given)
        assert [prompt.asked.id for prompt in found] == ["r0", "r2"]
        assert (told in capsys.readouterr().out) == (learns == "learns_answers")


def test_what_the_tokenizer_makes_equal_does_not_tell_answers_apart(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = policy.processor.tokenizer.backend_tokenizer
    before = [backend.normalizer] if backend.normalizer else []
    monkeypatch.setattr(backend, "normalizer", Sequence([*before, Replace("GREEN", "green")]))
    rows = [
        pair(0, pictures[0], "There is a green chair.", "There is a GREEN chair."),
        pair(1, pictures[1], "There is a green chair.", "There is a blue dog."),
    ]
    data = write(tmp_path, rows)
    for found in (
        read(policy, data, TRAINING),
        read_reward_pairs(policy, data, RewardInputs(), TRAINING),
    ):
        assert [group.id for group in found.groups] == ["r1"]
        said = "once they are tokenized (the tokenizer of"
        assert said in found.skipped[0]["reason"]
        assert "reads 'green' and 'GREEN' alike)" in found.skipped[0]["reason"]


def test_words_that_the_tokenizer_does_not_know_are_the_reason(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    rows = [
        pair(0, pictures[0], "There is a xylograph.", "There is a yurt."),
        pair(1, pictures[1], "There is a green chair.", "There is a blue dog."),
    ]
    data = write(tmp_path, rows)
    for found in (
        read(policy, data, TRAINING),
        read_reward_pairs(policy, data, RewardInputs(), TRAINING),
    ):
        (left_out,) = found.skipped
        assert "does not know 'xylograph' and 'yurt': its tokenizer reads" in left_out["reason"]


def test_pictures_and_further_answers_count_too(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    long = COMMON + "There is a green chair."
    other = COMMON + "There is a blue dog."
    rows = [
        pair(0, pictures[0], long, other, rejected_images=[pictures[1]]),
        pair(1, pictures[0], long, other, rejected_images=[pictures[0]]),
        pair(2, pictures[2], long, "No.", more_rejected=[[assistant_message(other)]]),
        pair(3, pictures[3], "Yes.", "No.", more_rejected=[[assistant_message(other)]]),
    ]
    found = read(policy, write(tmp_path, rows), replace(TRAINING, max_response_tokens=8))
    assert [group.id for group in found.groups] == ["r0", "r2", "r3"]
    reasons = {row["id"]: row["reason"] for row in found.skipped}
    assert reasons["r1"].startswith("chosen and rejected are")


def test_of_further_answers_only_those_that_are_the_chosen_one_go(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    backend = policy.processor.tokenizer.backend_tokenizer
    before = [backend.normalizer] if backend.normalizer else []
    whole_texts = ("A green chair.", "No.", "Maybe.", "A GREEN chair.", "Never.")
    monkeypatch.setattr(backend, "normalizer", Sequence([*before, Replace("GREEN", "green")]))
    more = [[assistant_message(text)] for text in whole_texts[2:]]
    rows = [
        pair(
            0, pictures[0], "A green chair.", "No.", more_rejected=more,
            rejected_images=[pictures[1]],
        ),
        pair(1, pictures[1], "Yes.", "No."),
    ]  # fmt: skip
    data, training = write(tmp_path, rows), replace(TRAINING, max_bad_fraction=0.0)
    found = read(policy, data, training)
    first = found.groups[0]
    kept = [whole_texts[i] for i in (0, 1, 2, 4)]
    assert [text.strip().removesuffix("</s>") for text in first.response_texts] == kept
    assert len(first.response_images) == len(first.cut) == len(first.token_counts) == 4
    for rows_found in (found, read_reward_pairs(policy, data, RewardInputs(), training)):
        assert not rows_found.skipped
        [listed] = rows_found.answers
        assert (listed["id"], listed["field"]) == ("r0", "more_rejected/1")
        assert listed["reason"].startswith("chosen and more_rejected/1 are the same")
        left_out = LeftOut(tmp_path, rows_found, training)
        assert len(left_out) == 0
        assert [row["field"] for row in read_jsonl(left_out.path)] == ["more_rejected/1"]
        assert "1 further rejected answer is left out" in capsys.readouterr().out
    pairs = read_reward_pairs(policy, data, RewardInputs(), training).groups
    assert [group.id for group in pairs] == ["r0", "r0/1", "r0/3", "r1"]


def test_an_answer_to_the_other_picture_that_is_cut_to_the_chosen_one_is_named(
    policy: Policy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """It is not the pictures that are the same."""
    other = {
        "contrast_images": [pictures[1]],
        "contrast_chosen": [assistant_message(COMMON + "There is a black cat.")],
    }
    row = pair(0, pictures[0], COMMON + "There is a green chair.", "There is a blue dog.", **other)
    data, cut = write(tmp_path, [row]), replace(TRAINING, max_response_tokens=8)
    with pytest.raises(UserError, match="chosen and contrast_chosen are the same in their first 8"):
        read_training_rows(
            policy, data, "preference", ("chosen", "rejected"), cut, True, SymMPO.views
        )


def test_the_case_of_others(policy: Policy, test_data: Path) -> None:
    data = test_data / "cases" / "collapsed-by-cut" / "pairs.jsonl"
    assert len(read(policy, data, TRAINING).groups) == 12
    with pytest.raises(UserError, match="12 of 12 rows"):
        read(policy, data, replace(TRAINING, max_response_tokens=8))
