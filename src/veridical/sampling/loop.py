"""The loop in which everything that is sampled on this machine is sampled.

A batch of rows is continued a token at a time. A row that ends leaves, and makes room for the next
one that waits. What a row says depends on its prompt, on its own noise and on nothing beside it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice

import torch
from torch import Tensor

from veridical.data.responses import Response, StopReason
from veridical.models.finite import not_finite
from veridical.models.policy import Policy, end_token_ids
from veridical.models.precision import free_bytes
from veridical.models.prompt_batches import PromptBatch
from veridical.runtime.errors import UserError
from veridical.runtime.full_memory import memory_errors_alike
from veridical.sampling.cache import UNMIXED, CacheRows
from veridical.sampling.choice import NO_NUMBER, ChosenTokens, choose, never_sampled, token_noise
from veridical.sampling.parity import require_parity
from veridical.sampling.reader import SentenceEnd
from veridical.sampling.requests import Decoding
from veridical.sampling.truncation import hold_ends, truncate, untruncated_logps

READ_EVERY = 4
"""Steps between two looks at what was chosen, where looking makes an accelerator wait (our
choice): a row runs on past its end for two steps on average."""

REFILL = 4
"""New rows come in when a batch is empty by one part in so many (our choice): reading prompts one
by one would cost more than the places that stay empty."""

FREE_SHARE = 0.8
"""Of the free memory, how much the rows' keys and values may take until they end (our choice): the
rest is for what a forward pass needs in between."""

_ROOM: weakref.WeakKeyDictionary[object, dict[int, int]] = weakref.WeakKeyDictionary()
"""For models with which memory has run out, how many rows are tried, by `max_new_tokens`."""

ReadPrompts = Callable[[list[int]], PromptBatch]


@dataclass(frozen=True)
class Draw:
    """One response to be made.

    Attributes:
        key: keys its noise.
        prompt: the number of the prompt; draws with the same number that follow each other share
            what is read of it.
        pictures: whether the prompt has any.
        sentence: follows the row to its first sentence's end, if it is to stop there.
    """

    key: str
    prompt: int
    pictures: bool
    sentence: SentenceEnd | None = None


def decode(
    policy: Policy,
    draws: Sequence[Draw],
    read: ReadPrompts,
    decoding: Decoding,
    with_logps: bool = False,
) -> Iterator[tuple[int, Response]]:
    """Make every draw.

    Args:
        policy: who answers.
        draws: what is to be made.
        read: lays out the prompts with these numbers, padded on the left.
        decoding: how tokens are chosen.
        with_logps: compute the tokens' log-probabilities.

    Yields:
        The number of a draw and its response, as soon as it is finished: tokens without a text,
        which a `Reader` reads.

    Raises:
        UserError: the model's logits are NaN or infinite, or memory holds not even one row.
    """
    require_parity(policy)
    if policy.core in UNMIXED and len({draw.pictures for draw in draws}) > 1:
        yield from _decode_apart(policy, draws, read, decoding, with_logps)
        return
    waiting = deque(enumerate(draws))
    table: _Table | None = None
    new: _Table | None = None
    size = _rows_to_try(policy, decoding)
    while waiting or table:
        taken = _take(waiting, table, size) if waiting else []
        begun = sorted([*(table.numbers if table else []), *(number for number, _ in taken)])
        finished: list[tuple[int, Response]] | None = None
        try:
            with memory_errors_alike(), torch.inference_mode():
                if taken:
                    new = _Table(policy, taken, read, decoding, with_logps)
                    table = new if table is None else table.joined(new)
                    new = None  # its cache is copied
                    back = table.without_room(len(taken))
                    size = len(table) if back else size
                    begun = sorted(table.numbers)
                    waiting.extendleft((number, draws[number]) for number in reversed(back))
                assert table is not None
                finished = table.step()
        except torch.OutOfMemoryError as error:
            if len(begun) == 1:
                raise UserError(no_room_to_sample(policy, decoding)) from error
        # Only here do the error's frames hold nothing any more.
        if finished is None:
            # They say the same again, as their noise is the same.
            new = table = None
            size = _halved(policy, decoding, len(begun))
            waiting.extendleft((number, draws[number]) for number in reversed(begun))
            continue
        yield from finished
        table = table or None


def _decode_apart(
    policy: Policy, draws: Sequence[Draw], read: ReadPrompts, decoding: Decoding, with_logps: bool
) -> Iterator[tuple[int, Response]]:
    """Make the draws with pictures, then those without: the model does not take both together."""
    for pictures in (True, False):
        numbers = [n for n, draw in enumerate(draws) if draw.pictures is pictures]
        part = [draws[number] for number in numbers]
        for number, said in decode(policy, part, read, decoding, with_logps):
            yield numbers[number], said


def no_room_to_sample(policy: Policy, decoding: Decoding) -> str:
    """What to do where not even one response fits."""
    return (
        f"The memory of {policy.device} does not hold {policy.name} and one response of up to "
        f"{decoding.max_new_tokens} tokens. Set a smaller --max-new-tokens, --dtype bfloat16, or "
        "another --device."
    )


def _rows_to_try(policy: Policy, decoding: Decoding) -> int:
    """The batch size, or what is left of it where memory ran out for responses no longer."""
    known = _ROOM.get(policy.core, {}).items()
    found = (rows for tokens, rows in known if tokens <= decoding.max_new_tokens)
    return min((decoding.batch_size, *found))


def _halved(policy: Policy, decoding: Decoding, rows: int) -> int:
    """Take half as many rows from now on, in later calls for responses as long or longer too."""
    size = _ROOM.setdefault(policy.core, {})[decoding.max_new_tokens] = rows // 2
    print(f"Memory ran out with {rows} responses at once; {size} at once give the same ones.")
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
    return size


def _take(
    waiting: deque[tuple[int, Draw]], table: _Table | None, size: int
) -> list[tuple[int, Draw]]:
    """The next draws that find room; a prompt's stay together unless they fill a batch alone."""
    free = size - (len(table) if table else 0)
    if table is not None and (free * REFILL < size or not table.rows.can_be_joined()):
        return []
    taken: list[tuple[int, Draw]] = []
    while waiting:
        _, same_prompt = next(groupby(waiting, key=_prompt))
        same = list(islice(same_prompt, size))
        if len(taken) + len(same) > free:
            break
        taken += same
        for _ in same:
            waiting.popleft()
    return taken


