"""`align`: plans of all recipes, what is refused, what it says, and whole runs (slow)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import cast

import pytest
import stub_steps
import yaml
from PIL import Image

from veridical import cli
from veridical.data.messages import assistant_message, user_message
from veridical.data.records import write_records
from veridical.eval.label_free import LABEL_FREE
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json
from veridical.study import step_jobs, trying
from veridical.study.align import Execution, align, describe, refuse_leftovers, run_steps
from veridical.study.alignment import Evaluating, Sources, make_plan
from veridical.study.commands import check_steps
from veridical.study.ledger import Ledger
from veridical.study.ordering import foretell_order
from veridical.study.plan import Plan, Step, read_plan, write_plan
from veridical.study.recipe import FOLDER, find_recipe, recipe_names
from veridical.study.rehearsal import (
    Trial,
    Tried,
    few_rows,
    forecast,
    in_words,
    rows_of,
    steps_of,
)
from veridical.study.running import Runner
from veridical.study.trying import parts

RECIPES = recipe_names()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Conversations, pairs, prompts, object lists and facts of four pictures."""
    folder = tmp_path_factory.mktemp("given")
    rows = [
        {
            "id": str(n),
            "images": [Image.new("RGB", (8, 8), (n, n, n))],
            "prompt": [user_message("Describe the image.")],
        }
        for n in range(4)
    ]
    said = [assistant_message(text) for text in ("A cup.", "A dog.")]
    conversations = [
        {"id": r["id"], "images": r["images"], "messages": [*r["prompt"], said[0]]} for r in rows
    ]
    pairs = [{**row, "chosen": [said[0]], "rejected": [said[1]]} for row in rows]
    write_records(conversations, folder / "conversation.jsonl", "conversation")
    write_records(pairs, folder / "preference.parquet", "preference")
    write_records(rows, folder / "prompt.parquet", "prompt")
    write_json(folder / "objects.json", {str(n): ["cup"] for n in range(4)})
    write_json(folder / "facts.json", {str(n): ["There is a cup."] for n in range(4)})
    (folder / "images").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "images" / "0.png")
    return {
        "conversation": folder / "conversation.jsonl",
        "preference": folder / "preference.parquet",
        "prompt": folder / "prompt.parquet",
        "objects": folder / "objects.json",
        "facts": folder / "facts.json",
        "images": folder / "images",
    }


def plan_of(
    recipe: str,
    given: dict[str, Path],
    kind: str = "",
    model: str = "embedded",
    labels: bool = False,
    judge: str | None = None,
    options: tuple[str, ...] = (),
) -> Plan:
    evaluating = Evaluating(
        images=given["images"] if labels else None, objects=given["objects"] if labels else None
    )
    data = given[kind] if kind else None
    sources = Sources(model, data, judge, given["facts"], evaluating, 5)
    return make_plan(find_recipe(recipe), sources, Path("runs/x"), options)


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


CHECKED: set[tuple[str, ...]] = set()
"""Commands with the options that were checked; parsing takes most of the time."""


def check_new(plan: Plan) -> None:
    """Check the steps whose command was not checked with these options yet."""
    kinds = {(step.command, *sorted(step.options)): step for step in plan.steps}
    check_steps(plan, [step for kind, step in kinds.items() if kind not in CHECKED])
    CHECKED.update(kinds)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_step_of_a_recipe_is_a_command_that_takes_it(
    recipe: str, given: dict[str, Path]
) -> None:
    for kind in find_recipe(recipe).takes if "scenes" not in find_recipe(recipe).needs else ():
        for labels in (True, False):
            judge = "local:embedded" if find_recipe(recipe).judge == "any" else None
            if (kind == "prompt" or find_recipe(recipe).judge == "chair") and not labels:
                continue
            plan = plan_of(recipe, given, kind, "some/model", labels, judge)
            check_new(plan)
            assert [step.name for step in plan.steps if step.command == "report"]
    if "conversation" in find_recipe(recipe).takes:
        drawn = plan_of(recipe, given)
        check_new(drawn)
        assert names(drawn)[:2] == ["scenes", "test_scenes"]


