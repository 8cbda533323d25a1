"""How a run of reinforcement learning ends: saved, described, and warned about."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from veridical.checks.proofs import Proof
from veridical.runtime import processes
from veridical.train.loop.card import write_cards
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.saving import save_result
from veridical.train.prompts import TrainingPrompt
from veridical.train.rl.actors import Actors, drop_other_adapters
from veridical.train.rl.evaluation import Evaluations
from veridical.train.rl.log import Log
from veridical.train.rl.start import Start

MUCH_CUT = 0.2
"""Share of responses without an end from which on a run says so at its end (our choice)."""
CARD_FIGURES = (
    "reward", "judge_score", "exact_score", "kl_k1", "kl_k3", "response_tokens", "response_cut",
    "unscored", "equal_groups",
)  # fmt: skip
"""What the model card tells of the last step."""


def finish_training(
    start: Start,
    actors: Actors,
    proofs: Sequence[Proof],
    log: Log,
    began: float,
    evaluations: Evaluations,
) -> None:
    """Save the policy, write its card, and close the run.

    Args:
        start: what the run had before its loop.
        actors: the trained models.
        proofs: of the start.
        log: of all steps.
        began: when the loop did, by the monotonic clock.
        evaluations: choose the weights that are saved.
    """
    run, given = start.run, start.given
    best = evaluations.take_best()
    drop_other_adapters(actors.policy)
    files = save_result(actors.policy, given.model, given.training, run.folder, start.measure)
    finished = {
        **_pace(start, log, time.monotonic() - began, evaluations.done),
        **dataclasses.asdict(best),
        "best_held_out_loss": None,
        "held_out_loss_at_start": None,
        "resumed_from": f"checkpoint-{evaluations.done}" if evaluations.done else None,
        "processes": processes.world_size(),
    }
    learned = log.train_rows
    last = learned[-1] if learned else {}
    figures = {f"{name}, last step": last.get(name) for name in CARD_FIGURES}
    figures |= held_out_figures(log.rows, best.best_step)
    shares = [row["response_cut"] for row in learned if row["response_cut"] is not None]
    cut = fmean(shares) if shares else None
    used, held_out = (_usable(some, start.left_out) for some in (start.prompts, start.held_out))
    counts = {"prompts": used} | ({"held-out prompts": held_out} if held_out else {})
    write_cards(run, files, given.objective.title, counts, proofs, finished, figures)
    run.finish(
        prompts=used, held_out_prompts=held_out, skipped=len(start.left_out),
        prefix_sharing=dataclasses.asdict(start.layout),
        last={name: last.get(name) for name in ("reward", "judge_score", "exact_score", "kl_k1")},
        response_cut=cut, **finished,
    )  # fmt: skip
    for warning in (much_cut(cut, start), nothing_earned(learned)):
        if warning:
            print(warning)
    print(f"The aligned model is in {run.folder / next(iter(files), 'model')}.")


def _pace(start: Start, log: Log, seconds: float, resumed_at: int) -> dict[str, float]:
    """Steps of the whole run, and the prompts a second of what was trained here."""
    steps, prompts = len(log.train_rows), len(start.prompts)
    rows_seen = start.given.training.rows_seen
    rows = rows_seen(steps, prompts) - rows_seen(resumed_at, prompts)
    return {
        "steps": steps,
        "train_seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 3),
    }


def much_cut(cut: float | None, start: Start) -> str:
    """A warning if many responses reached the limit of tokens; "" otherwise."""
    if not cut or cut <= MUCH_CUT:
        return ""
    return (
        f"{cut:.0%} of all responses were cut by --max-new-tokens "
        f"{start.given.sampling.max_new_tokens} and judged without their end. Raise it, or "
        f"--no-end-penalty ({start.given.symbolic.no_end_penalty:g}), which each of them lost."
    )


def held_out_figures(rows: Sequence[Mapping[str, object]], step: int | None) -> dict[str, object]:
    """What the model card tells of the held-out prompts, by name.

    Args:
        rows: of the log.
        step: of the weights that are the result; None for the last.
    """
    found = [row for row in rows if row["split"] == "eval" and step in (None, row["step"])]
    if not found:
        return {}
    names = [name for name in CARD_FIGURES if found[-1].get(name) is not None]
    at = f"held-out prompts, step {found[-1]['step']}"
    return {f"{name}, {at}": found[-1][name] for name in names}


def _usable(prompts: Sequence[TrainingPrompt], left_out: LeftOut) -> int:
    return sum(not left_out.has_prompt(prompt.asked.id) for prompt in prompts)


def nothing_earned(steps: Sequence[Mapping[str, object]]) -> str:
    """A warning if no step had anything to learn from; "" otherwise.

    Args:
        steps: lines of the log.
    """
    if not steps:
        return ""
    advice = (
        "Take more prompts or --samples, a higher --temperature, larger --max-new-tokens, or "
        "another judge or reward."
    )
    earned = {row["reward"] for row in steps if row.get("reward") is not None}
    if not earned:
        return "No response of any step was scored, so the weights are still those of the start."
    if not any(row.get("gradient_norm") for row in steps):
        return (
            "No response earned more than another in any step, so the weights are still those of "
            f"the start. {advice}"
        )
    if len(earned) == 1 and not any(row.get("reward_deviation", True) for row in steps):
        return (
            "All responses of all steps earned the same, so the weights moved by the noise of the "
            f"value model and by the penalty alone. {advice}"
        )
    return ""
