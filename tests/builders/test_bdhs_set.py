"""What of BDHS becomes a pair, with models that say what a test wants, and what is counted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from veridical.bdhs import algorithm, true_answers
from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import load_similarity
from veridical.bdhs.true_answers import Rejecting, TrueAnswer, whole_answer_limit
from veridical.builders._bdhs_counts import summarize
from veridical.builders.bdhs import build_bdhs
from veridical.data.prompts import Prompt
from veridical.data.records import assistant_message, read_records, text_of, user_message
from veridical.data.responses import Response
from veridical.models.policy import Policy
from veridical.runtime.files import read_json, read_jsonl, write_jsonl
from veridical.sampling import Decoding, Request

EDIT = load_similarity("edit")
HOW = Rejecting(BDHSSettings(similarity_threshold=0.99), Decoding(16, 1.0, 0, 64), EDIT)


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


Script = Callable[[Request, int, bool], Response]
"""From what is asked, the limit in tokens, and whether it is guided, to what is said."""


def script(monkeypatch: pytest.MonkeyPatch, say: Script) -> list[tuple[str, int]]:
    """Have a script in place of the model; returns the prefixes and limits that were asked."""
    asked: list[tuple[str, int]] = []

    def complete(policy: Any, requests: Any, masks: Any, threshold: Any, decoding: Any,
                 until_sentence_end: bool, drop: Any) -> Any:  # fmt: skip
        asked.extend((request.prefix, decoding.max_new_tokens) for request in requests)
        said = [say(r, decoding.max_new_tokens, until_sentence_end) for r in requests]
        return said, [1.0] * len(said)

    monkeypatch.setattr(algorithm, "complete_masked", complete)
    return asked


def sources_of(answers: list[str], picture: Image.Image | None) -> list[TrueAnswer]:
    images = () if picture is None else (picture,)
    question = [user_message("What is it?", len(images))]
    return [
        TrueAnswer(Prompt(str(n), images, question), answer) for n, answer in enumerate(answers)
    ]


def rejected(result: dict[str, Any]) -> str:
    return text_of(result["rejected"])


def test_a_completion_that_its_limit_cuts_is_no_try(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(request: Request, limit: int, guided: bool) -> Response:
        cut = request.prompt.id.startswith("0/1/") and request.prompt.id.endswith("/1")
        return Response(" a dog and" if cut else " a dog.", (), (), "length" if cut else "sentence")

    script(monkeypatch, say)
    (result,) = reject_answers(
        policy, sources_of(["A cup is here. A hat is there."], pictures[0]), HOW
    )
    assert json.loads(result["source"])["iteration"] == 2
    assert result["tries"] == {"made": 2, "cut_off": 1, "empty": 0}
    assert "and" not in rejected(result)


def test_an_unguided_try_has_room_for_an_answer_as_long_as_the_true_one(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "There is a red cup at the top left of the table. " * 4
    (source,) = sources_of([answer], pictures[0])
    tokens = len(policy.processor.tokenizer(source.text, add_special_tokens=False)["input_ids"])
    limit = whole_answer_limit(policy, source.text, HOW.decoding.max_new_tokens)
    assert limit >= 2 * tokens > 16
    assert limit in {16 * 2**power for power in range(10)}

    def rambles(request: Request, limit: int, guided: bool) -> Response:
        return Response(" it goes on and on", (), (), "length")

    asked = script(monkeypatch, rambles)
    (result,) = reject_answers(policy, [source], HOW)
    assert "rejected" not in result
    assert f"cut off at {limit} tokens" in result["reason"]
    assert "--max-new-tokens" in result["reason"]
    assert result["tries"] == {"made": 5, "cut_off": 5, "empty": 0}
    assert {given for _, given in asked} == {16, limit}
    assert asked[-1] == ("", limit)


def test_saying_nothing_is_no_try(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(request: Request, limit: int, guided: bool) -> Response:
        return Response(
            "" if request.prompt.id.startswith("0/1/") and not request.prefix else " x."
        )

    script(monkeypatch, silent)
    (result,) = reject_answers(policy, sources_of(["Two."], pictures[0]), HOW)
    assert json.loads(result["source"])["iteration"] == 2
    assert result["tries"]["empty"] == 1


def says_no(request: Request, limit: int, guided: bool) -> Response:
    """A model that answers No whatever it is asked, and ends a sentence that is given."""
    return Response("." if request.prefix else "No.", (), (), "sentence")


def test_one_word_answers_give_pairs_of_both_kinds(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """120 questions with 20 Yes, to a model that thinks No: without the swap only Yes has pairs."""
    answers = ["Yes."] * 20 + ["No."] * 100
    sources = sources_of(answers, pictures[0])
    script(monkeypatch, says_no)

    def pairs(how: Rejecting) -> Any:
        results = reject_answers(policy, sources, how)
        assert {rejected(row) for row in results if "rejected" in row} <= {"Yes.", "No."}
        return summarize(results, 0)

    mended = pairs(HOW)
    assert mended["yes_no"]["records"] == {"yes": 20, "no": 100}
    assert mended["yes_no"]["pairs"]["yes"] == 20
    # Four guided tries, each with a swap in half of the cases: 15 of 16.
    assert 85 <= mended["yes_no"]["pairs"]["no"] <= 100
    assert not mended["warnings"]

    unbalanced = pairs(changed(yes_no_swap=0.0))
    assert unbalanced["yes_no"]["pairs"] == {"yes": 20, "no": 0}
    assert "Yes is the true answer in 17% of the 120" in unbalanced["warnings"][-1]
    assert "in 100% of their 20 pairs" in unbalanced["warnings"][-1]


def test_a_low_share_of_guided_sentences_is_told(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, lambda *_: Response(" green.", (), (), "sentence"))
    one_word = reject_answers(policy, sources_of(["Red.", "Blue."], pictures[0]), HOW)
    summary = summarize(one_word, 0)
    assert (summary["sentences"], summary["guided_sentences"], summary["share_guided"]) == (2, 0, 0)
    assert "Only 0% of the sentences" in summary["warnings"][0]
    longer = sources_of(["一只红色的狗在睡觉。它很大。" * 3] * 20, pictures[0])
    # The tiny tokenizer knows no Chinese.
    monkeypatch.setattr(true_answers, "_unusable", lambda *_: None)
    summary = summarize(reject_answers(policy, longer, HOW), 0)
    assert (summary["share_guided"] or 0.0) > 0.7
    assert summary["languages"] == {"zh": 20}
    assert not summary["warnings"]


def test_records_without_an_image_are_listed_unless_asked_for(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, lambda *_: Response(" a dog.", (), (), "sentence"))
    sources = sources_of(["A cup is here."], None)
    (result,) = reject_answers(policy, sources, HOW)
    assert "no image" in result["reason"] and "--text-only" in result["reason"]
    assert result["tries"]["made"] == 0
    (result,) = reject_answers(policy, sources, changed(text_only=True))
    assert "rejected" in result
    monkeypatch.setattr(algorithm, "respond", lambda *_: [Response(" a dog.", (), (), "sentence")])
    (result,) = reject_answers(policy, sources, changed(variant="none"))
    assert "rejected" in result


def test_code_alone_is_left_to_the_unguided_try(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = script(monkeypatch, lambda *_: Response("x = 2", (), (), "end"))
    sources = sources_of(["```\nx = 1. \n```"], pictures[0])
    monkeypatch.setattr(
        true_answers, "_unusable", lambda *_: None
    )  # the tiny tokenizer has no backtick
    (result,) = reject_answers(policy, sources, HOW)
    assert len(asked) == 1 and rejected(result) == "x = 2"
    (result,) = reject_answers(policy, sources, changed(iterations=1))
    assert "nothing in the true answer can be completed" in result["reason"]


def test_the_pair_differs_in_words_alone(
    policy: Policy, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """White space at the ends and between sentences is the same in chosen and rejected."""
    answer = "\n  A red cup.\n\n1. A hat.\n2. A dog is here.  It sleeps. \n"

    def say(request: Request, limit: int, guided: bool) -> Response:
        return Response(" X." if guided else "X.", (), (), "sentence")

    script(monkeypatch, say)
    monkeypatch.setattr("veridical.builders.bdhs.require_masking", lambda *_: None)
    pictures[0].save(tmp_path / "0.png")
    message = assistant_message(answer)
    row = {"id": "a", "images": ["0.png"], "messages": [user_message("What?"), message]}
    text = {"id": "b", "images": [], "messages": [user_message("What?", 0), message]}
    write_jsonl(tmp_path / "data.jsonl", [row, text])
    policy.model.save_pretrained(tmp_path / "model")
    policy.processor.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    build_bdhs(
        str(tmp_path / "model"), tmp_path / "data.jsonl", out,
        bdhs=BDHSSettings(similarity="edit", cut="beginning", cut_words=1),
    )  # fmt: skip
    pair = read_records(out / "pairs.parquet", "preference").rows.remove_columns(["images"])[0]
    assert text_of(pair["chosen"]) == answer
    said = text_of(pair["rejected"])
    for space in ("\n  ", "\n\n1. ", "\n2. ", ".  ", " \n"):
        assert space in said
    assert said.startswith("\n  ") and said.endswith("X. \n")
    assert [row["id"] for row in read_jsonl(out / "skipped.jsonl")] == ["b"]
    summary = read_json(out / "summary.json")
    assert summary["pairs"] == 1 and summary["sentences"] == 4
    assert sum(summary["skipped_for"].values()) == 1


def test_noise_that_cannot_be_measured_or_is_weak_is_said(
    policy: Policy, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(policy: Any, requests: Any, *_: Any) -> list[Response]:
        return [Response(" a dog.", (), (), "sentence") for _ in requests]

    monkeypatch.setattr(algorithm, "respond", say)
    sources = sources_of(["There is a red cup."] * 2, pictures[0])

    def built(**values: Any) -> Any:
        return summarize(reject_answers(policy, sources, changed(variant="noise", **values)), 0)

    known = built()
    assert known["mean_noise_deviation"] > 0.2 and known["noise_not_measured"] == 0
    assert not [warning for warning in known["warnings"] if "oise" in warning]
    assert any("by only 0.0" in warning for warning in built(noise_steps=10)["warnings"])
    monkeypatch.setattr(algorithm, "deviation_left", lambda *_: None)
    unknown = built()
    assert unknown["mean_noise_deviation"] is None and unknown["noise_not_measured"] == 2
    assert any("For 2 pairs it could not be measured" in text for text in unknown["warnings"])
