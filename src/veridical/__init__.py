"""Preference alignment for vision-language models that proves what it did.

Everything here is imported when it is first used, so that `import veridical` costs nothing. Other
names inside the package are private: they may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from veridical.runtime.versions import own_version

if TYPE_CHECKING:
    from veridical.bdhs.settings import BDHSSettings
    from veridical.builders.annotate import build_annotate
    from veridical.builders.bdhs import build_bdhs
    from veridical.builders.best import build_best
    from veridical.builders.compose import build_compose
    from veridical.builders.composing.recipe import Amounts, Factors
    from veridical.builders.contrast import build_contrast
    from veridical.builders.corrupt import build_corrupt
    from veridical.builders.corrupting.asked import MistakeWording
    from veridical.builders.corrupting.rules import MistakeRules
    from veridical.builders.distort import build_distort
    from veridical.builders.dropout import build_dropout
    from veridical.builders.facts import build_facts
    from veridical.builders.instruct import Mix, Published, build_instruct
    from veridical.builders.join import build_join
    from veridical.builders.objects import build_objects
    from veridical.builders.options import Comparing, ObjectFiles, Replies
    from veridical.builders.pairs import build_pairs
    from veridical.builders.rank import build_rank
    from veridical.builders.rate import build_rate
    from veridical.builders.sample import build_sample
    from veridical.data.records import read_records, write_records
    from veridical.eval.amber import AmberOptions, eval_amber
    from veridical.eval.chair import ChairOptions, eval_chair
    from veridical.eval.compare import eval_compare
    from veridical.eval.evaluation import Asking, Subject
    from veridical.eval.pope import PopeOptions, eval_pope
    from veridical.eval.reward import RewardOptions, eval_reward
    from veridical.eval.suite import evaluate
    from veridical.judges.chair import ChairWeights
    from veridical.judges.named import Judging
    from veridical.judges.symbolic import Symbolic
    from veridical.models.load import load_policy
    from veridical.models.policy import Policy
    from veridical.models.reward_model import attach_reward_model, load_reward_model
    from veridical.objectives.aot import AOT, UnpairedAOT
    from veridical.objectives.apo import APODown, APOZero
    from veridical.objectives.averaged import AveragedPreference
    from veridical.objectives.bco import BCO
    from veridical.objectives.chip import CHiP
    from veridical.objectives.combined import Combined
    from veridical.objectives.cpo import CPO
    from veridical.objectives.ddpo import DDPO
    from veridical.objectives.discopop import DiscoPOP
    from veridical.objectives.dpo import DPO, dpo_loss
    from veridical.objectives.exo import EXO
    from veridical.objectives.fdpo import FDPO
    from veridical.objectives.grpo import GRPO
    from veridical.objectives.ipo import IPO, ipo_loss
    from veridical.objectives.lddpo import LDDPO
    from veridical.objectives.likelihood import Likelihood
    from veridical.objectives.mdpo import MDPO
    from veridical.objectives.mpo import MPO
    from veridical.objectives.nca import NCA
    from veridical.objectives.orpo import ORPO
    from veridical.objectives.ppo import PPO
    from veridical.objectives.preference import Preference
    from veridical.objectives.reward import BradleyTerry, reward_loss
    from veridical.objectives.rloo import RLOO
    from veridical.objectives.robust import Robust
    from veridical.objectives.simpo import SimPO
    from veridical.objectives.slic import SLiC, slic_loss
    from veridical.objectives.sppo import SPPO
    from veridical.objectives.vdpo import VDPO
    from veridical.report.page import write_report
    from veridical.runtime.errors import UserError
    from veridical.runtime.options import CacheOptions, Loading, Placement, Reading
    from veridical.sampling.ask import ask
    from veridical.sampling.requests import Decoding
    from veridical.study.align import Aligned, Execution, align
    from veridical.study.alignment import Evaluating
    from veridical.train.dpo import train_dpo
    from veridical.train.grpo import train_grpo
    from veridical.train.online import train_online
    from veridical.train.options import Training
    from veridical.train.ppo import train_ppo
    from veridical.train.responses import Sampling
    from veridical.train.reward import train_reward
    from veridical.train.rloo import train_rloo
    from veridical.train.sft import train_sft
    from veridical.train.steerlm import train_steerlm

    __version__: str

_HOMES = {
    "bdhs.settings": "BDHSSettings",
    "builders.annotate": "build_annotate",
    "builders.bdhs": "build_bdhs",
    "builders.best": "build_best",
    "builders.compose": "build_compose",
    "builders.composing.recipe": "Amounts Factors",
    "builders.contrast": "build_contrast",
    "builders.corrupt": "build_corrupt",
    "builders.corrupting.asked": "MistakeWording",
    "builders.corrupting.rules": "MistakeRules",
    "builders.distort": "build_distort",
    "builders.dropout": "build_dropout",
    "builders.facts": "build_facts",
    "builders.instruct": "Mix Published build_instruct",
    "builders.join": "build_join",
    "builders.objects": "build_objects",
    "builders.options": "Comparing ObjectFiles Replies",
    "builders.pairs": "build_pairs",
    "builders.rank": "build_rank",
    "builders.rate": "build_rate",
    "builders.sample": "build_sample",
    "data.records": "read_records write_records",
    "eval.amber": "AmberOptions eval_amber",
    "eval.chair": "ChairOptions eval_chair",
    "eval.compare": "eval_compare",
    "eval.evaluation": "Asking Subject",
    "eval.pope": "PopeOptions eval_pope",
    "eval.reward": "RewardOptions eval_reward",
    "eval.suite": "evaluate",
    "judges.chair": "ChairWeights",
    "judges.named": "Judging",
    "judges.symbolic": "Symbolic",
    "models.load": "load_policy",
    "models.policy": "Policy",
    "models.reward_model": "attach_reward_model load_reward_model",
    "objectives.aot": "AOT UnpairedAOT",
    "objectives.discopop": "DiscoPOP",
    "objectives.fdpo": "FDPO",
    "objectives.lddpo": "LDDPO",
    "objectives.vdpo": "VDPO",
    "objectives.apo": "APODown APOZero",
    "objectives.bco": "BCO",
    "objectives.chip": "CHiP",
    "objectives.combined": "Combined",
    "objectives.cpo": "CPO",
    "objectives.ddpo": "DDPO",
    "objectives.exo": "EXO",
    "objectives.mdpo": "MDPO",
    "objectives.mpo": "MPO",
    "objectives.nca": "NCA",
    "objectives.orpo": "ORPO",
    "objectives.robust": "Robust",
    "objectives.simpo": "SimPO",
    "objectives.sppo": "SPPO",
    "objectives.dpo": "DPO dpo_loss",
    "objectives.grpo": "GRPO",
    "objectives.ipo": "IPO ipo_loss",
    "objectives.likelihood": "Likelihood",
    "objectives.averaged": "AveragedPreference",
    "objectives.preference": "Preference",
    "objectives.ppo": "PPO",
    "objectives.reward": "BradleyTerry reward_loss",
    "objectives.rloo": "RLOO",
    "objectives.slic": "SLiC slic_loss",
    "report.page": "write_report",
    "runtime.errors": "UserError",
    "runtime.options": "CacheOptions Loading Placement Reading",
    "sampling.ask": "ask",
    "sampling.requests": "Decoding",
    "study.align": "Aligned Execution align",
    "study.alignment": "Evaluating",
    "train.dpo": "train_dpo",
    "train.grpo": "train_grpo",
    "train.online": "train_online",
    "train.options": "Training",
    "train.ppo": "train_ppo",
    "train.responses": "Sampling",
    "train.reward": "train_reward",
    "train.rloo": "train_rloo",
    "train.sft": "train_sft",
    "train.steerlm": "train_steerlm",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Aligned",
    "Evaluating",
    "Execution",
    "align",
    "AmberOptions",
    "Amounts",
    "Asking",
    "AveragedPreference",
    "BradleyTerry",
    "CacheOptions",
    "ChairOptions",
    "ChairWeights",
    "Comparing",
    "DPO",
    "Decoding",
    "Factors",
    "AOT",
    "UnpairedAOT",
    "DiscoPOP",
    "FDPO",
    "LDDPO",
    "VDPO",
    "APODown",
    "APOZero",
    "BCO",
    "CHiP",
    "CPO",
    "Combined",
    "DDPO",
    "EXO",
    "MDPO",
    "MPO",
    "NCA",
    "ORPO",
    "Robust",
    "SimPO",
    "SPPO",
    "GRPO",
    "IPO",
    "Judging",
    "Likelihood",
    "Loading",
    "BDHSSettings",
    "MistakeRules",
    "MistakeWording",
    "Mix",
    "ObjectFiles",
    "PPO",
    "Placement",
    "Policy",
    "PopeOptions",
    "Preference",
    "Published",
    "RLOO",
    "Reading",
    "Replies",
    "RewardOptions",
    "SLiC",
    "Sampling",
    "Subject",
    "Symbolic",
    "Training",
    "UserError",
    "__version__",
    "ask",
    "attach_reward_model",
    "build_annotate",
    "build_bdhs",
    "build_best",
    "build_compose",
    "build_contrast",
    "build_corrupt",
    "build_distort",
    "build_dropout",
    "build_facts",
    "build_instruct",
    "build_join",
    "build_objects",
    "build_pairs",
    "build_rank",
    "build_rate",
    "build_sample",
    "dpo_loss",
    "eval_amber",
    "eval_chair",
    "eval_compare",
    "eval_pope",
    "eval_reward",
    "evaluate",
    "ipo_loss",
    "load_policy",
    "load_reward_model",
    "read_records",
    "reward_loss",
    "slic_loss",
    "train_dpo",
    "train_grpo",
    "train_online",
    "train_ppo",
    "train_reward",
    "train_rloo",
    "train_sft",
    "train_steerlm",
    "write_records",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        return own_version()
    if name not in _HOME_OF:
        raise AttributeError(f"module 'veridical' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"veridical.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What the package offers."""
    return list(__all__)
