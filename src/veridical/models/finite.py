"""Numbers that are none: where a model answers or scores, they are an error and never a result."""

from __future__ import annotations

import torch
from torch import Tensor

from veridical.models.policy import Policy
from veridical.models.precision import working_dtype
from veridical.runtime.errors import UserError


def require_finite(policy: Policy, values: Tensor, what: str) -> None:
    """Refuse NaN and infinity in what a model computed.

    Args:
        policy: whose numbers they are.
        values: any shape. They are read by the host.
        what: names them, as in "log-probabilities".

    Raises:
        UserError: names the dtype, the first damaged weight if there is one, and what to set.
    """
    if not bool(values.isfinite().all()):
        raise UserError(not_finite(policy, what))


def not_finite(policy: Policy, what: str) -> str:
    """Why a model's numbers are not finite, and what to set instead."""
    dtype = working_dtype(policy)
    name = str(dtype).removeprefix("torch.")
    said = f"The {what} of {policy.name} in {name} are NaN or infinite."
    damaged = next((n for n, p in policy.model.named_parameters() if not _is_finite(p)), None)
    if damaged is not None:
        cause = "an earlier training run diverged, or the file is damaged"
        if dtype == torch.float16:
            cause = "the weights do not fit float16, or " + cause
            return f"{said} So is its weight {damaged}: {cause}. Try --dtype bfloat16 or float32."
        return f"{said} So is its weight {damaged}: {cause}. Use another checkpoint."
    if dtype == torch.float16:
        return f"{said} float16 ends at 65504. Set --dtype bfloat16 or --dtype float32."
    if dtype == torch.bfloat16:
        return f"{said} Set --dtype float32; if that does not help, check the checkpoint."
    return f"{said} Its weights are finite, so check the checkpoint's configuration and the images."


def _is_finite(parameter: Tensor) -> bool:
    if not parameter.is_floating_point():
        return True
    # A sum is finite only where all its terms are, and takes no second copy of the weights.
    return bool(parameter.detach().sum(dtype=torch.float32).isfinite()) or bool(
        parameter.detach().isfinite().all()
    )
