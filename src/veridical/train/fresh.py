"""Fresh pairs: what the current policy says, made into chosen and rejected answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch

from veridical.bdhs.algorithm import reject_answers
from veridical.bdhs.true_answers import Rejecting, TrueAnswer, whole_answer_limit
from veridical.data.messages import assistant_message, text_of
from veridical.data.responses import Response
from veridical.judges.judging import PairwiseJudge
from veridical.judges.orders import Comparison, compare_pairs
from veridical.models.policy import Policy
from veridical.models.rendering import Group, render_group
from veridical.objectives.base import PairLoss
from veridical.objectives.dpo import DPO
from veridical.runtime import processes
from veridical.runtime.progress import part_of, say
from veridical.runtime.randomness import generator
from veridical.sampling import Decoding, Request
from veridical.sampling.engines.adapters import Engine, sample
from veridical.sampling.rollouts import rollout_group
from veridical.train.loop.buffer import Row, Task
from veridical.train.loop.collapsed import collapsed
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.outcomes import weighed
from veridical.train.prompts import TrainingPrompt
from veridical.train.responses import sample_usable

WHY_NOT = {
    "tie": "ties",
    "cut": "better answer cut off",
    "no_pair": "no rejected answer made",
    "unscored": "no verdict of the judge",
    "refused": "image refused by the processor",
}
WHAT_HELPS = {
    "tie": "against ties a higher --temperature, a smaller --margin or another judge",
    "cut": "against cut answers a larger --max-new-tokens",
    "no_pair": "for rejected answers more --iterations",
    "unscored": "for verdicts another judge",
}
"""What to set where many pairs are not learned from, by why they are not."""
PairSource = Literal["online", "mixed", "bdhs"]


@dataclass(frozen=True)
class Comparing:
    """How two fresh responses are compared.

    Attributes:
        swap: have a judge by words compare in both orders; verdicts that turn are ties.
        margin: points or log-odds up to which two responses are a tie.
    """

    swap: bool = True
    margin: float = 0.0


@dataclass(frozen=True)
class FreshComparing:
    """How two fresh responses become a pair.

    Attributes:
        look: who compares them.
        by: in which orders, and what is a tie.
    """

    look: PairwiseJudge
    by: Comparing


@dataclass(frozen=True)
class Maker:
    """Makes the rows of a rollout buffer.

    Attributes:
        policy: the one that is trained.
        prompts: by index.
        decoding: of fresh responses.
        how: whether two samples are compared, or a true answer gets a rejected one.
        offline: probability that a prompt's own pair is taken instead (Amirloo et al. 2024, eq. 4).
        engine: who samples, where that is not this process.
        left_out: takes the prompts whose images the processor refuses.
        loss: may weigh the tokens of a pair's answers.
    """

    policy: Policy
    prompts: Sequence[TrainingPrompt]
    decoding: Decoding
    how: FreshComparing | Rejecting
    offline: float = 0.0
    engine: Engine | None = None
    left_out: LeftOut | None = None
    loss: PairLoss = DPO()

    def __call__(self, tasks: Sequence[Task], version: int) -> list[Row]:
        """Rows for tasks; the model is left in the mode that it was in."""
        own = [task for task in tasks if self._draws_offline(task)]
        open_tasks = [task for task in tasks if task not in set(own)]
        fresh = [task for task in open_tasks if not self._is_left_out(task)]
        training = self.policy.model.training
        self.policy.model.eval()
        if isinstance(self.how, FreshComparing):
            rows = self._compared(fresh, version, self.how)
        else:
            rows = self._rejected(fresh, self.how)
        self.policy.model.train(training)
        offline = [self._row(task, kind="offline") for task in own]
        # Those known before and those found here alike, so that a run that is resumed makes both.
        refused = [
            self._row(task, kind="refused") for task in open_tasks if self._is_left_out(task)
        ]
        made = {(row["step"], row["index"]): row for row in (*rows, *offline, *refused)}
        return [made[task] for task in tasks]

    def _is_left_out(self, task: Task) -> bool:
        asked = self.prompts[task[1]].asked
        return self.left_out is not None and self.left_out.has_prompt(asked.id)

    def _draws_offline(self, task: Task) -> bool:
        if not self.offline:
            return False
        step, index = task
        drawn = generator(self.decoding.seed, "mixed", step, self.prompts[index].asked.id)
        return bool(drawn.random() < self.offline)

    def _compared(self, tasks: Sequence[Task], version: int, how: FreshComparing) -> list[Row]:
        def answer(requests: list[Request]) -> list[list[Response]]:
            return sample(self.engine, self.policy, requests, self.decoding, 2, version)

        asked_of = [self.asked(task) for task in tasks]
        pairs, kept = sample_usable(self.left_out, asked_of, answer)
        tasks = [tasks[place] for place in kept]
        cases = [
            self.prompts[index].case([rollout.text for rollout in pair])
            for (_, index), pair in zip(tasks, pairs, strict=True)
        ]
        # Nothing tells two equal texts apart, and two that were cut off give no pair in any case.
        asked = [
            len(set(case.responses)) == 2 and not all(map(is_cut, pair))
            for case, pair in zip(cases, pairs, strict=True)
        ]
        differ = [case for case, wanted in zip(cases, asked, strict=True) if wanted]
        compared = iter(
            compare_pairs(how.look, differ, how.by.swap, how.by.margin) if differ else []
        )
        rows = []
        for task, wanted, pair in zip(tasks, asked, pairs, strict=True):
            verdict = _verdict(next(compared) if wanted else Comparison(tie="judge"))
            better = verdict["chosen"]
            # A text without an end must not be what is aimed at; as the rejected one it may stand,
            # since its tokens are learned as they were sampled, without an end token.
            if all(map(is_cut, pair)) or (better is not None and is_cut(pair[better])):
                verdict["kind"] = "cut"
            rows.append(self._row(task, **verdict, responses=list(map(vars, pair))))
        return rows

    def _rejected(self, tasks: Sequence[Task], how: Rejecting) -> list[Row]:
        sources = [
            TrueAnswer(self.asked(task).prompt, self.prompts[task[1]].answer) for task in tasks
        ]
        rows = []
        found = reject_answers(self.policy, sources, how)
        for task, result in zip(tasks, found, strict=True):
            if result.get("refused") and self.left_out is not None:
                asked_of = self.prompts[task[1]].asked
                self.left_out.note({(asked_of.id, len(asked_of.images)): result["reason"]})
            elif "rejected" in result:
                text, answer = text_of(result["rejected"]), self.prompts[task[1]].answer
                limit = whole_answer_limit(self.policy, answer, self.decoding.max_new_tokens)
                length = len(_token_ids(self.policy.processor.tokenizer, text))
                if length > limit:
                    # Of many sentences, each within its own limit; steps have no room for it.
                    problem = f"the rejected answer has {length} tokens, more than {limit}"
                    rows.append(self._row(task, kind="no_pair", problem=problem))
                    continue
                row = self._row(task, kind="bdhs", text=text, source=result["source"])
                # The last try is kept as it comes, and may be the true answer again.
                rows.append({**row, "kind": "tie"} if collapsed(self.group(row)) else row)
            else:
                rows.append(self._row(task, kind="no_pair", problem=result["reason"]))
        return rows

    def asked(self, task: Task) -> Request:
        """The prompt of a task; its id is another at every step, and so is the noise."""
        step, index = task
        prompt = self.prompts[index].asked
        return Request(dataclasses.replace(prompt, id=f"{prompt.id}/step-{step}"))

    def _row(self, task: Task, **content: Any) -> Row:
        step, index = task
        about = {"step": step, "index": index, "id": self.prompts[index].asked.id}
        return cast(Row, {**about, **content})

    def group(self, row: Row) -> Group:
        """A row's pair, ready to be laid out, chosen first; of a row without one anything."""
        return weighed(self.loss, self._pair(row))

    def _pair(self, row: Row) -> Group:
        prompt = self.prompts[row["index"]]
        asked = self.asked((row["step"], row["index"]))
        if row["kind"] == "offline" and prompt.pair is not None:
            return prompt.pair
        if "responses" in row:
            rollouts = [Response(**response) for response in row["responses"]]
            best = row["chosen"] or 0
            return rollout_group(self.policy, asked, [rollouts[best], rollouts[1 - best]])
        texts = (prompt.answer, row.get("text", prompt.answer))
        responses = [[assistant_message(text)] for text in texts]
        return render_group(
            self.policy, asked.prompt.id, asked.prompt.images, asked.prompt.messages, responses
        )