def _prompt(numbered: tuple[int, Draw]) -> int:
    return numbered[1].prompt


@dataclass
class _Unfinished:
    """A response so far."""

    prompt_tokens: int
    token_ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    stop_reason: StopReason = "length"

    def response(self) -> Response:
        """Once it has ended."""
        return Response(
            "", tuple(self.token_ids), tuple(self.logps), self.stop_reason,
            prompt_tokens=self.prompt_tokens,
        )  # fmt: skip


class _Table:
    """Rows that are being continued, with whose they are."""

    def __init__(
        self,
        policy: Policy,
        taken: Sequence[tuple[int, Draw]],
        read: ReadPrompts,
        decoding: Decoding,
        with_logps: bool,
    ) -> None:
        self.policy, self.decoding, self.with_logps = policy, decoding, with_logps
        prompts = list(dict.fromkeys(draw.prompt for _, draw in taken))
        batch = read(prompts)
        self.rows = CacheRows(policy.core, batch)
        place = {prompt: row for row, prompt in enumerate(prompts)}
        places = [place[draw.prompt] for _, draw in taken]
        self.rows.select(places)
        self.numbers = [number for number, _ in taken]
        self.sentences = [draw.sentence for _, draw in taken]
        # A cache's own lengths count the columns that it was widened by.
        lengths = batch.prompt_lengths
        self.said = [_Unfinished(lengths[row]) for row in places]
        device, limit = policy.device, decoding.max_new_tokens
        keys = [draw.key for _, draw in taken]
        self.noise = token_noise(decoding.seed, keys, limit, device)
        self.steps = torch.zeros(len(keys), dtype=torch.long, device=device)
        self.banned = torch.tensor(never_sampled(policy), dtype=torch.long, device=device)
        self.ends = end_token_ids(policy)
        self.unread: list[tuple[Tensor, Tensor | None]] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def joined(self, other: _Table) -> _Table:
        """With another table's rows behind one's own."""
        self.rows.join(other.rows)
        self.numbers += other.numbers
        self.sentences += other.sentences
        self.said += other.said
        self.noise = torch.cat([self.noise, other.noise])
        self.steps = torch.cat([self.steps, other.steps])
        return self

    def without_room(self, new: int) -> list[int]:
        """Let go of new rows that the memory would not hold to their ends; at least one row stays.

        Args:
            new: how many of the last rows are.

        Returns:
            The numbers of their draws.
        """
        free = free_bytes(self.policy.device)
        if not free:
            return []  # it is not known
        longest = max(self.rows.lengths) + self.decoding.max_new_tokens
        fits = self.rows.fitting(longest, FREE_SHARE * free)
        kept = max(fits, len(self) - new, 1)
        back = self.numbers[kept:]
        if back:
            self._keep(list(range(kept)))
        return back

    def _choose(self, noise: Tensor) -> ChosenTokens:
        decoding, banned = self.decoding, self.banned
        logits = self.rows.take_logits()
        logits = hold_ends(logits, self.steps, self.ends, decoding.min_new_tokens)
        if not decoding.truncates:
            return choose(logits, noise, decoding.temperature, banned, self.with_logps)
        kept = truncate(logits, decoding, banned)
        tokens = choose(kept, noise, decoding.temperature, banned).tokens
        logps = None
        if self.with_logps:
            logps = untruncated_logps(logits, tokens, decoding.temperature, banned)
        return ChosenTokens(tokens, logps)

    def step(self) -> list[tuple[int, Response]]:
        """Choose a token for every row; those that are known to have ended leave and come back."""
        last = self.noise.shape[-1] - 1
        noise = self.noise.gather(-1, self.steps.clamp(max=last).unsqueeze(-1)).squeeze(-1)
        chosen = self._choose(noise)
        self.steps = self.steps + 1
        self.unread.append(chosen)
        tokens = chosen.tokens.clamp(min=0)
        finished: list[tuple[int, Response]] = []
        if self._is_time_to_read():
            going = self._read()
            left = set(range(len(self))) - set(going)
            finished = [(self.numbers[row], self.said[row].response()) for row in sorted(left)]
            if left:
                tokens = tokens[torch.tensor(going, dtype=torch.long, device=tokens.device)]
                self._keep(going)
        if len(self):
            self.rows.feed(tokens)
        return finished

    def _is_time_to_read(self) -> bool:
        """Where the host makes the numbers itself, it waits for nothing by reading them."""
        every = 1 if self.policy.device.type == "cpu" else READ_EVERY
        longest = max(len(said.token_ids) for said in self.said) + len(self.unread)
        return len(self.unread) >= every or longest >= self.decoding.max_new_tokens

    def _read(self) -> list[int]:
        """Fetch what was chosen since; returns the rows that go on."""
        tokens = torch.stack([tokens for tokens, _ in self.unread], -1).tolist()
        given = [logps for _, logps in self.unread if logps is not None]
        logps = torch.stack(given, -1).tolist() if given else [[]] * len(tokens)
        self.unread = []
        return [row for row in range(len(self)) if not self._ends(row, tokens[row], logps[row])]

    def _ends(self, row: int, tokens: Sequence[int], logps: Sequence[float]) -> bool:
        """Append new tokens to a row, up to its end; whether that was among them."""
        said, sentence = self.said[row], self.sentences[row]
        for place, token in enumerate(tokens):
            if token == NO_NUMBER:
                raise UserError(not_finite(self.policy, "logits"))
            said.token_ids.append(token)
            said.logps += logps[place : place + 1]
            if token in self.ends:
                said.stop_reason = "end"
                return True
            if sentence is not None and sentence.is_over(said.token_ids):
                said.stop_reason = "sentence"
                return True
            if len(said.token_ids) == self.decoding.max_new_tokens:
                return True
        return False

    def _keep(self, going: list[int]) -> None:
        index = torch.tensor(going, dtype=torch.long, device=self.noise.device)
        if going:
            self.rows.select(going)
            self.rows.trim()
        self.noise, self.steps = self.noise[index], self.steps[index]
        self.numbers = [self.numbers[row] for row in going]
        self.sentences = [self.sentences[row] for row in going]
        self.said = [self.said[row] for row in going]