def test_the_help_names_every_recipe() -> None:
    assert set(re.findall(r"`([a-z-]+)`", align.__doc__ or "")) >= set(RECIPES)
    wanted = {
        "bdhs", "dpo", "mpo", "mdpo", "online-bdhs", "chair-dpo", "rlaif", "rejection-sampling",
        "steerlm", "fact-rlhf",
    }  # fmt: skip
    assert wanted <= set(RECIPES)


def test_a_recipe_that_evaluates_on_drawn_scenes_takes_no_data(given: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="evaluates on scenes that it draws"):
        plan_of("benchmarks", given, "conversation", "embedded")


def test_without_labels_rows_are_held_out_and_never_trained_on(given: dict[str, Path]) -> None:
    plan = plan_of("bdhs", given, "conversation", "some/model")
    assert names(plan) == [
        "split", "pairs", "train", "held_out", "before", "after", "comparison", "report",
    ]  # fmt: skip
    assert plan.step("pairs").options["data"] == "runs/x/data/train.parquet"
    assert plan.step("held_out").options["data"] == "runs/x/data/held_out.parquet"
    assert plan.step("after").options["model"] == "runs/x/train/model"
    assert plan.step("before").options["data"] == plan.step("after").options["data"]
    assert "does not count" in str(plan.about["evaluation"])
    assert [other.name for other in plan.needs(plan.step("report"))] == names(plan)[:-1]
    pairs = plan_of("dpo", given, "preference", "some/model")
    assert names(pairs) == ["split", "train", "before", "after", "comparison", "report"]
    labelled = plan_of("bdhs", given, "conversation", "some/model", labels=True)
    assert names(labelled)[0] == "pairs"
    assert labelled.step("before").options["benchmarks"] == ["pope", "chair"]


def test_judges_and_options_reach_their_steps(given: dict[str, Path]) -> None:
    by_model = plan_of("steerlm", given, "prompt", labels=True, judge="endpoint:m")
    assert by_model.step("rated").command == "build annotate"
    assert by_model.step("after").options["steer"] == "all-4"
    assert "steer" not in by_model.step("before").options
    exact = plan_of("steerlm", given, "prompt", labels=True)
    assert exact.step("rated").command == "build rate"
    assert exact.step("samples").options["seed"] == 5
    assert exact.step("train").options["tuning"] == "full"  # the embedded model's own
    set_ = plan_of("bdhs", given, "conversation", options=("train.beta=0.5", "pairs.cut=uniform"))
    assert set_.step("train").options["beta"] == 0.5
    assert set_.step("pairs").options["cut"] == "uniform"
    asked = ("all.endpoint.url=http://x/v1", "pairs.endpoint.retries=2")
    there = plan_of("rlaif", given, "conversation", judge="endpoint:m", options=asked)
    words = there.step("pairs").words()
    assert words[words.index("--endpoint.url") :][:4] == [
        "--endpoint.url", "http://x/v1", "--endpoint.retries", "2",
    ]  # fmt: skip
    check_new(there)
    half = plan_of("bdhs", given, "conversation", options=("all.dtype=bfloat16",))
    those = {step.name for step in half.steps if step.options.get("dtype") == "bfloat16"}
    assert those == {"pairs", "train", "held_out", "before", "after"}


