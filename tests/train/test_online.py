"""Preference training on fresh pairs: what is sampled, judged, kept, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, user_message, write_records
from veridical.data.responses import Response
from veridical.judges.judging import Case, PairwiseJudge, PairwiseVerdict
from veridical.judges.named import Judging
from veridical.models.policy import Policy
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.sampling import Decoding
from veridical.train import fresh, online
from veridical.train.dpo import train_dpo
from veridical.train.loop import buffer
from veridical.train.loop.order import RankSampler
from veridical.train.loop.rows import TrainingRows
from veridical.train.online import nothing_learned, train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.prompts import TrainingPrompt, check_object_lists, read_training_prompts
from veridical.train.responses import Sampling
from veridical.train.rloo import train_rloo

WORDS = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
TRAINING = Training(
    learning_rate=3e-3, max_steps=5, batch_size=3, accumulation=1, held_out=0.0, evaluations=2,
    tuning="full", seed=1, trainer={"logging_steps": 1},
)  # fmt: skip
SAMPLING = Sampling(max_new_tokens=8, temperature=1.0)


@pytest.fixture(autouse=True)
def whole_answers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take answers as whole: random weights hardly ever end one. Not where that is the subject."""
    if "cut_answer" not in request.node.name:
        monkeypatch.setattr(fresh, "is_cut", lambda rollout: False)


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]],
            "prompt": [user_message("Describe the image.")],
            "chosen": [assistant_message(f"There is a {WORDS[i]}. There is a {WORDS[i - 1]}.")],
            "rejected": [assistant_message(f"There is a {WORDS[(i + 1) % 6]} on the left.")],
        }
        for i in range(6)
    ]
    write_records(rows, tmp_path / "pairs.parquet", "preference")
    write_json(tmp_path / "objects.json", {f"pair-{i}": ["cup"] for i in range(6)})
    return tmp_path / "pairs.parquet"


def exactly(pairs: Path) -> Judging:
    return Judging(judge="exact", objects=pairs.parent / "objects.json")


def longer(cases: Sequence[Case]) -> list[PairwiseVerdict]:
    """A judge that likes the longer text."""
    sizes = [(len(one), len(other)) for one, other in (case.responses for case in cases)]
    return [PairwiseVerdict(None if a == b else int(a < b), float(a - b)) for a, b in sizes]


