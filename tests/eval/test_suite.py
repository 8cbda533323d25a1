"""Several benchmarks in one run, of a model that is loaded once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from evaluating import eval_chair, eval_pope
from PIL import Image
from published_files import mt_bench

from veridical.cli import main
from veridical.eval import suite
from veridical.eval.benchmark import Benchmark
from veridical.eval.benchmarks import BENCHMARKS, groups
from veridical.eval.compare import eval_compare
from veridical.eval.evaluation import Subject
from veridical.eval.scores import write_scores
from veridical.eval.suite import by_benchmark, evaluate, wanted_names
from veridical.models import load, vision_cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import hash_file, read_json
from veridical.runtime.runs import start_run
from veridical.scoring.statistics import Estimate
from veridical.world.dataset import write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, count=3)
    return folder


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded."""
    names: list[str] = []
    honest = load.load_policy

    def counting(name: str, *given: Any, **more: Any) -> Any:
        names.append(name)
        return honest(name, *given, **more)

    monkeypatch.setattr(load, "load_policy", counting)
    return names


def words(scenes: Path, out: Path, *more: str) -> list[str]:
    return [
        "eval", "embedded", "--benchmarks", "pope,chair", "--images", str(scenes / "images"),
        "--objects", str(scenes / "objects.json"), "--max-new-tokens", "8", "--out", str(out),
        "--options", f"chair.vocabulary={scenes / 'vocabulary.json'}", "pope.per_image=1", *more,
    ]  # fmt: skip


def test_each_benchmark_writes_what_its_own_command_writes(
    scenes: Path, tmp_path: Path, loaded: list[str]
) -> None:
    assert main(words(scenes, tmp_path / "all", "pope.auc=true")) == 0
    assert loaded == ["embedded"]  # answers of both, and the margins too
    common: dict[str, Any] = {
        "model": "embedded", "images": scenes / "images", "max_new_tokens": 8,
    }  # fmt: skip
    objects = scenes / "objects.json"
    vocabulary = scenes / "vocabulary.json"
    eval_chair(objects, tmp_path / "one" / "chair", vocabulary=vocabulary, **common)
    eval_pope(tmp_path / "one" / "pope", objects=objects, per_image=1, auc=True, **common)
    for name in ("chair/scores.json", "chair/details.jsonl", "pope/scores.json"):
        assert hash_file(tmp_path / "all" / name) == hash_file(tmp_path / "one" / name), name
    table = (tmp_path / "all" / "table.md").read_text()
    assert "| CHAIR | chair_i |" in table and "| POPE | random/accuracy |" in table
    assert (tmp_path / "all" / "table.csv").is_file() and (tmp_path / "all" / "table.tex").is_file()
    record = read_json(tmp_path / "all" / "run.json")
    assert record["status"] == "finished" and record["command"] == "eval"
    assert record["configuration"]["benchmarks"] == ["chair", "pope"]
    rows = eval_compare(tmp_path / "one", tmp_path / "all", tmp_path / "compared")
    assert [row["benchmark"] for row in rows][:: len(rows) - 1] == ["chair", "pope"]
    assert not any(row["value"] for row in rows)
    # All answers are here: nothing is loaded to score them again.
    loaded.clear()
    assert main(words(scenes, tmp_path / "all", "pope.auc=false")) == 0
    assert not loaded


