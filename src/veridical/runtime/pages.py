"""HTML pages in one style: what is common to the report and to the description of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from veridical.runtime.errors import UserError
from veridical.runtime.files import read_text, write_text_atomic

STYLE = Path(__file__).with_name("style.css")


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
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / 'report.html'}.")
    if out.is_symlink() and not out.exists():
        raise UserError(f"{out} is a link that leads nowhere. Name another --out.")
    if out.exists() and not (out.is_file() and mark in read_text(out)):
        raise UserError(f"{out} is not {what}, and would be lost. Name another --out.")
