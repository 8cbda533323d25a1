"""Preference training on fresh pairs: Online-DPO, Mixed-DPO and Online-BDHS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from veridical.bdhs.settings import BDHSSettings
from veridical.bdhs.similarity import check_similarity, load_similarity
from veridical.bdhs.true_answers import Rejecting, require_masking
from veridical.checks.prefix_sharing import Sharing
from veridical.checks.proofs import Proof
from veridical.checks.proving import noise_floor
from veridical.judges.named import NONE, Judging, open_comparison
from veridical.models.model_argument import Model
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.models.tuning import prepare_training
from veridical.objectives.preference import Preference
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_jsonl
from veridical.runtime.runs import Run
from veridical.sampling import Decoding
from veridical.train.fresh import (
    WHY_NOT,
    Comparing,
    FreshComparing,
    Maker,
    PairSource,
    pair_measures,
)
from veridical.train.loop.card import write_cards
from veridical.train.loop.finish import Trained
from veridical.train.loop.items import Items
from veridical.train.loop.layout import find_sharing
from veridical.train.loop.left_out import LeftOut
from veridical.train.loop.outcomes import require_used, require_whole_batch
from veridical.train.loop.pair_proofs import check_pairs
from veridical.train.loop.pictures import recognize_pictures
from veridical.train.loop.preferences import preference_task
from veridical.train.loop.reference import choose_reference
from veridical.train.loop.rounding import measure_logps, tell_merged
from veridical.train.loop.run import run_trainer
from veridical.train.loop.saving import save_result
from veridical.train.loop.start import (
    Given,
    judge_place,
    load_start_beside_reference,
    start_training,
)
from veridical.train.loop.task import Task
from veridical.train.online_pairs import ROLLOUTS, Follow, OnlineItems, first_pairs
from veridical.train.options import Training
from veridical.train.prompts import (
    PromptKind,
    TrainingPrompt,
    check_object_lists,
    read_training_prompts,
)
from veridical.train.responses import Sampling, refuse_here

OFFLINE = 0.5
METHODS: dict[PairSource, str] = {
    "online": "online direct preference optimization (Online-DPO)",
    "mixed": "mixed direct preference optimization (Mixed-DPO)",
    "bdhs": "direct preference optimization on online BDHS pairs (Online-BDHS)",
}


def train_online(
    model: Model,
    data: Path,
    out: Path,
    pairs: PairSource = "online",
    kind: PromptKind = "preference",
    offline: float = OFFLINE,
    comparing: Comparing = Comparing(),
    objective: Preference = Preference(),
    judging: Judging = Judging(),
    sampling: Sampling = Sampling(),
    bdhs: BDHSSettings = BDHSSettings(),
    training: Training = Training(learning_rate=1e-6, held_out=0.0),
) -> None:
    """Align MODEL on pairs that it makes itself while it learns, from the prompts in DATA.

    `online`: two samples of the current policy for each prompt, ranked by a judge. `mixed`: at
    random for each prompt and step the record's own pair, or a fresh one. `bdhs`: the record's true
    answer against what the current policy says when it can hardly see the image; no judge.
    Ties, pairs whose better answer max-new-tokens cut off, and what cannot be judged are counted
    and not learned from. What was sampled is kept in `rollouts/`, and a run that is resumed goes
    on exactly.

    Args:
        model: hub name, folder, adapter folder or `embedded`; in Python also a loaded policy,
            which is trained in place.
        data: prompts, Parquet or JSON Lines.
        out: folder for the run: `model/`, `log.jsonl`, `rollouts/`, `proofs.json`, `run.json`.
        pairs: where pairs come from: `online`, `mixed` (needs preference records) or `bdhs` (needs
            conversations or preference records).
        kind: what DATA holds: `preference`, `conversation` (its last answer is the true one) or
            `prompt`.
        offline: for `mixed`: probability that a prompt's own pair is taken.
        comparing: how two fresh responses are compared.
        objective: what is minimized.
        judging: who ranks fresh responses.
        sampling: how they are made.
        bdhs: how true answers get rejected ones.
        training: what every training command takes.
    """
    options = {
        "pairs": pairs, "kind": kind, "offline": offline, "comparing": comparing,
        "objective": objective, "judging": judging, "sampling": sampling, "bdhs": bdhs,
    }  # fmt: skip
    _check(pairs, kind, offline, sampling, training)
    _refuse_unread(pairs, offline, comparing, judging, bdhs)
    sampling.check_engine(model, training)
    _check_learning(pairs, bdhs, objective, training)
    judged = pairs != "bdhs"
    given = Given("train online", model, data, out, training, options, *_read(judging, judged))
    with start_training(given) as run:
        if judged:
            check_object_lists(judging, data, kind, training)
        start = load_start_beside_reference(model, training, run)
        prompts, rows = read_training_prompts(
            start, data, kind, training, sampling.max_new_tokens, pairs == "mixed", pairs == "bdhs"
        )
        if pairs == "mixed":
            require_used(objective, [prompt.pair for prompt in prompts if prompt.pair is not None])
        recognize_pictures(out, rows.pictures)
        left_out = LeftOut(out, rows, training)
        held_to = choose_reference(
            start, model, objective.needs_reference, "in_step", None, training, run
        )
        second = held_to.second_model()
        policy = prepare_training(start, training.trained)
        how = (
            FreshComparing(open_comparison(judging, judge_place(run, judging, training)), comparing)
            if judged
            else _rejecting(policy, prompts, bdhs, sampling, training.seed)
        )
        engine = sampling.open_engine(model, training, out)
        maker = Maker(
            policy, prompts, sampling.decoding(training.seed), how,
            offline if pairs == "mixed" else 0.0, engine, left_out, objective.loss,
        )  # fmt: skip
        items, few = first_pairs(
            maker, rows.groups, left_out, sampling.rollout_steps, training, out
        )
        sharing = find_sharing(training, few, policy)
        tell_merged(run, "model", policy, few, sharing.allowed)
        task = preference_task(policy, held_to, second, objective, sharing.allowed, training)
        proofs: list[Proof] = []
        if training.prove_first:
            proofs = _prove(policy, few, task, objective, out)
        measure = measure_logps(policy, few, sharing.allowed, training)
        figures = run_trainer(policy, task, training, items, None, out, [Follow(items)])
        if engine is not None:
            engine.close()
        trained = Trained(figures, save_result(policy, model, training, out, measure))
        _finish(run, METHODS[pairs], items, sharing, proofs, trained)


def _prove(
    policy: Policy, few: Sequence[Group], task: Task, objective: Preference, out: Path
) -> list[Proof]:
    proved = Items(few, torch.zeros(len(few), 2, dtype=torch.float64))
    return check_pairs(policy, proved, task, objective, noise_floor(policy, few), out)


def _refuse_unread(
    pairs: PairSource, offline: float, comparing: Comparing, judging: Judging, bdhs: BDHSSettings
) -> None:
    """Refuse options of the other ways to make pairs.

    Raises:
        UserError: names the first of them.
    """
    judged = [
        name
        for name in (*_changed(judging, Judging()), *_changed(comparing, Comparing()))
        if not (name == "judge" and judging.judge == NONE)
    ]
    unread = {
        "--pairs mixed": [] if pairs == "mixed" or offline == OFFLINE else ["offline"],
        "--pairs bdhs": [] if pairs == "bdhs" else _changed(bdhs, BDHSSettings()),
        "--pairs online or mixed, which ask a judge": judged if pairs == "bdhs" else [],
    }
    for whose, names in unread.items():
        if names:
            raise UserError(
                f"--{names[0].replace('_', '-')} is for {whose}; --pairs is {pairs}. Leave it out."
            )


def _changed(group: object, usual: object) -> list[str]:
    """The options of a group that differ from the usual ones."""
    return [name for name, value in vars(group).items() if value != getattr(usual, name)]


def _check_learning(
    pairs: PairSource, bdhs: BDHSSettings, objective: Preference, training: Training
) -> None:
    if pairs == "bdhs":
        bdhs.check()
        check_similarity(bdhs.similarity)
    objective.check()
    require_whole_batch(objective, training.batch_size, training.accumulation)
    refuse_other_answers(objective)


def refuse_other_answers(objective: Preference) -> None:
    """Refuse a loss that reads more than a pair's two answers under its own images.

    Raises:
        UserError: names the option that chose it.
    """
    if objective.mismatched:
        raise UserError(
            f"{objective.option_of(lambda loss: loss.mismatched)} reads answers to other prompts "
            "beside each row's own, which fresh pairs don't have. Choose another loss, or use "
            "train dpo."
        )
    if objective.views:
        raise UserError(
            f"{objective.option_of(lambda loss: bool(loss.views))} compares answers under "
            "contrast_images, which fresh pairs don't have. Choose another loss, or use train dpo."
        )


def _read(judging: Judging, judged: bool) -> tuple[dict[str, Path | None], dict[str, str | None]]:
    """Files and models that the judge reads, by option.

    Raises:
        UserError: it makes no sense, or compares nothing.
    """
    if not judged:
        return {}, {}
    judging.check("choice")
    if judging.judge == NONE:
        raise UserError("--judge none compares nothing; name a judge, or set --pairs bdhs.")
    return dict(judging.inputs), dict(judging.models)


def _finish(
    run: Run,
    method: str,
    items: OnlineItems,
    sharing: Sharing,
    proofs: Sequence[Proof],
    trained: Trained,
) -> None:
    """Write the model card and the run's results; warn if nothing was learned."""
    left_out, fresh = items.left_out, _all_measures(run.folder / ROLLOUTS)
    assert left_out is not None
    used = sum(not left_out.has_prompt(prompt.asked.id) for prompt in items.maker.prompts)
    write_cards(run, trained.files, method, {"prompts": used}, proofs, trained.figures, fresh)
    run.finish(
        prompts=used, skipped=len(left_out), prefix_sharing=dataclasses.asdict(sharing),
        fresh=fresh, **trained.figures,
    )  # fmt: skip
    warning = nothing_learned(fresh)
    if warning:
        print(warning)
    print(f"The aligned model is in {run.folder / trained.name}.")


