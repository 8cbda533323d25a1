"""The versions of installed packages, this one among them."""

from __future__ import annotations

from importlib import metadata

FROM_SOURCE = "from source"
"""The version of a checkout that is imported without being installed."""


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def own_version() -> str:
    """The version of Veridical; `from source` where a checkout is imported without installation."""
    return version_of("veridical") or FROM_SOURCE
