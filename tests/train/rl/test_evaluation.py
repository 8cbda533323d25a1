"""PPO and RLOO look at held-out prompts and images, choose by them, and stop by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import eval_chair
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessorPil

from veridical.data.images import image_bytes_key
from veridical.data.records import assistant_message, user_message, write_records
from veridical.judges.judging import Case, Verdict
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.policy import Policy
from veridical.objectives.ppo import PPO
from veridical.objectives.rloo import RLOO
from veridical.report.curves import number as in_digits
from veridical.report.figures import training_plots
from veridical.report.page import write_report
from veridical.runtime.descriptions import read_description
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.train.dpo import train_dpo
from veridical.train.loop.training_set import split_held_out
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling
from veridical.train.rl import evaluation as rl_evaluation
from veridical.train.rl import learner as rl_learner
from veridical.train.rl import loop as rl_loop
from veridical.train.rl import rewarding
from veridical.train.rl.experience import Experience, gather_experience
from veridical.train.rl.learner import _forget_old
from veridical.train.rloo import train_rloo

TRAINING = Training(
    learning_rate=1e-3, max_steps=6, batch_size=4, accumulation=1, held_out=0.34, evaluations=3,
    tuning="full", seed=1, select_by="reward", cache="none",
    trainer={"lr_scheduler_type": "constant"},
)  # fmt: skip
SHORT = Symbolic(length_penalty=5.0)
NOBODY = Judging(judge="none")
WATCHED = Judging(judge="none", objects=Path("objects.json"))
LIGHT = PPO(samples=4, kl_coefficient=0.01, kl_target=20.0)
MODULES = {"rloo": "rl.start", "dpo": "loop.training_set"}
NAMES = pytest.mark.parametrize("name", ["ppo", "rloo"])


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    with torch.no_grad():
        policy.core.lm_head.weight[policy.processor.tokenizer.eos_token_id] *= 3
    folder = tmp_path / "policy"
    policy.model.float().save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    """Twelve prompts on six pictures, each of which has two."""
    rows = [
        {
            "id": f"row-{i}",
            "images": [pictures[i % 6]],
            "prompt": [user_message("Describe the image." if i < 6 else "What is there?")],
        }
        for i in range(12)
    ]
    write_records(rows, tmp_path / "prompts.parquet", "prompt")
    write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(12)})
    return tmp_path / "prompts.parquet"


def checked(training: Training, folder: Path, pictures: Sequence[Image.Image]) -> Training:
    (folder / "images").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "images" / f"p{number}.png")
    lists = {f"p{n}": ["cup", "dog"] if n % 2 else ["cat", "bus"] for n in range(6)}
    write_json(folder / "lists.json", lists)
    return replace(
        training, check_images=folder / "images", check_objects=folder / "lists.json",
        check_tokens=8,
    )  # fmt: skip


def train(name: str, model: str, data: Path, out: Path, **options: Any) -> None:
    common = {
        "judging": NOBODY, "symbolic": SHORT, "sampling": Sampling(max_new_tokens=10),
        "training": TRAINING,
    }  # fmt: skip
    if name == "ppo":
        train_ppo(model, data, out, **{"ppo": LIGHT, **common, **options})
    else:
        light = {"standardize": False, "rloo": RLOO(kl_coefficient=0.05)}
        train_rloo(model, data, out, **{**light, **common, **options})


def evaluated(out: Path) -> dict[int, dict[str, Any]]:
    return {r["step"]: r for r in read_jsonl(out / "log.jsonl") if r["split"] == "eval"}


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(out / "run.json")["results"]
    return found


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def holds(model: Path, checkpoint: Path) -> bool:
    """Whether a saved model has the policy's weights of a checkpoint, whatever they are called."""
    saved = list(load_file(model / "model.safetensors").values())
    kept = load_file(checkpoint / "trained.safetensors")
    return all(
        any(value.shape == other.shape and torch.equal(value, other) for other in saved)
        for name, value in kept.items()
        if name.startswith("policy.")
    )