@pytest.mark.parametrize(
    ("recipe", "kind", "more", "said"),
    [
        ("bdhs", "preference", {}, "holds preference records. Take --recipe dpo"),
        ("dpo", "conversation", {}, "holds conversation records. Take --recipe bdhs"),
        ("dpo", "", {}, "takes preference records, and drawn scenes"),
        ("bdhs", "", {"model": "m"}, "--data is missing"),
        ("steerlm", "prompt", {}, "no true answers, which the label-free check needs"),
        ("steerlm", "conversation", {}, "needs --judge local:MODEL or endpoint:MODEL, or --obj"),
        ("chair-dpo", "conversation", {}, "needs --objects, with the objects in DATA's"),
        ("chair-dpo", "conversation", {"judge": "local:m"}, "judges by CHAIR"),
        ("bdhs", "conversation", {"judge": "exact"}, "has no judge"),
        ("rlaif", "conversation", {"judge": "exact"}, "--judge exact needs --objects"),
        ("bdhs", "conversation", {"options": ("beta=1",)}, "not of the form"),
        ("bdhs", "conversation", {"options": ("trian.beta=1",)}, "no step trian; there is split"),
        ("bdhs", "conversation", {"options": ("all.bets=1",)}, "no step has that option; there is"),
        (
            "bdhs",
            "conversation",
            {"options": ("all.seed=1",)},
            "such as split.seed. `align` itself",
        ),
        ("bdhs", "conversation", {"options": ("all.model=x",)}, "need a model of their own each"),
        ("bdhs", "conversation", {"options": "train.beta=1"}, "give a list of texts"),
        ("bdhs", "conversation", {"options": ("train.out=/x",)}, "and no step writes there. Its"),
        ("rlaif", "conversation", {"judge": "gpt-4"}, "none of exact, local:MODEL, endpoint:MODEL"),
        ("steerlm", "conversation", {"judge": "local:"}, "--judge local: is none of"),
        ("demo", "conversation", {}, "evaluates on scenes that it draws"),
        ("bhds", "conversation", {}, "no such recipe. There is: bdhs, benchmarks"),
    ],
)
def test_what_a_recipe_lacks_is_said(
    recipe: str, kind: str, more: dict[str, str], said: str, given: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        plan_of(recipe, given, kind, **more)  # type: ignore[arg-type]


def test_a_recipe_of_the_users(tmp_path: Path, given: dict[str, Path]) -> None:
    own = yaml.safe_load((FOLDER / "bdhs.yaml").read_text())
    own["steps"][1]["options"]["learning_rate"] = 3e-6
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(own))
    plan = plan_of(str(path), given, "conversation", "some/model")
    assert plan.step("train").options["learning_rate"] == 3e-6
    for change, said in (
        ({"stepz": []}, "no field stepz"),
        ({"judge": "me"}, "judge has to be of"),
        ({"result": None}, "result has to name"),
        ({"steps": [{"when": "later"}]}, "whose `when`"),
        ({"steps": [{"name": "a"}]}, "step 1: it needs a command"),
        ({"steps": [{"command": "report", "options": 5}]}, "options have to be a mapping"),
        ({"takes": "conversation"}, "takes has to be a list of preference"),
        ({"takes": [["prompt"]]}, "takes has to be a list"),
        ({"needs": ["fact"]}, "needs has to be a list of facts, scenes"),
        ({"judge": ["none"]}, "judge has to be of"),
        ({"scenes": 5}, "scenes has to be a mapping of train and test"),
        ({"scenes": {"trian": 5}}, "scenes has to be a mapping of train and test"),
        ({"scenes": {"train": "many"}}, "scenes.train is 'many'; give a whole number"),
        ({"evaluate": "no"}, "evaluate has to be true or false"),
    ):
        path.write_text(yaml.safe_dump({**own, **change}))
        with pytest.raises(UserError, match=said):
            find_recipe(str(path))
    for change, said in (
        ({"steer": "best"}, "mine.yaml: --steer can't take 'best'"),
        ({"result": "{oat}/train/model"}, r"there is no \{oat\}; there is \{model\}"),
        (
            {"result": "{out}/trian/model"},
            "x/trian/model, and no step writes there. Its steps write",
        ),
        ({"steps": own["steps"][:1]}, "no step writes there. Its steps write runs/x/pairs"),
    ):
        path.write_text(yaml.safe_dump({**own, **change}))
        with pytest.raises(UserError, match=said):
            plan_of(str(path), given, "conversation", "some/model")
    for value, said in (
        ("{date}", r"there is no \{date\}; there is \{model\}"),
        ("x={facts}", r"needs a value for \{facts\}, which was not given"),
    ):
        own["steps"][0]["options"]["data"] = value
        path.write_text(yaml.safe_dump(own))
        with pytest.raises(UserError, match=said):
            plan_of(str(path), {**given, "facts": None}, "conversation")  # type: ignore[dict-item]


