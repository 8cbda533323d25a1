"""Whether a loaded model has all that the rest of the code asks of it, found out in one forward."""

from __future__ import annotations

import torch
from PIL import Image
from transformers import PreTrainedModel

from veridical.data.messages import assistant_message, user_message
from veridical.models.batching import row_batch
from veridical.models.conversation_checks import special_tokens
from veridical.models.finite import require_finite
from veridical.models.logprobs import response_logps
from veridical.models.policy import Policy, end_token_ids, image_token_id
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import Group, RefusedRowError, render_group
from veridical.runtime.errors import UserError
from veridical.runtime.lacking import is_memory_full
from veridical.runtime.progress import counted

TESTED = "docs/families.md lists the families that are tested; name a model of one of them."


def require_usable(policy: Policy) -> None:
    """Try every accessor, then one forward of one question about a gray picture.

    Raises:
        UserError: names the model and what it lacks, or what its own code raised.
    """
    who = f"{policy.name} ({type(policy.core).__name__})"
    missing = _missing(policy.core)
    if missing is not None:
        raise UserError(f"{who} can't be used: {missing}. {TESTED}")
    image_token_id(policy)
    _require_rows(policy, who)
    picture = Image.new("RGB", (64, 64), (127, 127, 127))
    try:
        group = _group(policy, picture)
        if group is not None:
            _try(policy, group)
    except RefusedRowsError as error:
        reason = next(iter(error.reasons.values()))
        raise UserError(f"{who} can't be used: on one question, {reason}\n{TESTED}") from error
    except UserError:
        raise
    except Exception as error:
        if is_memory_full(error):
            raise
        # Whatever a foreign processor or forward raises.
        lines = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{who} can't be used: on one question about a 64 x 64 picture its own code raised "
            f"{type(error).__name__}: {lines[0][:200]}\n{TESTED}"
        ) from error


def require_trainable(policy: Policy) -> None:
    """Refuse models that can be asked, but whose rows can't be laid out and proven for training.

    Raises:
        UserError: names the model and what it lacks.
    """
    core, missing = policy.core, None
    if getattr(core.config.get_text_config(), "cross_attention_layers", None):
        missing = (
            "its language model looks at images through cross-attention, not through image tokens "
            "among its input, which training counts on"
        )
    elif not any(hasattr(owner, "get_image_features") for owner in (core, core.model)):
        missing = "it does not give its image features (`get_image_features`)"
    if missing is not None:
        who = f"{policy.name} ({type(core).__name__})"
        raise UserError(f"{who} can't be trained: {missing}. {TESTED}")


def _missing(core: PreTrainedModel) -> str | None:
    """What a model's class or configuration lacks, in words; None if nothing."""
    if getattr(core, "model", None) is None:
        return "it has no `model` that gives hidden states without the head"
    accessors = {
        "its input embeddings": core.get_input_embeddings,
        "its output embeddings (the head)": core.get_output_embeddings,
        "its language model": core.get_decoder,
    }
    for what, accessor in accessors.items():
        try:
            found = accessor()
        except (AttributeError, NotImplementedError):
            found = None
        if found is None:
            return f"it does not give {what} (`{accessor.__name__}`)"
    return None


def _require_rows(policy: Policy, who: str) -> None:
    """Refuse a tokenizer whose tokens reach past the rows of the model's embeddings or head.

    Special tokens may, unless they pad or end: no text holds them, and what the template writes is
    tried in a forward. Placeholders are replaced by features, which some models do by their id.

    Raises:
        UserError: names the first such token.
    """
    tokenizer = policy.processor.tokenizer
    embeddings, head = policy.core.get_input_embeddings(), policy.core.get_output_embeddings()
    rows = [
        len(w) for w in (getattr(m, "weight", None) for m in (embeddings, head)) if w is not None
    ]
    needed = {tokenizer.pad_token_id, *end_token_ids(policy)} - {None}
    special = set(special_tokens(policy)) - set(tokenizer.convert_ids_to_tokens(sorted(needed)))
    beyond = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if rows and number >= min(rows) and token not in special
    )
    if beyond:
        number, token = beyond[0]
        raise UserError(
            f"{who} can't be used: its tokenizer has {counted(len(beyond), 'tokens')} that the "
            "model has no "
            f"row for ({token!r} is number {number}, and there are {min(rows)} rows). Save the "
            "model after `resize_token_embeddings(len(tokenizer))`, or its own tokenizer with it."
        )


def _group(policy: Policy, picture: Image.Image) -> Group | None:
    """A question with an answer; None where the template can't hold it, which rows will say."""
    prompt, answer = [user_message("What do you see?")], [assistant_message("A car.")]
    try:
        return render_group(policy, "one question", [picture], prompt, [answer])
    except RefusedRowError:
        return None


@torch.no_grad()
def _try(policy: Policy, group: Group) -> None:
    batch = row_batch(policy, [group])
    require_finite(policy, response_logps(policy.model, batch).sums, "log-probabilities")
