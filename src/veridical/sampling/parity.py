"""Whether our decoding computes what the model's own `generate` does, tried once a model.

A forward pass of a single token has to be given everything that a family's own `generate` keeps
from step to step. What is left out raises nothing: the answers are only worse.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig

from veridical.data.messages import user_message
from veridical.models.policy import Policy
from veridical.models.positions import TOKEN_INPUTS, token_positions
from veridical.models.precision import is_half
from veridical.models.processing import process
from veridical.models.prompt_batches import prompt_batch
from veridical.models.prompt_texts import render_prompt
from veridical.models.refused_rows import RefusedRowsError
from veridical.models.rendering import RefusedRowError
from veridical.runtime.errors import UserError
from veridical.runtime.float64 import in_float64
from veridical.runtime.lacking import is_memory_full
from veridical.runtime.randomness import generator
from veridical.sampling.cache import APART, REPEATED, UNMIXED, CacheRows
from veridical.sampling.choice import never_sampled
from veridical.sampling.limits import EXACT, ROUNDING, allowed, rounding

TOKENS = 8
SIZES = ((64, 48), (90, 30))
"""Width and height of the pictures, in pixels: two shapes, small, so that it takes little time."""

QUESTION = "What is this?"

_TRIED: weakref.WeakSet[object] = weakref.WeakSet()


@dataclass(frozen=True)
class ParityExample:
    """A prompt, and what the model's own `generate` makes of it, alone and greedily.

    Attributes:
        images: none, or one.
        text: the rendered prompt.
        tokens: that it chose. Shape: (tokens,).
        logits: that it chose them from. Shape: (tokens, vocabulary).
    """

    images: list[Image.Image]
    text: str
    tokens: Tensor
    logits: Tensor

    @property
    def name(self) -> str:
        """For messages."""
        sizes = [f"a picture of {image.width} x {image.height}" for image in self.images]
        return sizes[0] if sizes else "a prompt without a picture"


@dataclass(frozen=True)
class Distance:
    """Where two ways to compute the same logits are furthest apart.

    Attributes:
        value: in units of the logits' spread over the vocabulary.
        example: which prompt.
        token: which token, counted from 1.
    """

    value: float
    example: int
    token: int


def require_parity(policy: Policy) -> None:
    """Compare our decoding with the model's own `generate`, once for each loaded model.

    Eight tokens are compared on pictures of two sizes and a prompt without one, in one batch of
    ours, where one row comes in later than the others and each leaves when it is done.

    Raises:
        UserError: they differ; names the model and where.
    """
    if policy.core in _TRIED:
        return
    _TRIED.add(policy.core)
    policy = replace(policy, vision=None)
    with torch.inference_mode():
        examples = stock_examples(policy)
        if not examples or not all(bool(e.logits.isfinite().any(-1).all()) for e in examples):
            return
        if any(bool((e.logits.isnan() | e.logits.isposinf()).any()) for e in examples):
            return  # the first answer that is asked for says so, and why
        fault = _fault_or_error(policy, examples, late=True)
        if fault is None:
            return
        again = _fault_or_error(policy, examples, late=False)
        kinds = [[e for e in examples if bool(e.images) is pictures] for pictures in (True, False)]
        if again is not None and all(kinds) and _differs_beside_others(policy, examples):
            again = next(
                (fault for kind in kinds if (fault := _fault_or_error(policy, kind, late=False))),
                None,
            )
            if again is None:
                UNMIXED.add(policy.core)
                print(
                    f"{type(policy.core).__name__}: in one batch, prompts without pictures are "
                    "answered otherwise than alone, so they get batches of their own."
                )
                if all(_fault_or_error(policy, kind, late=True) is None for kind in kinds):
                    return
    if again is not None:
        raise UserError(
            f"{policy.name} ({type(policy.core).__name__}) can't be sampled from here: {again}. "
            "Use another model, or take its answers from a server that runs it."
        )
    APART.add(policy.core)
    print(
        f"{type(policy.core).__name__}: rows can't come into a batch that has begun, so a batch "
        "goes on until its longest response ends."
    )


def _fault_or_error(policy: Policy, examples: Sequence[ParityExample], late: bool) -> str | None:
    try:
        return decoding_fault(policy, examples, late)
    except Exception as error:  # a foreign forward may raise anything
        if is_memory_full(error):
            raise  # it says nothing of the model
        return f"its forward raises {type(error).__name__} ({str(error)[:160]})"


def stock_examples(policy: Policy) -> list[ParityExample]:
    """What the model's own `generate` says, one prompt at a time, with no settings but ours."""
    examples = []
    refusal = ""
    for images in (*([picture(*size)] for size in SIZES), []):
        try:
            text = render_prompt(policy, [user_message(QUESTION, images=len(images))])
            tokens, logits = _generated(policy, images, text)
        except (RefusedRowError, RefusedRowsError) as error:
            refusal = getattr(error, "reason", str(error))[:120]
            continue  # PaliGemma's processor takes no prompt without a picture
        except Exception as error:  # a foreign `generate` may raise anything
            if is_memory_full(error):
                raise
            print(
                f"{type(policy.core).__name__}: its own `generate` fails, so our decoding could "
                f"not be compared with it ({type(error).__name__}: {str(error)[:120]})."
            )
            return []
        examples.append(ParityExample(images, text, tokens, logits))
    if not examples:
        print(
            f"{type(policy.core).__name__}: it takes none of the prompts of the comparison, so our "
            f"decoding could not be compared with its own `generate` ({refusal})."
        )
    return examples


