"""Uploading a folder with a data card to the hub."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from veridical.data.exporters.card import SetDescription
from veridical.runtime.errors import UserError, reason_of

SERVER_FAILS = 500
PUSHED = ["*.parquet", "README.md"]


def push(folder: Path, repo: str, private: bool, described: SetDescription) -> str:
    """Create the data set where there is none, and commit the folder's data and card to it.

    The token is the hub client's own: the variable HF_TOKEN, or what `hf auth login` saved.

    Args:
        folder: with Parquet files and the card.
        repo: owner/name.
        private: whether it is created as a private one.
        described: what the card says, for the message of the commit.

    Returns:
        A line that says where it is.

    Raises:
        UserError: the hub refuses, or can't be reached.
    """
    api = HfApi()
    message = f"{described.records} {described.kind} records"
    print(f"Texts and images leave this machine: {message} to {repo}.")
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type="dataset",
            allow_patterns=PUSHED,
            commit_message=message,
        )
    except (httpx2.HTTPError, LocalTokenNotFoundError, OSError, ValueError, KeyError) as error:
        # ValueError: the name is none, or a proxy answers with a page instead of JSON.
        raise UserError(
            f"{repo} can't be pushed to: {reason_of(error)}. {_advice(error)} What was written "
            f"stays in {folder}: `hf upload {repo} {folder} --repo-type dataset` pushes it."
        ) from error
    return f"Pushed to {done.repo_url} at {done.oid}."


def _advice(error: Exception) -> str:
    """What to do about an error."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, json.JSONDecodeError):
        return "The reply is not JSON: check HF_ENDPOINT, and whether a proxy stands between."
    if status >= SERVER_FAILS:
        return "The hub fails: try again later."
    return "Set HF_TOKEN to a token that may write, and check the name (owner/name)."
