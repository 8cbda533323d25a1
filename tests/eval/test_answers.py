"""Answers made by a model: kept, continued, and made anew when anything that decides them moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from evaluating import eval_chair, eval_pope
from PIL import Image

from veridical import sampling
from veridical.data.image_checks import find_images
from veridical.data.prompts import Prompt, image_question
from veridical.data.responses import Response
from veridical.eval.answers import (
    AnswerSettings,
    forget_partial_answers,
    make_answers,
)
from veridical.eval.asked_model import AskedModel
from veridical.eval.stored_answers import write_answers
from veridical.models import load
from veridical.models.policy import Policy
from veridical.models.rendering import RefusedRowError
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, read_jsonl, write_json, write_jsonl
from veridical.runtime.shards import Shard
from veridical.sampling import Decoding, Request


class Stub:
    """Answers with what it was asked, counts, and fails after some answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fail_after = 10**9
        self.says = "Yes, a dog and a cat: {}"

    def respond(
        self, policy: Policy, requests: Sequence[Request], decoding: Decoding, label: str = ""
    ) -> list[Response]:
        if len(self.asked) + len(requests) > self.fail_after:
            raise KeyboardInterrupt
        self.asked += [request.prompt.id for request in requests]
        return [Response(self.says.format(request.prompt.id)) for request in requests]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(sampling, "respond", stub.respond)
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: Policy(None, None, "stub"))
    return stub


def draw_images(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names):
        Image.new("RGB", (64, 64), (shade, 0, 0)).save(folder / name)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> list[Prompt]:
    folder = draw_images(tmp_path / "images", [f"{i}.png" for i in range(5)])
    return [image_question(str(i), folder / f"{i}.png", "What is there?") for i in range(5)]


SETTINGS = AnswerSettings(AskedModel("a/model"), batch_size=2)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1e", "\r", "\n"])
def test_shards_finish_whatever_separates_the_lines_of_an_answer(
    tmp_path: Path, stub: Stub, prompts: list[Prompt], separator: str
) -> None:
    stub.says = f"A dog.{separator}A cat: {{}}"
    first = dataclasses.replace(SETTINGS, shard=Shard(0, 2))
    assert make_answers(prompts, first, tmp_path, "test") is None
    last = dataclasses.replace(SETTINGS, shard=Shard(1, 2))
    answers = make_answers(prompts, last, tmp_path, "test")
    assert answers is not None
    assert [answer.response.text for answer in answers] == [stub.says.format(i) for i in range(5)]
    assert sorted(stub.asked) == ["0", "1", "2", "3", "4"]  # nothing is made twice


def test_a_run_that_was_killed_within_a_character_continues(
    tmp_path: Path, stub: Stub, prompts: list[Prompt]
) -> None:
    (tmp_path / "answers.partial.jsonl").write_bytes('{"answer": "Où'.encode()[:-1])
    assert make_answers(prompts, SETTINGS, tmp_path, "test") is not None


def test_an_interrupted_run_continues(tmp_path: Path, stub: Stub, prompts: list[Prompt]) -> None:
    stub.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        make_answers(prompts, SETTINGS, tmp_path, "test")
    assert len(read_jsonl(tmp_path / "answers.partial.jsonl")) == 4
    # The process died while it wrote a fifth.
    with (tmp_path / "answers.partial.jsonl").open("a") as file:
        file.write('{"answer": "Yes, a d')
    stub.fail_after = 10**9
    answers = make_answers(prompts, SETTINGS, tmp_path, "test")
    assert answers is not None
    assert stub.asked == ["0", "1", "2", "3", "4"]
    assert [answer.response.text for answer in answers] == [
        f"Yes, a dog and a cat: {i}" for i in range(5)
    ]
    again = make_answers(prompts, SETTINGS, tmp_path, "test")
    assert again == answers and len(stub.asked) == 5


def test_another_batch_size_keeps_answers_other_settings_do_not(
    tmp_path: Path, stub: Stub, prompts: list[Prompt]
) -> None:
    make_answers(prompts, SETTINGS, tmp_path, "test")
    make_answers(prompts, AnswerSettings(AskedModel("a/model"), batch_size=4), tmp_path, "test")
    assert len(stub.asked) == 5
    for changed in (
        AnswerSettings(AskedModel("another/model")),
        AnswerSettings(AskedModel("a/model"), temperature=1.0),
        AnswerSettings(AskedModel("a/model"), max_new_tokens=5),
        AnswerSettings(AskedModel("a/model"), seed=1),
    ):
        before = len(stub.asked)
        make_answers(prompts, changed, tmp_path, "test")
        assert len(stub.asked) == before + 5