def longest_pairs(maker: Maker, prompts: Sequence[Group]) -> list[Group]:
    """Pairs as long as a step can meet them: what fits into memory there fits at every step.

    Their responses differ, or nothing would receive a gradient.

    Args:
        maker: makes the pairs of steps.
        prompts: its prompts, with responses as long as they can become.
    """
    tokenizer = maker.policy.processor.tokenizer
    words = [_token_ids(tokenizer, word)[-1] for word in ("Yes", "No")]
    lengths = [tuple(map(len, group.response_ids)) for group in prompts]
    # One tensor a length, as there may be a million prompts.
    pairs = {
        both: tuple(torch.full((length,), word) for length, word in zip(both, words, strict=True))
        for both in set(lengths)
    }
    return [
        dataclasses.replace(group, response_ids=pairs[both], sampled=True)
        for group, both in zip(prompts, lengths, strict=True)
    ]


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def is_cut(rollout: Response) -> bool:
    """Whether a response ended by its limit, not by itself."""
    return rollout.stop_reason == "length"


def counts(row: Row) -> bool:
    """Whether a row holds a pair to learn from."""
    return row["kind"] in ("offline", "online", "bdhs")


class TellLost:
    """Says once that more than half of the fresh pairs of some steps are not learned from."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, first: int, made: Sequence[Row]) -> None:
        """Look at the pairs of a filling.

        Args:
            first: the step that it begins with, from 0.
            made: its rows. The records' own pairs, and rows without a usable image, are none of
                the fresh ones.
        """
        fresh = [row for row in made if row["kind"] not in ("offline", "refused")]
        lost = Counter(row["kind"] for row in fresh if not counts(row))
        if self.told or 2 * lost.total() <= len(fresh):
            return
        self.told = True
        why = ", ".join(f"{WHY_NOT[kind]}: {number}" for kind, number in lost.most_common())
        advice = "; ".join(WHAT_HELPS[kind] for kind, _ in lost.most_common())
        if processes.is_first():
            say(
                f"Step {first + 1}: {part_of(lost.total(), len(fresh), 'fresh pairs')} can't be "
                f"learned from ({why}). What helps: {advice}. Said once; log.jsonl has the shares "
                "of each step."
            )


def pair_measures(rows: Sequence[Row]) -> dict[str, float]:
    """What the log says of fresh pairs: shares of all prompts, and means of responses."""
    if not rows:
        return {}
    told = {
        f"share_{kind}": sum(row["kind"] == kind for row in rows) / len(rows)
        for kind in ("offline", "online", "bdhs", "tie", "cut", "no_pair", "unscored", "refused")
        if any(row["kind"] == kind for row in rows)
    }
    said = [response for row in rows for response in row.get("responses", ())]
    means: dict[str, Callable[[Any], float]] = {
        "response_tokens": lambda response: len(response["token_ids"]),
        "response_cut": lambda response: float(response["stop_reason"] == "length"),
        "response_nll": lambda response: -sum(response["logps"]) / len(response["logps"]),
    }
    told |= {name: sum(map(of, said)) / len(said) for name, of in means.items() if said}
    margins = [abs(margin) for row in rows if (margin := row.get("margin")) is not None]
    return told | ({"judge_margin": sum(margins) / len(margins)} if margins else {})


def _verdict(found: Comparison) -> dict[str, Any]:
    kind = "unscored" if found.problem else "tie" if found.better is None else "online"
    return {
        "kind": kind, "chosen": found.better, "margin": found.margin,
        "reasons": list(found.reasons), "problem": found.problem,
    }  # fmt: skip
