"""The example's run: what is done stays done, faults stop it, baselines stand in the table."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import choose
import measure
import photos
import pooled
import pytest
import run
from evaluating import eval_chair
from PIL import Image

from veridical.eval import chair, pope
from veridical.eval.scores import read_scores, write_scores
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json, read_jsonl, write_json, write_jsonl
from veridical.scoring.statistics import Estimate


@pytest.fixture
def taken(tmp_path: Path) -> list[photos.Photo]:
    made = []
    for number, name in enumerate(["dog", "dog", "cup", "person"]):
        file = tmp_path / f"{number}.png"
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(file)
        made.append(photos.Photo(str(number), file, (name,), (photos.Box(name, 0, 0, 1, 1),)))
    return made


def split_of(taken: list[photos.Photo]) -> photos.Split:
    return photos.Split(tuple(taken[:1]), tuple(taken[1:2]), tuple(taken[2:]))


def test_a_finished_command_is_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = run.Steps(tmp_path)
    write_json(tmp_path / "done" / "run.json", {"status": "finished"})
    steps.veridical("x", tmp_path / "done", "no", "such", "command")
    assert capsys.readouterr().out == ""
    write_json(tmp_path / "done" / "run.json", {"status": "running"})
    with pytest.raises(SystemExit, match=r"x failed \(status 2\)(.|\n)*no command 'no'"):
        steps.veridical("x", tmp_path / "done", "no", "such", "command")
    assert "veridical no such command --import" in capsys.readouterr().out


def test_data_keep_every_photograph_to_its_use(tmp_path: Path, taken: list[photos.Photo]) -> None:
    plan = run.Plan(tmp_path / "photos.jsonl", tmp_path / "out", pair_views=3)
    data = run.write_data(plan, split_of(taken))
    assert sorted(path.name for path in data.images.iterdir()) == ["2.png", "3.png"]
    assert sorted(path.name for path in data.shuffled.iterdir()) == ["2.png", "3.png"]
    assert (data.shuffled / "2.png").read_bytes() == (data.images / "3.png").read_bytes()
    assert read_json(data.objects) == {"2": ["cup"], "3": ["person"]}
    rows = read_jsonl(data.conversations)
    assert [row["id"] for row in rows] == ["1-0", "1-1", "1-2"]
    assert rows[0]["messages"][1]["content"] == "There is a dog."
    assert (data.folder / rows[2]["image"]).is_file()


def test_results_of_another_plan_are_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "photos.jsonl").write_text("{}")
    plan = run.Plan(tmp_path / "photos.jsonl", tmp_path / "out")
    plan.settle()
    dataclasses.replace(plan, shuffled=(), accumulation=2).settle()
    with pytest.raises(UserError, match="--accumulation is 3; give 1, 2, 4 or 8"):
        dataclasses.replace(plan, accumulation=3).settle()
    with pytest.raises(UserError, match=r"begun with another mask \(0.5, now 0.9\)"):
        dataclasses.replace(plan, mask=0.9).settle()
    (tmp_path / "photos.jsonl").write_text("[]")
    with pytest.raises(UserError, match=r"another hash of --photos"):
        plan.settle()


def test_another_list_of_the_same_name_is_another_plan(tmp_path: Path) -> None:
    for folder in ("mine", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photos.jsonl").write_text(folder)
    mine, other = tmp_path / "mine" / "photos.jsonl", tmp_path / "other" / "photos.jsonl"
    plan = run.Plan(mine, tmp_path / "out", evaluate_on=other)
    plan.settle()
    with pytest.raises(UserError, match=r"another hash of --evaluate-on \(\w{64}, now None\)"):
        dataclasses.replace(plan, evaluate_on=None).settle()
    with pytest.raises(UserError, match=r"another hash of --photos"):
        dataclasses.replace(plan, photos=other).settle()


def test_a_model_is_not_evaluated_on_what_it_was_taught(
    tmp_path: Path, taken: list[photos.Photo]
) -> None:
    base = tmp_path / "base"
    write_json(base / "teach.json", {"taught": [hash_file(taken[3].file)]})
    photos.refuse_taught(taken[:3], str(base))
    photos.refuse_taught(taken, "a/hub-name")
    plan = run.Plan(tmp_path / "p.jsonl", tmp_path / "out", base=str(base))
    with pytest.raises(UserError, match=r"was taught 1 of the 2 photographs .* --fold"):
        run.write_data(plan, split_of(taken))


def test_what_was_learned_from_is_not_evaluated_on(
    tmp_path: Path, taken: list[photos.Photo]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "new_name.png").write_bytes(taken[1].file.read_bytes())
    lines = [{"image_id": 0, "file": "new_name.png", "objects": ["dog"]}]
    write_jsonl(tmp_path / "other" / "photos.jsonl", lines)
    listed = tmp_path / "other" / "photos.jsonl"
    plan = run.Plan(tmp_path, tmp_path / "out", evaluate_on=listed)
    with pytest.raises(UserError, match=r"1 of the 1 photographs .*new_name.png is .*1.png"):
        run.write_data(plan, split_of(taken))


def test_another_list_is_evaluated_on(tmp_path: Path, taken: list[photos.Photo]) -> None:
    lines = []
    for name in ("new", "newer"):
        Image.new("RGB", (40, 30 + len(name)), "blue").save(tmp_path / f"{name}.png")
        lines.append({"file": f"{name}.png", "objects": ["dog"]})
    write_jsonl(tmp_path / "other.jsonl", lines)
    plan = run.Plan(tmp_path, tmp_path / "out", evaluate_on=tmp_path / "other.jsonl")
    data = run.write_data(plan, split_of(taken))
    assert read_json(data.objects) == {"new": ["dog"], "newer": ["dog"]}


@pytest.mark.slow
def test_constant_answers_are_scored_by_the_public_commands(
    tmp_path: Path, taken: list[photos.Photo]
) -> None:
    plan = run.Plan(tmp_path, tmp_path / "out")
    data = run.write_data(plan, split_of(taken))
    questions = [
        {"question_id": str(number), "image": f"{image}.png", "image_id": image, "split": "random",
         "text": f"Is there a {name} in the image?", "label": label}
        for number, (image, name, label) in enumerate(
            [("2", "cup", "yes"), ("2", "dog", "no"), ("3", "person", "yes"), ("3", "cup", "no"),
             ("3", "hot dog", "no")]
        )
    ]  # fmt: skip
    write_jsonl(plan.out / "eval" / "base" / "pope" / "questions.jsonl", questions)
    run.constants(plan, run.Steps(plan.out), taken, data)
    # Dog is the most frequent, then cup and person; the two photographs hold a cup and a person.
    one, three = (plan.out / "eval" / f"constant-{number}" for number in (1, 3))
    assert read_scores(one / "chair")["chair_i"]["value"] == 1.0
    assert read_scores(one / "pope")["random/accuracy"]["value"] == 0.4
    # "dog, cup, person" twice: 4 of 6 mentions are wrong, both objects are found.
    assert read_scores(three / "chair")["chair_i"]["value"] == pytest.approx(4 / 6)
    assert read_scores(three / "chair")["recall"]["value"] == 1.0
    assert [row["answer"] for row in read_jsonl(three / "answers.jsonl")] == ["Yes."] * 4 + ["No."]


def scores(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 2, 2)


def test_the_table_has_every_arm_and_its_baselines(tmp_path: Path) -> None:
    plan = run.Plan(tmp_path, tmp_path)
    for arm in ("sft", "bdhs"):
        proof = {"name": "start", "passed": True, "applicable": arm == "bdhs"}
        write_json(tmp_path / "train" / arm / "proofs.json", [proof])
    for arm in ("constant-1", "bdhs", "base-shuffled", "base"):
        folder = tmp_path / "eval" / arm
        write_scores(folder / "chair", chair.BENCHMARK, {n: scores(0.5) for n in run.CHAIR})
        write_scores(folder / "pope", pope.BENCHMARK, {n: scores(0.7) for n in run.POPE[:1]})
    table = run.summarise(plan, {"language model alone": 20.0, "base": 21.5})
    rows = [line.split(" | ")[0] for line in table.splitlines()[2:6]]
    assert rows == ["| base", "| bdhs", "| base-shuffled", "| constant-1"]
    assert "0.50 [0.40, 0.60]" in table
    assert "| 21.5 |" in table
    assert "alone: 20.0" in table
    assert "Proofs of sft: start does not apply.\nProofs of bdhs: start passed.\n" in table


def test_power_shrinks_with_the_root_of_the_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = {
        "chair": {"chair_i": -0.1, "recall": -0.02},
        "pope": {"accuracy": -9.0, "recall": -7.0, "random/accuracy": -0.05},
    }

    def compared(baseline: Path, arm: Path) -> list[dict[str, Any]]:
        assert (baseline.parent.name, arm.parent.name) == ("sft", "bdhs")
        return [
            {"metric": name, "low": end, "high": -end, "clusters": 32}
            for name, end in low[arm.name].items()
        ]

    monkeypatch.setattr(pooled, "compare_runs", compared)
    found = pooled.power(tmp_path / "fold0-seed0", 128)
    # Half an interval is 1.96 errors; four times the photographs halve them.
    assert found["chair_i"]["standard_error"] == pytest.approx(0.1 / 1.96 / 2)
    assert found["recall"]["standard_error"] == pytest.approx(0.02 / 1.96 / 2)
    assert found["random/accuracy"]["smallest_difference"] == pytest.approx(2.8 * 0.05 / 1.96 / 2)
    undefined = {"metric": "chair_i", "low": None, "high": None, "note": "a denominator is 0"}
    with pytest.raises(UserError, match=r"chair_i has no interval \(a denominator is 0\)"):
        pooled.standard_error(undefined)


@pytest.mark.slow
def test_the_whole_way_on_a_few_photographs(test_data: Path, tmp_path: Path) -> None:
    """Too little is taught here to see anything; every step runs, and every proof passes."""
    parts = Path(__file__).parents[2] / ".venv" / "real-photos-parts"
    parts = Path(os.environ.get("VERIDICAL_PHOTO_PARTS", parts))
    if not parts.is_dir():
        pytest.skip("`make real-photos` installs the published weights; it was never run here")
    (tmp_path / "images").symlink_to(test_data / "coco128" / "images")
    lines = (test_data / "coco128" / "coco128.jsonl").read_text().splitlines()[:16]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    plan = run.Plan(
        tmp_path / "few.jsonl", tmp_path / "out", parts, pair_views=4, steps=2, mask=0.5,
        teach="--views 2 --fit-steps 3 --batch 6",
    )  # fmt: skip
    run.run(plan)
    for arm in ("sft", "bdhs"):
        proofs = read_json(tmp_path / "out" / "train" / arm / "proofs.json")
        assert all(proof["passed"] for proof in proofs)
    record = read_json(tmp_path / "out" / "train" / "bdhs" / "run.json")
    assert record["inputs"]["import/tower.py"]["sha256"]
    assert len(read_json(tmp_path / "out" / "results.json")["rows"]) == 8
    assert "data:image/jpeg;base64," in (tmp_path / "out" / "report.html").read_text()


def answered(folder: Path, names: dict[str, str], right: bool) -> None:
    """A cell's evaluation of photographs of one thing each, as `veridical eval` writes it."""
    write_json(folder / "objects.json", {image: [name, "car"] for image, name in names.items()})
    said = [
        {"image_id": image, "answer": f"There is a {name if right else 'bus'}."}
        for image, name in names.items()
    ]
    write_jsonl(folder / "said.jsonl", said)
    eval_chair(folder / "objects.json", folder / "chair", answers=folder / "said.jsonl")
    rows = [
        {"question_id": f"{image}-{label}", "question": f"Is there a {asked} in the image?",
         "image_id": image, "image": f"{image}.png", "split": "random", "label": label,
         "answer": verdict.capitalize(), "parsed": verdict, "margin": margin}
        for image, name in names.items()
        for asked, label, verdict, margin in (
            (name, "yes", "yes" if right else "no", 2.0 if right else -1.0),
            ("bus", "no", "no", -1.0),
        )
    ]  # fmt: skip
    write_jsonl(folder / "pope" / "answers.jsonl", rows)
    write_scores(folder / "pope", pope.BENCHMARK, {pooled.AUC: scores(1.0 if right else 0.5)})
    write_json(folder / "pope" / "run.json", {"command": "eval pope"})


