"""A text's tokens with the place in the text where each ends.

A text is tokenized once, as a whole, and boundaries in it are mapped onto its tokens. Tokenizing
a beginning by itself would be another text to a tokenizer.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from tokenizers.processors import TemplateProcessing

from veridical.runtime.errors import RefusedRowError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer makes of a text.

    Attributes:
        ids: the tokens.
        ends: where in the text each token ends, in characters, never falling. Each begins where
            the one before it ends: some tokenizers leave the space before a word out of its span.
    """

    ids: list[int]
    ends: list[int]

    def before(self, place: int) -> int:
        """How many tokens make up the text before a place.

        Raises:
            RefusedRowError: a token reaches across it.
        """
        count = bisect_right(self.ends, place)
        if place and (count == 0 or self.ends[count - 1] != place):
            raise RefusedRowError(
                "the tokenizer joins the end of a turn's beginning with what follows, "
                "so the answer's tokens can't be found"
            )
        return count


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """Tokenize a rendered text, adding nothing to it.

    Where a tokenizer has no offsets (a slow one), decoding shows where its tokens end: tokens that
    decode to a beginning of the text end where that does. It has to give the whole text back.

    Raises:
        RefusedRowError: it has no offsets and does not give the text back.
    """
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = [int(end) for _, end in encoded["offset_mapping"]]
        tokens = Tokens(list(encoded["input_ids"]), list(accumulate(spans, max)))
        _say_unknown(tokenizer, text, tokens)
        return tokens
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ends: list[int] = []
    for count in range(1, len(ids) + 1):
        written = _decoded(tokenizer, ids[:count])
        if text.startswith(written):
            # A character of several tokens ends with the last of them, and so do they all.
            ends += [len(written)] * (count - len(ends))
    if len(ends) != len(ids) or (ends[-1] if ends else 0) != len(text):
        raise RefusedRowError(
            "the tokenizer has no offsets and does not give this text back, "
            "so the answer's tokens can't be found"
        )
    return Tokens(ids, ends)


def _say_unknown(tokenizer: PreTrainedTokenizerBase, text: str, tokens: Tokens) -> None:
    """Print, once for a tokenizer, which words of a text it does not know.

    Only small vocabularies of whole words lack any, such as the embedded model's.
    """
    unknown, mark = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "unk_token", "")
    if unknown not in tokens.ids or tokenizer.name_or_path in _SAID:
        return
    starts = (0, *tokens.ends)
    pieces = zip(tokens.ids, starts, tokens.ends, strict=False)
    words = [text[start:end].strip() for token, start, end in pieces if token == unknown]
    words = [word for word in dict.fromkeys(words) if word and word != mark]
    if words:
        _SAID.add(tokenizer.name_or_path)
        named = ", ".join(map(repr, words[:3])) + (", ..." if len(words) > 3 else "")
        print(
            f"Note: the model's tokenizer does not know {named}: it reads {mark} there, and can "
            "neither learn nor say such words. (The embedded model knows those of `veridical world "
            "make`.) Other texts are not named.",
            file=sys.stderr,
        )


_SAID: set[str] = set()


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    return text


def stop_adding_ends(tokenizer: PreTrainedTokenizerBase, model: str) -> str:
    """Keep a tokenizer from adding a token behind every text; what it adds before stays.

    Args:
        tokenizer: it is changed.
        model: what the model is called in an error.

    Returns:
        What it added, as text; empty where it adds nothing.

    Raises:
        UserError: it can't be kept from it.
    """
    before, behind = _added(tokenizer)
    if not behind:
        return ""
    if getattr(tokenizer, "add_eos_token", False):
        tokenizer.add_eos_token = False
    if _added(tokenizer)[1] and getattr(tokenizer, "is_fast", False):
        names = tokenizer.convert_ids_to_tokens(before)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*names, "$A"],
            pair=[*names, "$A", "$B:1"],
            special_tokens=list(zip(names, before, strict=True)),
        )
    if _added(tokenizer) != (before, []):
        raise UserError(
            f"The tokenizer of {model} adds {tokenizer.decode(behind)} behind every text, which "
            "ends each answer before it begins, and can't be kept from it. Save it with "
            "add_eos_token=False."
        )
    return str(tokenizer.decode(behind, skip_special_tokens=False))


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens that a tokenizer puts before and behind a text."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    return [], []
