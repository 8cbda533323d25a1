"""Several processes train what one would, whoever exchanges their gradients."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from veridical.data.records import assistant_message, read_records, user_message, write_records
from veridical.models.policy import Policy
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.train.loop.checkpoints import newest_verified

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "runs_of_processes.py"
CONFIGS = Path(__file__).parents[2] / "configs"
COMMON: dict[str, Any] = {
    "learning_rate": 3e-3,
    "max_steps": 20,
    "held_out": 0.2,
    "evaluations": 3,
    "dtype": "float64",
    "device": "cpu",
    "lora_rank": 4,
    "lora_alpha": 8,
    "trainer.logging_steps": 1,
}
# 1 x 4 rows, 1 x 2 rows twice, 2 x 2 rows: an optimizer step always sees 4.
WAYS = {
    "one": {"processes": 1, "batch_size": 4, "accumulation": 1},
    "accumulated": {"processes": 1, "batch_size": 2, "accumulation": 2},
    "two": {"processes": 2, "batch_size": 2, "accumulation": 1},
}
# A projector that only some rows feed, a second model as reference, and losses by tokens.
CASES: dict[str, dict[str, Any]] = {
    "lora": {"command": "dpo", "train_projector": "true"},
    "full": {"command": "dpo", "tuning": "full", "reference": "in_step"},
    "adapters-off": {"command": "dpo", "reference": "in_step"},
    "reward-shift": {"command": "dpo", "loss": "bco", "reward_shift": "running"},
    "kto": {"command": "dpo", "loss": "kto", "per_token": "true"},
    "following": {
        "command": "dpo",
        "tuning": "full",
        "reference": "in_step",
        "reference_every": 2,
        "reference_mix": 0.5,
    },
    "sft": {"command": "sft", "kind": "preference"},
    "reward": {"command": "reward", "train_projector": "true"},
}


@pytest.fixture(scope="module")
def world(
    tiny_model: Policy, pictures: list[Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model and 18 pairs: every third has no image, and answers differ in length.

    14 are trained on in steps of 4, so that each epoch ends with a step of 2 rows, of which the
    second process gets none.
    """
    folder = tmp_path_factory.mktemp("world")
    tiny_model.model.save_pretrained(folder / "policy")
    tiny_model.processor.save_pretrained(folder / "policy")
    words = ["red cup", "blue dog", "green chair", "black cat", "orange bus", "purple car"]
    rows = [
        {
            "id": f"pair-{i}",
            "images": [pictures[i % len(pictures)]] if i % 3 else [],
            "prompt": [user_message("Describe the image.", images=1 if i % 3 else 0)],
            "chosen": [assistant_message(f"There is a {words[i % 6]}." + " Yes." * (i % 4))],
            "rejected": [assistant_message(f"There is a {words[(i + 1) % 6]} on the left.")],
        }
        for i in range(18)
    ]
    write_records(rows, folder / "pairs.parquet", "preference")
    write_json(folder / "objects.json", {f"pair-{i}": ["cup", "dog"] for i in range(18)})
    (folder / "seen").mkdir()
    for number in range(5):
        pictures[number].save(folder / "seen" / f"p{number}.png")
    lists = {f"p{n}": ["cup", "dog"] if n % 2 else ["cat", "bus"] for n in range(5)}
    write_json(folder / "seen.json", lists)
    return folder


# Training on fresh responses, whose noise belongs to prompts, not to processes.
FRESH: dict[str, dict[str, Any]] = {
    "online": {"command": "online", "tuning": "full", "judge": "exact", "nll_weight": "0.1"},
    "mixed": {"command": "online", "pairs": "mixed", "judge": "exact", "rollout_steps": "3"},
    "bdhs": {"command": "online", "pairs": "bdhs", "similarity": "edit"},
    "ppo": {"command": "ppo", "kind": "preference", "judge": "exact", "stop_kl": "0.05"},
    "ppo-full": {"command": "ppo", "kind": "preference", "judge": "exact", "tuning": "full"},
    "rloo": {"command": "rloo", "kind": "preference", "judge": "exact"},
    "grpo": {
        "command": "grpo", "kind": "preference", "judge": "exact", "samples": 3, "minibatches": 2,
        "clip_high": 0.28, "ratio": "response", "skip_equal": "true", "overlong_penalty": 1,
    },
    "ppo-held-out": {
        "command": "ppo", "kind": "preference", "judge": "exact", "length_penalty": 0.1,
        "held_out": 0.3, "select_by": "reward", "patience": 3, "evaluations": 6,
    },
    "rloo-checked": {
        "command": "rloo", "kind": "preference", "judge": "exact", "held_out": 0.3,
        "select_by": "chair/recall", "check_by": "[chair,pope]", "check_tokens": 8,
    },
}  # fmt: skip
COMMON_FRESH: dict[str, Any] = {"held_out": 0.0, "max_steps": 6, "max_new_tokens": 10}


