"""Every loss of a pair and every term: a new one is a file beside this one, and its name here.

The command line reads these types: `--loss` takes the losses' names, and their fields are options.
"""

from __future__ import annotations

from veridical.objectives.aot import AOT, UnpairedAOT
from veridical.objectives.apo import APODown, APOZero
from veridical.objectives.bco import BCO
from veridical.objectives.chip import CHiP
from veridical.objectives.cpo import CPO
from veridical.objectives.ddpo import DDPO
from veridical.objectives.discopop import DiscoPOP
from veridical.objectives.dpo import DPO
from veridical.objectives.exo import EXO
from veridical.objectives.fdpo import FDPO
from veridical.objectives.ipo import IPO
from veridical.objectives.kto import KTO
from veridical.objectives.lddpo import LDDPO
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.mdpo import MDPO
from veridical.objectives.mpo import MPO
from veridical.objectives.nca import NCA
from veridical.objectives.orpo import ORPO
from veridical.objectives.robust import Robust
from veridical.objectives.simpo import SimPO
from veridical.objectives.slic import SLiC
from veridical.objectives.sppo import SPPO
from veridical.objectives.svco import SVCO
from veridical.objectives.symmpo import SymMPO
from veridical.objectives.vdpo import VDPO
from veridical.objectives.wpo import WPO

AnyPairLoss = (
    DPO | IPO | SLiC | DDPO | LDDPO | WPO | MDPO | CHiP | VDPO | SymMPO | SVCO | MPO | BCO | FDPO
    | Robust | EXO | NCA | SPPO | APOZero | APODown | AOT | UnpairedAOT | DiscoPOP | KTO | SimPO
    | CPO | ORPO
)  # fmt: skip
AnyTerm = Likelihood
