"""The methods that are compared, each with the settings that are tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from veridical.objectives.dpo import DPO
from veridical.objectives.ipo import IPO
from veridical.objectives.preference import AveragedPreference
from veridical.objectives.slic import SLiC
from veridical.study.fresh_methods import Fresh
from veridical.study.method_sets import DataName

TUNING_SEED = 0


STEER = "all-4"


UNSTEERED = "steerlm-unsteered"


@dataclass(frozen=True)
class Trial:
    """One setting that a method is tried with."""

    learning_rate: float
    beta: float


@dataclass(frozen=True)
class Method:
    """One way of learning.

    Attributes:
        name: as in folders and tables.
        label: for tables in the docs.
        trainer: the command it trains with.
        data: the set it learns from; what `fresh` learns from says it itself.
        trials: its settings; every method has three.
        objective: of `dpo`; its beta is the trial's, and its likelihood term the budget's.
        fresh: of `fresh`: which method.
        tuned_as: another method whose choice of setting it takes over; "" if it has its own.
    """

    name: str
    label: str
    trainer: Literal["dpo", "sft", "steerlm", "fresh"]
    data: DataName
    trials: tuple[Trial, Trial, Trial]
    objective: AveragedPreference = AveragedPreference()
    fresh: Fresh | None = None
    tuned_as: str = ""


def _rates(*rates: float) -> tuple[Trial, Trial, Trial]:
    """Supervised methods have but the learning rate to choose."""
    first, second, third = rates
    return (Trial(first, 0.1), Trial(second, 0.1), Trial(third, 0.1))


def _strengths(one: float, other: float) -> tuple[Trial, Trial, Trial]:
    """Two strengths of the loss, and twice the learning rate for the first."""
    return (Trial(2e-4, one), Trial(2e-4, other), Trial(4e-4, one))


def _penalties(light: float, heavy: float) -> tuple[Trial, Trial, Trial]:
    """Two weights of the KL penalty, and a higher learning rate with the lighter one."""
    return (Trial(1e-4, light), Trial(1e-4, heavy), Trial(3e-4, light))


def _fresh(name: str, label: str, fresh: Fresh) -> Method:
    """One that learns from fresh responses.

    With a reward model it takes the setting that was chosen for the same method with the exact
    judge: chosen by the truth, a setting would hide how far a proxy can be driven from it.
    """
    trials = _strengths(0.1, 0.3) if fresh.command == "online" else _penalties(0.05, 0.2)
    tuned_as = fresh.command if fresh.judge in ("reward", "facts") else ""
    return Method(name, label, "fresh", "bdhs", trials, fresh=fresh, tuned_as=tuned_as)


IPO_PER_TOKEN = AveragedPreference(IPO(), per_token=True)


SLIC = AveragedPreference(SLiC())


CONSERVATIVE = AveragedPreference(DPO(label_smoothing=0.1))


METHODS: tuple[Method, ...] = (
    Method("sft", "continued SFT", "sft", "bdhs", _rates(2e-4, 4e-4, 8e-4)),
    Method("rejection", "rejection sampling, best of 4", "sft", "best", _rates(1e-4, 2e-4, 4e-4)),
    Method(
        "steerlm", "SteerLM, all attributes at 4", "steerlm", "rated", _rates(4e-4, 8e-4, 16e-4)
    ),
    Method("dpo-plain", "DPO, plain samples", "dpo", "plain", _strengths(0.1, 0.3)),
    Method("bdhs", "DPO, BDHS", "dpo", "bdhs", _strengths(0.1, 0.3)),
    Method("unguided", "DPO, BDHS without guidance", "dpo", "unguided", _strengths(0.1, 0.3)),
    Method("noise", "DPO, BDHS with image noise", "dpo", "noise", _strengths(0.1, 0.3)),
    Method("averaged", "DPO, BDHS and plain, averaged", "dpo", "joined", _strengths(0.1, 0.3)),
    Method("distorted", "DPO, distorted image", "dpo", "distorted", _strengths(0.1, 0.3)),
    Method("ipo", "IPO, BDHS", "dpo", "bdhs", _strengths(1.0, 0.3), IPO_PER_TOKEN),
    Method("slic", "SLiC, BDHS", "dpo", "bdhs", _strengths(0.1, 0.03), SLIC),
    Method("cdpo", "conservative DPO, BDHS", "dpo", "bdhs", _strengths(0.1, 0.3), CONSERVATIVE),
    _fresh("online", "Online-DPO, exact judge", Fresh("online", "exact")),
    _fresh("online-reward", "Online-DPO, reward model", Fresh("online", "reward")),
    _fresh("mixed", "Mixed-DPO, BDHS and exact judge", Fresh("online", "exact", "mixed")),
    _fresh("online-bdhs", "Online-BDHS", Fresh("online", "none", "bdhs")),
    _fresh("ppo", "PPO, exact judge", Fresh("ppo", "exact")),
    _fresh("ppo-reward", "PPO, reward model", Fresh("ppo", "reward")),
    _fresh("ppo-facts", "PPO, reward model with facts", Fresh("ppo", "facts")),
    _fresh("rloo", "RLOO, exact judge", Fresh("rloo", "exact")),
)


LABELS = {
    "base": "the model as it ships",
    **{method.name: method.label for method in METHODS},
    UNSTEERED: "SteerLM, no ratings requested",
}
