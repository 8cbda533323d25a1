"""What of a model decides a build's result."""

from __future__ import annotations

import json

from veridical.models.attention import USUAL, attentions_of
from veridical.models.cache_keys import model_fingerprint
from veridical.models.model_argument import Model, name_of
from veridical.models.policy import Policy
from veridical.runtime.cache import Cache
from veridical.runtime.runs import Run


def model_identity(
    run: Run, option: str, policy: Policy, model: Model, cache: Cache | None = None
) -> dict[str, str]:
    """What of a model decides a result: fingerprint, dtype, attention, template's variables.

    Args:
        run: keeps the fingerprint in `run.json`.
        option: that names the model.
        policy: the model, loaded.
        model: what it was loaded by, or the loaded model that was given.
        cache: remembers the hashes of files; the user's own if not given.
    """
    found = model_fingerprint(model, cache=cache)
    run.note_model(option, name_of(model), found, policy.merges)
    given = {"template": json.dumps(dict(policy.template), sort_keys=True, default=str)}
    known = {option: found.key, "dtype": str(policy.model.dtype)}
    attention = attentions_of(policy.core)
    if attention != USUAL:
        known["attention"] = attention
    return known | (given if policy.template else {})