def test_object_lists_are_read_before_anything_is_made(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    """Of the picture 0.png."""
    lists = tmp_path / "objects.json"
    for content, said in (
        (["cup"], "must be a JSON object"),
        ({"7": ["cup"]}, "its entries are named as 7, the images as 0. Name each entry"),
        ({"0": ["zyx"]}, "does not know 1 listed object"),
    ):
        write_json(lists, content)
        with pytest.raises(UserError, match=said):
            plan_of("bdhs", {**given, "objects": lists}, "conversation", "some/model", labels=True)
    with pytest.raises(UserError, match="is not a folder of images"):
        plan_of("bdhs", {**given, "images": lists}, "conversation", "some/model", labels=True)
    for evaluating, said in (
        (Evaluating(objects=given["objects"]), "--objects needs --images, the pictures to"),
        (Evaluating(vocabulary=lists), "--vocabulary needs --objects"),
        (Evaluating(images=given["images"]), "--images needs --objects"),
        (Evaluating(held_out=0.0), "--held-out is 0, and the label-free check needs rows"),
    ):
        sources = Sources("some/model", given["conversation"], None, None, evaluating, 0)
        with pytest.raises(UserError, match=said):
            make_plan(find_recipe("bdhs"), sources, Path("runs/x"), [])


def test_paths_may_be_texts_in_python(tmp_path: Path, given: dict[str, Path]) -> None:
    plan_only = Execution(dry_run=True, measure=False)
    out, data = str(tmp_path / "out"), str(given["conversation"])
    align(out, "embedded", data, Path("bdhs"), execution=plan_only)  # type: ignore[arg-type]
    assert (tmp_path / "out" / "plan.yaml").is_file()
    several = Execution(launcher=["torchrun"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="give one text, such as 'torchrun"):
        align(tmp_path / "b", "embedded", execution=several)


def test_a_trial_names_what_a_step_lacks_that_was_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = ["data", "split", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "a")]
    calls = [
        {"name": name, "words": split, "out": str(tmp_path / name), "needs": needs}
        for name, needs in (("a", []), ("b", ["a"]), ("c", ["b"]))
    ]
    results = tmp_path / "results.jsonl"
    write_json(tmp_path / "t.json", {"model": "", "calls": calls, "results": str(results)})
    monkeypatch.setattr(sys, "argv", ["trying", str(tmp_path / "t.json")])
    trying.main()
    failed = [row["failed"] for row in read_jsonl(results)[1:]]
    assert "none.jsonl does not exist" in failed[0]
    assert failed[1:] == ["it needs a", "it needs b"]


def test_a_changed_plan_is_not_overwritten(
    tmp_path: Path, given: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["align", "embedded", "--data", str(given["conversation"]), "--out", str(out)]
    plan_only = ["--dry-run", "true", "--measure", "false"]
    assert cli.main([*words, *plan_only]) == 0
    told = capsys.readouterr().out
    assert "It does not count what the model's own answers invent" in told
    assert "Nothing was run" in told
    assert read_json(out / "run.json")["results"] == {"steps": 8, "left": 8}
    path = out / "plan.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.0002", "learning_rate: 0.0001"))
    assert cli.main([*words, *plan_only]) == 2
    assert "plan.yaml was changed since it was written" in capsys.readouterr().err
    assert cli.main(["align", "--out", str(out), *plan_only]) == 0
    assert read_plan(path).step("train").options["learning_rate"] == 0.0001
    path.write_text(path.read_text().replace("command: train dpo", "command: train dppo"))
    assert cli.main(["align", "--out", str(out), *plan_only]) == 2
    assert "Step train: there is no command 'train dppo'" in capsys.readouterr().err
    assert cli.main(["align", "--out", str(tmp_path / "none")]) == 2
    assert "MODEL is missing" in capsys.readouterr().err


