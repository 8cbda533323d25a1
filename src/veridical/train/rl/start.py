"""How a run of reinforcement learning begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from veridical.checks.prefix_sharing import Sharing
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor
from veridical.judges.named import NONE, Judging
from veridical.judges.symbolic import Symbolic
from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.vision_cache import VisionCache, take_features, vision_weights
from veridical.objectives.policy_gradient import PolicyGradient
from veridical.objectives.preference import Preference
from veridical.runtime.errors import UserError
from veridical.runtime.runs import Run
from veridical.train.loop.features import keep_features, with_features
from veridical.train.loop.items import Items
from veridical.train.loop.layout import find_sharing
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.outcomes import preference_outcome
from veridical.train.loop.pair_proofs import check_pairs
from veridical.train.loop.pictures import recognize_pictures
from veridical.train.loop.rounding import Measure, measure_logps, tell_merged
from veridical.train.loop.rows import TrainingRows
from veridical.train.loop.scorer import Scorer
from veridical.train.loop.start import (
    Given,
    judge_place,
    load_start_beside_reference,
    start_training,
)
from veridical.train.loop.task import Task
from veridical.train.loop.training_set import PROOF_ROWS, same_pictures, split_held_out
from veridical.train.options import Training
from veridical.train.prompts import (
    PromptKind,
    TrainingPrompt,
    check_object_lists,
    proof_group,
    read_training_prompts,
)
from veridical.train.responses import Sampling, refuse_here
from veridical.train.rl.actors import Actors
from veridical.train.rl.experience import Setting
from veridical.train.rl.rewarding import open_rewarder, refuse_no_judge, refuse_no_reward
from veridical.train.rl.scale import find_scale
from veridical.train.rl.trial import longest_answered


@dataclass(frozen=True)
class Arguments:
    """What a command of reinforcement learning is given.

    Attributes:
        model: what to load.
        data: prompts.
        out: the run's folder.
        kind: of the data's records.
        standardize: shift and scale the judge's scores.
        judging: who rewards.
        symbolic: what counts besides.
        sampling: how responses are made.
        objective: how they are learned from.
        training: the run's options.
    """

    model: Model
    data: Path
    out: Path
    kind: PromptKind
    standardize: bool
    judging: Judging
    symbolic: Symbolic
    sampling: Sampling
    objective: PolicyGradient
    training: Training

    def check(self) -> None:
        """Refuse what reinforcement learning can't do.

        Raises:
            UserError: names the option.
        """
        self.objective.check()
        self.check_updates(self.training.rows_a_step())
        self.symbolic.check()
        self.judging.check()
        if self.standardize and self.judging.kind == NONE:
            raise UserError(
                "--standardize true scales the scores of a judge, and --judge none gives none. "
                "Leave --standardize out, or name a judge."
            )
        check_sampling(self.sampling)
        self.sampling.check_engine(self.model, self.training)
        check_training(self.training, self.judging)
        refuse_no_judge(self.judging, self.symbolic)

    def check_updates(self, prompts: int) -> None:
        """Refuse what a step of so many prompts leaves without effect.

        Raises:
            UserError: names the option.
        """
        self.objective.check_updates(prompts)


@dataclass(frozen=True)
class Start:
    """What a run has before its loop begins.

    Attributes:
        given: the command's arguments.
        run: as it was begun.
        policy: the model that training starts from.
        prompts: what is answered and learned from.
        held_out: what is answered at evaluations alone.
        left_out: the rows of the data that nothing is learned from.
        few: prompts with two answers, for proofs.
        longest: prompts at once that take most memory, with their responses.
        layout: whether prefixes are shared.
        features: kept in the place of pictures with `--vision-cache`, else None.
        measure: by which the saved model is compared with the trained one.
    """

    given: Arguments
    run: Run
    policy: Policy
    prompts: list[TrainingPrompt]
    held_out: list[TrainingPrompt]
    left_out: LeftOut
    few: list[Group]
    longest: list[Group]
    layout: Sharing
    features: VisionCache | None
    measure: Measure

    def setting(self, actors: Actors) -> Setting:
        """Everything that stays the same over all steps; the judge is loaded here."""
        given, training, out = self.given, self.given.training, self.given.out
        place = judge_place(self.run, given.judging, training)
        rewarder = open_rewarder(
            given.judging, place, given.symbolic, given.sampling.max_new_tokens, actors.reward_model
        )
        decoding = given.sampling.decoding(training.seed)
        if given.standardize:
            scale = find_scale(
                out, training.resume, actors.policy, self.prompts, rewarder.judge, decoding,
                self.left_out,
            )  # fmt: skip
            rewarder = dataclasses.replace(rewarder, scale=scale)
        return Setting(
            actors=actors,
            prompts=self.prompts,
            rewarder=rewarder,
            decoding=decoding,
            k=given.objective.samples,
            batch_size=training.batch_size,
            share_prefix=self.layout.allowed,
            minibatches=given.objective.minibatches,
            seed=training.seed,
            engine=given.sampling.open_engine(given.model, training, out),
            left_out=self.left_out,
        )

    def prove(self, actors: Actors, setting: Setting) -> list[Proof]:
        """The five proofs: the policy starts as the reference, and what it reads is right.

        Raises:
            UserError: one fails.
        """
        if not self.given.training.prove_first:
            return []
        floor = noise_floor(actors.policy, self.few)
        scorer = Scorer(actors.policy, actors.frozen)
        objective = Preference()
        task = Task(scorer, preference_outcome(objective), len, setting.share_prefix, True)
        items = Items(self.few, torch.zeros(len(self.few), 2, dtype=torch.float64))
        return check_pairs(actors.policy, items, task, objective, floor, self.run.folder)

    def see_from_cache(self, setting: Setting) -> Setting:
        """With `--vision-cache`, a setting whose models take kept features, proven equal.

        Raises:
            UserError: they are not equal, or a model would see a picture differently.
        """
        if self.features is None:
            return setting
        actors, before = setting.actors, self.features.trains_projector
        floor = noise_floor(actors.policy, self.few)
        policy = with_features(
            actors.policy, self.features, self.few, setting.share_prefix, floor
        )  # fmt: skip
        others = [actors.frozen, actors.critic.policy if actors.critic else None]
        for other in [one for one in others if one is not None and one is not actors.policy]:
            if vision_weights(other, before) != vision_weights(policy, before):
                raise UserError(
                    "--vision-cache keeps the image features of the policy's vision encoder, and "
                    f"{other.name} has another encoder. Leave it off, or use a reward model on the "
                    "same base."
                )
            take_features(other.core)
        return dataclasses.replace(setting, actors=dataclasses.replace(actors, policy=policy))


@contextmanager
def begin(command: str, given: Arguments) -> Iterator[Start]:
    """Check options, open the run, load the model and read the prompts.

    Args:
        command: its words.
        given: its arguments.

    Raises:
        UserError: an option makes no sense, or the data can't be used.
    """
    given.check()
    training, judging = given.training, given.judging
    with start_training(_given(command, given)) as run:
        check_object_lists(judging, given.data, given.kind, training)
        policy = load_start_beside_reference(given.model, training, run)
        prompts, rows = read_training_prompts(
            policy, given.data, given.kind, training, given.sampling.max_new_tokens
        )
        recognize_pictures(run.folder, rows.pictures)
        prompts, held_out = hold_out(prompts, rows, training)
        given.check_updates(min(training.rows_a_step(), len(prompts)))
        refuse_no_reward(given.symbolic, prompts, held_out)
        left_out = LeftOut(run.folder, rows, training)
        few = _few(policy, prompts, left_out, given.sampling.max_new_tokens)
        layout = find_sharing(training, few, policy)
        tell_merged(run, "model", policy, few, layout.allowed)
        trained = {prompt.asked.id for prompt in prompts}
        longest = longest_answered(
            policy, [group for group in rows.groups if group.id in trained],
            given.objective.samples, training.batch_size, layout.allowed, left_out,
        )  # fmt: skip
        features = keep_features(policy, training)
        measure = measure_logps(policy, few, layout.allowed, training)
        yield Start(
            given, run, policy, prompts, held_out, left_out, few, longest, layout, features, measure
        )


def _given(command: str, arguments: Arguments) -> Given:
    own = {name: value for name, value in vars(arguments).items()
           if name not in ("model", "data", "out", "training")}  # fmt: skip
    return Given(
        command, arguments.model, arguments.data, arguments.out, arguments.training, own,
        arguments.judging.inputs, arguments.judging.models,
    )  # fmt: skip


def check_sampling(sampling: Sampling) -> None:
    """Refuse to sample in a way that the losses are not right for.

    Raises:
        UserError: names the option.
    """
    sampling.check()
    if sampling.rollout_steps != 1:
        raise UserError(f"--rollout-steps is {sampling.rollout_steps}; leave it at 1.")
    if sampling.decoding(0).truncates or sampling.min_new_tokens:
        raise UserError(
            "--top-p, --top-k and --min-new-tokens are not offered by this command: its losses are "
            "right for samples of the policy itself, from which unlikely tokens and early ends are "
            "not left out. Leave them out, or use `train online`."
        )


def check_training(training: Training, judging: Judging) -> None:
    """Refuse options of training that reinforcement learning does not have.

    Raises:
        UserError: names the option.
    """
    refuse_here(training, "max_response_tokens")
    if training.select_by == "exact_score" and (judging.objects is None or judging.kind == "exact"):
        raise UserError(
            "--select-by exact_score is the exact judge's word beside another judge's: it needs "
            "--objects and a --judge that is not exact. With --judge exact, choose by reward."
        )
    for option, given, off in (
        ("--lora-dropout", training.lora_dropout, "at 0"),
        ("--model-dropout true", training.model_dropout, "out"),
    ):
        if given:
            raise UserError(
                f"{option} is not offered by this command: a step would compare log-probs with "
                "dropout to those of the samples, made without, and take its noise for a change of "
                f"the policy. Leave it {off}."
            )


def hold_out(
    prompts: Sequence[TrainingPrompt], rows: TrainingRows, training: Training
) -> tuple[list[TrainingPrompt], list[TrainingPrompt]]:
    """Prompts to learn from, and those set aside: as other commands do, by the pictures' content.

    Args:
        prompts: all of them.
        rows: the same, with their pictures.
        training: says which share, and the seed.

    Raises:
        UserError: nothing would be left to train on.
    """
    if not training.held_out:
        return list(prompts), []
    pictures = same_pictures(rows.groups, pictures=rows.pictures)
    parts = split_held_out(rows.groups, training.held_out, training.seed, by=pictures.__getitem__)
    of = {prompt.asked.id: prompt for prompt in prompts}
    train, held_out = ([of[group.id] for group in part] for part in parts)
    return train, held_out


def _few(
    policy: Policy, prompts: Sequence[TrainingPrompt], left_out: LeftOut, most_tokens: int
) -> list[Group]:
    ordered = sorted(prompts, key=lambda prompt: not prompt.asked.images)
    groups = (
        proof_group(policy, p.asked, p.texts or (p.answer, "No."), most_tokens) for p in ordered
    )
    return left_out.usable(policy, groups, PROOF_ROWS)