def test_folds_and_seeds_are_pooled_by_photograph(
    tmp_path: Path, taken: list[photos.Photo]
) -> None:
    lines = [{"file": p.file.name, "objects": [*p.objects, "car"]} for p in taken]
    write_jsonl(tmp_path / "photos.jsonl", lines)
    smallest = {"standard_error": 0.035, "smallest_difference": 0.099}
    power = {name: smallest for _, name in pooled.POWER}
    write_json(tmp_path / "out" / "power.json", {"photographs": 4, **power})
    cells = {(fold, seed): tmp_path / f"{fold}-{seed}" for seed in (0, 1) for fold in (0, 1)}
    for (fold, seed), folder in cells.items():
        names = {photo.id: photo.objects[0] for photo in taken[2 * fold : 2 * fold + 2]}
        for arm in (*run.ARMS, *pooled.BASELINES):
            # Only DPO at seed 1 sees.
            answered(folder / "eval" / arm, names, right=arm == "bdhs" and seed == 1)
        for name in ("base", "language_model_alone"):
            write_json(folder / "text" / f"{name}.json", {"perplexity": 20.0 + seed})
        proofs = [{"applicable": True, "passed": seed == 1}, {"applicable": False, "passed": False}]
        write_json(folder / "train" / "bdhs" / "proofs.json", proofs)
    found = pooled.sum_up(tmp_path / "photos.jsonl", cells, tmp_path / "out")
    whole = (*found["each"], found["together"])
    chair = [one["scores"]["bdhs"]["chair"]["chair_i"] for one in whole]
    assert [score["value"] for score in chair] == [1.0, 0.0, 0.5]
    assert [score["clusters"] for score in chair] == [4, 4, 4]
    pope = [one["scores"]["bdhs"]["pope"] for one in whole]
    assert [one["random/accuracy"]["value"] for one in pope] == [0.5, 1.0, 0.75]
    assert [one[pooled.AUC]["value"] for one in pope] == [0.5, 1.0, 0.75]
    assert found["together"]["perplexities"]["base"] == 20.5
    told = {
        (row["benchmark"], row["metric"]): row["value"]
        for row in found["together"]["differences"]
        if (row["arm"], row["baseline"]) == ("bdhs", "sft")
    }
    assert told["chair", "chair_i"] == -0.5
    # CHAIR's recall, as nobody names the car; POPE's, which does not ask for it, rises by 0.5.
    assert told["chair", "recall"] == 0.25
    assert ("pope", "recall") not in told
    assert told["pope", pooled.AUC] == 0.25
    text = (tmp_path / "out" / "measured.md").read_text()
    assert text.startswith("4 photographs.")
    assert "by the first cell's intervals chair_i 0.099, recall 0.099" in text.splitlines()[0]
    assert "2 of 4 proofs passed, in 4 trainings." in text
    assert "alone: 20.5." in text
    assert all(f"| {arm} |" in text for arm in pooled.BASELINES)
    assert "| seed 0 | seed 1 | together |" in text
    arms = [line for line in text.splitlines() if line.startswith("| bdhs | ")]
    columns = text.splitlines()[4].split(" | ")
    assert arms[0].split(" | ")[columns.index("chair/recall")].startswith("0.25")
    assert sum("bdhs against sft | chair/recall" in line for line in text.splitlines()) == 1
    assert "pope/recall" not in text
    cell = next(line for line in text.splitlines() if line.startswith("| 1 | 1 | "))
    assert cell.startswith("| 1 | 1 | -1.000 [-1.000, +1.000] p 0.25 | +0.500 ")


