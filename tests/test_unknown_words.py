"""Words that a tokenizer does not know are named, once; special tokens and known words never."""

from __future__ import annotations

import pytest

from veridical import _tokens
from veridical._tokens import tokenise
from veridical.models import load_policy


def test_words_that_the_model_cannot_read_are_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tokens, "_SAID", set())
    tokenizer = load_policy("embedded", device="cpu").processor.tokenizer
    tokenise(tokenizer, "<s>There is a red car.</s><unk>")
    assert capsys.readouterr().err == ""
    tokenise(tokenizer, "There is a giraffe beside a zebra, a giraffe, an elephant and a yak.")
    said = capsys.readouterr().err
    assert "does not know 'giraffe', 'beside', 'zebra', ...: it reads <unk>" in said
    tokenise(tokenizer, "There is a zebra.")
    assert capsys.readouterr().err == ""
