"""What a model said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

StopReason = Literal["end", "sentence", "length"]


@dataclass(frozen=True)
class Response:
    """What a policy said. It is never tokenized again: other tokens would be another sample.

    Attributes:
        text: without special tokens; after a prefix, what follows it, leading space included.
        token_ids: as sampled; the last is an end token unless the length cut it.
        logps: log-probability of each token as it was drawn: at the sampling temperature, among
            the tokens that may be sampled, those that top-p and top-k leave out included. In
            nats; as long as `token_ids`, or empty where nobody asked for them.
        stop_reason: `end` (end token), `sentence` (asked to stop there) or `length`.
        version: of the policy that said it: the training step whose weights it had.
        prompt_tokens: that were read for it, images included; 0 where nobody counted. No part of
            what was said.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    stop_reason: StopReason = "end"
    version: int = 0
    prompt_tokens: int = field(default=0, compare=False)
