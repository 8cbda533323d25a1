"""Whether a run shares prefixes: asked of every model that reads its batches."""

from __future__ import annotations

from collections.abc import Sequence

from veridical.checks.prefix_sharing import Sharing, sharing_of_all
from veridical.models.policy import Policy
from veridical.models.rendering import Group
from veridical.train.options import Training


def find_sharing(
    training: Training, groups: Sequence[Group], policy: Policy, reference: Policy | None = None
) -> Sharing:
    """Find out whether prefixes are shared, and say so.

    Args:
        training: may switch it off.
        groups: a few rows.
        policy: as training starts.
        reference: reads the same batches, so it has to be able to share too.
    """
    sharing = _sharing(training, groups, policy, reference)
    print(f"Prefix sharing: {'yes' if sharing.allowed else 'no, two rows'} ({sharing.reason}).")
    return sharing


def _sharing(
    training: Training, groups: Sequence[Group], policy: Policy, reference: Policy | None
) -> Sharing:
    if not training.share_prefix:
        return Sharing(False, "--share-prefix false")
    sharing = sharing_of_all(policy, groups)
    if not sharing.allowed or reference is None or reference is policy:
        return sharing
    theirs = sharing_of_all(reference, groups)
    return sharing if theirs.allowed else Sharing(False, f"the reference can't: {theirs.reason}")