def test_areas_of_folds_add_up_as_squares_and_of_seeds_as_they_are() -> None:
    def row(value: float, half: float, arm: str, baseline: str) -> dict[str, Any]:
        return {"benchmark": "pope", "metric": pooled.AUC, "arm": arm, "baseline": baseline,
                "value": value, "low": value - half, "high": value + half}  # fmt: skip

    halves = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.4, (1, 1): 0.4}
    values = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.0, (1, 1): 0.0}
    own = {
        one: [row(values[one], halves[one], arm, base) for base, arm in pooled.PAIRS]
        for one in halves
    }
    found = pooled.area_differences(own)[0]
    assert found["value"] == pytest.approx(0.1)
    # Fold 0: 0.3, fold 1: 0.4; together half of 0.5.
    assert (found["high"] - found["low"]) / 2 == pytest.approx(0.25)


def test_a_later_seed_takes_over_what_does_not_depend_on_it(tmp_path: Path) -> None:
    first, own = tmp_path / "first", tmp_path / "own"
    for arm in ("base", *pooled.BASELINES):
        write_json(first / "eval" / arm / "chair" / "scores.json", {"arm": arm})
    write_json(first / "text" / "base.json", {"perplexity": 20.0})
    measure.take_over(first, own)
    measure.take_over(first, own)
    assert read_json(own / "eval" / "constant-3" / "chair" / "scores.json") == {"arm": "constant-3"}
    assert read_json(own / "text" / "base.json")["perplexity"] == 20.0
    assert not (own / "eval" / "bdhs").exists()