def with_judge(monkeypatch: pytest.MonkeyPatch, look: PairwiseJudge) -> None:
    monkeypatch.setattr(online, "open_comparison", lambda judging, place: look)


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_samples_judges_learns_and_keeps_what_it_saw(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_judge(monkeypatch, longer)
    out = tmp_path / "run"
    train_online(saved, pairs, out, judging=exactly(pairs), sampling=SAMPLING, training=TRAINING)
    log = [row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert all(proof["passed"] for proof in read_json(out / "proofs.json"))
    kept = sorted((out / "rollouts").iterdir())
    assert [path.name for path in kept] == [f"step-{step:06d}.jsonl" for step in range(5)]
    for step, (path, told) in enumerate(zip(kept, log, strict=True)):
        rows = read_jsonl(path)
        assert [row["step"] for row in rows] == [step] * 3
        ranked = [row for row in rows if row["kind"] == "online"]
        assert told.get("share_online", 0.0) == pytest.approx(len(ranked) / 3)
        for row in ranked:
            sizes = [len(response["text"]) for response in row["responses"]]
            assert sizes[row["chosen"]] == max(sizes)
            assert all(r["version"] == step for r in row["responses"])
        said = [response for row in rows for response in row["responses"]]
        assert told["response_tokens"] == pytest.approx(
            sum(len(response["token_ids"]) for response in said) / 6
        )
    record = read_json(out / "run.json")
    assert record["configuration"]["temperature"] == 1.0
    assert record["configuration"]["judge"] == "exact"
    assert "objects" in record["inputs"]
    texts = {r["text"] for path in kept for row in read_jsonl(path) for r in row["responses"]}
    assert len(texts) > 15


def test_ties_and_what_is_unscored_are_counted_and_teach_nothing(
    saved: str,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def undecided(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        return [
            PairwiseVerdict(problem="no idea") if "5" in case.prompt.id else PairwiseVerdict()
            for case in cases
        ]

    with_judge(monkeypatch, undecided)
    out = tmp_path / "run"
    options: dict[str, Any] = {"judging": exactly(pairs), "sampling": SAMPLING}
    with pytest.raises(UserError, match=r"1 of 3 prompts has no verdict .* no idea"):
        train_online(saved, pairs, tmp_path / "strict", training=TRAINING, **options)
    train_online(saved, pairs, out, training=replace(TRAINING, max_bad_fraction=1.0), **options)
    assert capsys.readouterr().out.count("3 of 3 fresh pairs can't be learned from") == 1
    start = load_file(Path(saved) / "model.safetensors")
    assert all(torch.equal(value, start[name]) for name, value in weights(out).items())
    log = [row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
    assert all(row["loss"] is None for row in log)
    assert all(row["share_tie"] + row.get("share_unscored", 0) == 1 for row in log)
    assert sum(row.get("share_unscored", 0) for row in log) > 0
    shares = read_json(out / "run.json")["results"]["fresh"]
    assert shares["share_tie"] > 0.5 and "share_online" not in shares


def test_epochs_that_do_not_divide_evenly_run_to_their_end_and_resume(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_judge(monkeypatch, longer)
    # 6 prompts, 4 a step: two steps an epoch, the second with two prompts.
    training = replace(TRAINING, max_steps=-1, epochs=3.0, batch_size=4, evaluations=1)
    options: dict[str, Any] = {"judging": exactly(pairs), "sampling": SAMPLING}
    out = tmp_path / "run"
    for resume in (False, True):
        train_online(saved, pairs, out, training=replace(training, resume=resume), **options)
        log = [row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
        # 4 of 6 rows, then all: Transformers would say 0.5 after one of two batches.
        assert [row["epoch"] for row in log] == pytest.approx([4 / 6, 1, 10 / 6, 2, 16 / 6, 3])
        sizes = [len(read_jsonl(path)) for path in sorted((out / "rollouts").iterdir())]
        assert sizes == [4, 2, 4, 2, 4, 2]


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_run_resumes_to_the_same_weights_within_a_filling(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    with_judge(monkeypatch, longer)
    options: dict[str, Any] = {
        "judging": exactly(pairs),
        "sampling": Sampling(max_new_tokens=8, rollout_steps=3),
    }
    training = Training(
        **{**vars(TRAINING), "batch_size": 2, "accumulation": accumulation, "max_steps": 6,
           "evaluations": 3}
    )  # fmt: skip
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_online(saved, pairs, whole, training=training, **options)
    honest = buffer.RolloutBuffer.row

    def dies(self: Any, step: int, index: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return honest(self, step, index)

    with monkeypatch.context() as patch:
        patch.setattr(buffer.RolloutBuffer, "row", dies)
        with pytest.raises(KeyboardInterrupt):
            train_online(saved, pairs, broken, training=training, **options)
    # Its newest checkpoint is of step 4, in the middle of the filling for steps 3 to 5.
    assert max(int(p.name[11:]) for p in (broken / "checkpoints").iterdir()) == 4
    again = Training(**{**vars(training), "resume": True})
    with monkeypatch.context() as patch:
        # Nothing may be sampled again: the weights of step 3 are gone.
        patch.setattr(buffer.RolloutBuffer, "_made", None)
        train_online(saved, pairs, broken, training=again, **options)
    assert_same_weights(whole, broken)
    for name in ("step-000000.jsonl", "step-000003.jsonl"):
        texts = [(folder / "rollouts" / name).read_text() for folder in (whole, broken)]
        assert texts[0] == texts[1]
    assert read_jsonl(whole / "log.jsonl") == read_jsonl(broken / "log.jsonl")

    (broken / "rollouts" / "step-000003.jsonl").unlink()
    (broken / "checkpoints" / "checkpoint-6" / "trained.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"step-000003\.jsonl is gone"):
        train_online(saved, pairs, broken, training=again, **options)


def test_fillings_after_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make(tasks: Any, version: int) -> list[Any]:
        made.append(version)
        return [{"step": step, "index": index} for step, index in tasks]

    def fresh() -> buffer.RolloutBuffer:
        return buffer.RolloutBuffer(tmp_path, make, lambda step: [step, step + 1], 2, 7)

    first = fresh()
    for step in range(7):
        assert first.row(step, step + 1)["index"] == step + 1
    assert made == [0, 2, 4, 6]
    assert len(first.take_unread()) == 14 and not first.take_unread()
    checked: list[tuple[int, int]] = []
    longer = buffer.RolloutBuffer(
        tmp_path, make, lambda step: [step, step + 1], 2, 8,
        lambda step, rows: checked.append((step, len(rows))),
    )  # fmt: skip
    longer.row(7, 8)
    # The extended run checks and tells of what it adds to the filling that the first ended in.
    assert checked == [(7, 2)] and [row["step"] for row in longer.take_unread()] == [7, 7]
    fresh().forget_from(3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000.jsonl", "step-000002.jsonl"]
    fresh().forget_from(0)
    assert not list(tmp_path.iterdir())


def test_mixed_takes_each_prompts_own_pair_by_a_throw(
    saved: str, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_judge(monkeypatch, longer)
    common: dict[str, Any] = {
        "pairs": "mixed", "judging": exactly(pairs), "sampling": SAMPLING, "training": TRAINING,
    }  # fmt: skip
    for share in (0.0, 0.5, 1.0):
        train_online(saved, pairs, tmp_path / str(share), offline=share, **common)
    kinds = {
        share: [
            row["kind"]
            for path in sorted((tmp_path / str(share) / "rollouts").iterdir())
            for row in read_jsonl(path)
        ]
        for share in (0.0, 0.5, 1.0)
    }
    assert "offline" not in kinds[0.0]
    assert set(kinds[1.0]) == {"offline"}
    assert {"offline", "online"} <= set(kinds[0.5])
    # Where every throw takes the record's pair, it is plain DPO.
    train_dpo(saved, pairs, tmp_path / "dpo", reference="in_step", training=TRAINING)
    assert_same_weights(tmp_path / "1.0", tmp_path / "dpo")


@pytest.mark.usefixtures("answers_end")
def test_online_bdhs_needs_no_judge_and_rejects_what_the_policy_says_now(
    saved: str, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    train_online(
        saved, pairs, out, pairs="bdhs", sampling=SAMPLING, training=TRAINING,
        judging=Judging(judge="none"), bdhs=BDHSSettings(similarity="edit", iterations=2),
    )  # fmt: skip
    rows = [row for path in sorted((out / "rollouts").iterdir()) for row in read_jsonl(path)]
    assert {row["kind"] for row in rows} <= {"bdhs", "no_pair", "tie"}
    settings = [json.loads(row["source"])["settings"] for row in rows if row["kind"] == "bdhs"]
    assert settings[0]["mask_threshold"] == 0.99
    # The same prompt at another step is another answer.
    by_prompt: dict[str, set[str]] = {}
    for row in rows:
        by_prompt.setdefault(row["id"], set()).add(row.get("text", ""))
    assert sum(len(texts) > 1 for texts in by_prompt.values()) >= 4
    log = [row for row in read_jsonl(out / "log.jsonl") if row["split"] == "train"]
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert log[-1]["share_bdhs"] > 0.5


@pytest.mark.parametrize(("rows", "batch", "accumulation"), [(7, 2, 1), (7, 2, 3), (4, 4, 2)])
def test_a_steps_rows_are_those_that_the_loader_gives(
    rows: int, batch: int, accumulation: int
) -> None:
    sampler = RankSampler(rows, batch, 3, 0, 1)
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = [[place.index for place in one] for one in sampler]
        for start in range(0, len(batches), accumulation):
            seen.append([index for one in batches[start : start + accumulation] for index in one])
    assert seen == [sampler.rows_of_step(step, accumulation) for step in range(len(seen))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "mixed", "kind": "prompt"}, "--kind preference"),
        ({"pairs": "bdhs", "kind": "prompt"}, "needs true answers"),
        ({"offline": 1.5, "pairs": "mixed"}, "--offline is 1.5"),
        ({"judging": Judging()}, "needs --objects"),
        ({"judging": Judging(judge="reward:nowhere")}, "no such folder"),
        ({"judging": Judging(judge="best")}, "--judge best is none of"),
        ({"sampling": Sampling(temperature=0.0)}, "without noise"),
        ({"offline": 0.2}, "--offline is for --pairs mixed"),
        ({"bdhs": BDHSSettings(iterations=2)}, "--iterations is for --pairs bdhs"),
        (
            {"pairs": "bdhs", "comparing": fresh.Comparing(margin=1.0)},
            "--margin is for --pairs online",
        ),
        (
            {"pairs": "bdhs", "judging": Judging(objects=Path("a"))},
            "--objects is for --pairs online",
        ),
        ({"pairs": "bdhs", "judging": Judging(judge="local:a")}, "--judge is for --pairs online"),
        ({"training": Training(learning_rate=1e-3)}, "--held-out means nothing here"),
        (
            {"training": Training(learning_rate=1e-3, held_out=0.0, dry_run=True)},
            "--dry-run is not offered",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    pairs: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train_online("nothing", pairs, tmp_path / "out", **{"training": TRAINING, **options})
    assert not (tmp_path / "out").exists()


def test_a_cut_answer_is_never_the_better_one(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge likes the longer text; what the limit cut may only be the worse one."""
    said = [
        [("ab", "end"), ("a", "end")],
        [("ab", "length"), ("a", "end")],
        [("ab", "end"), ("a", "length")],
        [("ab", "length"), ("a", "length")],
        [("a", "length"), ("a", "length")],
    ]
    rollouts: Any = [[Response(text, (1,), (0.0,), why) for text, why in pair] for pair in said]  # type: ignore[arg-type]
    judged: list[Case] = []

    def look(cases: Sequence[Case]) -> list[PairwiseVerdict]:
        judged.extend(cases)
        return longer(cases)

    monkeypatch.setattr(fresh, "sample", lambda *_: rollouts)
    prompts = [
        TrainingPrompt(Prompt(str(n), (), [user_message("?", 0)]), "", (), None, ())
        for n in range(len(said))
    ]
    maker = fresh.Maker(
        policy, prompts, Decoding(), fresh.FreshComparing(look, fresh.Comparing(False))
    )
    rows = maker([(0, index) for index in range(len(said))], 0)
    assert [row["kind"] for row in rows] == ["online", "cut", "online", "cut", "cut"]
    assert len(judged) == 3
    assert fresh.pair_measures(rows)["share_cut"] == 0.6
    assert [fresh.counts(row) for row in rows] == [True, False, True, False, False]


def test_a_run_in_which_no_pair_counted_says_so() -> None:
    said = nothing_learned({"share_tie": 0.75, "share_cut": 0.25, "response_tokens": 32.0})
    assert "still those of the start (ties 75%, better answer cut off 25%)" in said
    assert nothing_learned({"share_tie": 0.75, "share_online": 0.25}) == ""
    assert nothing_learned({"share_tie": 0.75, "share_offline": 0.25}) == ""


def test_lists_that_do_not_cover_the_images_are_refused_before_the_model_is_loaded(
    pairs: Path, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """The model does not exist, so whoever loads it first says so instead."""
    pictures[0].save(tmp_path / "kitchen.png")
    row = {"id": "a", "image": "kitchen.png", "prompt": "What?"}
    data = tmp_path / "prompts.jsonl"
    data.write_text(json.dumps(row))
    objects = pairs.parent / "objects.json"
    told = r"1 of 1 prompt has an image without .*line 1 \(a, image \S*kitchen.png\).*pair-0"
    training = replace(TRAINING, trainer=None)
    options: dict[str, Any] = {"judging": exactly(pairs), "kind": "prompt", "training": training}
    for command in (train_online, train_ppo, train_rloo):
        out = tmp_path / command.__name__
        with pytest.raises(UserError, match=told):
            command("nobody/no-model", data, out, **options)
        assert not (out / "model").exists()
    write_json(objects, {"kitchen": ["cup"]})
    check_object_lists(exactly(pairs), data, "prompt", TRAINING)
    with pytest.raises(UserError, match="6 of 6 prompts"):
        check_object_lists(exactly(pairs), pairs, "preference", TRAINING)


def test_rows_that_cannot_be_read_are_told_with_those_that_have_no_list(
    pairs: Path, pictures: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures[0].save(tmp_path / "kitchen.png")
    rows = [
        {"id": "a", "image": "kitchen.png", "prompt": "What?"},
        {"id": "b", "image": "none.png", "prompt": "What?"},
    ]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    write_jsonl(
        tmp_path / "more.jsonl",
        [{"id": "c", "image": "no.png", "prompt": "What?"}, {**rows[0], "id": "d"}],
    )
    training = replace(TRAINING, more_data=[tmp_path / "more.jsonl"])

    def check() -> None:
        check_object_lists(exactly(pairs), tmp_path / "prompts.jsonl", "prompt", training)

    with pytest.raises(UserError, match="2 of 2 prompts have an image without an object list"):
        check()
    told = capsys.readouterr().out
    assert "2 rows, images: none.png" in told and "prompts.jsonl line 2 (b)" in told
    assert "2 rows, images: the judge has no object list" in told
    write_json(pairs.parent / "objects.json", {"kitchen": ["cup"]})
    with pytest.raises(UserError, match=r"prompts.jsonl: 1 of 2 rows cannot be used"):
        check()
    assert "2 rows, images: none.png" in capsys.readouterr().out


def test_online_bdhs_has_room_for_the_longest_answers_that_it_learns(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 words and the end 31 tokens; the last try may have 8, doubled to 64, and its end."""
    answer = " ".join(["cup"] * 30)
    rows = [
        {
            "id": name,
            "images": [pictures[0]],
            "messages": [user_message("What?", images=1), assistant_message(text)],
        }
        for name, text in (("short", "A red cup."), ("long", answer))
    ]
    write_records(rows, tmp_path / "rows.parquet", "conversation")
    training = replace(TRAINING, max_bad_fraction=0.5)

    def read(training: Training) -> tuple[list[TrainingPrompt], TrainingRows]:
        return read_training_prompts(
            policy, tmp_path / "rows.parquet", "conversation", training, 8, learns_answers=True
        )

    prompts, found = read(training)
    how = Rejecting(
        BDHSSettings(similarity="edit"), Decoding(8, 1.0, 0, 8), load_similarity("edit")
    )
    maker = fresh.Maker(policy, prompts, Decoding(8, 1.0, 0, 8), how)
    longest = fresh.longest_pairs(maker, found.groups)[1]
    assert [len(ids) for ids in longest.response_ids] == [31, 65]
    prompt = found.groups[1].prompt_tokens[0]
    prompts, found = read(replace(training, max_length=prompt + 64))
    assert [one.asked.id for one in prompts] == ["short"]
    assert "response of 65 exceed" in found.skipped[0]["reason"]

    said = {"rejected": [assistant_message(" ".join(["dog"] * 65))], "source": "{}"}
    monkeypatch.setattr(fresh, "reject_answers", lambda *_: [said])
    (row,) = maker([(0, 1)], 0)
    assert (row["kind"], row["problem"]) == (
        "no_pair", "the rejected answer has 65 tokens, more than 64",
    )  # fmt: skip


def test_many_pairs_that_are_not_learned_from_are_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rows(*kinds: str) -> list[Any]:
        return [{"kind": kind} for kind in kinds]

    tell = fresh.TellLost()
    tell(0, rows("offline", "offline", "offline", "tie", "online"))  # half of the fresh pairs
    tell(1, rows("refused", "refused", "online"))
    assert not capsys.readouterr().out
    tell(2, rows("offline", "tie", "tie", "cut", "online"))
    told = capsys.readouterr().out
    assert told.startswith("Step 3: 3 of 4 fresh pairs can't be learned from (ties: 2, better ")
    assert "a higher --temperature" in told and "larger --max-new-tokens" in told
    tell(3, rows("tie"))
    assert not capsys.readouterr().out
