"""How long prompts are in tokens, images included, and which do not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from veridical.data.images import ImageLike, size_of
from veridical.models.policy import Policy
from veridical.models.processing import process
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.lacking import is_memory_full
from veridical.runtime.progress import track

CHECKED = 6
"""Prompts on which counting is compared with the processor, the oddest image sizes among them."""

NEAR = 16
"""Tokens, and as many more an image: a row that is this near to the limit is measured."""

Prompt = tuple[tuple[ImageLike, ...], str]


class CannotCountError(Exception):
    """A processor cannot say how many tokens an image has; with its reason."""


@dataclass(frozen=True)
class Counting:
    """How a prompt's tokens are counted without its pictures' pixels.

    Attributes:
        policy: whose processor counts.
        extra: tokens an image adds beside those that the processor says: marks around it, less
            the placeholder in the text.
        by_size: image tokens by width and height, filled as sizes are met.
        refused: sizes of the images in prompts that were tried and refused, where no prompt with
            such an image was taken.
    """

    policy: Policy
    extra: int
    by_size: dict[tuple[int, int], int]
    refused: frozenset[tuple[int, int]] = frozenset()

    def length(self, prompt: Prompt) -> int:
        """Tokens of a prompt.

        Raises:
            CannotCountError: the processor cannot say, or refused an image of such a size.
        """
        images, text = prompt
        counted = sum(self._image(size_of(image)) for image in images)
        return _text_tokens(self.policy, text) + counted + self.extra * len(images)

    def _image(self, size: tuple[int, int]) -> int:
        if size in self.refused:
            raise CannotCountError("its processor refused an image of that size")
        if size not in self.by_size:
            self.by_size[size] = _image_tokens(self.policy, size)
        return self.by_size[size]


@dataclass(frozen=True)
class Checked:
    """Groups by the lengths of their prompts.

    Attributes:
        fit: those that can be trained on, with their `prompt_tokens`.
        refused: {group id: (field, reason)} of the others: `length` for rows that are too long,
            `images` for those that the processor refuses.
    """

    fit: list[Group]
    refused: dict[str, tuple[str, str]]


def check_lengths(policy: Policy, groups: Sequence[Group], max_length: int | None) -> Checked:
    """Count the tokens of all prompts, and tell which groups are too long; prompts are never cut.

    A prompt and its longest response must fit. Image tokens are counted from image sizes where the
    model's processor can say them and a few rows confirm it; else, and near the limit, the
    processor makes the prompt. Several processes share the work.

    Args:
        policy: whose processor counts the image tokens.
        groups: what is to be trained on.
        max_length: in tokens, image tokens included; None for no limit.
    """
    ranks = processes.gather(processes.rank())
    mine = groups[ranks.index(processes.rank()) :: len(ranks)]
    counts = counting(policy, [prompt for group in mine for prompt in prompts_of(group)])
    _say_measured(counts)
    nothing: tuple[int, ...] = ()
    lengths = len(groups) * [nothing]
    refused: dict[str, tuple[str, str]] = {}
    parts = processes.gather(_checked(policy, mine, max_length, counts))
    for place, (own, why) in enumerate(parts):
        lengths[place :: len(parts)] = own
        refused |= why
    return Checked(
        [
            dataclasses.replace(group, prompt_tokens=length)
            for group, length in zip(groups, lengths, strict=True)
            if group.id not in refused
        ],
        {group.id: refused[group.id] for group in groups if group.id in refused},
    )


def counting(policy: Policy, prompts: Sequence[Prompt]) -> Counting | str:
    """How to count; the reason if the processor cannot, or a few prompts come out otherwise."""
    if not hasattr(policy.processor, "_get_num_multimodal_tokens"):
        return "its processor does not say how many tokens an image has"
    chosen = _oddest([prompt for prompt in prompts if prompt[0]])
    if not chosen:
        return Counting(policy, 0, {})
    real: list[tuple[Prompt, int]] = []
    refused: set[tuple[int, int]] = set()
    for prompt in chosen:
        # A picture that is refused says nothing of how others are counted.
        try:
            real.append((prompt, measured(policy, prompt)))
        except RefusedRowsError:
            refused.update(size_of(image) for image in prompt[0])
    if not real:
        return "its processor refuses every prompt that was tried"
    first, length = real[0]
    plain = Counting(policy, 0, {})
    try:
        extra, rest = divmod(length - plain.length(first), len(first[0]))
        counts = Counting(policy, extra, plain.by_size)
        wrong = [(counts.length(prompt), length) for prompt, length in real]
    except CannotCountError as error:
        return str(error)
    wrong = [pair for pair in wrong if pair[0] != pair[1]]
    if rest or wrong:
        counted, there = wrong[0] if wrong else (length - rest, length)
        return f"it would count {counted} tokens where there are {there}"
    taken = {size_of(image) for prompt, _ in real for image in prompt[0]}
    return dataclasses.replace(counts, refused=frozenset(refused - taken))


def _say_measured(counts: Counting | str) -> None:
    """Say once why any process measures; each has rows of its own, and may count them alone."""
    found = processes.gather(counts if isinstance(counts, str) else None)
    why = next((reason for reason in found if reason is not None), None)
    if why is not None and processes.is_first():
        print(f"Lengths are measured picture by picture, which takes longer: {why}.")


def measured(policy: Policy, prompt: Prompt) -> int:
    """Tokens of a prompt as the processor makes it.

    Raises:
        RefusedRowsError: it does not.
    """
    images, text = prompt
    return int(process(policy, [images], [text], "right")["input_ids"].shape[1])


def _checked(
    policy: Policy, groups: Sequence[Group], max_length: int | None, counts: Counting | str
) -> tuple[list[tuple[int, ...]], dict[str, tuple[str, str]]]:
    """Tokens of each group's prompts, and which are refused."""
    lengths: list[tuple[int, ...]] = []
    refused: dict[str, tuple[str, str]] = {}
    for group in track(groups, "measuring prompts"):
        longest = max(len(ids) for ids in group.response_ids)
        room = None if max_length is None else max_length - longest
        try:
            lengths.append(_prompt_lengths(policy, counts, group, room))
        except RefusedRowsError as error:
            lengths.append(())
            refused[group.id] = ("images", error.reason)
            continue
        length = max(lengths[-1])
        if room is not None and length > room:
            refused[group.id] = (
                "length",
                f"prompt of {length} tokens and response of {longest} exceed {max_length} tokens",
            )
    return lengths, refused


