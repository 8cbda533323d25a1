"""Help comes at once: no library that works with models or figures is imported for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from veridical.cli.named_files import check_named_file
from veridical.cli.stand_ins import HEAVY
from veridical.runtime.errors import UserError

EVERY_HELP = """
import contextlib, io, sys
from veridical import cli

pages = {}
for name in cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main([*name.split(), "--help"]) == 0
    pages[name] = said.getvalue()
heavy = sys.argv[1].split() + ["jsonargparse", "sympy", "pandas"]
assert [name for name in heavy if name in sys.modules] == []
import torch  # from here on everything is real
for name in cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        cli.main([*name.split(), "--help"])
    assert said.getvalue() == pages[name], name
"""


def python(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, check=False, timeout=600, cwd=folder,
    )  # fmt: skip


def test_every_help_page_is_the_same_without_the_libraries() -> None:
    done = python("-c", EVERY_HELP, " ".join(HEAVY))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], ["trian"]])
def test_the_list_of_commands_needs_no_library(words: list[str]) -> None:
    done = python("-X", "importtime", "-m", "veridical", *words)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({*HEAVY, "yaml", "jsonargparse"})


def test_a_broken_word_is_said_before_the_libraries_are_imported() -> None:
    """The command is real afterwards: nothing of the help page stays."""
    code = (
        "import sys; from veridical import cli; cli.main(['eval', 'compare', '--help']); "
        "assert cli.main(['eval', 'compare', 'a', 'b', '--out', 'c']) == 2; "
        "import numpy; assert numpy.add(1, 1) == 2"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "not an evaluation" in done.stderr or "does not exist" in done.stderr


@pytest.mark.parametrize("module", ["train.dpo", "report.page"])
def test_statistics_of_scipy_come_late(module: str) -> None:
    code = f"import sys, veridical.{module}; assert 'scipy.stats' not in sys.modules"
    assert python("-c", code).returncode == 0


def test_intervals_load_the_functions_they_need_of_scipy_when_they_are_computed() -> None:
    code = "import sys, veridical.scoring.statistics; assert 'scipy.special' not in sys.modules"
    assert python("-c", code).returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "best", "x.parquet", "--out", "o"], "SAMPLES x.parquet does not exist"),
        (["build", "pairs", "x.parquet", "--out", "o"], "SAMPLES x.parquet does not exist"),
        (
            ["train", "dpo", "m", "--data", "none.jsonl"],
            "--data none.jsonl does not exist",
        ),
        (["train", "dpo", "m", "--data", "x.txt", "--out", "o"], "--data x.txt must end in .parq"),
        (["train", "sft", "m", "--data", "e.jsonl", "--out", "o"], "e.jsonl is empty"),
        (["train", "sft", "m", "--config", "c.yaml", "--out", "o"], "y.json does not exist"),
        (["build", "join", "e.parquet", "b", "--out", "o"], "e.parquet is not a whole Parquet"),
        (
            ["train", "ppo", "m", "--objects", "n.json", "--data", "e.jsonl"],
            "--objects n.json does",
        ),
    ],
)
def test_files_that_cannot_be_read_are_named_before_the_libraries_are_imported(
    words: list[str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "e.jsonl").write_text("{}" if "ppo" in words else "")
    (tmp_path / "e.parquet").write_text("text")
    (tmp_path / "c.yaml").write_text("data: y.json\n")
    code = (
        "import sys; from veridical import cli; assert cli.main(sys.argv[1:]) == 2; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = python("-c", code, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert told in done.stderr


def test_no_package_keeps_a_module_of_a_help_page() -> None:
    code = (
        "import sys; from veridical import cli; cli.main(['eval', 'pope', '--help']); "
        "kept = [(name, own) for name, module in list(sys.modules.items()) "
        "if name.startswith('veridical') for own, value in vars(module).items() "
        "if isinstance(value, type(sys)) and value.__name__.startswith('veridical.') "
        "and value.__name__ not in sys.modules]; assert not kept, kept"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_word_coco_is_no_missing_file(tmp_path: Path) -> None:
    """Files are checked before the libraries are there, so in a process of its own."""
    (tmp_path / "objects.json").write_text('{"a": ["dog"]}')
    words = ["-m", "veridical", "eval", "pope", "embedded", "--images", ".", "--out", "out"]
    words += ["--objects", "objects.json", "--vocabulary"]
    assert "holds no image" in python(*words, "coco", folder=tmp_path).stderr
    assert "--vocabulary other does not exist" in python(*words, "other", folder=tmp_path).stderr


def test_a_run_that_goes_on_may_have_its_images_elsewhere(tmp_path: Path) -> None:
    missing = tmp_path / "moved"
    for resumes in (False, True):
        with pytest.raises(UserError, match=r"moved does not exist\. Check the path\.") as refused:
            check_named_file("images_root", missing, "--images-root", resumes)
        assert ("another folder than at the start" in str(refused.value)) == resumes