def test_development_rows_stand_beside_what_has_not_looked(
    tmp_path: Path, taken: list[photos.Photo]
) -> None:
    data = run.Data(tmp_path / "views")
    choose.write_views(taken, data, views=2)
    own = dict(zip("0123", ("dog", "dog", "cup", "person"), strict=True))
    base = tmp_path / "base"
    base.mkdir()
    rows = [
        {"image_id": f"{one}-{number}", "answer": f"There is a {name}."}
        for one, name in own.items() for number in range(2)
    ]  # fmt: skip
    write_jsonl(base / "answers.jsonl", rows)
    found = choose.not_looked(tmp_path / "told", base, taken[:3], taken, data)
    # The next photograph's: dog for dog is right, cup for dog, person for cup, dog for person.
    assert found["base, other photographs"]["chair_i"]["value"] == 0.75
    assert found["base, other photographs"]["recall"]["value"] == 0.25
    assert found["constant-1"]["chair_i"]["value"] == 0.5
    assert found["constant-3"]["mean_length"]["value"] == 8
    row = {
        "mask": 0.5, "learning_rate": 3e-5, "steps": 24, "not looked": found,
        "bdhs": found["constant-1"], "fold": 0, "views": 2,
        "change": {"value": 0.0, "low": -0.1, "high": 0.1, "p": 0.5},
    }  # fmt: skip
    lines = choose.table([{**row, "fold": 1}, row]).splitlines()
    assert len(lines) == 6  # heading, rule, three baselines, one row
    assert lines[2].startswith("| base, other photographs | 0.75 [")
    assert lines[-1].startswith("| mask 0.5, rate 3e-05, 24 steps | 0.50 [")
    assert lines[-1].endswith("| +0.000 [-0.100, +0.100] p 0.5 |")
    # Four photographs, not eight views.
    assert found["constant-1"]["chair_i"]["clusters"] == 4
