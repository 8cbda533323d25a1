"""BDHS: cuts, swaps, iterations, resuming, and the image noise schedule."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from veridical.bdhs import algorithm
from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.image_noise import add_noise, kept_signal
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer
from veridical.builders import _parts, bdhs
from veridical.builders._models import model_identity
from veridical.builders._parts import Parts
from veridical.builders.bdhs import build_bdhs
from veridical.data.images import RowImage
from veridical.data.prompts import Prompt
from veridical.data.records import read_records, user_message
from veridical.data.responses import Response
from veridical.models import turns, vision_cache
from veridical.models.load import load_policy
from veridical.models.policy import Policy
from veridical.models.prompt_texts import render_prompt, render_requests
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_jsonl
from veridical.runtime.options import CacheOptions, DtypeName, Loading
from veridical.runtime.runs import start_run
from veridical.sampling import Decoding, Request, complete_masked

pytestmark = pytest.mark.usefixtures("answers_end")

ANSWER = "This is a park. There is a red cup at the top left. There is a blue dog on the right."
EDIT = load_similarity("edit")
HOW = Rejecting(BDHSSettings(similarity_threshold=0.99), Decoding(12, 1.0, 0, 4), EDIT)


def changed(**values: Any) -> Rejecting:
    """`HOW` with other settings, or another way to choose tokens."""
    own = {field.name for field in dataclasses.fields(BDHSSettings)}
    settings = {name: value for name, value in values.items() if name in own}
    decoding = {name: value for name, value in values.items() if name not in own}
    return dataclasses.replace(
        HOW,
        settings=dataclasses.replace(HOW.settings, **settings),
        decoding=dataclasses.replace(HOW.decoding, **decoding),
    )


def source(answer: str, id: str = "row", images: tuple[Any, ...] = ()) -> TrueAnswer:
    return TrueAnswer(
        Prompt(id, images, [user_message("Describe the image.", len(images))]), answer
    )


def test_accepted_as_soon_as_different_and_last_try_is_unguided(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []
    honest: Any = vars(algorithm)["complete_masked"]

    def spy(policy: Policy, requests: Any, masks: Any, *rest: Any) -> Any:
        seen.extend((request.prompt.id, request.prefix) for request in requests)
        return honest(policy, requests, masks, *rest)

    monkeypatch.setattr(algorithm, "complete_masked", spy)

    @dataclasses.dataclass(frozen=True)
    class Likes:
        """Says that row `a` is alike until the end."""

        default_threshold: float = 0.9

        def scores(self, pairs: Any) -> list[float]:
            return [1.0 if "kitchen" in true else 0.1 for _, true in pairs]

    how = changed(iterations=3)
    sources = [
        source(ANSWER, "b", (pictures[0],)),
        source("A kitchen. It is red.", "a", (pictures[1],)),
    ]
    results = reject_answers(policy, sources, dataclasses.replace(how, measure=Likes()))  # type: ignore[arg-type]
    found = [json.loads(result["source"]) for result in results]
    assert [entry["iteration"] for entry in found] == [1, 3]
    assert found[1]["cuts"] == []
    assert found[0]["cuts"][1]["sentence"] == "There is a red cup at the top left."
    assert ("a/3/0", "") in seen
    assert not any(id.startswith(("b/2", "b/3")) for id, _ in seen)
    # Guided tries see the true sentences before, and never what was generated.
    assert all(ANSWER.startswith(prefix) for id, prefix in seen if id.startswith("b/"))


@pytest.mark.parametrize(
    ("true", "said", "pair"),
    [
        ("no", "No.", False),
        ("Yes.", "**yes**!", False),
        ("It is red, I think.", "it is red  I think", False),
        ("一只狗。", "一只狗", False),
        ("It is -5 degrees.", "It is 5 degrees.", True),
        ("It is 3.5 m.", "It is 35 m.", True),
        ("no", "Yes", True),
    ],
)
def test_the_true_answer_in_another_form_is_no_rejected_one(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, true: str, said: str, pair: bool
) -> None:
    """Two answers that differ in form alone would teach the form, whatever their similarity."""

    class Unlike:
        default_threshold = 0.99

        def scores(self, pairs: Any) -> list[float]:
            return [0.1 for _ in pairs]

    asked: list[str] = []

    def says(policy: Policy, requests: Any, *rest: Any) -> Any:
        asked.extend(request.prompt.id for request in requests)
        return [Response(said) for _ in requests]

    monkeypatch.setattr(algorithm, "respond", says)
    how = changed(variant="none", guided=False, iterations=3, text_only=True)
    (result,) = reject_answers(
        policy,
        [source(true)],
        dataclasses.replace(how, measure=Unlike()),  # type: ignore[arg-type]
    )
    assert ("rejected" in result) == pair
    assert len(asked) == (1 if pair else 3)
    if not pair:
        assert result["reason"] == "the model repeated the true answer in the last try"


def test_one_mask_an_iteration_for_all_sentences(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[str] = []
    honest: Any = vars(algorithm)["complete_masked"]

    def spy(policy: Policy, requests: Any, ids: Any, *rest: Any) -> Any:
        masks.extend(ids)
        return honest(policy, requests, ids, *rest)

    monkeypatch.setattr(algorithm, "complete_masked", spy)
    reject_answers(policy, [source(ANSWER, "x", (pictures[0],))], HOW)
    assert masks[:3] == ["x/1"] * 3


def test_sentences_are_completed_by_the_rules_of_the_answers_language(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    honest: Any = vars(algorithm)["complete_masked"]

    def spy(policy: Policy, requests: Any, *rest: Any) -> Any:
        asked.extend(requests)
        return honest(policy, requests, *rest)

    monkeypatch.setattr(algorithm, "complete_masked", spy)
    answer = "Ja.\n\n- Im 3. Stock steht ein Hund.\n- Er schläft auf dem roten Sofa."
    found = reject_answers(policy, [source(answer, "x", (pictures[0],))], HOW)
    first = [request for request in asked if request.prompt.id.startswith("x/1/")]
    assert len(first) == 3 and {request.language for request in asked} == {"de"}
    assert all(request.prefix.endswith(request.begun) for request in first)
    assert first[2].begun.startswith("- Er") or first[2].begun == "-"
    assert found[0]["yes_no"] == "yes"


def test_a_prompt_is_rendered_once_for_all_sentences(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    honest: Any = vars(turns)["render"]

    def counted(*given: Any) -> Any:
        rendered.append(1)
        return honest(*given)

    monkeypatch.setattr(turns, "render", counted)
    texts = {}
    for count in (1, 1, 8):  # first the comparison with `generate`, which renders too
        rendered.clear()
        whole = source(" ".join([ANSWER] * count), "x", (pictures[0],))
        requests = [
            Request(Prompt(str(n), whole.prompt.images, whole.prompt.messages), whole.text[:n])
            for n in (1, 4, 7)
        ]
        complete_masked(policy, requests * count, ["m"] * 3 * count, 0.9, Decoding(1), True)
        texts[count] = len(rendered)
    assert texts[1] == texts[8] == 4  # prompt and answer, each with its texts and with marks
    each = [render_prompt(policy, whole.prompt.messages, request.prefix) for request in requests]
    assert each == render_requests(policy, [(r.prompt.messages, r.prefix) for r in requests])


@pytest.fixture
def data(tmp_path: Path, pictures: list[Image.Image]) -> Path:
    rows = []
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
        question = user_message("Describe the image.")
        answer = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]}
        rows.append(
            {"id": f"row-{number}", "images": [f"{number}.png"], "messages": [question, answer]}
        )
    write_jsonl(tmp_path / "data.jsonl", rows)
    return tmp_path / "data.jsonl"


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> str:
    folder = tmp_path / "policy"
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return str(folder)


def rejected(out: Path) -> list[Any]:
    rows = read_records(out / "pairs.parquet", "preference").rows.remove_columns(["images"])
    return [(row["id"], row["rejected"], row["source"]) for row in rows]


def test_batch_size_and_interruption_change_nothing(
    data: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parts, "CHUNK", 2)
    common: dict[str, Any] = {
        "model": saved,
        "data": data,
        "bdhs": BDHSSettings(similarity="edit", iterations=2),
        "max_new_tokens": 10,
    }
    build_bdhs(**common, out=tmp_path / "one", batch_size=1)
    build_bdhs(**common, out=tmp_path / "many", batch_size=64)
    assert rejected(tmp_path / "one") == rejected(tmp_path / "many")

    finished = 0
    honest = reject_answers

    def dies(*arguments: Any) -> Any:
        nonlocal finished
        finished += 1
        if finished == 2:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(bdhs, "reject_answers", dies)
    with pytest.raises(KeyboardInterrupt):
        build_bdhs(**common, out=tmp_path / "cut")
    with pytest.raises(UserError, match="other settings"):
        build_bdhs(**common, out=tmp_path / "cut", seed=1)
    build_bdhs(**common, out=tmp_path / "cut")
    assert finished == 4  # one before, the one that died, and the two that were left
    assert rejected(tmp_path / "cut") == rejected(tmp_path / "one")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_neither_shards_nor_an_interruption_change_a_pair_in_any_dtype(
    dtype: str, data: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_parts, "CHUNK", 2)
    common: dict[str, Any] = {
        "bdhs": BDHSSettings(similarity="edit"),
        "max_new_tokens": 10,
        "loading": Loading(dtype=cast(DtypeName, dtype)),
    }
    build_bdhs(saved, data, tmp_path / "one", **common)
    expected = rejected(tmp_path / "one")
    assert len(expected) > 2
    for shard in ("2/2", "1/2"):
        build_bdhs(saved, data, tmp_path / "shared", **common, shard=shard)
    assert rejected(tmp_path / "shared") == expected

    left = iter([True, False])
    honest = reject_answers

    def dies(*arguments: Any) -> Any:
        if not next(left):
            raise KeyboardInterrupt
        return honest(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bdhs, "reject_answers", dies)
        build_bdhs(saved, data, tmp_path / "cut", **common)
    build_bdhs(saved, data, tmp_path / "cut", **common)
    assert rejected(tmp_path / "cut") == expected


def test_kept_image_features_change_no_pair(
    data: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BDHSSettings(similarity="edit", iterations=3, similarity_threshold=0.0)
    common: dict[str, Any] = {"bdhs": settings, "max_new_tokens": 10}  # every try is made
    off = CacheOptions(cache=str(tmp_path / "cache"))
    on = dataclasses.replace(off, vision_cache=True)
    build_bdhs(saved, data, tmp_path / "stock", caching=off, **common)
    encoded: list[Any] = []  # of the records; a gray picture is tried before
    honest = vision_cache.encode_image

    def counting(policy: Policy, image: Any, before_projector: bool) -> Any:
        if isinstance(image, RowImage):
            encoded.append(image)
        return honest(policy, image, before_projector)

    monkeypatch.setattr(vision_cache, "encode_image", counting)
    build_bdhs(saved, data, tmp_path / "kept", caching=on, **common)
    assert rejected(tmp_path / "kept") == rejected(tmp_path / "stock")
    assert len(encoded) == 6  # one a picture, over three tries of several sentences
    build_bdhs(saved, data, tmp_path / "again", caching=on, seed=1, **common)
    assert len(encoded) == 6
    assert rejected(tmp_path / "again") != rejected(tmp_path / "stock")


def test_features_that_are_not_those_of_the_picture_are_found(
    data: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = vision_cache.encode_image

    def wrong(*given: Any) -> Any:
        entry = honest(*given)
        return {**entry, vision_cache.FEATURES: entry[vision_cache.FEATURES].flip(0)}

    monkeypatch.setattr(vision_cache, "encode_image", wrong)
    common: dict[str, Any] = {
        "caching": CacheOptions(vision_cache=True, cache=str(tmp_path / "cache"))
    }
    with pytest.raises(UserError, match="--vision-cache off"):
        build_bdhs(saved, data, tmp_path / "out", bdhs=BDHSSettings(similarity="edit"), **common)
    with pytest.raises(UserError, match="--variant noise masks nothing"):
        noise = BDHSSettings(similarity="edit", variant="noise")
        build_bdhs(saved, data, tmp_path / "out", bdhs=noise, **common)


def test_a_finished_chunk_counts_only_for_its_own_records(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    parts = Parts(tmp_path, {"seed": 0}, dict)
    first, second = (source("Yes.", name, (pictures[0],)) for name in "ab")
    parts.write(0, [first], [{"id": "a", "reason": "empty"}])
    assert parts.has(0, [first])
    assert not parts.has(0, [first, second])  # interrupted with --limit 1, started again with 2
    assert not parts.has(64, [second])
    assert not parts.has(0, [source("Yes.", "a", (pictures[1],))])  # another image, same name


def test_the_identity_of_a_model_is_its_content(policy: Policy, saved: str, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(saved, copied)
    run = start_run(tmp_path / "run", "build bdhs", {})

    def identity(folder: str, dtype: DtypeName = "auto") -> dict[str, str]:
        return model_identity(run, "model", load_policy(folder, dtype), folder)

    first = identity(saved)
    assert identity(str(copied)) == first
    assert run.record["models"]["model"]["key"] == first["model"]
    assert identity(saved, "float32") != first
    same = load_policy(str(copied))
    with torch.no_grad():
        same.core.get_output_embeddings().weight.add_(1)
    same.model.save_pretrained(copied)
    assert identity(str(copied)) != first


def test_special_tokens_in_a_true_answer_are_refused_by_row(
    policy: Policy, pictures: list[Image.Image]
) -> None:
    bad = source("This is a park. There is an <image> on the wall.", "bad", (pictures[0],))
    result = reject_answers(policy, [bad], HOW)[0]
    assert "<image>" in result["reason"]


def test_every_record_is_a_pair_or_is_listed(data: Path, saved: str, tmp_path: Path) -> None:
    rows = read_jsonl(data)
    rows[1]["messages"][0]["content"][1]["text"] = "What is <image> here?"
    write_jsonl(data, rows)
    out = tmp_path / "out"
    settings = BDHSSettings(similarity="edit", iterations=1)
    build_bdhs(saved, data, out, settings, max_new_tokens=8)
    summary = read_json(out / "summary.json")
    assert summary["pairs"] == 5
    assert summary["skipped"] == 1
    listed = read_jsonl(out / "skipped.jsonl")
    assert listed[0]["id"] == "row-1"
    assert "<image>" in listed[0]["reason"]
    entry = json.loads(rejected(out)[0][2])
    assert {
        "builder",
        "iteration",
        "similarity",
        "share_masked",
        "cuts",
        "settings",
    } <= entry.keys()


@pytest.mark.parametrize("variant", ["noise", "none"])
def test_variants_without_masks(policy: Policy, pictures: list[Image.Image], variant: Any) -> None:
    how = changed(variant=variant, guided=variant == "noise")
    results = reject_answers(policy, [source(ANSWER, "x", (pictures[0],))], how)
    entry = json.loads(results[0]["source"])
    assert entry["share_masked"] == 0
    assert bool(entry["cuts"]) == (variant == "noise")


def test_noise_schedule() -> None:
    """Against the recursion x(k) = sqrt(1 - b) x(k-1) + sqrt(b) e, variance by variance."""
    signal, variance = 1.0, 0.0
    for k in range(1, 501):
        beta = (0.5e-2 - 1e-5) / (1 + np.exp(6 - 12 * k / 1000)) + 1e-5
        signal *= np.sqrt(1 - beta)
        variance = (1 - beta) * variance + beta
    assert np.isclose(kept_signal(500), signal**2)
    assert np.isclose(1 - kept_signal(500), variance)
    assert kept_signal(1000) < 0.1 < kept_signal(500)


def test_noise_is_keyed_and_bounded() -> None:
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    same = add_noise(image, 500, 0, "a"), add_noise(image, 500, 0, "a")
    assert same[0].tobytes() == same[1].tobytes()
    assert add_noise(image, 500, 0, "b").tobytes() != same[0].tobytes()
    assert add_noise(image, 0, 0, "a").tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_threshold", 1.5), ("yes_no_swap", -1.0), ("iterations", 0), ("temperature", 0.0),
     ("noise_steps", 1001), ("batch_size", 0)],
)  # fmt: skip
def test_constants_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name.replace("_", "-")):
        changed(**{name: value}).check()
