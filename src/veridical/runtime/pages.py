"""HTML pages in one style: what is common to the report and to the description of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from veridical.runtime.files import read_text, refuse_to_replace, write_text_atomic

STYLE = Path(__file__).with_name("style.css")
VIEW_PORT = 8600
"""Where `veridical view` and `veridical label` listen if nothing else is said."""
VIEWED_SETS = "veridical-sets"
"""The element `meta` of a report that names the sets its links lead to, for `veridical view`."""


def viewed_address(place: int, query: Mapping[str, str] | None = None) -> str:
    """Where `veridical view` shows a set while it runs on this machine.

    Args:
        place: of the set among those that it opens, from 0.
        query: what of it, and in which order.
    """
    return f"http://127.0.0.1:{VIEW_PORT}/s/{place}" + (f"?{urlencode(query)}" if query else "")


def answer_field(metric: str, runs: int) -> str:
    """The field by which `veridical view` sorts the answers of some runs by a metric.

    For one run it is the metric's value on each answer alone; for several, the last run's minus the
    first's.
    """
    return f"{'change' if runs > 1 else 'answer'}_{metric}"


def write_page(out: Path, package: str, template: str, page: Any) -> None:
    """Render a template and write the page; all text in it is escaped.

    Args:
        out: the file.
        package: whose folder `templates` has the template.
        template: its name. It gets `page`, and `style`, the text of the style sheet.
        page: whatever the template names.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = STYLE.read_text(encoding="utf-8")
    text = environment.get_template(template).render(page=page, style=style)
    write_text_atomic(out, text)


def refuse_other_file(out: Path, mark: str, what: str) -> None:
    """Refuse to write over anything but a page of the same kind.

    Args:
        out: the file to write.
        mark: what every such page has in it, and no other file.
        what: such a page is called, with its article: "a report".

    Raises:
        UserError: there is something else.
    """
    refuse_to_replace(out, lambda: mark in read_text(out), what)
