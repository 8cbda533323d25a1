"""A finished run that is extended goes on as one of that length would have gone on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from veridical.judges.judging import Case, PairwiseVerdict
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.train import dpo, online
from veridical.train.dpo import train_dpo
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.responses import Sampling
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=3e-3, max_steps=4, batch_size=4, accumulation=1, held_out=0.0, evaluations=1,
    tuning="full", seed=1, trainer={"lr_scheduler_type": "constant", "logging_steps": 1},
)  # fmt: skip


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_extended_run_is_the_longer_run(
    saved: str,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, short = tmp_path / "whole", tmp_path / "short"
    train_dpo(saved, pairs, whole, training=replace(TRAINING, max_steps=6))
    train_dpo(saved, pairs, short, training=TRAINING)
    with pytest.raises(UserError, match=r"--max-steps 4, not 6.* Set --extend true"):
        train_dpo(saved, pairs, short, training=replace(TRAINING, max_steps=6, resume=True))
    capsys.readouterr()
    train_dpo(saved, pairs, short, training=replace(TRAINING, max_steps=6, extend=True))
    assert "from step 4 to 6. The learning rate goes on at 0.003" in capsys.readouterr().out
    assert_same_weights(whole, short)
    record = read_json(short / "run.json")
    assert record["results"]["steps"] == 6
    assert record["configuration"]["max_steps"] == 6
    # It has them all now, and goes no further; nor can it be cut.
    train_dpo(saved, pairs, short, training=replace(TRAINING, max_steps=6, extend=True))
    assert "raise --epochs or --max-steps" in capsys.readouterr().out
    # What is refused late, as step 7 ends no epoch, leaves the record of the run as it was.
    longer = replace(TRAINING, max_steps=7, extend=True)
    train_dpo(saved, pairs, short, training=longer)
    record = read_json(short / "run.json")
    with pytest.raises(UserError, match=r"has 7 steps already.* asks for 3 in all"):
        train_dpo(saved, pairs, short, training=replace(longer, max_steps=-1, epochs=1.0))
    assert read_json(short / "run.json") == record
    train_dpo(saved, pairs, short, training=replace(longer, resume=True, extend=False))
    # Of 12 rows an epoch has 3 steps. Nothing is loaded to find out.
    short = whole
    monkeypatch.setattr(dpo, "load_start_beside_reference", None)
    for fewer in (replace(TRAINING, max_steps=5), replace(TRAINING, max_steps=-1, epochs=1.0)):
        with pytest.raises(UserError, match=r"has 6 steps already.* asks for [35] in all"):
            train_dpo(saved, pairs, short, training=replace(fewer, extend=True))


def test_the_rate_goes_on_where_the_longer_schedule_has_it(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    cosine = replace(TRAINING, trainer={"logging_steps": 1, "warmup_steps": 1}, held_out=0.2)
    train_dpo(saved, pairs, out, training=cosine)
    train_dpo(saved, pairs, out, training=replace(cosine, max_steps=8, extend=True))
    train_dpo(saved, pairs, whole, training=replace(cosine, max_steps=8))

    def rates(folder: Path) -> list[float]:
        log = [row for row in read_jsonl(folder / "log.jsonl") if row["split"] == "train"]
        assert [row["step"] for row in log] == list(range(1, 9))
        return [row["learning_rate"] for row in log[4:]]

    assert rates(out) == rates(whole)
    assert min(rates(out)) > 0
    held_out = [r["step"] for r in read_jsonl(out / "log.jsonl") if r["split"] == "eval"]
    assert held_out == [0, 4, 8]


def test_reinforcement_learning_is_extended_too(saved: str, pairs: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "kind": "preference", "standardize": False, "judging": Judging(judge="none"),
        "symbolic": Symbolic(length_penalty=5.0), "sampling": Sampling(max_new_tokens=6),
    }  # fmt: skip
    linear = replace(TRAINING, trainer={"lr_scheduler_type": "linear"})
    constant = replace(TRAINING, trainer={"lr_scheduler_type": "constant"}, max_steps=2)
    train_rloo(saved, pairs, tmp_path / "whole", training=replace(constant, max_steps=3), **options)
    train_rloo(saved, pairs, tmp_path / "short", training=constant, **options)
    extended = replace(constant, max_steps=3, extend=True)
    train_rloo(saved, pairs, tmp_path / "short", training=extended, **options)
    assert_same_weights(tmp_path / "whole", tmp_path / "short")
    out = tmp_path / "linear"
    train_rloo(saved, pairs, out, training=replace(linear, max_steps=2), **options)
    train_rloo(saved, pairs, out, training=replace(linear, max_steps=4, extend=True), **options)
    rates = [row["learning_rate"] for row in read_jsonl(out / "log.jsonl")]
    # A warm-up of one step begins at half; then 2 of 3 and 1 of 3 parts are left.
    assert rates[2:] == pytest.approx([3e-3 * 2 / 3, 3e-3 / 3])


def test_a_filling_that_ended_early_is_filled_up(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def longer(cases: list[Case]) -> list[PairwiseVerdict]:
        sizes = [(len(one), len(other)) for one, other in (case.responses for case in cases)]
        return [PairwiseVerdict(None if a == b else int(a < b), float(a - b)) for a, b in sizes]

    monkeypatch.setattr(online, "open_comparison", lambda judging, place: longer)
    objects = tmp_path / "objects.json"
    write_json(objects, {f"pair-{number}": ["cup"] for number in range(12)})
    options: dict[str, Any] = {
        "judging": Judging(judge="exact", objects=objects),
        "sampling": Sampling(max_new_tokens=6, rollout_steps=3),
    }
    out = tmp_path / "out"
    train_online(saved, pairs, out, training=TRAINING, **options)
    train_online(saved, pairs, out, training=replace(TRAINING, max_steps=6, extend=True), **options)
    rows = read_jsonl(out / "rollouts" / "step-000003.jsonl")
    assert {row["step"] for row in rows} == {3, 4, 5}
    versions = {row["step"]: {response["version"] for response in row["responses"]} for row in rows}
    assert versions == {3: {3}, 4: {4}, 5: {4}}
