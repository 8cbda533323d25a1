"""What prompts have in common is read once: images, questions, the beginning of an answer.

The longest prompt of some that begin alike is read whole. The others take from its cache what they
share, and only the rest of their tokens is read behind that.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from PIL import Image
from torch import Tensor

from veridical.data.images import ImageLike, image_key
from veridical.data.messages import user_message
from veridical.models.policy import Policy, image_token_id
from veridical.models.positions import special_layers
from veridical.models.precision import is_half
from veridical.models.prompt_batches import Branch, PromptBatch, prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import RefusedRowError
from veridical.runtime.lacking import is_memory_full
from veridical.sampling.cache import CacheRows
from veridical.sampling.limits import EXACT, ROUNDING, allowed
from veridical.sampling.parity import QUESTION, SIZES, distance, picture

BEGUN, OTHER = "It shows a small red cup on a table.", "It shows a small dog."
"""Two answers that begin alike, for the experiment."""

_SHARES: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Plan:
    """Which prompts are read whole, and how the others begin as those do.

    Attributes:
        whole: the numbers of those that are read whole.
        branches: for every prompt, the place in `whole` of the one that it begins as, and how many
            tokens of the two lists are the same; always fewer than it has, as the last token is
            read anew for its logits.
    """

    whole: list[int]
    branches: list[tuple[int, int]]

    @property
    def shares(self) -> bool:
        """Whether any prompt is spared."""
        return len(self.whole) < len(self.branches)


def plan(
    tokens: Sequence[Sequence[int]], families: Sequence[Hashable], before: Sequence[int]
) -> Plan:
    """Decide which prompts are read whole.

    One that would have to read more than half of its tokens anew is read whole too.

    Args:
        tokens: of every prompt, the part that can differ within its family; at least one.
        families: prompts of one family have the same tokens before that part.
        before: how many those are.
    """
    whole: list[int] = []
    branches: list[tuple[int, int]] = [(0, 0)] * len(tokens)
    known: dict[Hashable, list[int]] = {}
    for number in sorted(range(len(tokens)), key=lambda n: -len(tokens[n])):
        own, places = tokens[number], known.setdefault(families[number], [])
        best = max(((_common(tokens[whole[p]], own), -p) for p in places), default=(0, 1))
        shared = min(best[0], len(own) - 1)
        if best[1] == 1 or 2 * (len(own) - shared) > before[number] + len(own):
            whole.append(number)
            places.append(len(whole) - 1)
            branches[number] = (len(whole) - 1, len(own) - 1)
        else:
            branches[number] = (-best[1], shared)
    return Plan(whole, branches)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def with_branches(batch: PromptBatch, found: Plan, tokens: Sequence[Sequence[int]]) -> PromptBatch:
    """A batch of the prompts that are read whole, made to stand for all.

    Args:
        batch: those of `found.whole`.
        found: the plan.
        tokens: as `plan` was given them; each is the end of its prompt.
    """
    lengths = batch.lengths.tolist()
    branches = [
        Branch(place, lengths[place] - len(tokens[found.whole[place]]) + shared,
               list(tokens[number][shared:]))
        for number, (place, shared) in enumerate(found.branches)
    ]  # fmt: skip
    return replace(batch, branches=tuple(branches))


def shared_prompt_batch(
    policy: Policy, images: Sequence[Sequence[ImageLike]], texts: Sequence[str]
) -> PromptBatch:
    """What `prompt_batch` gives, with what prompts have in common laid out once.

    Tokens are compared as they are before the processor puts an image's tokens in their places.
    Only what stands behind the last image may differ.
    """
    if len(texts) == 1 or not can_share(policy):
        return prompt_batch(policy, images, texts)
    tokens = _ids(policy, texts)
    families = [tuple(map(image_key, own)) for own in images]
    found = plan(tokens, families, [0] * len(tokens))
    if not found.shares:
        return prompt_batch(policy, images, texts)
    try:
        batch = prompt_batch(
            policy, [images[n] for n in found.whole], [texts[n] for n in found.whole]
        )
    except RefusedRowsError:
        # It counts the prompts that are read whole; all of them have to be told by their own place.
        return prompt_batch(policy, images, texts)
    if not _ends_alike(policy, batch, found, tokens):
        return prompt_batch(policy, images, texts)
    return with_branches(batch, found, tokens)


def _ids(policy: Policy, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = policy.processor.tokenizer
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def _ends_alike(
    policy: Policy, batch: PromptBatch, found: Plan, tokens: Sequence[Sequence[int]]
) -> bool:
    """Whether the processor left what prompts do not share as it was: no image stands there."""
    rows, image = batch.inputs["input_ids"].tolist(), image_token_id(policy)
    least = [len(tokens[n]) - 1 for n in found.whole]
    for number, (place, shared) in enumerate(found.branches):
        least[place] = min(least[place], shared)
        if image in tokens[number][shared:]:
            return False
    ends = [tokens[number][kept:] for number, kept in zip(found.whole, least, strict=True)]
    return all(row[-len(end) :] == list(end) and image not in end
               for row, end in zip(rows, ends, strict=True))  # fmt: skip


def can_share(policy: Policy) -> bool:
    """Whether prompts of this model can take what they share from one cache; tried once a model.

    Not where layers keep a window or a running state, or where a token sees later ones. It is found
    out on a picture's prompt: what is read behind a shared beginning has to give the logits of the
    prompt that is read whole.
    """
    core = policy.core
    if core not in _SHARES:
        _SHARES[core] = special_layers(core) is None and _tried(replace(policy, vision=None))
    return _SHARES[core]


def _tried(policy: Policy) -> bool:
    try:
        prompt = [user_message(QUESTION)]
        texts = [render_prompt(policy, prompt, answer.rstrip()) for answer in (BEGUN, OTHER)]
        with torch.inference_mode():
            return _is_near(policy, [picture(*SIZES[0])], texts)
    except RefusedRowError:
        return False
    except Exception as error:  # a foreign forward may raise anything
        if is_memory_full(error):
            raise  # it says nothing of the model: fewer rows are tried, and it is found out then
        print(
            f"{type(policy.core).__name__}: every prompt is read whole, since what prompts share "
            f"can't be read once ({type(error).__name__}: {str(error)[:120]})."
        )
        return False


def _is_near(policy: Policy, images: list[Image.Image], texts: list[str]) -> bool:
    tokens = _ids(policy, texts)
    found = plan(tokens, [0, 0], [0, 0])
    whole = prompt_batch(policy, [images], texts[:1])
    if not found.shares or not _ends_alike(policy, whole, found, tokens):
        return False
    batch = with_branches(whole, found, tokens)
    if not CacheRows(policy.core, whole).can_branch():
        return False
    alone = [_logits(policy, prompt_batch(policy, [images], [text])) for text in texts]
    stock, ours = _split(torch.cat(alone)), _split(_logits(policy, batch))
    if not all(bool(logits.isfinite().any()) for logits in (*stock, *ours)):
        return False  # the first answer that is asked for says so, and why
    apart, limit = distance(ours, stock).value, EXACT
    if is_half(policy):
        together = _logits(policy, prompt_batch(policy, [images] * 2, texts))
        floor = distance(_split(together), stock).value
        broken = [replace(branch, shared=branch.shared - 1) for branch in batch.branches]
        fault = _logits(policy, replace(batch, branches=tuple(broken)))
        moved = distance(_split(fault), stock).value
        limit = allowed(True, floor, moved, most=ROUNDING)
    if not apart <= limit:
        print(
            f"{type(policy.core).__name__}: every prompt is read whole, since reading once what "
            f"prompts share moves its logits by {apart:.2g} of their spread (limit {limit:.2g})."
        )
    return apart <= limit


def _logits(policy: Policy, batch: PromptBatch) -> Tensor:
    return CacheRows(policy.core, batch).take_logits()


def _split(logits: Tensor) -> list[Tensor]:
    """For `distance`: one token of each prompt. Shape of each: (1, vocabulary)."""
    return list(logits.unsqueeze(1))
