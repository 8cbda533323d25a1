"""YAML files that ship in a folder of the package, or are named by their path."""

from __future__ import annotations

from pathlib import Path

from veridical.runtime.errors import UserError


def shipped_names(folder: Path) -> list[str]:
    """The names of the files that ship in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_file(name: str, folder: Path, what: str, option: str = "") -> Path:
    """The file that a name or a path stands for.

    Args:
        name: of a file that ships, or the path of another.
        folder: where files ship.
        what: they are, for the message.
        option: that names it, for the message.

    Raises:
        UserError: there is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(shipped_names(folder))
        raise UserError(
            f"{option}{name}: there is no such {what}. There is: {names}; or name a YAML file of "
            "your own."
        )
    return path
