"""The packages of the extra `veridical[inspect]`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from veridical.runtime.errors import UserError

PACKAGES = ("datasketch", "imagehash", "krippendorff", "sklearn")


def require_packages(command: str, packages: Sequence[str] = PACKAGES) -> None:
    """Name the packages that are not installed, before any work is done.

    Raises:
        UserError: at least one is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`{command}` needs {', '.join(missing)}, not installed here. "
            "Install the extra: pip install 'veridical[inspect]'"
        )
