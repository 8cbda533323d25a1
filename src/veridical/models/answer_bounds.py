"""Where an answer begins and ends in the rendered conversation, and which tokens are its own."""

from __future__ import annotations

from veridical.data.text.thoughts import is_empty_thought
from veridical.models.policy import Policy, end_token_ids
from veridical.models.text_tokens import Tokens, tokenize
from veridical.models.turns import Rendered
from veridical.runtime.errors import RefusedRowError


def continuation_start(asked: Rendered, whole: Rendered) -> int:
    """From where on the whole conversation follows the prompt.

    The prompt is what the model is given, even where the template renders what precedes an answer
    otherwise later on. But it has to ask with what the answer is rendered behind. Other white
    space (LLaVA-OneVision) and an empty thought that is left out later make no difference.
    """
    turn = len(asked.spans)
    start, _ = answer_span(whole.spans[turn])
    if whole.text.startswith(asked.text) and len(asked.text) <= start:
        return len(asked.text)
    given = asked.text[_last_text(asked, turn) :]
    rendered = whole.text[_last_text(whole, turn) : start].rstrip()
    if rendered.split() == given.split():
        return start
    if given.startswith(rendered) and is_empty_thought(given[len(rendered) :]):
        return start
    raise RefusedRowError(
        "the chat template renders the prompt differently once the answer follows, "
        "so the answer's tokens can't be found"
    )


def _last_text(rendered: Rendered, turn: int) -> int:
    """Where the last text before a turn ends."""
    return max((span[1] for span in rendered.spans[:turn] if span), default=0)


def up_to_end(policy: Policy, text: str, stop: int) -> tuple[str, Tokens]:
    """The text up to the end token behind an answer, and its tokens.

    One is put where the answer stops if the template leaves it to the trainer (LLaVA-1.5's).
    """
    tokenizer, ends = policy.processor.tokenizer, end_token_ids(policy)
    tokens = tokenize(tokenizer, text)
    for i in range(len(tokens.ids)):
        begins = tokens.ends[i - 1] if i else 0
        if tokens.ids[i] in ends and begins >= stop:
            last = tokens.ends[i]
            return text[:last], Tokens(tokens.ids[: i + 1], tokens.ends[: i + 1])
    if tokenizer.eos_token is None:
        raise RefusedRowError("neither the template nor the tokenizer has an end token")
    text = text[:stop] + tokenizer.eos_token
    return text, tokenize(tokenizer, text)


def own_ids(prompt_text: str, prompt_ids: list[int], whole: Tokens) -> list[int]:
    """The response's tokens; those before it have to be the prompt's, as the model is asked."""
    count = whole.before(len(prompt_text))
    if whole.ids[:count] != prompt_ids:
        raise RefusedRowError(
            "the tokenizer reads the prompt differently once the answer follows, "
            "so the answer's tokens can't be found"
        )
    return whole.ids[count:]


def answer_span(span: tuple[int, int] | None) -> tuple[int, int]:
    """Where a turn's text stands in the rendered conversation.

    Raises:
        RefusedRowError: nowhere, as it is empty.
    """
    if span is None:
        raise RefusedRowError("the answer is empty")
    return span