def by_prompt(cases: Sequence[Case]) -> list[Verdict]:
    """Marks that are the same whatever is said, so that nothing of RLOO's moves."""
    return [
        Verdict(tuple({"points": float(case.prompt.id[4])} for _ in case.responses))
        for case in cases
    ]


def marked(prompts: Path) -> dict[str, Any]:
    """Options of a run that is rewarded by marks alone."""
    judging = Judging(judge="exact", objects=prompts.parent / "objects.json")
    return {"symbolic": Symbolic(no_end_penalty=0.0), "judging": judging}


def test_the_same_policy_gives_the_same_figures(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step, in batches of any size, and whether or not anything is learned."""
    monkeypatch.setattr(rewarding, "open_marks", lambda *_: by_prompt)
    options = marked(prompts)
    train("rloo", saved, prompts, tmp_path / "four", **options)
    other = replace(TRAINING, batch_size=1, accumulation=4)
    train("rloo", saved, prompts, tmp_path / "one", training=other, **options)
    rows = [*evaluated(tmp_path / "four").values(), *evaluated(tmp_path / "one").values()]
    assert [row["step"] for row in rows] == [0, 2, 4, 6] * 2
    first = rows[0]
    assert first["prompts"] == 4 and len({row["reward"] for row in rows}) == 1
    for row in rows:
        assert [s["text"] for s in row["samples"]] == [s["text"] for s in first["samples"]]
        for name in ("kl_k1", "entropy", "response_tokens", "reward_deviation"):
            assert row[name] == pytest.approx(first[name], abs=1e-4), name
    learned = [row for row in read_jsonl(tmp_path / "four" / "log.jsonl") if "loss" in row]
    held_out = {sample["id"] for sample in first["samples"]}
    assert not held_out & {sample["id"] for row in learned for sample in row["samples"]}


def test_rows_of_a_picture_stay_on_one_side_as_with_every_command(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[list[Any]] = []

    def spy(setting: Any, held_out: Any, *rest: Any) -> Any:
        sides.extend([list(setting.prompts), list(held_out)])
        return honest(setting, held_out, *rest)

    honest = rl_evaluation.Evaluations
    monkeypatch.setattr(rl_loop, "Evaluations", spy)
    train("rloo", saved, prompts, tmp_path / "out", training=replace(TRAINING, max_steps=1))
    learned, held_out = (
        {image_bytes_key(image) for one in side for image in one.asked.images} for side in sides
    )
    assert len(learned) == 4 and len(held_out) == 2 and not learned & held_out
    assert (len(sides[0]), len(sides[1])) == (8, 4)
    found = results(tmp_path / "out")
    assert (found["prompts"], found["held_out_prompts"]) == (8, 4)


@NAMES
def test_the_best_checkpoint_is_the_result(
    name: str, saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that breaks the policy half-way: what was best then is older than the last two."""
    honest = rl_learner.Learner.step

    def breaks(learner: rl_learner.Learner) -> float:
        if learner.scheduler.last_epoch >= 4:
            for group in learner.optimizer.param_groups:
                group["lr"] = 0.3
        return honest(learner)

    monkeypatch.setattr(rl_learner.Learner, "step", breaks)
    out, objects = tmp_path / "out", prompts.parent / "objects.json"
    training = replace(TRAINING, max_steps=8, evaluations=8)
    train(name, saved, prompts, out, training=training, judging=replace(NOBODY, objects=objects))
    monkeypatch.undo()
    rows, found = evaluated(out), results(out)
    rewards = {step: row["reward"] for step, row in rows.items() if step}
    best = max(rewards, key=lambda step: rewards[step])
    assert found["best_step"] == best < 7 and len(set(rewards.values())) > 2, rewards
    assert (found["selected_by"], found["best_value"]) == ("reward", rewards[best])
    assert found["value_at_start"] == rows[0]["reward"] and found["steps"] == 8
    left = {int(path.name.split("-")[1]) for path in (out / "checkpoints").iterdir()}
    assert left == {best, 8}
    assert holds(out / "model", out / "checkpoints" / f"checkpoint-{best}")
    assert not holds(out / "model", out / "checkpoints" / "checkpoint-8")
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert f"step {best} (held-out reward {rewards[best]:.4f}" in card
    assert f"| reward, held-out prompts, step {best} | {rewards[best]:.6g} |" in card
    assert "8 prompts, 4 held-out prompts" in card
    # Asked again with the same noise, the model that was saved earns what the log says.
    again = tmp_path / "again"
    train(name, str(out / "model"), prompts, again, training=replace(training, max_steps=1))
    assert evaluated(again)[0]["reward"] == pytest.approx(rewards[best], abs=1e-9)
    texts = [[s["text"] for s in row["samples"]] for row in (rows[best], evaluated(again)[0])]
    assert texts[0] == texts[1]
    plots = {plot.title: plot.words for plot in training_plots(read_jsonl(out / "log.jsonl"))}
    first, last = (in_digits(rows[step]["reward"]) for step in (0, 8))
    assert f"held out from {first} to {last}" in plots["Reward"]
    page = write_report([out], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "reinforcement learning" in page


@NAMES
def test_a_killed_run_chooses_and_stops_as_one_that_was_not(
    name: str, saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a step, or between an evaluation and its checkpoint."""
    whole = tmp_path / "whole"
    rate = 3e-2 if name == "rloo" else 3e-3
    training = replace(TRAINING, learning_rate=rate, max_steps=12, evaluations=12, patience=3)
    train(name, saved, prompts, whole, training=training)
    assert 3 < results(whole)["steps"] < 12, evaluated(whole)

    def dies_sampling(setting: Any, step: int, *rest: Any) -> Experience:
        if step == 2:
            raise KeyboardInterrupt
        return gather_experience(setting, step, *rest)

    def dies_saving(learner: rl_learner.Learner, state: rl_learner.LoopState, *rest: Any) -> None:
        if state.step == 3:
            raise KeyboardInterrupt
        honest(learner, state, *rest)

    honest = rl_learner.Learner.save
    places: list[tuple[Any, str, Any]] = [
        (rl_loop, "gather_experience", dies_sampling),
        (rl_learner.Learner, "save", dies_saving),
    ]
    for owner, function, dies in places:
        broken = tmp_path / f"broken-{function}"
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, dies)
            with pytest.raises(KeyboardInterrupt):
                train(name, saved, prompts, broken, training=training)
        train(name, saved, prompts, broken, training=replace(training, resume=True))
        assert results(broken)["resumed_from"] == "checkpoint-2"
        assert read_jsonl(whole / "log.jsonl") == read_jsonl(broken / "log.jsonl")
        assert same_weights(whole / "model", broken / "model")
        for figure in ("best_step", "best_value", "value_at_start", "steps"):
            assert results(whole)[figure] == results(broken)[figure], figure


def test_a_run_stops_when_nothing_is_gained_and_goes_on_when_asked(
    saved: str,
    prompts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is learned, so the start stays the best."""
    monkeypatch.setattr(rewarding, "open_marks", lambda *_: by_prompt)
    out, options = tmp_path / "out", marked(prompts)
    patient = replace(TRAINING, evaluations=6, patience=2)
    train("rloo", saved, prompts, out, training=patient, **options)
    told = capsys.readouterr().out
    words = "Stopped at step 2 of 6: reward on the held-out prompts was not improved on for 2 "
    value = evaluated(out)[2]["reward"]
    assert words in told and f"step 2, held-out prompts: reward {value:.3f}" in told
    assert "No checkpoint has a higher held-out reward than the start" in told
    assert results(out)["steps"] == 2 and max(evaluated(out)) == 2
    train("rloo", saved, prompts, out, training=replace(patient, resume=True), **options)
    assert max(evaluated(out)) == 2 and words in capsys.readouterr().out
    further = replace(patient, extend=True, patience=99)
    train("rloo", saved, prompts, out, training=further, **options)
    assert max(evaluated(out)) == 6 and results(out)["best_step"] == 1


@NAMES
def test_checked_images_choose_without_held_out_prompts(
    name: str, saved: str, prompts: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """The figures are those of `eval chair`, and looking leaves no trace in what is learned."""
    out, blind = tmp_path / "out", tmp_path / "blind"
    plain = replace(TRAINING, held_out=0.0, learning_rate=1e-2)
    looking = checked(plain, tmp_path, pictures)
    training = replace(looking, select_by="chair/recall", check_by=["chair", "pope"])
    train(name, saved, prompts, out, training=training)
    rows, found = evaluated(out), results(out)
    assert sorted(rows) == [0, 2, 4, 6] and not any("reward" in row for row in rows.values())
    assert all("pope/accuracy" in row for row in rows.values())
    assert all(row["chair/mean_length"] is not None for row in rows.values())
    recalls = {step: row["chair/recall"] for step, row in rows.items() if step}
    assert found["best_step"] == max(recalls, key=lambda step: recalls[step])
    assert found["value_at_start"] == rows[0]["chair/recall"]
    images, objects = looking.check_images, looking.check_objects
    assert images is not None and objects is not None
    given: dict[str, Any] = {"model": str(out / "model"), "images": images, "max_new_tokens": 8}
    scores = eval_chair(objects, tmp_path / "chair", **given)
    for figure, key in (("recall", "chair/recall"), ("mean_length", "chair/mean_length")):
        assert rows[found["best_step"]][key] == pytest.approx(scores[figure].value), key
    described = [read_description(e) for e in read_json(out / "checked.json")["benchmarks"]]
    titles = [plot.title for plot in training_plots(read_jsonl(out / "log.jsonl"), described)]
    assert "CHAIR on the checked images" in titles
    train(name, saved, prompts, blind, training=plain)
    last = max((out / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    weights = load_file(last / "trained.safetensors")
    other = load_file(blind / "checkpoints" / last.name / "trained.safetensors")
    assert all(torch.equal(value, other[key]) for key, value in weights.items())
    assert results(blind)["best_step"] is None


def test_kept_features_serve_evaluations_too(
    saved: str, prompts: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    training = checked(replace(TRAINING, max_steps=2, evaluations=1), tmp_path, pictures)
    kept = replace(training, vision_cache=True, cache=str(tmp_path / "cache"))
    train("ppo", saved, prompts, tmp_path / "kept", training=kept)
    train("ppo", saved, prompts, tmp_path / "plain", training=training)
    one, other = (evaluated(tmp_path / name)[0] for name in ("kept", "plain"))
    assert one["chair/chair_i"] == other["chair/chair_i"] and one["reward"] == other["reward"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_evaluated_too(
    saved: str, prompts: Path, tmp_path: Path, dtype: Any
) -> None:
    training = replace(TRAINING, tuning="lora", dtype=dtype, max_steps=2, evaluations=1)
    train("ppo", saved, prompts, tmp_path / "out", training=training)
    rows = evaluated(tmp_path / "out")
    assert sorted(rows) == [0, 2] and all(row["reward"] is not None for row in rows.values())
    assert rows[0]["kl_k3"] < 0.05


@pytest.mark.parametrize(
    ("change", "judging", "words"),
    [
        ({"select_by": "loss"}, NOBODY, "loss is none of reward, exact_score, chair/chair_i"),
        ({"select_by": "rewards_margin"}, NOBODY, "is none of reward"),
        ({"held_out": 0.0, "patience": 2}, NOBODY, "--patience goes by held-out prompts"),
        ({"held_out": 0.0, "patience": 2, "select_by": "loss"}, NOBODY, "loss is none of reward"),
        (
            {"held_out": 0.0, "select_by": "exact_score"},
            WATCHED,
            "--select-by goes by held-out prompts",
        ),
        ({"select_by": "exact_score"}, NOBODY, "needs --objects and a --judge that is not exact"),
        ({"select_by": "chair/chair_i"}, NOBODY, "Give --check-images and --check-objects"),
        ({"held_out": 1.0}, NOBODY, "--held-out is 1"),
        ({"held_out": 0.99}, NOBODY, "would hold out all 12 rows, which have 6 different pictures"),
        (
            {"trainer": {"lr_scheduler_type": "greedy"}},
            NOBODY,
            "which PPO, RLOO and GRPO do not have",
        ),
    ],
)
def test_what_can_not_decide_is_refused(
    saved: str, prompts: Path, tmp_path: Path, change: dict[str, Any], judging: Judging, words: str
) -> None:
    if judging.objects is not None:
        judging = replace(judging, objects=prompts.parent / judging.objects)
    with pytest.raises(UserError, match=words):
        train("rloo", saved, prompts, tmp_path / "out", judging=judging,
              training=replace(TRAINING, **change))  # fmt: skip


def test_figures_of_responses_are_no_figures_of_pairs(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--select-by reward is none of loss, rewards_accuracy"):
        train_dpo("no-model", pairs, tmp_path / "out", training=TRAINING)


def test_truth_can_choose_where_a_stand_in_rewards(
    saved: str, prompts: Path, tmp_path: Path
) -> None:
    known = replace(NOBODY, objects=prompts.parent / "objects.json")
    training = replace(TRAINING, select_by="exact_score", max_steps=4, evaluations=2)
    train("rloo", saved, prompts, tmp_path / "out", training=training, judging=known)
    rows, found = evaluated(tmp_path / "out"), results(tmp_path / "out")
    assert found["best_value"] == rows[found["best_step"]]["exact_score"]
    write_json(prompts.parent / "objects.json", {"elsewhere": ["cup"]})
    with pytest.raises(UserError, match="no held-out prompt has an image with an object list"):
        train("rloo", saved, prompts, tmp_path / "other", training=training, judging=known)


def test_held_out_prompts_that_can_not_be_scored_are_counted_and_refused(
    saved: str, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out: set[str] = set()

    def odd(cases: Sequence[Case]) -> list[Verdict]:
        if not held_out:  # step 0 asks about them before anything else is
            held_out.update(case.prompt.id for case in cases)
        return [
            Verdict(problem="odd")
            if case.prompt.id in sorted(held_out)[:bad]
            else Verdict(tuple({"points": float(len(text))} for text in case.responses))
            for case in cases
        ]

    monkeypatch.setattr(rewarding, "open_marks", lambda *_: odd)
    bad = 1
    with pytest.raises(UserError, match=r"At step 0, 1 of 4 held-out prompts has no verdict; m"):
        train("rloo", saved, prompts, tmp_path / "strict")
    lenient = replace(TRAINING, max_bad_fraction=0.5)
    train("rloo", saved, prompts, tmp_path / "out", training=lenient)
    assert all(
        (r["prompts"], r["unscored"]) == (3, 1) for r in evaluated(tmp_path / "out").values()
    )
    bad, patient = 4, replace(lenient, max_bad_fraction=1.0, patience=2)
    train("rloo", saved, prompts, tmp_path / "none", training=patient)
    rows, found = evaluated(tmp_path / "none"), results(tmp_path / "none")
    assert {row["reward"] for row in rows.values()} == {None} and sorted(rows) == [0, 2, 4]
    assert (found["best_step"], found["best_value"]) == (None, None)


def refuse(monkeypatch: pytest.MonkeyPatch, some: Sequence[Image.Image]) -> None:
    """Let the processor refuse some pictures, by their content."""
    stock, known = CLIPImageProcessorPil.preprocess, {picture.tobytes() for picture in some}

    def flat(images: Any) -> list[Any]:
        return [images] if isinstance(images, Image.Image) else [i for p in images for i in flat(p)]

    def preprocess(self: Any, images: Any, *rest: Any, **named: Any) -> Any:
        if any(image.tobytes() in known for image in flat(images)):
            raise ValueError("not this one")
        return stock(self, images, *rest, **named)

    monkeypatch.setattr(CLIPImageProcessorPil, "preprocess", preprocess)


@pytest.mark.parametrize("name", ["rloo", "dpo"])
def test_where_every_held_out_row_is_refused_the_run_says_so_before_the_first_step(
    name: str,
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By figures of checked images it goes on; null is never the best."""
    colors = [Image.new("RGB", (48, 48), (40 * n, 200 - 30 * n, 60)) for n in range(6)]
    data, module = tmp_path / "pairs.parquet", f"veridical.train.{MODULES[name]}"
    held_out: list[int] = []

    def write(numbers: Sequence[int]) -> None:
        rows = [
            {
                "id": f"row-{i}",
                "images": [colors[i % 6]],
                "prompt": [user_message("Describe the image.")],
                "chosen": [assistant_message("A red cup.")],
                "rejected": [assistant_message("A blue dog on the left.")],
            }
            for i in numbers
        ]
        write_records(rows, data, "preference")

    def run(out: Path, training: Training) -> None:
        if name == "rloo":
            train("rloo", saved, data, out, kind="preference", training=training)
        else:
            own = "loss" if training.select_by == "reward" else training.select_by
            train_dpo(saved, data, out, training=replace(training, select_by=own))

    def split(groups: Any, *rest: Any, **named: Any) -> Any:
        parts = split_held_out(groups, *rest, **named)
        held_out[:] = [int(group.id.split("-")[1]) for group in parts[1]]
        return parts

    write(range(12))
    training = replace(TRAINING, max_bad_fraction=0.5, max_steps=2, evaluations=2)
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.split_held_out", split)
        run(tmp_path / "first", training)
    # A size is tried at its first row, which has to be one that is taken.
    write(sorted(range(12), key=lambda number: number in held_out))
    refuse(monkeypatch, [colors[number % 6] for number in held_out])
    with pytest.raises(UserError, match=r"The processor refuses all 4 held-out rows .*skipped"):
        run(tmp_path / "out", replace(training, patience=2))
    assert not list((tmp_path / "out").glob("checkpoints/*"))
    looking = checked(training, tmp_path, colors)
    for number in held_out:
        (tmp_path / "images" / f"p{number % 6}.png").unlink(missing_ok=True)
    capsys.readouterr()
    run(tmp_path / "by-images", replace(looking, select_by="chair/recall"))
    assert capsys.readouterr().out.count("their figures are null. chair/recall decides") == 1
    figure = "reward" if name == "rloo" else "loss"
    rows = evaluated(tmp_path / "by-images")
    assert sorted(rows) == [0, 1, 2] and {row[figure] for row in rows.values()} == {None}
    assert results(tmp_path / "by-images")["best_step"] is not None


def test_the_best_checkpoint_stays_and_later_ones_of_a_killed_run_go_first(tmp_path: Path) -> None:
    def left(limit: int, newest: int, best: int | None) -> list[int]:
        for step in (2, 4, 6, 8):
            (tmp_path / f"checkpoint-{step}").mkdir(exist_ok=True)
        _forget_old(tmp_path, limit, newest, best)
        return sorted(int(path.name.split("-")[1]) for path in tmp_path.iterdir())

    assert left(2, 8, None) == [6, 8]
    assert left(2, 8, 2) == [2, 8]
    assert left(1, 8, 2) == [2, 8]
    assert left(1, 8, 8) == [8]
    assert left(3, 8, 2) == [2, 6, 8]
    assert left(2, 6, 4) == [4, 6]  # 8 is of a run that was killed, and will be made again