def _prompt_lengths(
    policy: Policy, counts: Counting | str, group: Group, room: int | None
) -> tuple[int, ...]:
    """Tokens of each response's prompt; one that several share is counted once."""
    known = {
        (id(images), text): prompt_length(policy, counts, (images, text), room)
        for images, text in prompts_of(group)
    }
    return tuple(
        known[id(group.images_of(i)), group.prompt_of(i)] for i in range(len(group.response_ids))
    )


def prompt_length(policy: Policy, counts: Counting | str, prompt: Prompt, room: int | None) -> int:
    """Tokens of a prompt, counted where that is sure, and made by the processor near the limit.

    Args:
        policy: whose processor makes it.
        counts: from `counting`.
        prompt: images and rendered text.
        room: the limit, in tokens; None for no limit.

    Raises:
        RefusedRowsError: the processor refuses it.
    """
    if isinstance(counts, Counting):
        try:
            length = counts.length(prompt)
        except CannotCountError:  # a size that it cannot count: the processor has the last word
            return measured(policy, prompt)
        if room is None or abs(length - room) > NEAR * (1 + len(prompt[0])):
            return length
    return measured(policy, prompt)


def prompts_of(group: Group) -> list[Prompt]:
    """The distinct prompts of a group: responses with images of their own have their own."""
    seen = [(group.images_of(i), group.prompt_of(i)) for i in range(len(group.response_ids))]
    first, text = seen[0]
    others = [one for one in seen[1:] if one[0] is not first or one[1] != text]
    return [seen[0], *others]


def _oddest(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The first, and those with the smallest, largest, widest, tallest, and most images."""
    if not prompts:
        return []
    firsts = [(size_of(images[0]), number) for number, (images, _) in enumerate(prompts)]
    orders: Iterable[Any] = (
        lambda item: item[0][0] * item[0][1],
        lambda item: -item[0][0] * item[0][1],
        lambda item: item[0][0] / item[0][1],
        lambda item: item[0][1] / item[0][0],
        lambda item: -len(prompts[item[1]][0]),
    )
    numbers = [0, *(min(firsts, key=order)[1] for order in orders)]
    return [prompts[number] for number in dict.fromkeys(numbers)][:CHECKED]


def _text_tokens(policy: Policy, text: str) -> int:
    tokenizer = policy.processor.tokenizer
    bos = tokenizer.bos_token
    special = not (bos and text.startswith(bos))
    return len(tokenizer(text, add_special_tokens=special)["input_ids"])


def _image_tokens(policy: Policy, size: tuple[int, int]) -> int:
    width, height = size
    try:
        made = policy.processor._get_num_multimodal_tokens(image_sizes=[[height, width]])
        (count,) = made["num_image_tokens"]
        return int(count)
    # A private method of others' code, and nothing of ours.
    except Exception as error:
        if is_memory_full(error):
            raise
        raise CannotCountError(
            f"its processor fails to count the tokens of an image of {width} x {height} "
            f"({type(error).__name__}: {str(error)[:120]})"
        ) from error
