"""Words that a tokenizer does not know are named, once; special tokens and known words never."""

from __future__ import annotations

import pytest

from veridical.models import text_tokens
from veridical.models.load import load_policy
from veridical.models.text_tokens import tokenize


def test_words_that_the_model_cannot_read_are_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(text_tokens, "_SAID", set())
    tokenizer = load_policy("embedded", device="cpu").processor.tokenizer
    tokenize(tokenizer, "<s>There is a red car.</s><unk>")
    assert capsys.readouterr().err == ""
    tokenize(tokenizer, "There is a giraffe beside a zebra, a giraffe, an elephant and a yak.")
    said = capsys.readouterr().err
    assert "does not know 'giraffe', 'beside', 'zebra', ...: it reads <unk>" in said
    tokenize(tokenizer, "There is a zebra.")
    assert capsys.readouterr().err == ""
