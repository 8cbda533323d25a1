"""What the policy says while it is trained: printed every so many steps, and kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from veridical.models.policy import Policy
from veridical.models.prompt_batches import PromptBatch, prompt_batch
from veridical.models.rendering import Group
from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl, write_jsonl
from veridical.runtime.progress import say
from veridical.sampling import Decoding
from veridical.sampling.loop import Draw, decode

FILE = "shown.jsonl"
PROMPTS, TOKENS, WIDTH = 2, 64, 300
"""Prompts that are answered, tokens of an answer, and characters that are printed (our choice)."""


def check_showing(every: int | None, command: str) -> None:
    """Refuse what shows nothing.

    Raises:
        UserError: fewer than a step between two times, a model that does not answer, or weights
            that no process holds all of.
    """
    if every is None:
        return
    if every < 1:
        raise UserError(f"--show-every is {every}; give 1 step or more.")
    if command == "train reward":
        raise UserError("--show-every: a reward model says nothing. Leave it out.")
    refuse_shared_out("show-every")


def refuse_shared_out(option: str) -> None:
    """Refuse what has the policy answer in one process, where none has all of its weights.

    The launcher's word is taken, since the weights are shared out only when training begins.

    Raises:
        UserError: names the option.
    """
    if processes.shares_out_weights():
        raise UserError(
            f"--{option} needs the whole model in one process, which FSDP and ZeRO-3 share out. "
            "Leave it out, or launch with plain data parallelism (configs/ddp.yaml)."
        )


def print_answers(step: int, rows: Sequence[tuple[str, str]]) -> None:
    """Print answers.

    Args:
        step: after how many steps.
        rows: ids of prompts and what was said to them.
    """
    for name, text in rows:
        line = " ".join(text.split())
        say(f"  step {step}, {name}: {line[:WIDTH]}{' ...' if len(line) > WIDTH else ''}")


class ShowAnswers(TrainerCallback):
    """Has the policy answer the same few prompts, most likely tokens first; nothing is learned."""

    def __init__(self, policy: Policy, groups: Sequence[Group], every: int, out: Path) -> None:
        self.policy, self.every, self.path = policy, every, out / FILE
        self.groups = list(groups)[:PROMPTS]
        self.rows: list[dict[str, object]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """After an interruption, keep what the checkpoint has seen; else show the start."""
        if not processes.is_first():
            return
        if state.global_step and self.path.is_file():
            self.rows = [r for r in read_jsonl(self.path) if r["step"] <= state.global_step]
        elif not state.global_step:
            self._answer(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Every so many steps, and at the last."""
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        if due and processes.is_first():
            self._answer(state.global_step)

    def _answer(self, step: int) -> None:
        self.policy.model.eval()
        texts = answers(self.policy, self.groups)
        print_answers(
            step, [(group.id, text) for group, text in zip(self.groups, texts, strict=True)]
        )
        self.rows += [
            {"step": step, "id": group.id, "text": text, "learned": group.response_texts[0]}
            for group, text in zip(self.groups, texts, strict=True)
        ]
        write_jsonl(self.path, self.rows)


def answers(policy: Policy, groups: Sequence[Group]) -> list[str]:
    """What the policy says to the prompts of rows, special tokens left out."""

    def read(places: list[int]) -> PromptBatch:
        return prompt_batch(
            policy,
            [groups[place].images for place in places],
            [groups[place].prompt_text for place in places],
        )

    draws = [Draw(group.id, place, bool(group.images)) for place, group in enumerate(groups)]
    said = dict(decode(policy, draws, read, Decoding(TOKENS, batch_size=len(groups))))
    tokenizer = policy.processor.tokenizer
    return [
        tokenizer.decode(said[place].token_ids, skip_special_tokens=True).strip()
        for place in range(len(groups))
    ]