def test_a_step_that_another_machine_began_is_started_again_if_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a container is killed, and the next one has another host's name."""
    monkeypatch.setattr(step_jobs, "call_of", stub_steps.call)
    read = tmp_path / "rows.jsonl"
    read.touch()
    plan = Plan(tmp_path, (stub_steps.step("a", tmp_path / "steps", [read]),))
    write_plan(plan, tmp_path / "plan.yaml")
    write_json(tmp_path / "run.json", {"command": "align", "status": "failed"})
    job = {"host": "elsewhere", "id": 7}
    Ledger(tmp_path).note("a", {"key": "k", "status": "running", "command": "c", "jobs": [job]})
    words = ["align", "--out", str(tmp_path), "--measure", "false"]
    assert cli.main(words) == 2
    assert "with --forget true" in capsys.readouterr().err
    assert cli.main([*words, "--forget", "true"]) == 0
    assert stub_steps.calls(tmp_path / "steps", "a") == 1


def test_what_another_plan_left_is_no_part_of_this_one(tmp_path: Path) -> None:
    """The folder of a step that the plan lacks is refused, and that of one that it has is not."""
    plan = Plan(tmp_path, (stub_steps.step("a", tmp_path / "steps", []),))
    kept = Ledger(tmp_path)
    for name, out in (("a", plan.steps[0].output), ("old", tmp_path / "pairs")):
        kept.note(name, {"key": "k", "status": "finished", "command": f"veridical x --out {out}"})
    kept.close()
    refuse_leftovers(plan, tmp_path)
    (tmp_path / "pairs").mkdir()
    plan.steps[0].output.mkdir(parents=True)
    with pytest.raises(UserError, match=f"Delete {tmp_path}/pairs, or choose another --out"):
        refuse_leftovers(plan, tmp_path)
    (tmp_path / "pairs").rmdir()
    (tmp_path / "link").symlink_to(tmp_path)
    renamed = Plan(tmp_path, (stub_steps.step("a", tmp_path / "link" / "steps", []),))
    refuse_leftovers(renamed, tmp_path / "link")  # the same folder by another name


def test_what_another_plan_left_is_found_from_another_folder_too(tmp_path: Path) -> None:
    """Commands have paths from where they were started, which the plan of then says."""
    out = tmp_path / "x"
    kept = Ledger(out)
    for path in ("x/pairs", "x/steps/a", "elsewhere"):
        (tmp_path / path).mkdir(parents=True)
        command = f"veridical build rank --out {path}"
        kept.note(path, {"key": "k", "status": "finished", "command": command})
    kept.close()
    before = Plan(tmp_path, (stub_steps.step("a", Path("x/steps"), []),))
    write_plan(before, out / "plan.yaml")
    (tmp_path / "sub").mkdir()
    now = Plan(tmp_path / "sub", (stub_steps.step("a", Path("../x/steps"), []),))
    with pytest.raises(UserError, match=f"Delete {out}/pairs, or choose"):
        refuse_leftovers(now, out)


def test_a_loaded_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="process of its own"):
        align(tmp_path / "out", object())  # type: ignore[arg-type]


def test_a_forecast_by_hand() -> None:
    """16 of 160 rows took 4 s; steps take 2 s, 8 x 4 rows each; 16 of 32 images took 3 s."""
    train = Step("t", "train dpo", {"data": "p/x", "out": "t", "epochs": 2})
    steps = (
        Step("p", "build bdhs", {"data": "d", "out": "p"}),
        train,
        Step("e", "eval", {"model": "m", "limit": 32, "out": "e"}),
        Step("f", "eval", {"model": "t/model", "limit": 32, "out": "f"}),
        Step("c", "eval compare", {"baseline": "e", "candidate": "f", "out": "c"}),
        Step("x", "train ppo", {"out": "x"}),
    )
    plan = Plan(Path(), steps)
    tried = {"p": Tried(1, 4), "t": Tried(5, 2), "e": Tried(1, 3), "x": Tried(0, 0, "no")}
    trial = Trial(tried, 6, {"memory": 1}, 9)
    seconds = {step.name: forecast(plan, step, trial, 160) for step in steps}
    assert steps_of(train, 160) == 10
    assert seconds == {
        "p": 6 + 1 + 40,
        "t": pytest.approx(6 + 5 + 160 * 2 / 32 / 3 + 20),
        "e": 6 + 1 + 6,
        "f": 6 + 1 + 6,  # like e
        "c": 5,
        "x": None,
    }
    known = {"p": 10.0, "t": 20.0, "e": 15.0, "f": 5.0, "c": 1.0}
    assert foretell_order(plan, steps[:5], known, 1)[1] == 51
    assert foretell_order(plan, steps[:5], known, 2)[1] == 10 + 20 + 5 + 1
    assert [in_words(s) for s in (0.2, 40, 600, 9000)] == ["1 s", "40 s", "10 min", "2.5 h"]


