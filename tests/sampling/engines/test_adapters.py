"""An engine in another process: what it has to say, and what is never taken from it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from veridical.data.prompts import Prompt
from veridical.data.records import user_message, write_records
from veridical.judges.named import Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.batching import row_batch
from veridical.models.load import load_policy
from veridical.models.policy import Policy, end_token_ids
from veridical.models.token_scores import token_scores
from veridical.models.tuning import Tuning, prepare_training
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_json
from veridical.sampling import Decoding, Request, never_sampled
from veridical.sampling.engines import client
from veridical.sampling.engines.adapters import Engine
from veridical.sampling.rollouts import rollout_group
from veridical.train.online import train_online
from veridical.train.options import Training
from veridical.train.ppo import train_ppo
from veridical.train.responses import Sampling

SERVER = Path(__file__).parent / "engine_server.py"
TUNING = Tuning("lora", 4, 8)
TRAINING = Training(
    learning_rate=1e-2, max_steps=2, batch_size=2, accumulation=1, held_out=0.0, evaluations=1,
    lora_rank=4, lora_alpha=8, seed=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(tiny_model: Policy, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("engine") / "policy"
    model = copy.deepcopy(tiny_model.model).float()
    with torch.no_grad():
        model.lm_head.weight[tiny_model.processor.tokenizer.eos_token_id] *= 3
    model.save_pretrained(folder)
    tiny_model.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def server(saved: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), saved], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def serving(url: str, lie: str = "none") -> Iterator[str]:
    tell(url, lie)
    yield url
    tell(url, "none")


def tell(url: str, lie: str) -> None:
    body = json.dumps({"lie": lie}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/lie", body, method="POST")).read()


def moved_policy(model: str) -> Policy:
    """A policy whose adapter does something."""
    policy = prepare_training(load_policy(model), TUNING)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    policy.model.eval()
    return policy


def requests_for(pictures: list[Image.Image]) -> list[Request]:
    prompt = [user_message("Describe the image.")]
    return [
        Request(Prompt(f"row-{i}", [picture], prompt)) for i, picture in enumerate(pictures[:2])
    ]


def test_log_probs_are_those_of_the_policy_with_the_pixels(
    saved: str,
    server: str,
    pictures: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, requests = moved_policy(saved), requests_for(pictures)
    decoding = Decoding(10, 0.9, seed=2)
    with serving(server) as url:
        engine = Engine({"url": url, "name": "tiny", "concurrency": 1}, tmp_path / "engine")
        told: list[list[float]] = []
        tried = engine.client._tried

        def listen(path: str, body: Mapping[str, Any], retries: int) -> bytes:
            found = tried(path, body, retries)
            if path.endswith("completions"):
                told.append(json.loads(found)["server_logps"])
            return found

        monkeypatch.setattr(engine.client, "_tried", listen)
        found = engine.sample(policy, requests, decoding, 2, version=3)
    ends = end_token_ids(policy)
    assert [len(row) for row in found] == [2, 2]
    for request, row, other in zip(requests, found, (told[:2], told[2:]), strict=True):
        groups = [rollout_group(policy, request, row)]
        with torch.no_grad():
            scores = token_scores(
                policy.model, row_batch(policy, groups), 0.9, never_sampled(policy)
            )
        for rollout, ours, theirs in zip(row, scores.logps, other, strict=True):
            assert rollout.version == 3
            assert (rollout.token_ids[-1] in ends) == (rollout.stop_reason == "end")
            assert rollout.logps == pytest.approx(ours[: len(rollout.logps)].tolist(), abs=1e-6)
            # The server had the same weights and the same pixels, but that is not relied on.
            assert rollout.logps == pytest.approx(theirs, abs=1e-3)
    assert len({rollout.token_ids for row in found for rollout in row}) > 2
    assert (tmp_path / "engine" / f"tiny-{engine.attempt}-3" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ("no-ids", "gives no token ids"),
        ("stale", "with the weights of step 0 at step 3"),
        ("unnamed", "does not say which weights"),
        ("other-prompt", "reads another prompt"),
        ("other-prompt-later", "reads another prompt"),
        ("no-end", "stopped by itself without an end token"),
    ],
)
def test_what_can_not_be_known_is_refused(
    saved: str, server: str, pictures: list[Image.Image], tmp_path: Path, lie: str, message: str
) -> None:
    policy, requests = moved_policy(saved), requests_for(pictures)
    with serving(server, lie) as url:
        engine = Engine({"url": url, "name": "tiny"}, tmp_path / "engine")
        with pytest.raises(UserError, match=message):
            engine.sample(policy, requests, Decoding(10, 0.9), 2, version=3)
        if lie == "stale":
            lax = Engine({"url": url, "name": "tiny", "max_staleness": 3}, tmp_path / "lax")
            found = lax.sample(policy, requests, Decoding(10, 0.9), 1, version=3)
            assert {rollout.version for row in found for rollout in row} == {0}


def test_every_round_compares_its_prompts(
    saved: str, server: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    """A template that writes the date renders another prompt there after midnight."""
    policy, requests = moved_policy(saved), requests_for(pictures)
    engine = Engine({"url": server, "name": "tiny"}, tmp_path / "engine")
    engine.sample(policy, requests, Decoding(4, 0.9), 1, version=0)
    with serving(server, "other-prompt"), pytest.raises(UserError, match="keeps the date"):
        engine.sample(policy, requests, Decoding(4, 0.9), 1, version=1)


def test_a_server_that_does_not_give_its_prompt_is_reported_once(
    saved: str, server: str, pictures: list[Image.Image], tmp_path: Path, capsys: Any
) -> None:
    policy, requests = moved_policy(saved), requests_for(pictures)
    engine = Engine({"url": server, "name": "tiny"}, tmp_path / "engine")
    with serving(server, "no-prompt"):
        for version in (0, 1):
            engine.sample(policy, requests, Decoding(4, 0.9), 1, version=version)
    assert capsys.readouterr().out.count("is not checked: it does not give their tokens") == 1


def test_training_samples_there(
    saved: str, server: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    rows = [
        {"id": f"row-{i}", "images": [pictures[i]], "prompt": [user_message("Describe it.")]}
        for i in range(4)
    ]
    data = tmp_path / "prompts.parquet"
    write_records(rows, data, "prompt")
    write_json(tmp_path / "objects.json", {f"row-{i}": ["cup"] for i in range(4)})
    judging = Judging(judge="exact", objects=tmp_path / "objects.json")
    with serving(server) as url:
        sampling = Sampling(max_new_tokens=8, engine={"url": url})
        train_ppo(
            saved, data, tmp_path / "ppo", judging=judging, symbolic=Symbolic(length_penalty=1.0),
            sampling=sampling, training=replace(TRAINING, held_out=0.25, select_by="reward"),
        )  # fmt: skip
        train_online(
            saved, data, tmp_path / "online", kind="prompt", judging=judging, sampling=sampling,
            training=TRAINING,
        )  # fmt: skip
    log = read_jsonl(tmp_path / "ppo" / "log.jsonl")
    (first, second) = (row for row in log if row["split"] == "train")
    looks = {row["step"]: row for row in log if row["split"] == "eval"}
    assert first["kl_k1"] == pytest.approx(0, abs=1e-3)
    assert looks[0]["kl_k1"] == pytest.approx(0, abs=1e-3) and max(looks) == 2
    assert second["step"] == 2
    kept = sorted((tmp_path / "online" / "rollouts").iterdir())
    assert not list((tmp_path / "ppo" / "engine").iterdir())
    assert not list((tmp_path / "online" / "engine").iterdir())
    versions = [{r["version"] for row in read_jsonl(p) for r in row["responses"]} for p in kept]
    assert versions == [{0}, {1}]


def loaded(url: str) -> list[str]:
    request = urllib.request.Request(f"{url}/loaded", b"{}", method="POST")
    found: list[str] = json.loads(urllib.request.urlopen(request).read())
    return found


def test_adapters_are_deleted_after_unloading_and_named_by_attempt(
    saved: str, server: str, pictures: list[Image.Image], tmp_path: Path
) -> None:
    policy, requests, folder = moved_policy(saved), requests_for(pictures), tmp_path / "engine"
    options = {"url": server, "name": "mine"}
    first = Engine(options, folder)
    for version in (0, 1):
        first.sample(policy, requests, Decoding(4, 0.9), 1, version=version)
        assert [path.name for path in folder.iterdir()] == [f"mine-{first.attempt}-{version}"]
    # It is killed here; the next attempt finds the same version on the server under another name.
    second = Engine(options, folder)
    assert f"mine-{first.attempt}-1" in loaded(server)
    found = second.sample(policy, requests, Decoding(4, 0.9), 1, version=1)
    assert found[0][0].version == 1
    assert [name for name in loaded(server) if name.startswith("mine-")] == [
        f"mine-{second.attempt}-1"
    ]
    # What an earlier attempt's weights answered is not this one's.
    with pytest.raises(UserError, match="does not say which weights answered"):
        second._version(f"mine-{first.attempt}-1", 1)
    second.close()
    assert not list(folder.iterdir())
    assert not [name for name in loaded(server) if name.startswith("mine-")]
    # A server that was started anew does not know the name any more.
    (folder / "mine-abc-7").mkdir()
    Engine(options, folder).publish(policy, 2)
    assert not (folder / "mine-abc-7").exists()


def test_a_full_disk_is_said(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = moved_policy(saved)

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr(policy.model, "save_pretrained", full)
    engine = Engine({"url": "http://localhost:1/v1"}, tmp_path)
    with pytest.raises(UserError, match=r"No space left on device\. Make room"):
        engine.publish(policy, 0)


def test_what_no_server_could_load_is_refused(tmp_path: Path) -> None:
    sampling = Sampling(engine={"url": "http://localhost:1/v1"})
    for changed in ({"tuning": "full"}, {"train_projector": True}):
        training = replace(TRAINING, **changed)
        with pytest.raises(UserError, match="--tuning lora"):
            sampling.open_engine("embedded", training, tmp_path)
    with pytest.raises(UserError, match=r"--engine\.model is unknown"):
        Sampling(engine={"model": "m"}).open_engine("embedded", TRAINING, tmp_path)
    far = Sampling(engine={"url": "http://elsewhere.example/v1", "key_variable": "NO_SUCH_KEY"})
    with pytest.raises(UserError, match="NO_SUCH_KEY holds no key"):
        far.open_engine("embedded", TRAINING, tmp_path)


def answered(engine: Engine, reason: str, ids: list[int]) -> Any:
    choice = SimpleNamespace(finish_reason=reason, token_ids=ids)
    return SimpleNamespace(choices=[choice], model=engine._called(3), prompt_token_ids=None)


@pytest.mark.parametrize("reason", ["length", "abort", "content_filter", "repetition"])
def test_without_an_end_token_an_answer_is_cut_whatever_the_server_calls_it(
    saved: str,
    pictures: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    policy, (request, _) = moved_policy(saved), requests_for(pictures)
    engine = Engine({"url": "http://localhost:1/v1", "name": "tiny"}, tmp_path / "engine")
    end, sent = min(end_token_ids(policy)), []

    def complete(body: Any, _: Request) -> Any:
        sent.append(body)
        return answered(engine, reason, ids)

    monkeypatch.setattr(engine, "_completed", complete)
    ids = [20, 21, 22]
    cut = engine._answer(policy, request, 0, Decoding(3, 0.9), 3)
    assert cut.response.stop_reason == "length"
    ids = [20, 21, end]
    whole = engine._answer(policy, request, 0, Decoding(3, 0.9), 3)
    assert whole.response.stop_reason == "end"
    # What is not sent, a server takes from the checkpoint's generation settings.
    (given, _) = sent
    assert given["repetition_penalty"] == 1.0 and given["min_tokens"] == 0
    assert given["top_k"] == -1 and given["min_p"] == 0.0


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1.5, "x", True])
def test_staleness_that_is_no_count_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--engine\.max_staleness is .*whole number from 0 up"):
        Engine({"url": "http://127.0.0.1:9", "max_staleness": value}, tmp_path)


def test_a_server_started_anew_and_a_deleted_folder_do_not_end_the_run(
    saved: str, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, engine = moved_policy(saved), Engine({"url": server, "name": "anew"}, tmp_path)
    engine.publish(policy, 0)
    engine.client.post("unload_lora_adapter", {"lora_name": engine._called(0)})
    shutil.rmtree(tmp_path / engine._called(0))
    engine.publish(policy, 1)
    assert "does not unload it" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [engine._called(1)]
    engine.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../../elsewhere", "team/mine", "/tmp/mine", ".", "a b", "x" * 65]
)
def test_a_name_that_leads_out_of_the_run_s_folder_is_refused(name: str, tmp_path: Path) -> None:
    # Adapters are written to, and deleted from, a folder of this name.
    with pytest.raises(UserError, match=r"--engine\.name is .*it names folders too"):
        Engine({"url": "http://127.0.0.1:9", "name": name}, tmp_path)


class Faulty:
    """A server that has names alone, and whose replies go wrong in a way of their own."""

    def __init__(self, wrong: Callable[[str, int], int | None]) -> None:
        self.names: set[str] = set()
        self.asked: list[str] = []
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["content-length"])))
                path, name = self.path.rsplit("/", 1)[1], content["lora_name"]
                served.asked.append(path)
                status, said = 200, "fine"
                if path.startswith("load") and name in served.names:
                    status, said = 400, f"The lora adapter '{name}' has already been loaded."
                elif path.startswith("load"):
                    served.names.add(name)
                status = wrong(path, len(served.asked)) or status
                if status == LOST:
                    self.connection.close()
                    return
                text = json.dumps({"error": {"message": said}}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                """Quietly."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


