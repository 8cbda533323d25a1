"""What is asked of a policy, and how tokens are chosen."""

from __future__ import annotations

from dataclasses import dataclass

from veridical.data.prompts import Prompt


@dataclass(frozen=True)
class Request:
    """What is to be answered.

    Attributes:
        prompt: its id keys the noise: distinct for distinct draws.
        prefix: the beginning of the answer, which the policy continues; no space at its end.
        begun: what of `prefix` belongs to the sentence that is to be completed, its list mark
            included; found in `prefix` if not given.
        language: of the answer (ISO 639-1), which decides where its sentences end; guessed if not
            given.
    """

    prompt: Prompt
    prefix: str = ""
    begun: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Nothing else decides: a checkpoint's generation settings do not.

    Attributes:
        max_new_tokens: length limit of one response, in tokens.
        temperature: 0 takes the most likely token; 1 samples from the policy itself.
        seed: of the sampling noise.
        batch_size: responses made at once; it never changes them.
        top_p: leave out tokens beyond this share of the probability; 1 leaves none out.
        top_k: leave out all but so many tokens; 0 leaves none out.
        min_new_tokens: tokens before a response may end.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 32
    top_p: float = 1.0
    top_k: int = 0
    min_new_tokens: int = 0

    @property
    def truncates(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_p < 1 or self.top_k > 0