def _check(
    pairs: PairSource, kind: PromptKind, offline: float, sampling: Sampling, training: Training
) -> None:
    sampling.check()
    if pairs == "mixed" and kind != "preference":
        raise UserError("--pairs mixed takes records' own pairs; set --kind preference.")
    if pairs == "bdhs" and kind == "prompt":
        raise UserError("--pairs bdhs needs true answers; set --kind conversation or preference.")
    if pairs == "bdhs" and sampling.engine is not None:
        raise UserError("--engine can't hide image tokens; leave it out with --pairs bdhs.")
    if pairs == "bdhs" and (sampling.decoding(0).truncates or sampling.min_new_tokens):
        raise UserError(
            "--top-p, --top-k and --min-new-tokens are not offered with --pairs bdhs, which "
            "samples ends of sentences. Leave them out."
        )
    if not 0 <= offline <= 1:
        raise UserError(f"--offline is {offline:g}; give a probability.")
    if training.held_out:
        raise UserError(
            "--held-out means nothing here: rows are made from prompts on the way. Leave it at 0. "
            "--check-images evaluates the policy on the way, and `veridical eval` the result."
        )
    if pairs != "mixed" and training.max_response_tokens is not None:
        raise UserError(
            f"--max-response-tokens is not offered with --pairs {pairs}: records' own pairs, which "
            "it cuts, are learned from with --pairs mixed alone. Leave it out; --max-new-tokens "
            "limits what is sampled."
        )
    refuse_here(training, "vision_cache")