def test_a_changed_image_prompt_or_model_file_is_asked_anew(
    tmp_path: Path, stub: Stub, prompts: list[Prompt]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_text("one")
    settings, image = AnswerSettings(AskedModel(str(model))), prompts[2].files[0]
    make_answers(prompts, settings, tmp_path, "test")
    Image.new("RGB", (4, 4), "white").save(image)
    make_answers(prompts, settings, tmp_path, "test")
    assert stub.asked[5:] == ["2"]
    prompts[1] = image_question("1", prompts[1].files[0], "What else?")
    make_answers(prompts, settings, tmp_path, "test")
    assert stub.asked[6:] == ["1"]
    (model / "model.safetensors").write_text("two")
    make_answers(prompts, AnswerSettings(AskedModel(str(model))), tmp_path, "test")
    assert stub.asked[7:] == ["0", "1", "2", "3", "4"]


def test_images_are_found_by_name(tmp_path: Path) -> None:
    folder = draw_images(tmp_path / "images", ["b.png", "a.JPG"])
    (folder / "notes.txt").write_text("")
    assert {name: path.name for name, path in find_images(folder).items()} == {
        "a": "a.JPG",
        "b": "b.png",
    }
    # What can be opened is found, and what can't is found to be refused by name.
    for name in ("c.avif", "d.ppm", "e.heic", "f.jfif"):
        (folder / name).write_bytes(b"")
    assert list(find_images(folder)) == ["a", "b", "c", "d", "e", "f"]
    draw_images(folder, ["a.png"])
    with pytest.raises(UserError, match=r"both a\.JPG and a\.png"):
        find_images(folder)
    with pytest.raises(UserError, match="not a folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        find_images(tmp_path / "empty")


def test_chair_with_a_model(tmp_path: Path, stub: Stub) -> None:
    images = draw_images(tmp_path / "images", ["000000000001.png", "000000000002.png"])
    write_json(tmp_path / "objects.json", {"1": ["dog"], "2": ["dog", "cat"], "3": []})
    out = tmp_path / "out"
    scores = eval_chair(
        tmp_path / "objects.json", out, model="a/model", images=images, temperature=0.5
    )
    assert scores["chair_i"].value == pytest.approx(1 / 4)
    row = read_jsonl(out / "answers.jsonl")[0]
    assert row["image_id"] == "1"
    assert row["prompt"] == "Describe this image in detail."
    assert row["decoding"] == {"max_new_tokens": 256, "temperature": 0.5, "seed": 0}
    assert not (out / "answers.partial.jsonl").exists()
    eval_chair(tmp_path / "objects.json", out, model="a/model", images=images, temperature=0.5)
    assert stub.asked == ["1", "2"]


def test_unreadable_and_unlisted_images_are_listed(tmp_path: Path, stub: Stub) -> None:
    images = draw_images(tmp_path / "images", [f"{i:03}.png" for i in range(300)])
    (images / "000.png").write_bytes(b"no image")
    objects: dict[str, list[str]] = {f"{i:03}": ["dog"] for i in range(299)}
    write_json(tmp_path / "objects.json", objects)
    eval_chair(tmp_path / "objects.json", tmp_path / "out", model="a/model", images=images)
    skipped = {row["id"]: row["reason"] for row in read_jsonl(tmp_path / "out" / "skipped.jsonl")}
    assert skipped == {
        "000": "not an image of an allowed format",
        "299": "the image has no object list",
    }
    assert len(stub.asked) == 298
    write_json(tmp_path / "objects.json", {"001": ["dog"]})
    with pytest.raises(UserError, match="299 of 300 images cannot be used"):
        eval_chair(tmp_path / "objects.json", tmp_path / "out", model="a/model", images=images)


def test_a_prompt_that_cannot_be_asked_is_explained(
    tmp_path: Path, stub: Stub, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, label: str = "") -> list[Response]:
        raise RefusedRowError("special tokens stand in the text")

    monkeypatch.setattr(sampling, "respond", refuse)
    with pytest.raises(UserError, match=r"cannot be asked 'What is there\?': special"):
        make_answers(prompts, SETTINGS, tmp_path, "test")


def test_pope_with_a_model_asks_a_shared_question_once(tmp_path: Path, stub: Stub) -> None:
    images = draw_images(tmp_path / "images", ["a.png", "b.png", "c.png"])
    write_json(tmp_path / "objects.json", {"a": ["dog"], "b": ["cat"], "c": []})
    out = tmp_path / "out"
    scores = eval_pope(
        out,
        model="a/model",
        images=images,
        objects=tmp_path / "objects.json",
        instruction="Answer yes or no.",
    )
    # Two images, two objects: every split asks the same two questions about each.
    assert sorted(stub.asked) == [
        "a/Is there a cat in the image?",
        "a/Is there a dog in the image?",
        "b/Is there a cat in the image?",
        "b/Is there a dog in the image?",
    ]
    assert scores["yes_rate"].value == 1.0 and scores["accuracy"].value == 0.5
    rows = read_jsonl(out / "answers.jsonl")
    assert len(rows) == 12
    assert rows[0]["prompt"].endswith("in the image?\nAnswer yes or no.")
    results = read_json(out / "run.json")["results"]
    assert results == {
        "answers": 12,
        "trained_on": 0,
        "skipped": 1,
        "images_without_questions": 1,
        "images_asked_less": 2,
    }
    # What was built is POPE's own form: another model can be asked the same.
    more = eval_pope(
        tmp_path / "again", model="a/model", images=images, questions=[out / "questions.jsonl"]
    )
    assert more["accuracy"].value == 0.5
    assert set(more) == set(scores)


def test_questions_about_an_image_are_asked_together(tmp_path: Path, stub: Stub) -> None:
    images = draw_images(tmp_path / "images", ["a.png", "b.png"])
    rows = [
        {"question_id": n, "image": f"{image}.png", "text": f"Is there a {name}?", "label": "no"}
        for n, (name, image) in enumerate(product(["dog", "cat", "cup"], "ba"))
    ]
    write_jsonl(tmp_path / "q.jsonl", rows)
    eval_pope(tmp_path / "out", model="a/model", images=images, questions=[tmp_path / "q.jsonl"])
    assert [name[0] for name in stub.asked] == [*"aaabbb"]
    answers = read_jsonl(tmp_path / "out" / "answers.jsonl")
    assert [row["question_id"] for row in answers] == [str(n) for n in range(6)]


def test_official_questions_about_images_that_are_not_there(tmp_path: Path, stub: Stub) -> None:
    images = draw_images(tmp_path / "images", ["a.png"])
    row = '{"question_id": 1, "image": "x.png", "text": "Is there a dog?", "label": "no"}\n'
    (tmp_path / "q.json").write_text(row)
    with pytest.raises(UserError, match="the folder has no such image"):
        eval_pope(tmp_path / "out", model="a/model", images=images, questions=[tmp_path / "q.json"])


def test_shares_are_answered_apart_and_put_together_by_the_last(
    tmp_path: Path, stub: Stub, prompts: list[Prompt]
) -> None:
    first, second = (dataclasses.replace(SETTINGS, shard=Shard(i, 2)) for i in range(2))
    assert make_answers(prompts, first, tmp_path, "test") is None
    # Batches of two: 0 1 | 2 3 | 4, of which every other one is the first share's.
    assert stub.asked == ["0", "1", "4"]
    answers = make_answers(prompts, second, tmp_path, "test")
    assert answers is not None
    assert [answer.response.text for answer in answers] == [
        f"Yes, a dog and a cat: {i}" for i in range(5)
    ]
    # One that finishes at the same time sees every answer too, and leaves it to the first.
    assert make_answers(prompts, first, tmp_path, "test") is None
    assert make_answers(prompts, SETTINGS, tmp_path, "test") == answers
    assert len(stub.asked) == 5
    forget_partial_answers(tmp_path)
    assert list(tmp_path.glob("answers*")) == [] and not (tmp_path / "claimed").exists()


def test_answers_that_are_about_to_be_replaced_are_said(
    tmp_path: Path, stub: Stub, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    make_answers(prompts, SETTINGS, tmp_path, "test")
    assert "replace" not in capsys.readouterr().out
    make_answers(prompts, SETTINGS, tmp_path, "test")
    assert "replace" not in capsys.readouterr().out
    make_answers(prompts[:2], SETTINGS, tmp_path, "test")
    assert "has 3 answers by another model" in capsys.readouterr().out
    make_answers(prompts, AnswerSettings(AskedModel("another/model")), tmp_path, "test")
    assert "has 5 answers by another model" in capsys.readouterr().out


def test_a_model_says_that_it_replaces_answers_made_elsewhere(
    tmp_path: Path, stub: Stub, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    write_answers(tmp_path, [{"question_id": n, "answer": "Yes"} for n in range(3)], given=True)
    assert "replace" not in capsys.readouterr().out
    make_answers(prompts, SETTINGS, tmp_path, "test")
    assert "has 3 answers by another model" in capsys.readouterr().out


def test_answers_made_elsewhere_say_which_they_replace(
    tmp_path: Path, stub: Stub, prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question_id": n, "answer": "Yes"} for n in range(3)]
    for _ in range(2):
        write_answers(tmp_path, rows, given=True)
        assert "replace" not in capsys.readouterr().out
    write_answers(tmp_path, [*rows[:2], {"question_id": 2, "answer": "No"}], given=True)
    assert "do not have was replaced" in capsys.readouterr().out
    make_answers(prompts, SETTINGS, tmp_path, "test")  # left in its partial file
    capsys.readouterr()
    write_answers(tmp_path, rows, given=True)
    assert "6 answers in" in capsys.readouterr().out