def test_an_image_is_encoded_once_over_all_benchmarks(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded: list[object] = []
    stock = vision_cache.encode_image

    def counted(policy: Any, image: Any, *given: Any) -> Any:
        if not isinstance(image, Image.Image):  # no gray picture, on which the model is tried
            encoded.append(image)
        return stock(policy, image, *given)

    monkeypatch.setattr(vision_cache, "encode_image", counted)
    caching = ["--cache", str(tmp_path / "cache")]
    assert main(words(scenes, tmp_path / "once", *caching)) == 0
    assert len(encoded) == 3  # by CHAIR and POPE together
    for name, more in (("off", ["--vision-cache", "false"]), ("none", ["--cache", "none"])):
        assert main(words(scenes, tmp_path / name, *more)) == 0
    assert len(encoded) == 3
    monkeypatch.setattr(vision_cache, "takes_features", lambda _: False)
    assert main(words(scenes, tmp_path / "other", *caching)) == 0
    assert "Each image is encoded anew" in capsys.readouterr().out
    for name in ("off", "none", "other"):
        for file in ("chair/details.jsonl", "pope/scores.json"):
            assert hash_file(tmp_path / name / file) == hash_file(tmp_path / "once" / file)


def test_shards_that_each_score_one_benchmark_finish_the_run(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process had the last shard of CHAIR, this one that of POPE."""
    out = tmp_path / "out"

    def run_elsewhere(benchmark: Benchmark, _: object, folder: Path, *more: Any) -> Any:
        scores = {"value": Estimate(0.5, 0.25, 0.75, 4, 2)}
        if benchmark.name == "pope":
            return scores
        with start_run(folder, "eval chair", {}) as run:
            write_scores(folder, benchmark, scores)
            run.finish()
        return {}

    monkeypatch.setattr(suite, "run_benchmark", run_elsewhere)
    assert main(words(scenes, out, "--shard", "1/2")) == 0
    assert read_json(out / "run.json")["status"] == "finished"
    table = (out / "table.md").read_text()
    assert "| CHAIR | value |" in table and "| POPE | value |" in table


def test_a_dry_run_adds_up_what_judges_would_cost(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three open questions, and two of two turns, of which the second shows two answers."""
    mt_bench(tmp_path)
    given = ["eval", "embedded", "--images", str(scenes / "images"), "--out", str(tmp_path / "out"),
             "--judge", "endpoint:m", "--dry-run", "true", "--options",
             f"mmhal.files={scenes / 'mmhal.json'}"]  # fmt: skip
    options = [f"mt_bench.{name}={tmp_path / file}" for name, file in (
        ("files", "question.jsonl"), ("references", "references.json"),
    )]  # fmt: skip
    assert main([*given, *options, "--benchmarks", "mmhal,mt_bench"]) == 0
    said = capsys.readouterr().out
    read = [int(one.replace(",", "")) for one in re.findall(r"some ([\d,]+) tokens", said)]
    assert "All together: The judge would be asked 7 questions" in said
    assert read[1] > 1024 * (1 + 2) * 2 and read[2] == read[0] + read[1]
    # By phrases alone there is nothing to judge, though others may have a judge.
    assert main([*given, "mmhal.rule=exact", *options, "--benchmarks", "mmhal,mt_bench"]) == 0
    assert "MT-Bench: The judge would be asked 4 questions" in capsys.readouterr().out
    assert main([*given, "mmhal.rule=exact", "--benchmarks", "mmhal"]) == 0
    assert "None of these benchmarks has its answers judged" in capsys.readouterr().out


def test_options_go_to_the_benchmark_that_they_name() -> None:
    assert by_benchmark(["pope.auc=true", "pope.per_image=1", "chair.prompt=What is a = b?"]) == {
        "pope": {"auc": True, "per_image": 1},
        "chair": {"prompt": "What is a = b?"},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmarks": ["mme"]}, "no benchmark 'mme'; there is: chair, pope"),
        ({"benchmarks": [" , "]}, "--benchmarks names none"),
        ({"benchmarks": ["reward"]}, "reward asks no model that answers"),
        ({"objects": None}, "chair needs --objects or --options chair.objects="),
        ({"benchmarks": ["text"]}, "mt_bench needs --options mt_bench.files=.*text,-mt_bench"),
        ({"benchmarks": ["pope,-chair"]}, "takes out chair, which is not in it"),
        ({"subject": Subject("embedded")}, "--images must name the folder"),
        ({"subject": Subject(answers=[Path("a")])}, "--answers are of one benchmark"),
        ({"options": ["pope"]}, "not of the form pope.per_image=1"),
        ({"options": ["pope.auc=1", "pope.auc=0"]}, "pope.auc twice"),
        ({"options": ["pope.instruction=[1"]}, "not YAML"),
        ({"options": ["pope.per_imag=1"]}, r"no option 'per_imag' \(did you mean 'per_image'\?"),
        ({"benchmarks": ["gqa"], "options": ["gqa.file=x"]}, r"\(did you mean 'files'\?"),
        ({"benchmarks": ["gqa"]}, r"gqa needs --options gqa.files=\.\.\., not given. Give them\.$"),
        ({"options": ["pope.per_image=x"]}, "--options pope.per_image: .*integer"),
        ({"options": ["mmhal.judge=x"]}, "of no benchmark that is run here: chair, pope"),
    ],
)
def test_what_can_not_be_run_is_refused_before_anything_is_written(
    tmp_path: Path, scenes: Path, change: dict[str, Any], message: str, loaded: list[str]
) -> None:
    given: dict[str, Any] = {
        "benchmarks": ["pope,chair"], "objects": scenes / "objects.json",
        "subject": Subject("embedded", images=scenes / "images"),
    }  # fmt: skip
    with pytest.raises(UserError, match=message):
        evaluate(out=tmp_path / "out", **{**given, **change})
    assert not loaded and not (tmp_path / "out").exists()


def test_groups_stand_for_their_benchmarks() -> None:
    assert wanted_names(["text"]) == {"mt_bench", "alpaca_eval"}
    assert wanted_names(["text,-alpaca_eval", "gqa"]) == {"mt_bench", "gqa"}
    grouped = [name for own in groups().values() for name in own]
    judges = {"vl_rewardbench", "multimodal_rewardbench", "label_free", "reward", "text_pairs"}
    assert sorted(grouped) == sorted(BENCHMARKS.keys() - judges)
    assert list(groups()) == ["hallucination", "knowledge", "text"]


def test_a_benchmark_may_have_images_of_its_own(scenes: Path, tmp_path: Path) -> None:
    """CHAIR has none here, and is refused alone."""
    given = words(scenes, tmp_path / "all", f"pope.images={scenes / 'images'}")
    place = given.index("--images")
    without = [*given[:place], *given[place + 2 :]]
    assert main(without) == 2
    found = [word for word in without if not word.startswith("chair.")]
    assert main(["pope" if word == "pope,chair" else word for word in found]) == 0


def test_help_of_a_group_that_is_a_command_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--help"]) == 0
    page = capsys.readouterr().out
    assert "eval pope " in page and "--benchmarks" in page
