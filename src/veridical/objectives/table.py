"""Every loss of a pair and every term: a new one is a file beside this one, and its name here.

The command line reads these types: `--loss` takes the losses' names, and their fields are options.
"""

from __future__ import annotations

from veridical.objectives.ddpo import DDPO
from veridical.objectives.dpo import DPO
from veridical.objectives.ipo import IPO
from veridical.objectives.likelihood import Likelihood
from veridical.objectives.mdpo import MDPO
from veridical.objectives.slic import SLiC

AnyPairLoss = DPO | IPO | SLiC | DDPO | MDPO
AnyTerm = Likelihood
