"""The settings of bias-driven hallucination sampling (Amirloo et al. 2024, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veridical.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BDHSSettings:
    """Rejected answers from a model's own bias (BDHS).

    Attributes:
        variant: how sight is restricted: `mask` most image tokens, `noise` the picture, or
            `none` (plain samples).
        guided: begin each sentence with a part of the true one.
        mask_threshold: share of image tokens masked on average (rho_th), 0 to 1.
        noise_steps: diffusion steps of the `noise` variant, 0 to 1000.
        similarity: `mpnet` (sentence embeddings; needs the extra `similarity`), `edit` (words in
            common, built in), or a folder with a sentence-transformers model.
        similarity_threshold: answers at least this similar to the true one are made again; the
            measure's own default if not set (0.97 for `mpnet`).
        iterations: tries per answer (N_BDHS); the last is unguided, and kept however similar.
        yes_no_swap: probability that a sentence's leading yes or no is swapped.
        cut: `uniform`: cut a sentence after any number of its words; `beginning`: within its
            first cut-words words. In scripts without spaces between words a character is the unit.
        cut_words: how many words `beginning` keeps at most.
        language: of the true answers (ISO 639-1: de, zh, ...), whose abbreviations decide where
            sentences end; `auto` guesses it for each answer.
        text_only: make pairs of records without an image too, where nothing can be hidden.
        drop_masked: leave masked image tokens out of the prompt (same distribution, faster).
    """

    variant: Literal["mask", "noise", "none"] = "mask"
    guided: bool = True
    mask_threshold: float = 0.99
    noise_steps: int = 500
    similarity: str = "mpnet"
    similarity_threshold: float | None = None
    iterations: int = 5
    yes_no_swap: float = 0.5
    cut: Literal["uniform", "beginning"] = "uniform"
    cut_words: int = 3
    language: str = "auto"
    text_only: bool = False
    drop_masked: bool = True

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: names the option.
        """
        for name in ("mask_threshold", "yes_no_swap"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value:g}; give a number in [0, 1].")
        if not 0 <= self.noise_steps <= 1000:
            raise UserError(f"--noise-steps is {self.noise_steps}; the schedule has 0 to 1000.")
        for name in ("iterations", "cut_words"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {getattr(self, name)}; give 1 or more.")