def picture(width: int, height: int) -> Image.Image:
    """Noise: every patch is different, so that none can be taken for another."""
    drawn = generator(0, "parity picture", width, height).integers(0, 256, (height, width, 3))
    return Image.fromarray(drawn.astype(np.uint8))


def _generated(policy: Policy, images: list[Image.Image], text: str) -> tuple[Tensor, Tensor]:
    core = policy.core
    settings = GenerationConfig(
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=policy.processor.tokenizer.pad_token_id,
        suppress_tokens=never_sampled(policy) or None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    own, deltas = core.generation_config, getattr(core.model, "rope_deltas", None)
    # What a call leaves open is filled in from here.
    core.generation_config = GenerationConfig()
    try:
        inputs = process(policy, [images], [text], "left")
        output = core.generate(**inputs, generation_config=settings)
    finally:
        core.generation_config = own
        if hasattr(core.model, "rope_deltas"):
            core.model.rope_deltas = deltas
    return output.sequences[0, -TOKENS:], torch.cat(output.logits)


def decoding_fault(policy: Policy, examples: Sequence[ParityExample], late: bool) -> str | None:
    """What is wrong with our decoding; None if nothing is, or if the experiment can't tell.

    In half precision a fault is told from rounding by one that is made on purpose.

    Args:
        policy: the model.
        examples: from `stock_examples`.
        late: let a row come in later than the others.
    """
    stock = [example.logits for example in examples]
    found = distance(our_logits(policy, examples, late), stock)
    if not is_half(policy) and found.value <= EXACT:
        return None
    broken = distance(our_logits(policy, examples, late, shift=1), stock).value
    half = is_half(policy)
    if half and found.value <= allowed(half, 0.0, broken):
        return None
    floor = _floor(policy, examples) if half else 0.0
    if found.value <= rounding(floor):
        if broken <= rounding(floor):
            print(
                f"{type(policy.core).__name__}: in this dtype its own `generate` and forward are "
                f"as far apart ({floor:.2g} of the logits' spread) as a fault would "
                "move them, so our decoding could not be compared with it."
            )
        return None
    return (
        f"for {examples[found.example].name}, the logits of token {found.token} are not those of "
        f"its own `generate` (apart by {found.value:.2g} of their spread; positions that are one "
        f"too far move them by {broken:.2g})"
    )


def our_logits(
    policy: Policy, examples: Sequence[ParityExample], late: bool, shift: int = 0
) -> list[Tensor]:
    """The logits of our decoding while it is fed the stock tokens.

    Args:
        policy: the model.
        examples: the prompts with their tokens.
        late: let every second prompt come in after two tokens.
        shift: added to every position of the answers: a fault, made on purpose.

    Returns:
        Shape of each: (tokens, vocabulary).
    """
    waiting = list(range(len(examples)))[1::2] if late else []
    batches = _that_can_be_read(policy, examples, [i for i in range(len(examples))
                                                   if i not in waiting])  # fmt: skip
    found: dict[int, list[Tensor]] = {number: [] for number in range(len(examples))}
    for place, (rows, numbers) in enumerate(batches):
        rows.next = rows.next + shift
        while numbers:
            if place == 0 and waiting and len(found[numbers[0]]) == 2 and rows.can_be_joined():
                (new, others), *_ = _that_can_be_read(policy, examples, waiting)
                new.next = new.next + shift
                rows.join(new)
                numbers, waiting = numbers + others, []
            logits = rows.take_logits()
            for number, row in zip(numbers, logits, strict=True):
                found[number].append(row)
            going = [row for row, number in enumerate(numbers) if len(found[number]) < TOKENS]
            numbers = [numbers[row] for row in going]
            if numbers:
                rows.select(going)
                rows.trim()
                fed = [examples[number].tokens[len(found[number]) - 1] for number in numbers]
                rows.feed(torch.stack(fed))
        if place == len(batches) - 1 and waiting:
            batches += _that_can_be_read(policy, examples, waiting)
            waiting = []
    return [torch.stack(found[number]) for number in range(len(examples))]


def _that_can_be_read(
    policy: Policy, examples: Sequence[ParityExample], numbers: list[int]
) -> list[tuple[CacheRows, list[int]]]:
    """One batch; some processors take no prompts without pictures beside others with some."""

    def read(some: list[int]) -> tuple[CacheRows, list[int]]:
        images = [examples[number].images for number in some]
        texts = [examples[number].text for number in some]
        return CacheRows(policy.core, prompt_batch(policy, images, texts)), some

    try:
        return [read(numbers)]
    except (ValueError, TypeError, IndexError, RuntimeError):
        if len(numbers) == 1:
            raise
        return [read([number]) for number in numbers]


def _floor(policy: Policy, examples: Sequence[ParityExample]) -> float:
    """How far apart stock paths are: `generate`, a forward pass, and one in a padded batch."""
    alone = [_read_at_once(policy, [example])[0] for example in examples]
    floor = distance(alone, [example.logits for example in examples]).value
    try:
        together = _read_at_once(policy, examples)
    except (ValueError, TypeError, IndexError, RuntimeError):
        return floor  # not all processors take such a batch
    return max(floor, distance(together, alone).value)


def _differs_beside_others(policy: Policy, examples: Sequence[ParityExample]) -> bool:
    """Whether a stock forward of all prompts is far from those of each: no fault of ours."""
    try:
        together = _read_at_once(policy, examples)
    except (ValueError, TypeError, IndexError, RuntimeError):
        return False
    alone = [_read_at_once(policy, [example])[0] for example in examples]
    return distance(together, alone).value > ROUNDING


def _read_at_once(policy: Policy, examples: Sequence[ParityExample]) -> list[Tensor]:
    """The stock forward's logits of the tokens, without a cache."""
    images, texts = [e.images for e in examples], [e.text for e in examples]
    inputs = process(policy, images, texts, "left")
    tokens = torch.stack([example.tokens[:-1] for example in examples])
    start = inputs["input_ids"].shape[1] - 1
    more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    for name, value in inputs.items():
        if name in TOKEN_INPUTS:
            inputs[name] = torch.cat([value, more.get(name, torch.zeros_like(tokens))], -1)
        elif name in REPEATED:
            inputs[name] = torch.cat([value, *[value[:, -1:]] * (TOKENS - 1)], 1)
    inputs["position_ids"] = token_positions(policy.core, inputs)
    return list(policy.core(**inputs).logits[:, start:])


def distance(ours: Sequence[Tensor], stock: Sequence[Tensor]) -> Distance:
    """Root mean square of the difference, in units of the logits' own spread, at its largest.

    A shift of all logits of a token is none; tokens that a model rules out do not count.
    """
    worst = Distance(0.0, 0, 1)
    for example, (mine, theirs) in enumerate(zip(ours, stock, strict=True)):
        exact = zip(in_float64(mine), in_float64(theirs), strict=True)
        for token, pair in enumerate(exact, start=1):
            value = _apart(*pair)
            if not value <= worst.value:
                worst = Distance(value, example, token)
    return worst


def _apart(mine: Tensor, theirs: Tensor) -> float:
    usual = (theirs > theirs.max() - 1e3) & (mine > mine.max() - 1e3)
    difference = (mine - theirs)[usual]
    spread = theirs[usual].std().clamp(min=1e-12)
    return float((difference - difference.mean()).square().mean().sqrt() / spread)
