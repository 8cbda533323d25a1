"""Templates and files of the pages; everything in a template is escaped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from veridical.runtime.pages import STYLE

STATIC = Path(__file__).with_name("static")
# A page whose server ends while it loads has its script, which tries until the server is back.
KEPT = {"cache-control": "private, max-age=86400"}
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def counted(number: int, things: str) -> str:
    """A number with what it counts, as `runtime.progress.counted`, and with separators."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


@cache
def environment() -> Environment:
    """The templates of this room."""
    found = Environment(
        loader=PackageLoader("veridical.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["static_version"] = _static_version()
    found.globals["counted"] = counted
    return found


def _static_version() -> str:
    """In the addresses of scripts and styles, so that a browser may keep them."""
    content = [path.read_bytes() for path in sorted(STATIC.iterdir()) if path.is_file()]
    return hashlib.sha256(b"".join([style().encode(), *content])).hexdigest()[:12]


def render(template: str, values: Mapping[str, object]) -> str:
    """A page of a template's name and what it names."""
    return environment().get_template(template).render(values)


def style() -> str:
    """The style of every page: the report's, then our own."""
    return STYLE.read_text(encoding="utf-8") + (STATIC / "web.css").read_text(encoding="utf-8")


def static_file(name: str) -> tuple[bytes, str] | None:
    """A script or the style sheet with its type; None if there is no such file."""
    if name == "style.css":
        return style().encode(), TYPES[".css"]
    if name not in {path.name for path in STATIC.glob("*.js")}:
        return None
    return (STATIC / name).read_bytes(), TYPES[".js"]