def test_a_forecast_counts_the_rows_that_a_step_works_on() -> None:
    """10 of 160 rows are held out, the limit; of the 16 that it is tried on 2: 150 / 14 and 5."""
    steps = (
        Step("s", "data split", {"data": "d", "out": "s", "held_out": 0.1, "held_out_limit": 10}),
        Step("p", "build bdhs", {"data": "s/train.parquet", "out": "p"}),
        Step("h", "build bdhs", {"data": "s/held_out.parquet", "out": "h"}),
        Step("t", "train dpo", {"data": "p/pairs.parquet", "out": "t", "epochs": 1}),
        Step("b", "eval label_free", {"model": "m", "data": "h/pairs.parquet", "out": "b"}),
    )
    plan = Plan(Path(), steps)
    assert [rows_of(plan, step, 160) for step in steps] == [160, 150, 10, 150, 10]
    assert [rows_of(plan, step, 16) for step in steps] == [16, 14, 2, 14, 2]
    trial = Trial({name: Tried(1, 2) for name in "spthb"}, 6, {"memory": 1}, 9)
    seconds = [forecast(plan, step, trial, 160) for step in steps]
    assert seconds[1] == pytest.approx(6 + 1 + 2 * 150 / 14)
    assert seconds[2] == seconds[4] == 6 + 1 + 2 * 5
    assert seconds[3] == pytest.approx(6 + 1 + 150 * 2 / 32 / 3 + 5 * 2)


def test_a_comparison_in_a_line(tmp_path: Path) -> None:
    """Percent with one digit, plain numbers with two; the headline metric first."""
    rows = [
        {"benchmark": "label_free", "metric": name, "arm": "after", "baseline": "before",
         "value": 0.125, "low": 0.0, "high": 0.25, "arm_value": 0.625, "baseline_value": 0.5}
        for name in ("preferred", "from_image")
    ]  # fmt: skip
    described = [LABEL_FREE.as_json()]
    write_json(tmp_path / "comparison.json", {"benchmarks": described, "differences": rows})
    plan = Plan(Path.cwd(), (Step("c", "eval compare", {"out": str(tmp_path)}),))
    without = [{**row, "low": None, "high": None} for row in rows]
    write_json(tmp_path / "comparison.json", {"benchmarks": described, "differences": without})
    assert describe(plan)[0].endswith("after 0.62 (difference +0.12, no interval: too few images)")
    write_json(tmp_path / "comparison.json", {"benchmarks": described, "differences": rows})
    lines = describe(plan)
    assert [line.partition(": ")[2] for line in lines] == [
        "before 0.50, after 0.62 (difference +0.12 [+0.00, +0.25])",
        "before 50.0%, after 62.5% (difference +12.5 [+0.0, +25.0])",
    ]
    assert lines[0].startswith("Label-free check, lead of true answers")


def test_what_a_run_says_of_its_work() -> None:
    assert parts({"steps": 3, "step_seconds": 2.0, "train_seconds": 9}, 20, 1) == (14, 2)
    assert parts({"steps": 3, "train_seconds": 9}, 20, 1) == (11, 3)
    assert parts({"seconds": 4}, 20, 1) == (16, 4)
    assert parts({}, 20, 1) == (1, 19)


