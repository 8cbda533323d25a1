"""The data card of a set: where its rows are from, under which licenses, how it was made."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from veridical.data.exporters.licenses import OTHER, license_identifier
from veridical.data.importers.sets import NOT_STATED, SETS
from veridical.runtime.errors import UserError, reason_of
from veridical.runtime.files import JSON_ERRORS, read_json
from veridical.runtime.progress import counted

UNNAMED = "rows without a source"
NOT_TOLD = ("out", "shard", "sets", "expect")
"""Options that say nothing of how a set was made, or that the hashes below say better."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ records }} {{ kind }} records for vision-language models, in Parquet with the images' bytes.
{% if kind == "preference" -%}
The columns are those of TRL's vision preference format: `images`, `prompt`, `chosen`, `rejected`.
{% endif %}
## Sources

| source | rows | on the hub | license |
| --- | --- | --- | --- |
{% for source in sources -%}
| {{ source.name }} | {{ source.rows }} | {{ source.hub }} | {{ source.license }} |
{% endfor %}
Licenses are those that the sources' own pages state. Images have licenses of their own.

## How it was made

{% for step in recipe -%}
- {{ step }}
{% endfor %}
## Files

| file | SHA-256 |
| --- | --- |
{% for name, hash in files.items() -%}
| `{{ name }}` | `{{ hash }}` |
{% endfor %}
Made with [Veridical](https://pypi.org/project/veridical/).
"""


@dataclass(frozen=True)
class SourceRows:
    """Where some rows are from.

    Attributes:
        name: a set that is known by name, a builder, or `UNNAMED`.
        rows: how many.
        hub: its name on the hub, where known.
        license: as stated.
    """

    name: str
    rows: int
    hub: str
    license: str


@dataclass(frozen=True)
class SetDescription:
    """What a card says.

    Attributes:
        title: of the card.
        kind: of the records.
        records: how many.
        license: of the whole, as the hub names it.
        sources: where rows are from, the most first.
        recipe: what was done, a step a line.
        files: names to hashes.
    """

    title: str
    kind: str
    records: int
    license: str
    sources: tuple[SourceRows, ...]
    recipe: tuple[str, ...]
    files: Mapping[str, str]


def describe_source(source: str | None) -> str:
    """The set or the builder that a row's `source` names, before it was composed or changed."""
    try:
        told = json.loads(source or "")
    except JSON_ERRORS:
        return UNNAMED
    if not isinstance(told, dict):
        return UNNAMED
    earlier = told.get("from")
    origin = describe_source(earlier) if isinstance(earlier, str) else UNNAMED
    if origin != UNNAMED:
        return origin  # its license is that of what was made of it
    names = (told.get(name) for name in ("set", "builder"))
    return next((name for name in names if isinstance(name, str) and name), UNNAMED)


def describe_set(
    data: Path, sources: Mapping[str, int], about: Mapping[str, Any], license: str | None
) -> SetDescription:
    """What is known of a set: from its rows, and from the records beside its file.

    Args:
        data: the file of records; `FILE.import.json` or `run.json` beside it say how it was made.
        sources: number of rows by what `describe_source` said.
        about: what `export.json` holds.
        license: of the whole; if None the sources' own, where they have the same, else "other".
    """
    rows = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    found = tuple(_source(name, count) for name, count in rows)
    known = {_of_hub(one.license) for one in found}
    return SetDescription(
        title=data.stem,
        kind=about["kind"],
        records=about["records"],
        license=license or (known.pop() if len(known) == 1 else OTHER),
        sources=found,
        recipe=tuple(_recipe(data, about)),
        files=about["files"],
    )


def write_card(path: Path, described: SetDescription) -> None:
    """Write the card as the hub reads it: metadata, then Markdown."""
    size = next((name for limit, name in SIZES if described.records < limit), "n>1M")
    files = {"split": "train", "path": "*.parquet"}
    data = DatasetCardData(
        license=described.license,
        task_categories=["image-text-to-text"],
        tags=["veridical", described.kind],
        size_categories=[size],
        pretty_name=described.title,
        configs=[{"config_name": "default", "data_files": [files]}],
    )
    told = {name: value for name, value in vars(described).items() if name != "license"}
    DatasetCard.from_template(data, template_str=TEMPLATE, **told).save(path)


def _of_hub(stated: str) -> str:
    """The hub's identifier for what a set's page states; `OTHER` where that is not a license."""
    with contextlib.suppress(UserError):
        return license_identifier(stated)
    return OTHER


def _source(name: str, rows: int) -> SourceRows:
    one = SETS.get(name)
    if one is None:
        return SourceRows(name, rows, "", NOT_STATED)
    hub = f"[{one.hub}](https://huggingface.co/datasets/{one.hub})" if one.hub else ""
    return SourceRows(name, rows, hub, one.license)


def _recipe(data: Path, about: Mapping[str, object]) -> list[str]:
    steps: list[str] = []
    imported = data.with_name(f"{data.name}.import.json")
    run = data.parent / "run.json"
    if imported.is_file():
        steps += _imported(imported)
    elif run.is_file():
        steps += _built(run)
    left = about["left_out"]
    steps.append(f"`veridical data export`: {about['records']} records, {left} left out")
    return [*steps, f"the file of records that was exported: SHA-256 `{about['sha256']}`"]


def _imported(path: Path) -> list[str]:
    """What `FILE.import.json` says."""
    with _as_written(path, "an import"):
        one = read_json(path)
        revision = f" at {one['revision']}" if one["revision"] else ""
        rules = {name: value for name, value in one["rules"].items() if value}
        step = (
            f"`veridical data import`: {counted(int(one['rows']), 'rows')} of "
            f"{Path(one['source']).name}{revision} read as {one['set']}; "
            f"{counted(int(one['records']), 'records')}, {one['left_out']} left out"
            + (f"; rules `{json.dumps(rules)}`" if rules else "")
        )
        return [step, *(f"read: `{Path(n).name}`, SHA-256 `{h}`" for n, h in one["files"].items())]


def _built(path: Path) -> list[str]:
    """What a build's `run.json` says."""
    with _as_written(path, "a build"):
        record = read_json(path)
        options = record.get("configuration", {}).items()
        plain = {n: v for n, v in options if n not in NOT_TOLD and _is_plain(v)}
        hashes = {n: one.get("sha256") for n, one in record.get("inputs", {}).items()}
        step = f"`veridical {record.get('command')}` with `{json.dumps(plain)}`"
        return [step, *(f"read: {n}, SHA-256 `{h}`" for n, h in hashes.items() if h)]


def _is_plain(value: object) -> bool:
    """Whether an option's value can be shown: texts, numbers and lists of them, but no paths."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, str | int | float | bool) and "/" not in str(value)


@contextlib.contextmanager
def _as_written(path: Path, who: str) -> Iterator[None]:
    """Name a file that anybody may have edited, where a field is missing or of another form.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not as {who} writes it ({type(error).__name__}: {reason_of(error)}). "
            "Restore it, or move it away: the card then leaves out how the set was made."
        ) from error
