"""Hub names: what is none, and what happens without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from veridical.runtime import hub
from veridical.runtime.errors import UserError


@pytest.fixture(autouse=True)
def hub_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def no_network(*_: Any) -> None:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize("name", ["/models/x", "./x", "../x", "~/x", "x/", "a/b/c", "a\\b"])
def test_paths_are_told_from_names(name: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        hub.check_hub_name(name)


def test_a_slip_inside_a_folder_that_exists_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not hub.looks_like_path("runs/dpo")
    (tmp_path / "runs").mkdir()
    assert hub.looks_like_path("runs/dpo")
    assert not hub.looks_like_path("runs")


def test_without_a_network_the_cache_alone_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    hub.check_hub_name("owner/model")
    assert constants.HF_HUB_OFFLINE


def test_with_a_network_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    hub.check_hub_name("owner/model")
    assert not constants.HF_HUB_OFFLINE
