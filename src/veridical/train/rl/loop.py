"""The loop of reinforcement learning: sample, reward, learn, evaluate, save."""

from __future__ import annotations

import time

from veridical.runtime import processes
from veridical.train.loop.order import RankSampler
from veridical.train.rl.actors import Actors
from veridical.train.rl.evaluation import Evaluations
from veridical.train.rl.experience import count_scored, gather_experience
from veridical.train.rl.finish import finish_training
from veridical.train.rl.learner import Learner, LoopState
from veridical.train.rl.learning import Learned, learn, lesson_of
from veridical.train.rl.measures import measures_of, shown_responses
from veridical.train.rl.start import Start
from veridical.train.rl.trial import try_a_step


def reinforce(start: Start, actors: Actors, value_learning_rate: float | None = None) -> None:
    """Run the proofs, learn step by step, save the policy and end the run.

    Args:
        start: what the run has before its loop begins.
        actors: the models.
        value_learning_rate: of the value model; the policy's if not set.
    """
    objective, training = start.given.objective, start.given.training
    setting = start.setting(actors)
    proofs = start.prove(actors, setting)
    setting = start.see_from_cache(setting)
    groups = [
        (actors.policy_parameters(), training.learning_rate),
        (actors.value_parameters(), value_learning_rate or training.learning_rate),
    ]
    prompts = len(setting.prompts)
    learner = Learner(actors, groups, training, start.given.out, prompts)
    state = learner.resume(training, LoopState(0, objective.kl_coefficient))
    coefficient = state.kl_coefficient
    sampler = RankSampler(prompts, training.batch_size, training.seed, 0, processes.world_size())
    log, began = learner.open_log(state.step, training), time.monotonic()
    if state.step < learner.steps:
        try_a_step(setting, start.longest, learner)
    evaluations = Evaluations(setting, start.held_out, training, learner, log, state)
    for step in evaluations.steps():
        indexes = sampler.rows_of_step(step, training.accumulation)
        actors.policy.model.eval()
        experience = gather_experience(setting, step, indexes)
        measured = measures_of(experience, setting.k)
        scored = count_scored(experience, step + 1, len(indexes), training.max_bad_fraction)
        learned = Learned()
        if scored:
            lesson = lesson_of(objective, experience, coefficient)
            learned = learn(setting, lesson, learner, len(indexes), step)
        log.write(
            {
                "step": step + 1, "split": "train",
                "epoch": training.rows_seen(step + 1, prompts) / prompts,
                **measured, **learned.figures(objective.uses_values),
                "kl_coefficient": coefficient, "learning_rate": learner.end_step(),
                "samples": shown_responses(experience),
            }
        )  # fmt: skip
        if scored:
            responses = scored * objective.samples
            coefficient = objective.next_kl_coefficient(coefficient, measured, responses)
        evaluations.look(step + 1)
        state = LoopState(step + 1, coefficient, tuple(evaluations.found))
        learner.save(state, evaluations.best_step())
    log.close()
    setting.close()
    finish_training(start, actors, proofs, log, began, evaluations)