def _rejecting(
    policy: Policy,
    prompts: Sequence[TrainingPrompt],
    bdhs: BDHSSettings,
    sampling: Sampling,
    seed: int,
) -> Rejecting:
    decoding = Decoding(sampling.max_new_tokens, sampling.temperature, seed, sampling.rollout_batch)
    how = Rejecting(bdhs, decoding, load_similarity(bdhs.similarity))
    how.check()
    if bdhs.variant == "mask":
        require_masking(policy, [prompt.source() for prompt in prompts])
    return how


def nothing_learned(measures: Mapping[str, float]) -> str:
    """A warning if no pair of the run counted; nothing otherwise.

    Args:
        measures: of all pairs, as `pair_measures` gives them.
    """
    shares = {
        name.removeprefix("share_"): share
        for name, share in measures.items()
        if name.startswith("share_")
    }
    if not shares or any(shares.get(kind) for kind in ("offline", "online", "bdhs")):
        return ""
    why = ", ".join(f"{WHY_NOT[kind]} {share:.0%}" for kind, share in shares.items())
    return (
        f"No pair counted in any step, so the weights are still those of the start ({why}). Take "
        "more prompts or steps, a higher --temperature, larger --max-new-tokens, or another judge."
    )


def _all_measures(folder: Path) -> dict[str, float]:
    return pair_measures(
        [row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)]
    )
