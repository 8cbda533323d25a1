"""The example's run: what is done stays done, faults stop it, baselines stand in the table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import measure
import photos
import pytest
import run
from PIL import Image

from veridical.files import read_json, read_jsonl, write_json, write_jsonl


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


def test_another_list_is_evaluated_on(tmp_path: Path, taken: list[photos.Photo]) -> None:
    lines = [{"image_id": 0, "file": "0.png", "objects": ["dog"]}]
    write_jsonl(tmp_path / "other.jsonl", lines)
    plan = run.Plan(tmp_path, tmp_path / "out", evaluate_on=tmp_path / "other.jsonl")
    data = run.write_data(plan, split_of(taken))
    assert read_json(data.objects) == {"0": ["dog"]}


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
            [("2", "cup", "yes"), ("2", "dog", "no"), ("3", "person", "yes"), ("3", "cup", "no")]
        )
    ]  # fmt: skip
    write_jsonl(plan.out / "eval" / "base" / "pope" / "questions.jsonl", questions)
    run.constants(plan, run.Steps(plan.out), taken, data)
    # Dog is the most frequent, then cup and person; the two photographs hold a cup and a person.
    one, three = (plan.out / "eval" / f"constant-{number}" for number in (1, 3))
    assert read_json(one / "chair" / "scores.json")["chair_i"]["value"] == 1.0
    assert read_json(one / "pope" / "scores.json")["random/accuracy"]["value"] == 0.5
    # "dog, cup, person" twice: 4 of 6 mentions are wrong, both objects are found.
    assert read_json(three / "chair" / "scores.json")["chair_i"]["value"] == pytest.approx(4 / 6)
    assert read_json(three / "chair" / "scores.json")["recall"]["value"] == 1.0
    assert [row["answer"] for row in read_jsonl(three / "answers.jsonl")] == ["Yes."] * 4


def scores(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 2, "clusters": 2}


def test_the_table_has_every_arm_and_its_baselines(tmp_path: Path) -> None:
    plan = run.Plan(tmp_path, tmp_path)
    for arm in ("constant-1", "bdhs", "base-shuffled", "base"):
        folder = tmp_path / "eval" / arm
        write_json(folder / "chair" / "scores.json", {n: scores(0.5) for n in run.CHAIR})
        write_json(folder / "pope" / "scores.json", {n: scores(0.7) for n in run.POPE[:1]})
    table = run.summarise(plan, {"language model alone": 20.0, "base": 21.5})
    rows = [line.split(" | ")[0] for line in table.splitlines()[2:6]]
    assert rows == ["| base", "| bdhs", "| base-shuffled", "| constant-1"]
    assert "0.50 [0.40, 0.60]" in table
    assert "| 21.5 |" in table
    assert "alone: 20.0" in table


def test_power_by_hand(tmp_path: Path) -> None:
    plan = run.Plan(tmp_path, tmp_path)
    first = measure.cell(plan, 0, 0).out
    # Differences of the hallucinated share: 1/2 - 0 and 0 - 1, so their deviation is 1.5 / sqrt 2.
    for arm, shares in (("bdhs", [[1, 0], [0]]), ("sft", [[0], [1]])):
        rows = [
            {"image_id": i, "mentions": [{"hallucinated": bool(h)} for h in own]}
            for i, own in enumerate(shares)
        ]
        write_jsonl(first / "eval" / arm / "chair" / "details.jsonl", rows)
        asked = [{"image_id": i, "parsed": "yes", "label": "yes"} for i in range(2)]
        write_jsonl(first / "eval" / arm / "pope" / "answers.jsonl", asked)
    found = measure.power(plan, 128)
    spread = 1.5 / 2**0.5
    assert found["chair_i"]["standard_deviation"] == pytest.approx(spread)
    assert found["chair_i"]["smallest_difference"] == pytest.approx(2.8 * spread / 128**0.5)
    assert found["pope_accuracy"]["smallest_difference"] == 0


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


def test_every_table_of_the_measurement_has_its_baselines() -> None:
    def pooled(seeds: list[int], change: float) -> dict[str, Any]:
        arms = (*run.ARMS, *measure.BASELINES)
        each = {
            "chair": {name: scores(0.5) for name in run.CHAIR},
            "pope": {name: scores(0.7) for name in run.POPE if name != measure.AUC},
        }
        row: dict[str, Any] = {"metric": "chair_i", "arm": "bdhs", "baseline": "sft"}
        row |= {"benchmark": "chair", "value": change, "low": change - 0.1, "high": change + 0.1}
        shown = {"seeds": seeds, "scores": dict.fromkeys(arms, each), "differences": [row]}
        return {**shown, "perplexities": {"base": 20.5}}

    smallest = {"standard_deviation": 0.4, "smallest_difference": 0.099}
    power = {"photographs": 128, "chair_i": smallest, "pope_accuracy": smallest}
    found = {"power": power, "each": [pooled([0], -0.25), pooled([1], 0.125)]}
    text = measure.tables({**found, "together": pooled([0, 1], -0.0625)})
    assert text.startswith("128 photographs.")
    assert "0.099 in CHAIR_i" in text.splitlines()[0]
    assert [f"| {arm} |" in text for arm in measure.BASELINES] == [True, True, True]
    assert "| base | 0.50 [0.40, 0.60] |" in text
    assert "-0.250 [-0.350, -0.150] | +0.125 [+0.025, +0.225] | -0.062 [-0.163, +0.038] |" in text
    assert "| seed 0 | seed 1 | seed 0, 1 |" in text


def test_a_later_seed_takes_over_what_does_not_depend_on_it(tmp_path: Path) -> None:
    first, own = tmp_path / "first", tmp_path / "own"
    for arm in ("base", *measure.BASELINES):
        write_json(first / "eval" / arm / "chair" / "scores.json", {"arm": arm})
    write_json(first / "text" / "base.json", {"perplexity": 20.0})
    measure.take_over(first, own)
    measure.take_over(first, own)
    assert read_json(own / "eval" / "constant-3" / "chair" / "scores.json") == {"arm": "constant-3"}
    assert read_json(own / "text" / "base.json")["perplexity"] == 20.0
    assert not (own / "eval" / "bdhs").exists()