@pytest.mark.parametrize("kind", ["conversation", "preference"])
def test_few_rows_have_the_longest_among_them(
    kind: str, tmp_path: Path, given: dict[str, Path]
) -> None:
    from veridical.data.records import read_records

    rows = [
        {
            "id": str(n),
            "images": [Image.new("RGB", (8, 8))],
            "messages": [user_message("What?"), assistant_message("word " * (1 + n % 7))],
        }
        for n in range(20)
    ]
    path = tmp_path / ("rows.jsonl" if kind == "conversation" else "rows.parquet")
    write_records(rows, path, "conversation")
    few = read_records(few_rows(path, "conversation", tmp_path, 3), "conversation").rows
    lengths = [len(row["messages"][1]["content"][0]["text"].split()) for row in few]
    assert len(lengths) == 3 and lengths[0] == 1 and lengths[-1] == 7
    assert few[0]["images"][0].size == (8, 8)


@pytest.mark.slow
def test_an_alignment_from_end_to_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without labels; changed and run again from Python, which gives the scores."""
    from veridical.world.dataset import write_scenes

    write_scenes(tmp_path / "scenes", count=24)
    words = ["align", "embedded", "--data", str(tmp_path / "scenes" / "conversations.jsonl")]
    out = tmp_path / "run"
    assert cli.main([*words, "--out", str(out), "--options", "train.max_steps=2"]) == 0
    told = capfd.readouterr().out
    assert re.search(r"Altogether about .* measured on 16 of 24 rows", told), told
    assert "Label-free check, lead of true answers" in told
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "It does not count hallucinations" in page
    first = read_json(out / "steps.json")
    plan = out / "plan.yaml"
    plan.write_text(plan.read_text().replace("max_steps: 2", "max_steps: 3"))
    result = align(out)
    again = read_json(out / "steps.json")
    changed = {name for name in first if first[name] != again[name]}
    assert changed == {"train", "after", "comparison", "report"}
    assert result.model == out / "train" / "model" and result.report == out / "report.html"
    assert result.scores.keys() == {"before", "after"}
    assert result.scores["before"]["label_free"]["preferred"]["value"] is not None
    assert {row["metric"] for row in result.differences} >= {"from_image", "words"}
    assert json.loads((out / "train" / "run.json").read_text())["results"]["steps"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in ("dpo", "bdhs")])
def test_a_recipe_from_end_to_end(recipe: str, tmp_path: Path) -> None:
    """On a few drawn scenes, whose objects and facts are known; `dpo` trains inside others."""
    own = yaml.safe_load((FOLDER / f"{recipe}.yaml").read_text())
    path = tmp_path / f"{recipe}.yaml"
    path.write_text(yaml.safe_dump({**own, "scenes": {"train": 16, "test": 8}}))
    trained = [row["name"] for row in own["steps"] if row["command"].startswith("train ")]
    short = [f"{name}.max_steps=2" for name in trained]
    sources = Sources("embedded", None, None, None, Evaluating(), 0)
    for step in make_plan(find_recipe(str(path)), sources, tmp_path / "run", short).steps:
        assert cli.main(step.words()) == 0, step.shown()  # here, where the libraries are loaded
    assert (tmp_path / "run" / "report.html").is_file()


def test_an_option_that_a_failed_step_names_is_shown_as_this_command_takes_it() -> None:
    """`align` has no --max-bad-fraction; its step `split` has."""

    class Failed:
        failed = {"split": "x.jsonl: 2 of 3 rows cannot be used; set --max-bad-fraction higher"}  # noqa: RUF012

        def run(self, steps: object) -> None:
            raise UserError(f"failed: {self.failed}. Start again to go on.")

    steps = [Step("split", "data split", {}), Step("pairs", "build rank", {})]
    with pytest.raises(UserError, match=r"are set so: --options split\.max_bad_fraction=VALUE$"):
        run_steps(cast(Runner, Failed()), steps)
    Failed.failed = {"pairs": "Check --endpoint.url."}
    with pytest.raises(UserError, match=r"--options pairs\.endpoint\.url=VALUE$"):
        run_steps(cast(Runner, Failed()), steps)
    for reason in ("the disk is full", "if nothing of it runs any more, with --forget true"):
        Failed.failed = {"split": reason}  # --forget is an option of `align`
        with pytest.raises(UserError, match=r"to go on\.$"):
            run_steps(cast(Runner, Failed()), steps)
