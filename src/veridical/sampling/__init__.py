"""How everything that is sampled here is sampled: one loop, in which a checkpoint has no say."""

from veridical.sampling.answers import respond
from veridical.sampling.choice import never_sampled
from veridical.sampling.masked import complete_masked, sample_mask
from veridical.sampling.requests import Decoding, Request

__all__ = [
    "Decoding",
    "Request",
    "complete_masked",
    "never_sampled",
    "respond",
    "sample_mask",
]
