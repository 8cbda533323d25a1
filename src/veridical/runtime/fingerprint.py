"""The one fingerprint of a model: its files by content or its commit on a hub, never its name.

It keys every cache, every kept answer and every unfinished build; `run.json` keeps it under
`models`, and a run that is resumed is compared with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from veridical.runtime.cache import Cache, digest, open_cache
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json
from veridical.runtime.hub import check_hub_name

EMBEDDED_MODEL = Path(__file__).parents[1] / "world" / "weights"
"""The tiny model that ships with the package; its name is `embedded`."""
READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Suffixes of files that loading a model, its processor or an adapter may read."""
ADAPTER = "adapter_config.json"
ASKED_FOR = ("config.json", ADAPTER, "modules.json")
"""A file that a hub's model has: one of these."""


@dataclass(frozen=True)
class Fingerprint:
    """Which model it is.

    Attributes:
        key: hash of all that loading it reads; of a hub's model, of its commit.
        revision: the hub's commit; None where no part of it is from a hub.
        files: hash of each file that is here, by name; for messages on what differs.
    """

    key: str
    revision: str | None
    files: Mapping[str, str]

    def changed_files(self, before: Mapping[str, Any]) -> list[str]:
        """Files that differ from what `run.json` says of an earlier start.

        Args:
            before: a fingerprint's fields, as `run.json` has them.
        """
        if before.get("key") == self.key:
            return []
        known: Mapping[str, str] = before.get("files") or {}
        # Of a hub's commit only the files that were asked for are here.
        names = known.keys() if self.revision else {*known, *self.files}
        return sorted(name for name in names if known.get(name) != self.files.get(name))


@dataclass(frozen=True)
class _Part:
    """A model, or an adapter on it: where its files are, and of which commit they are."""

    folder: Path | None
    revision: str | None = None


def named_folder(name: str) -> Path | None:
    """The folder that a model's name stands for; None for a name on a hub."""
    folder = EMBEDDED_MODEL if name == "embedded" else Path(name)
    return folder if folder.is_dir() else None


def model_folders(*names: str) -> list[Path]:
    """The folders among models' names, which a run must not write into."""
    return [Path(name) for name in names if name and Path(name).is_dir()]


def fingerprint(
    name: str, init_adapter: Path | None = None, cache: Cache | None = None
) -> Fingerprint:
    """Tell which model loading `name` gives now.

    Args:
        name: a folder, a hub's name or `embedded`; an adapter's folder counts with its base.
        init_adapter: an adapter's folder that is loaded on it.
        cache: remembers the hashes of files; the user's own if not given.

    Raises:
        UserError: it is not a folder, and no hub or cache of one has it.
    """
    store = open_cache(None, 50.0) if cache is None else cache
    parts = [*_parts(name), *([_Part(init_adapter)] if init_adapter else [])]
    revisions = [part.revision for part in parts if part.revision]
    files: dict[str, str] = {}
    keys: list[list[str]] = []
    for number, part in enumerate(parts):
        own = _hashes(part, store)
        files |= {f"adapter/{name}" if number else name: content for name, content in own.items()}
        keys += [["commit", part.revision]] if part.revision else [list(o) for o in own.items()]
    return Fingerprint(digest(keys), revisions[0] if revisions else None, files)


def is_here(name: str) -> bool:
    """Whether all of a model is in folders, so that its fingerprint is known before it loads."""
    folder = named_folder(name)
    if folder is None:
        return False
    base = _base(folder)
    return base is None or is_here(base)


def weight_files(name: str, init_adapter: Path | None = None) -> list[Path]:
    """The files on this machine that loading a model reads; of a hub's, those in its cache."""
    folder = named_folder(name) or _snapshot(name)
    base = _base(folder) if folder else None
    own = [each for each in (folder, init_adapter) if each is not None]
    return [*(weight_files(base) if base else []), *(file for each in own for file in _files(each))]


def _parts(name: str) -> list[_Part]:
    """The model that a name stands for, then the adapters on it."""
    folder = named_folder(name)
    if folder is None:
        return [_hub_part(name)]
    base = _base(folder)
    return [*(_parts(base) if base else []), _Part(folder)]


def _base(folder: Path) -> str | None:
    """The model that an adapter's folder names as its base; None for another folder."""
    if not (folder / ADAPTER).is_file():
        return None
    content = read_json(folder / ADAPTER)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return str(base) if base else None


def _hub_part(name: str) -> _Part:
    """A hub's model: the commit that loading it takes now, and its files that are here."""
    check_hub_name(name)
    here = _snapshot(name)
    newest = _newest_commit(name) or (here.name if here else None)
    if newest is None:
        raise UserError(
            f"{name} is not a folder here, and neither the hub nor its cache on this machine has "
            "it. Check the name, download it, or give a folder."
        )
    return _Part(here if here is not None and here.name == newest else None, newest)


def _snapshot(name: str) -> Path | None:
    """The folder of the hub's cache that a model is loaded from without a network."""
    with contextlib.suppress(HFValidationError):
        for file in ASKED_FOR:
            found = try_to_load_from_cache(name, file)
            if isinstance(found, str):
                return Path(found).parent
    return None


def _newest_commit(name: str) -> str | None:
    """What the hub says; None where it can't be asked, and the cache is loaded from."""
    if constants.HF_HUB_OFFLINE:
        return None
    for file in ASKED_FOR:
        with contextlib.suppress(
            HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled, OSError
        ):
            return get_hf_file_metadata(hf_hub_url(name, file)).commit_hash
    return None


def _hashes(part: _Part, cache: Cache) -> dict[str, str]:
    """The hash of each file, by its place in the folder."""
    found = {}
    for file in _files(part.folder) if part.folder else []:
        real = file.resolve()
        # The hub's cache names a file's content by its hash.
        in_hub = part.revision is not None and file.is_symlink() and real.parent.name == "blobs"
        name = str(file.relative_to(part.folder)) if part.folder else file.name
        found[name] = real.name if in_hub else cache.file_hash(file)
    return found


def _files(folder: Path) -> list[Path]:
    """The files of a folder that loading reads, sorted."""
    places = [folder, folder / "additional_chat_templates", *_modules(folder)]
    own = {
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.suffix in READ and path.is_file()
    }
    # An index may give a part of the weights any name.
    indexes = [path for path in own if path.name.endswith(".index.json")]
    named = {folder / part for index in indexes for part in _indexed(index)}
    return sorted(own | {path for path in named if path.is_file()})


def _modules(folder: Path) -> Sequence[Path]:
    """The folders of a Sentence Transformers model's parts."""
    if not (folder / "modules.json").is_file():
        return []
    content = read_json(folder / "modules.json")
    rows = content if isinstance(content, list) else []
    named = [row.get("path") for row in rows if isinstance(row, dict)]
    return [folder / path for path in named if isinstance(path, str) and path]


def _indexed(index: Path) -> set[str]:
    """The files that an index says the weights are in."""
    content = read_json(index)
    parts = content.get("weight_map") if isinstance(content, dict) else None
    return set(map(str, parts.values())) if isinstance(parts, dict) else set()
