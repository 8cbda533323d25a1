"""The finished model on the Hugging Face hub: refused before training where it cannot work."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from veridical.runtime import processes
from veridical.runtime.errors import UserError
from veridical.runtime.files import read_json, write_json
from veridical.runtime.hub import can_look_up, hub_host
from veridical.runtime.run_record import RECORD
from veridical.runtime.runs import Run
from veridical.train.options import Training

TOKEN = "HF_TOKEN"
WRITE = "repo.write"
"""The hub's word for the right to make repositories and to write to them."""
WAITS = (2.0, 10.0)
"""Seconds before the second and the third try of an upload (our choice)."""
FAULTS: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)
"""What the hub's client raises for a connection that fails, and for what the hub refuses: its HTTP
library's own error, whichever library the installed client uses."""


def check_push(training: Training) -> None:
    """Find out before training whether the model can be pushed at its end; nothing is written.

    Raises:
        UserError: the name is not a repository's, there is no network or token, the token may not
            write there, or a repository of that name is public and a private one was asked for.
    """
    name = training.push_to_hub
    if name is None:
        if training.push_public:
            raise UserError("--push-public says how to push: give --push-to-hub OWNER/NAME too.")
        return
    _check_name(name)
    later = "Leave it out, and push the finished folder later with `hf upload`"
    if constants.HF_HUB_OFFLINE or not can_look_up(hub_host()):
        raise UserError(
            f"--push-to-hub {name}: {constants.ENDPOINT} can't be reached (no network, or "
            f"HF_HUB_OFFLINE is set). {later}."
        )
    if not os.environ.get(TOKEN):
        raise UserError(
            f"--push-to-hub {name}: the variable {TOKEN} holds no token. Set it to one that may "
            "write; it is read from the environment alone and never written."
        )
    try:
        who = _api().whoami()
        _check_rights(name, who)
        _check_visibility(name, training.push_public)
    except FAULTS as error:
        raise UserError(f"--push-to-hub {name}: {_reason(error)}. {later}.") from error


def push_result(run: Run, training: Training) -> None:
    """Upload what the run saved; the first process does. A failure leaves the run finished.

    `run.json` gets `pushed`: the repository, and its commit or why there is none.

    Args:
        run: finished; `saved` in its record names the folders, the one to load first.
        training: the run's options.
    """
    name, saved = training.push_to_hub, run.record.get("saved")
    if name is None or not saved or not processes.is_first():
        return
    folder = run.folder / saved[0]
    print(f"Pushing {folder} to {name} ({'public' if training.push_public else 'private'}).")
    pushed: dict[str, object] = {"repository": name, "folder": saved[0]}
    try:
        pushed |= {"commit": _upload(name, folder, run, not training.push_public)}
        print(f"The model is at {constants.ENDPOINT}/{name}.")
    except Exception as error:  # whatever it was, the run is finished, and it is said
        pushed |= {"failed": _reason(error)}
        print(
            f"Nothing was pushed: {_reason(error)}. The run itself is finished. Push it later: "
            f"{how_to_push(name, folder, training.push_public)}"
        )
    write_json(run.folder / RECORD, {**read_json(run.folder / RECORD), "pushed": pushed})


def how_to_push(name: str, folder: Path, public: bool) -> str:
    """The command that uploads a saved folder."""
    return f"hf upload {name} {shlex.quote(str(folder))} .{'' if public else ' --private'}"


def _upload(name: str, folder: Path, run: Run, private: bool) -> str:
    """Make the repository if need be, and one commit; the commit's hash."""
    for wait in (*WAITS, None):
        try:
            _api().create_repo(name, private=private, exist_ok=True)
            made = _api().upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=f"Upload the result of veridical {run.record['command']}",
            )
            return str(made.oid)
        except FAULTS as error:
            if wait is None or not _passes(error):
                raise
            print(f"  {_reason(error)}; trying again in {wait:g} seconds.")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _passes(error: Exception) -> bool:
    """Whether another try may help: not where the hub has refused."""
    if not isinstance(error, HfHubHTTPError):
        return True
    status = error.response.status_code
    return status == 429 or status >= 500


def _api() -> HfApi:
    return HfApi(endpoint=constants.ENDPOINT, token=os.environ.get(TOKEN), library_name="veridical")


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"--push-to-hub {name} is not a repository: {_reason(error)}. Give OWNER/NAME."
        ) from error
    if name.count("/") != 1:
        raise UserError(f"--push-to-hub {name} is not a repository; give OWNER/NAME.")


def _check_rights(name: str, who: Any) -> None:
    owner = name.split("/")[0]
    owners = {str(who["name"]), *(str(one.get("name")) for one in who.get("orgs") or ())}
    if owner.lower() not in {one.lower() for one in owners}:
        raise UserError(
            f"--push-to-hub {name}: the token in {TOKEN} is that of {who['name']}, who can't "
            f"write to {owner}. Give one of {', '.join(sorted(owners))}, or another token."
        )
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "fineGrained":
        _check_scopes(name, token.get("fineGrained"))
    if token.get("role") == "read":
        raise UserError(
            f"--push-to-hub {name}: the token in {TOKEN} may only read. Set one that may write."
        )


def _check_scopes(name: str, granted: object) -> None:
    """Refuse a fine-grained token that may not write to the repository or for its owner.

    The hub lists what it grants: `{"scoped": [{"entity": {"type", "name"}, "permissions"}]}`; a
    hub that does not list it is asked when the model is pushed.
    """
    if not isinstance(granted, dict) or not isinstance(granted.get("scoped"), list):
        return
    owner = name.split("/")[0]
    wanted = {("user", owner.lower()), ("org", owner.lower()), ("model", name.lower())}
    writes = {
        (str(entity.get("type")), str(entity.get("name")).lower())
        for one in granted["scoped"]
        if WRITE in (one.get("permissions") or ()) and (entity := one.get("entity") or {})
    }
    if not writes & wanted:
        raise UserError(
            f"--push-to-hub {name}: the fine-grained token in {TOKEN} may not write there. Give it "
            f"write access to repositories of {owner} on the hub's page of tokens, or set one "
            "that may write."
        )
    if not writes & (wanted - {("model", name.lower())}):
        try:
            _api().repo_info(name)
        except RepositoryNotFoundError as error:
            raise UserError(
                f"--push-to-hub {name}: the fine-grained token in {TOKEN} may write to this "
                "repository alone, which does not exist. Make it on the hub first, or give the "
                f"token write access to repositories of {owner}."
            ) from error


def _check_visibility(name: str, public: bool) -> None:
    try:
        known = _api().repo_info(name)
    except RepositoryNotFoundError:
        return
    if not public and not known.private:
        raise UserError(
            f"--push-to-hub {name}: there is a public repository of that name. Set --push-public "
            "true to push to it, or give another name."
        )


def _reason(error: Exception) -> str:
    """One line, without a token."""
    text = " ".join(str(error).split()) or type(error).__name__
    token = os.environ.get(TOKEN)
    return (text.replace(token, "...") if token else text).rstrip(".")[:300]
