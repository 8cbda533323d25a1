"""`--import FILE.py`: taken out of a command's words, run once, and kept in run.json."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from veridical import cli
from veridical.runtime import local_code
from veridical.runtime.errors import UserError
from veridical.runtime.local_code import import_file, imported_files, take_imports
from veridical.runtime.runs import start_run


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    for name in list(local_code._imported):
        del local_code._imported[name]
        sys.modules.pop(name, None)


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_imports_are_taken_out_wherever_they_stand() -> None:
    words = ["M", "--import", "a.py", "--out", "o", "--import=b.py", "--", "--import", "c.py"]
    rest, files = take_imports(words)
    assert rest == ["M", "--out", "o", "--", "--import", "c.py"]
    assert files == [Path("a.py"), Path("b.py")]
    with pytest.raises(UserError, match="needs the Python file"):
        take_imports(["M", "--import", "--out", "o"])


def test_a_file_runs_once_and_can_be_found_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "my_tower.py", f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n")
    import_file(path)
    import_file(path)
    assert (tmp_path / "runs").read_text() == "x"
    assert sys.modules["my_tower"].__file__ == str(path.resolve())


def test_what_was_imported_stands_in_run_json(tmp_path: Path) -> None:
    path = write(tmp_path, "my_tower.py", "SIZE = 3\n")
    import_file(path)
    start_run(tmp_path / "run", "eval chair", {}, {})
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    digest = hashlib.sha256(b"SIZE = 3\n").hexdigest()
    assert inputs["import/my_tower.py"] == {"path": str(path.resolve()), "sha256": digest}


def test_what_cannot_be_imported_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Python file"):
        import_file(tmp_path / "nowhere.py")
    with pytest.raises(UserError, match="would hide the module 'json'"):
        import_file(write(tmp_path, "json.py", ""))
    with pytest.raises(ZeroDivisionError):  # the file's own fault keeps its traceback
        import_file(write(tmp_path, "broken.py", "1 / 0\n"))
    assert imported_files() == {}


def test_every_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nowhere.py")
    words = ["ask", "embedded", "x.png", "What?", "--import", missing]
    assert cli.main(words) == 2
    assert "nowhere.py is not a Python file" in capsys.readouterr().err
    assert cli.main(["ask", "--help"]) == 0
    assert "--import FILE.py" in capsys.readouterr().out