LOST = -1


def written_policy() -> Any:
    """What can be saved as an adapter, and nothing else."""

    def save(folder: str, **_: Any) -> None:
        Path(folder).mkdir(parents=True)

    return SimpleNamespace(model=SimpleNamespace(save_pretrained=save))


@pytest.mark.parametrize("status", [LOST, 503])
def test_a_load_whose_reply_was_lost_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It is sent again, and refused as loaded already; the name is this attempt's alone."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.0)
    server = Faulty(lambda _, asked: status if asked == 1 else None)
    engine = Engine({"url": server.url}, tmp_path)
    engine.publish(written_policy(), 0)
    assert server.asked == ["load_lora_adapter"] * 2 and server.names == {engine._called(0)}


def test_a_server_that_fails_to_unload_holds_no_step_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.0)
    server = Faulty(lambda path, _: 500 if path.startswith("unload") else None)
    engine, policy = Engine({"url": server.url}, tmp_path), written_policy()
    for version in range(3):
        engine.publish(policy, version)
    assert server.asked.count("unload_lora_adapter") == 2  # no second try
    assert [path.name for path in tmp_path.iterdir()] == [engine._called(2)]
    assert capsys.readouterr().out.count("does not unload it (status 500") == 1


def test_a_folder_that_can_not_be_deleted_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(shutil, "rmtree", kept)
    engine, policy = Engine({"url": Faulty(lambda *_: None).url}, tmp_path), written_policy()
    for version in range(3):
        engine.publish(policy, version)
    assert capsys.readouterr().out.count("its folder can't be deleted (read-only)") == 1