def case(world: Path, name: str, out: Path, **changes: Any) -> dict[str, Any]:
    known = CASES[name] if name in CASES else {**COMMON_FRESH, **FRESH[name]}
    options = {**COMMON, **known, **changes, "out": str(out)}
    if name in FRESH and known.get("judge") == "exact":
        options["objects"] = str(world / "objects.json")
    if "check_by" in known:
        options |= {"check_images": str(world / "seen"), "check_objects": str(world / "seen.json")}
    options |= {"model": str(world / "policy"), "data": str(world / "pairs.parquet")}
    if options.get("tuning") == "full":
        options = {key: value for key, value in options.items() if not key.startswith("lora_")}
    command = options.pop("command")
    if command == "dpo":
        options["cache"] = "none"
    if command in ("ppo", "rloo", "grpo"):
        options.pop("trainer.logging_steps", None)  # every step has a line there
    return {"command": command, "options": options}


def begin(
    cases: list[dict[str, Any]], processes: int, folder: Path, **environment: str
) -> list[subprocess.Popen[str]]:
    """Start the cases in so many processes, as a launcher does."""
    listed = folder / f"cases-{processes}.json"
    listed.write_text(json.dumps(cases), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common |= {"LOCAL_WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1", **environment}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(listed)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip


def start(
    cases: list[dict[str, Any]], processes: int, folder: Path, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run the cases in so many processes; returns how each ended."""
    running = begin(cases, processes, folder, **environment)
    try:
        ended = [(process, *process.communicate(timeout=1200)) for process in running]
    finally:
        for process in running:
            process.kill()
    return [subprocess.CompletedProcess("", p.returncode, out, err) for p, out, err in ended]


def kill_at(running: list[subprocess.Popen[str]], checkpoint: Path) -> None:
    """SIGKILL as soon as a checkpoint is being written."""
    try:
        until = time.monotonic() + 300
        while not checkpoint.exists() and all(process.poll() is None for process in running):
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        for process in running:
            process.kill()
            process.communicate()


def launch(
    cases: list[dict[str, Any]], processes: int, folder: Path, configuration: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run the cases as `accelerate launch` does with a configuration that is shipped."""
    listed = folder / f"cases-{configuration}.json"
    listed.write_text(json.dumps(cases), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(CONFIGS / f"{configuration}.yaml"), "--num_processes", str(processes)]
    command += ["--main_process_port", "0", str(SCRIPT), str(listed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
    ]


def succeed(ended: list[subprocess.CompletedProcess[str]]) -> None:
    told = "\n\n".join(process.stderr[-3000:] for process in ended)
    assert [process.returncode for process in ended] == [0] * len(ended), told


def assert_same(one: Path, other: Path) -> None:
    logs = [read_jsonl(folder / "log.jsonl") for folder in (one, other)]
    # Evaluated at steps 0, 6, 12, 18 and 20.
    assert len(logs[0]) == len(logs[1]) == 20 + 5
    for row, same in zip(*logs, strict=True):
        assert (row["split"], row["step"]) == (same["split"], same["step"])
        wanted = {"loss", "logps_chosen", "chosen_tokens", "rewards_chosen"} & row.keys()
        assert len(wanted) > 1
        for name in wanted:
            assert same[name] == pytest.approx(row[name], rel=1e-8, abs=1e-12), (row["step"], name)
    for file in (one / "model").glob("*.safetensors"):  # a reward model has its head beside it
        weights, others = load_file(file), load_file(other / "model" / file.name)
        for name, weight in weights.items():
            assert torch.allclose(weight, others[name], rtol=1e-8, atol=1e-10), name


@pytest.fixture(scope="module")
def one(world: Path) -> Path:
    """Every case by one process."""
    way = {name: value for name, value in WAYS["one"].items() if name != "processes"}
    succeed(start([case(world, name, world / "one" / name, **way) for name in CASES], 1, world))
    return world / "one"


@pytest.mark.parametrize("way", ["accumulated", "two", "ddp", "fsdp2"])
def test_the_same_losses_and_weights(world: Path, one: Path, way: str) -> None:
    settings = dict(WAYS.get(way, WAYS["two"]))
    processes = settings.pop("processes")
    # A reference cannot follow weights that are shared out.
    names = [name for name in CASES if (name, way) != ("following", "fsdp2")]
    cases = [case(world, name, world / way / name, **settings) for name in names]
    run = start if way in WAYS else partial(launch, configuration=way)
    ended = run(cases, processes, world)
    succeed(ended)
    for name in names:
        assert_same(one / name, world / way / name)
        assert read_json(world / way / name / "run.json")["results"]["processes"] == processes
    # Only the first process prints and writes.
    told = "".join(process.stdout for process in ended)
    aligned = [name for name in names if CASES[name]["command"] == "dpo"]
    assert told.count("The aligned model is in") == len(aligned)


def test_a_reward_model_is_measured_after_rounding_where_processes_share_its_head(
    world: Path, tmp_path: Path
) -> None:
    settings = {
        "batch_size": 2,
        "accumulation": 1,
        "max_steps": 2,
        "evaluations": 1,
        "held_out": 0.0,
    }
    run = case(world, "reward", tmp_path / "run", **settings, save_dtype="bfloat16")
    succeed(launch([run], 2, tmp_path, "fsdp2"))
    assert (tmp_path / "run" / "rounding.json").is_file()


def test_fresh_responses_and_what_is_learned_are_those_of_one_process(
    world: Path, tmp_path: Path
) -> None:
    for way in ("one", "two"):
        settings = dict(WAYS[way])
        processes = settings.pop("processes")
        cases = [case(world, name, tmp_path / way / name, **settings) for name in FRESH]
        succeed(start(cases, processes, tmp_path))
    for name in FRESH:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert read_json(two / "run.json")["results"]["processes"] == 2
        for path in sorted((one / "rollouts").glob("*.jsonl")):
            ours, theirs = read_jsonl(path), read_jsonl(two / "rollouts" / path.name)
            assert [row["kind"] for row in ours] == [row["kind"] for row in theirs]
            for row, same in zip(ours, theirs, strict=True):
                tokens = [[r["token_ids"] for r in x.get("responses", ())] for x in (row, same)]
                assert tokens[0] == tokens[1]
        logs = [read_jsonl(folder / "log.jsonl") for folder in (one, two)]
        found, others = (read_json(folder / "run.json")["results"] for folder in (one, two))
        assert found["best_step"] == others["best_step"] and found["steps"] == others["steps"]
        if "held_out" in FRESH[name]:
            looks = [row for row in logs[0] if row["split"] == "eval"]
            assert len(looks) > 2 and found["best_step"] is not None
        for row, same in zip(*logs, strict=True):
            for figure in (
                "loss",
                "reward",
                "kl_k1",
                "entropy",
                "explained_variance",
                "clip_share",
                "chair/recall",
                "chair/mean_length",
                "pope/accuracy",
            ):
                if row.get(figure) is None:
                    assert same.get(figure) is None
                else:
                    assert same[figure] == pytest.approx(row[figure], rel=1e-6, abs=1e-9), figure
            if "samples" in row:
                assert [s["text"] for s in row["samples"]] == [s["text"] for s in same["samples"]]
        weights, others = (load_file(f / "model" / "model.safetensors") for f in (one, two))
        for key, weight in weights.items():
            assert torch.allclose(weight, others[key], rtol=1e-6, atol=1e-8), (name, key)


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_processes_resume(world: Path, tmp_path: Path, way: str) -> None:
    settings = {"batch_size": 2, "accumulation": 1, "max_steps": 6, "evaluations": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    cases = [case(world, "lora", out, **settings) for out in (whole, broken)]
    succeed(launch(cases, 2, tmp_path, way))
    newest = max((broken / "checkpoints").iterdir(), key=lambda path: int(path.name[11:]))
    (newest / "trained.safetensors").write_bytes(b"torn")
    checkpoint, problems = newest_verified(broken / "checkpoints")
    assert checkpoint is not None
    assert "trained.safetensors" in problems[0]
    assert (checkpoint / "rng_state_1.pth").is_file()  # the second process's own
    # Sharded, the optimizer has a file for each process, and only then.
    assert len(list(checkpoint.rglob("optimizer_*.pt"))) == (2 if way == "fsdp2" else 0)
    again = [case(world, "lora", broken, resume="true", **settings)]
    succeed(launch(again, 2, tmp_path, way))
    weights, others = (
        load_file(folder / "model" / "model.safetensors") for folder in (whole, broken)
    )
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


def test_two_processes_resume_with_the_pictures_that_they_began_with(
    world: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """Both end with one refusal; neither waits for the other."""
    (tmp_path / "images").mkdir()
    for number in range(18):
        pictures[0].rotate(5 * number).save(tmp_path / "images" / f"{number}.png")
    texts = {"prompt": "Describe the image.", "chosen": "A red cup.", "rejected": "A blue dog."}
    rows = [{"id": f"pair-{i}", "images": [f"{i}.png"], **texts} for i in range(18)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    settings = {"batch_size": 2, "accumulation": 1, "max_steps": 2, "evaluations": 1}
    one = case(world, "lora", tmp_path / "run", **settings)
    one["options"] |= {
        "data": str(tmp_path / "pairs.jsonl"),
        "images_root": str(tmp_path / "images"),
    }
    succeed(start([one], 2, tmp_path))
    one["options"]["resume"] = "true"
    kept = (tmp_path / "images" / "17.png").read_bytes()
    pictures[0].rotate(180).save(tmp_path / "images" / "17.png")
    ended = start([one], 2, tmp_path)
    told = "".join(process.stderr for process in ended)
    assert [process.returncode for process in ended] == [2, 2], told
    assert re.search("veridical: .*pair-17, image .* has other images", told), told
    (tmp_path / "images" / "17.png").write_bytes(kept)
    (tmp_path / "images").rename(tmp_path / "moved")
    one["options"]["images_root"] = str(tmp_path / "moved")
    succeed(start([one], 2, tmp_path))


def test_pictures_that_are_refused_leave_the_same_rows_to_two_processes(
    world: Path, tmp_path: Path
) -> None:
    """Steps of 4 rows, of which a process may have none that can be used; then a resumed run."""
    pairs = read_records(world / "pairs.parquet", "preference").rows
    refused = ["pair-4", "pair-7", "pair-8"]
    rows = [
        {**row, "images": [marked(row["id"] in refused)] if row["images"] else []} for row in pairs
    ]
    data = tmp_path / "marked.parquet"
    write_records(rows, data, "preference")
    changes = {"max_bad_fraction": 0.5, "max_steps": 6, "evaluations": 3}
    names = [*CASES, "online", "bdhs", "ppo", "rloo", "grpo"]
    for way in ("one", "two", "resumed"):
        settings: dict[str, Any] = {**WAYS["one" if way == "one" else "two"], **changes}
        processes = int(settings.pop("processes"))
        if way == "resumed":
            shutil.copytree(tmp_path / "two", tmp_path / "resumed")
            settings["resume"] = "true"
            for name in names:
                checkpoints = (tmp_path / "resumed" / name / "checkpoints").iterdir()
                newest = max(checkpoints, key=lambda path: int(path.name[11:]))
                (newest / "trained.safetensors").write_bytes(b"torn")
        cases = [case(world, name, tmp_path / way / name, **settings) for name in names]
        for one_case in cases:
            one_case["options"]["data"] = str(data)
        succeed(start(cases, processes, tmp_path, VERIDICAL_TEST_REFUSES="1"))
    for name in names:
        one, two, resumed = (tmp_path / way / name for way in ("one", "two", "resumed"))
        assert sorted(row["id"] for row in read_jsonl(one / "skipped.jsonl")) == refused
        listed = [(folder / "skipped.jsonl").read_text() for folder in (one, two, resumed)]
        assert listed[0] == listed[1] == listed[2]
        assert read_json(resumed / "run.json")["results"]["resumed_from"] is not None
        found = [load_file(f / "model" / "model.safetensors") for f in (one, two, resumed)]
        for key, weight in found[0].items():
            assert torch.allclose(weight, found[1][key], rtol=1e-6, atol=1e-8), (name, key)
            assert torch.equal(found[1][key], found[2][key]), (name, key)


@pytest.mark.parametrize(("name", "processes"), [("online", 1)])
def test_killed_runs_go_on_to_the_same_weights_and_log(
    world: Path, tmp_path: Path, name: str, processes: int
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings: dict[str, Any] = {"batch_size": 2, "accumulation": 1, "max_steps": 6}
    settings |= {"evaluations": 6, "seed": processes + 4}
    succeed(start([case(world, name, whole, **settings)], processes, tmp_path))
    for number, options in ((2, {}), (4, {"resume": "true"})):
        again = [case(world, name, broken, **settings, **options)]
        kill_at(begin(again, processes, tmp_path), broken / "checkpoints" / f"checkpoint-{number}")
        assert read_json(broken / "run.json")["status"] == "running"
    again = [case(world, name, broken, **settings, resume="true")]
    succeed(start(again, processes, tmp_path))
    assert read_json(broken / "run.json")["results"]["resumed_from"] is not None
    weights, others = (load_file(f / "model" / "model.safetensors") for f in (whole, broken))
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())
    logs = [read_jsonl(folder / "log.jsonl") for folder in (whole, broken)]
    plain = [[{k: v for k, v in row.items() if "second" not in k} for row in log] for log in logs]
    assert plain[0] == plain[1]
    for path in (whole / "rollouts").glob("*.jsonl"):
        assert read_jsonl(path) == read_jsonl(broken / "rollouts" / path.name)


def marked(refused: bool) -> Image.Image:
    picture = Image.new("RGB", (48, 48), (200, 30, 60))
    if refused:
        picture.putpixel((0, 0), (0, 0, 0))
    return picture


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_all_with_one_message(
    world: Path, tmp_path: Path, rank: int
) -> None:
    bad = case(world, "sft", tmp_path / "out", batch_size=2)
    ended = start([bad], 2, tmp_path, VERIDICAL_TEST_FAILS=str(rank))
    assert all(process.returncode != 0 for process in ended)
    told = [process.stderr.count("veridical: this process met an error") for process in ended]
    assert sum(told) == 1, told
    assert "Traceback" not in "".join(process.stderr for process in ended)
    assert read_json(tmp_path / "out" / "run.json")["status"] == "failed"


def test_an_error_of_all_processes_is_told_once(world: Path, tmp_path: Path) -> None:
    bad = case(world, "lora", tmp_path / "out", max_length=20)
    ended = start([bad], 2, tmp_path)
    assert [process.returncode for process in ended] == [2, 2]
    assert "".join(process.stderr for process in ended).count("veridical: ") == 1


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_mixed_precision_is_exact_at_the_start_and_near_one_process(
    world: Path, tmp_path: Path, way: str
) -> None:
    options: dict[str, Any] = {"batch_size": 2, "accumulation": 1, "max_steps": 4, "evaluations": 1}
    options |= {"dtype": "float32", "mixed_precision": "bf16", "learning_rate": 1e-4}
    once = {**options, "batch_size": 4}
    succeed(start([case(world, "full", tmp_path / "one", **once)], 1, tmp_path))
    succeed(launch([case(world, "full", tmp_path / way, **options)], 2, tmp_path, way))
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("one", way)]
    for row, same in zip(*logs, strict=True):
        if row["split"] == "eval" and row["step"] == 0:
            assert same["loss"] == pytest.approx(math.log(2), abs=1e-7)
        assert same["loss"] == pytest.approx(row["loss"], abs=0.02)
    weights, others = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", way)
    )
    assert {weight.dtype for weight in others.values()} == {torch.float32}
    assert all(torch.allclose(w, others[name], atol=2e-3) for name, w in weights.items())
