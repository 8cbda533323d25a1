"""The packages of the extra `veridical[web]`."""

from __future__ import annotations

import importlib.util

from veridical.runtime.errors import UserError

PACKAGES = ("fastapi", "uvicorn")


def require_web(command: str) -> None:
    """Name the packages that are not installed, before any work is done.

    Raises:
        UserError: at least one is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"`{command}` needs {', '.join(missing)}, not installed here. "
            "Install the extra: pip install 'veridical[web]'"
        )
