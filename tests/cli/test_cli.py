"""The command line: what it lists, what it passes on, and what it says when it cannot."""

from __future__ import annotations

import errno
import gc
import importlib
import inspect
import os
import subprocess
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from veridical import cli
from veridical.cli import dispatch, help_pages, signatures
from veridical.runtime.errors import UserError
from veridical.runtime.options import by_option
from veridical.runtime.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Options of a group within a group.

    Attributes:
        depth: How deep.
        colour: Which one.
    """

    depth: int = 1
    colour: str = "red"


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Options around a group.

    Attributes:
        height: How high.
        inner: What is within.
    """

    height: int = 2
    inner: Inner = Inner(depth=5)


def nests(model: str, outer: Outer = Outer(height=3)) -> None:
    """Have a group within a group.

    Args:
        model: Name.
        outer: What is around.
    """
    CALLS.append(dict(locals()))


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of all fakes.

    Attributes:
        epochs: Passes over the rows.
        rate: Learning rate.
        adapter: Where to start.
        rest: Anything.
    """

    epochs: float = 1.0
    rate: float
    adapter: Path | None = None
    rest: dict[str, Any] | None = None


COMMON = Common(rate=0.5, epochs=3.0)


def flat(model: str, beta: float = 0.1, common: Common = COMMON) -> None:
    """Have a few options in one parameter.

    Args:
        model: Name.
        beta: Pull.
        common: What all fakes take.
    """
    CALLS.append(dict(locals()))


def needy(model: str, common: Common) -> None:
    """Give the common options no defaults of its own."""
    CALLS.append(dict(locals()))


def twice(model: str, rate: float = 1.0, common: Common = COMMON) -> None:
    """Ask for the rate twice."""


@dataclass(frozen=True)
class Sharp:
    """Sharp way.

    Attributes:
        pull: How hard.
        edge: How fine.
    """

    name: ClassVar[str] = "sharp"
    pull: Annotated[float, Range(0, above=True)] = 0.1
    edge: float = 0.0


@dataclass(frozen=True)
class Blunt:
    """Blunt way.

    Attributes:
        pull: How hard it is.
    """

    name: ClassVar[str] = "blunt"
    pull: float = 2.0


@dataclass(frozen=True)
class Added:
    """What may be added.

    Attributes:
        added: How much.
    """

    added: float = 0.0

    @property
    def weight(self) -> float:
        return self.added


@dataclass(frozen=True)
class Goal:
    """What is aimed at.

    Attributes:
        way: Which way.
        terms: What is added.
        slow: Take time.
    """

    way: Sharp | Blunt = Sharp()
    terms: tuple[Added, ...] = ()
    slow: bool = False


def chooses(model: str, goal: Goal = Goal(Sharp(edge=0.5))) -> None:
    """Choose a way.

    Args:
        model: Name.
        goal: What is aimed at.
    """
    CALLS.append(dict(locals()))


def train(
    model: str,
    data: Path,
    out: Path,
    extra: list[Path] | None = None,
    beta: float = 0.1,
    learning_rate: float = 5e-6,
    steps: int | None = None,
    quick: bool = False,
    path: Literal["shared", "two_rows"] = "shared",
    layers: list[int] = [1, 2],  # noqa: B006
    trainer: dict[str, Any] | None = None,
) -> None:
    """Train a little.

    Twice, if need be.

    Args:
        model: Name or folder.
        data: Pairs.
        out: Folder of the run.
        extra: More files.
        beta: Pull towards the reference (no unit).
        learning_rate: Peak learning rate.
        steps: Optimizer steps.
        quick: Leave things out.
        path: How pairs are computed.
        layers: Which layers.
        trainer: The rest.
    """
    CALLS.append(dict(locals()))
    if model == "bad":
        raise UserError("this model is bad. Take a good one.")
    if model == "bug":
        raise ZeroDivisionError
    if model == "stop":
        raise KeyboardInterrupt


CALLS: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def fake_command(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    module = types.ModuleType("fake_command")
    for function in (train, flat, needy, twice, chooses, nests):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "fake_command", module)
    for name in ("flat", "needy", "twice", "chooses", "nests"):
        fake = cli.Command(f"fake_command:{name}", "Fake.", ("model",))
        monkeypatch.setitem(cli.COMMANDS, f"fake {name}", fake)
    command = cli.Command("fake_command:train", "Train.", ("model", "extra"))
    monkeypatch.setitem(cli.COMMANDS, "train fake", command)


def run(*words: str) -> dict[str, Any]:
    assert cli.main(["train", "fake", *words]) == 0
    return CALLS[-1]


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main([*words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert 1 <= len(printed.err.splitlines()) <= 2
    assert printed.err.startswith("veridical: ")
    return printed.err


def test_bare_words_options_and_defaults() -> None:
    values = run("M", "--data", "d", "--out", "o", "--learning-rate", "1e-4")
    assert values == {
        "model": "M",
        "data": Path("d"),
        "out": Path("o"),
        "extra": None,
        "beta": 0.1,
        "learning_rate": 1e-4,
        "steps": None,
        "quick": False,
        "path": "shared",
        "layers": [1, 2],
        "trainer": None,
    }


def test_spellings_of_one_option() -> None:
    base = ("M", "--data=d", "--out", "o")
    assert run(*base, "--learning_rate=2")["learning_rate"] == 2.0
    assert run(*base, "--steps", "-1")["steps"] == -1
    assert run(*base, "--steps", "null")["steps"] is None
    assert [run(*base, *words)["quick"] for words in (["--quick"], ["--quick", "true"])] == [
        True
    ] * 2
    assert [run(*base, *words)["quick"] for words in (["--no-quick"], ["--quick=false"])] == [
        False
    ] * 2
    assert run("--quick", *base)["model"] == "M"


def test_a_group_within_a_group_is_written_flat(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("colour: blue\nheight: 7\n")
    assert cli.main(["fake", "nests", "M", "--config", str(config), "--height", "8"]) == 0
    outer = Outer(height=8, inner=Inner(depth=5, colour="blue"))
    assert CALLS[-1] == {"model": "M", "outer": outer}
    assert by_option(CALLS[-1]) == {"model": "M", "height": 8, "depth": 5, "colour": "blue"}
    page = help_pages.sections(signatures.read_options(nests))
    assert list(page) == ["required", "Options around a group", "Options of a group within a group"]


def test_lists_replace_the_default_and_keep_odd_names() -> None:
    base = ("M", "--data", "d", "--out", "o")
    assert run(*base, "--layers", "3", "4")["layers"] == [3, 4]
    assert run(*base, "--extra", "a b", "c,d", 'e"f')["extra"] == [
        Path("a b"),
        Path("c,d"),
        Path('e"f'),
    ]
    assert run("M", "x", "y", *base[1:])["extra"] == [Path("x"), Path("y")]
    assert run(*base, "--layers", "[5, 6]")["layers"] == [5, 6]


def test_an_option_that_takes_several_may_be_repeated() -> None:
    base = ("M", "--data", "d", "--out", "o")
    assert run(*base, "--layers", "3", "--layers", "4", "5")["layers"] == [3, 4, 5]
    assert run(*base, "--extra", "a", "--extra", "[b, c]")["extra"] == [
        Path("a"),
        Path("b"),
        Path("c"),
    ]
    assert run(*base, "--trainer.x", "1", "--trainer.y", "2")["trainer"] == {"x": 1, "y": 2}
    assert run(*base, "--trainer", "x=1", "y=2")["trainer"] == {"x": 1, "y": 2}


def test_text_is_never_read_as_yaml() -> None:
    assert run("5", "--data", "true", "--out", "a: {b}")["model"] == "5"
    assert CALLS[-1]["data"] == Path("true")
    assert CALLS[-1]["out"] == Path("a: {b}")
    assert run("--data", "d", "--out", "o", "--", "--odd")["model"] == "--odd"


def test_configuration_file_and_overrides(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: M\ndata: d\nout: o\nbeta: 0.3\nsteps: 7\nlayers: [9]\n"
        "trainer:\n  max_grad_norm: 2\n  optim: adamw_torch\n"
    )
    values = run("--config", str(config), "--beta", "0.5", "--trainer.max_grad_norm", "3")
    assert (values["model"], values["beta"], values["steps"]) == ("M", 0.5, 7)
    assert values["layers"] == [9]
    assert values["trainer"] == {"max_grad_norm": 3, "optim": "adamw_torch"}
    assert type(values["trainer"]) is dict
    assert run("other", "--config", str(config))["model"] == "other"


def test_printed_configuration_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "M",
        "--data",
        "d",
        "--out",
        "o",
        "--beta",
        "0.7",
        "--trainer.lr_scheduler_type",
        "cosine",
    )
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "fake", *words, "--print-config"])
    assert ended.value.code == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert run("--config", str(tmp_path / "config.yaml")) == run(*words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--bta", "3"], "there is no option --bta (did you mean --beta?)"),
        (["M", "--out", "o"], "--data is missing"),
        ([], "MODEL and --data and --out are missing"),
        (["M", "--data", "d", "--out", "o", "--beta", "x"], "--beta takes NUMBER, not 'x'"),
        (["M", "--data", "d", "--out", "o", "--steps", "1.5"], "--steps takes INTEGER or null"),
        (
            ["M", "--data", "d", "--out", "o", "--path", "x"],
            "--path takes shared|two_rows, not 'x'",
        ),
        (["M", "--data", "d", "--out", "o", "--layers", "x"], "--layers takes INTEGER ..."),
        (
            ["M", "--data", "d", "--out", "o", "--trainer", "x"],
            "--trainer takes KEY=VALUE ... or null",
        ),
        (["M", "--data"], "--data needs a value"),
        (["M", "--data", "--out", "o"], "--data needs a value"),
        (["M", "--data.x", "d"], "there is no option --data.x"),
        (["--config", "none.yaml"], "none.yaml does not exist"),
        (["--config"], "--config needs a value"),
        (["M", "--data", "a", "--out", "o", "--data", "b"], "--data is given twice, 'a' and 'b'"),
        (["M", "--data", "a", "--out", "o", "--model", "N"], "--model is given twice, 'M' and 'N'"),
        (["M", "--data=a", "--out=o", "--quick", "--no-quick"], "--quick is given twice"),
        (
            ["M", "--data=a", "--out=o", "--trainer.x", "1", "--trainer.x", "2"],
            "--trainer.x is given twice, '1' and '2'",
        ),
    ],
)
def test_what_cannot_be_understood(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = complaint(capsys, "train", "fake", *words)
    assert expected in message
    assert "veridical train fake --help" in message
    assert not CALLS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beta: x\n", "--beta takes NUMBER, not 'x'"),
        ("bta: 1\n", "config.yaml: there is no option bta (did you mean beta?)"),
        ("learning-rate: 1\n", "no option learning-rate (did you mean learning_rate?)"),
        ("- beta\n", "has to be a mapping"),
        ("beta: [\n", "is not YAML"),
        ("beta: 1\nquick: true\nbeta: 2\n", "the key 'beta' is there twice (line 3)"),
        ("trainer: {a: 1, a: 2}\n", "the key 'a' is there twice"),
    ],
)
def test_configuration_files_that_cannot_be_read(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    words = ("train", "fake", "M", "--data", "d", "--out", "o")
    assert expected in complaint(capsys, *words, "--config", str(tmp_path / "config.yaml"))


def test_too_many_bare_words(capsys: pytest.CaptureFixture[str]) -> None:
    message = complaint(capsys, "ask", "M", "image.png", "is", "it", "red")
    assert "unexpected argument 'it'" in message
    assert "MODEL IMAGE QUESTION" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train"], "veridical train dpo | veridical train sft"),
        (["train", "--beta"], "veridical train dpo"),
        (["train", "dop"], "there is no command 'train dop'"),
    ],
)
def test_commands_that_do_not_exist(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(capsys, *words)


def test_errors_of_users_and_ours(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", "d", "--out", "o")
    assert "this model is bad. Take" in complaint(capsys, "train", "fake", "bad", *words)
    assert cli.main(["train", "fake", "stop", *words]) == 130
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "fake", "bug", *words])


def test_help_has_every_option_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["train", "fake", "--help"]) == 0
    page = capsys.readouterr().out
    usage = "usage: veridical train fake MODEL [EXTRA ...] --data PATH --out PATH [options]"
    assert page.splitlines()[0] == usage
    for line in ("Train a little.", "Twice, if need be.", "(no unit). [default: 0.1]"):
        assert line in page
    for name in (
        "--learning-rate NUMBER",
        "--quick, --no-quick",
        "--trainer KEY=VALUE ...",
        "--config",
    ):
        assert name in page
    assert max(map(len, page.splitlines())) <= 100


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    page = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in page
        assert command.summary in page
    assert cli.main(["eval", "--help"]) == 0
    page = capsys.readouterr().out
    assert "eval pope" in page
    assert "train dpo" not in page


def test_fields_of_a_dataclass_are_options() -> None:
    assert cli.main(["fake", "flat", "M"]) == 0
    assert CALLS[-1] == {"model": "M", "beta": 0.1, "common": COMMON}
    words = ["--rate", "2", "--beta=1", "--adapter", "a", "--rest.x", "1"]
    assert cli.main(["fake", "flat", "M", *words]) == 0
    common = Common(epochs=3.0, rate=2.0, adapter=Path("a"), rest={"x": 1})
    assert CALLS[-1] == {"model": "M", "beta": 1.0, "common": common}
    assert type(CALLS[-1]["common"].rest) is dict


def test_fields_in_configuration_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model: M\nrate: 7\nepochs: 2\nrest: {x: 1}\n")
    assert cli.main(["fake", "flat", "--config", str(config), "--epochs", "5"]) == 0
    assert CALLS[-1]["common"] == Common(epochs=5.0, rate=7.0, rest={"x": 1})
    config.write_text("model: M\ncommon: {rate: 7}\n")
    message = complaint(capsys, "fake", "flat", "--config", str(config))
    assert "there is no option common" in message
    with pytest.raises(SystemExit):
        cli.main(["fake", "flat", "M", "--rate", "7", "--print-config"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[:4] == ["model: M", "beta: 0.1", "epochs: 3.0", "rate: 7.0"]
    config.write_text(printed)
    assert cli.main(["fake", "flat", "--config", str(config)]) == 0
    assert CALLS[-1]["common"] == Common(epochs=3.0, rate=7.0)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["flat", "M", "--rat", "1"], "there is no option --rat (did you mean --rate?)"),
        (["flat", "M", "--rate", "x"], "--rate takes NUMBER, not 'x'"),
        (["flat", "M", "--common", "x"], "there is no option --common"),
        (["flat", "M", "--common.rate", "1"], "there is no option --common.rate"),
        (["needy", "M"], "--rate is missing"),
    ],
)
def test_what_cannot_be_understood_of_fields(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(capsys, "fake", *words)


def test_a_dataclass_without_an_instance_has_its_own_defaults() -> None:
    assert cli.main(["fake", "needy", "M", "--rate", "1"]) == 0
    assert CALLS[-1]["common"] == Common(rate=1.0, epochs=1.0)


def test_one_name_for_two_options_is_refused() -> None:
    with pytest.raises(ValueError, match="twice has the option rate twice"):
        cli.main(["fake", "twice", "M"])


def test_help_has_fields_under_their_own_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fake", "flat", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    own, shared = lines.index("options:"), lines.index("options of all fakes:")
    assert own < lines.index(f"  {'--beta NUMBER':<30}Pull. [default: 0.1]") < shared
    passes = f"  {'--epochs NUMBER':<30}Passes over the rows. [default: 3.0]"
    assert shared < lines.index(passes) < lines.index("for every command:")
    assert "What all fakes take." not in "".join(lines)
    assert cli.main(["fake", "needy", "--help"]) == 0
    assert "usage: veridical fake needy MODEL --rate NUMBER" in capsys.readouterr().out


def test_some_values_leave_the_others_what_they_are() -> None:
    arguments = signatures.as_arguments(flat, {"epochs": 9.0, "beta": 0.2})
    assert arguments == {"beta": 0.2, "common": Common(rate=0.5, epochs=9.0)}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Goal(Sharp(0.1, 0.5))),
        ("--pull 3", Goal(Sharp(3.0, 0.5))),
        ("--way blunt", Goal(Blunt(2.0))),
        ("--way blunt --pull 1 --slow", Goal(Blunt(1.0), slow=True)),
        ("--way sharp --added 0.5", Goal(Sharp(0.1, 0.5), (Added(0.5),))),
        ("--added 0", Goal(Sharp(0.1, 0.5))),
    ],
)
def test_a_choice_brings_its_own_options_and_defaults(words: str, expected: Goal) -> None:
    assert cli.main(["fake", "chooses", "M", *words.split()]) == 0
    assert CALLS[-1]["goal"] == expected


def test_a_choice_in_a_file_is_read_back_as_it_was_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    with pytest.raises(SystemExit):
        cli.main(["fake", "chooses", "M", "--way", "blunt", "--print-config"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[:3] == ["model: M", "way: blunt", "pull: 2.0"]
    config.write_text(printed)
    assert cli.main(["fake", "chooses", "--config", str(config)]) == 0
    assert CALLS[-1]["goal"] == Goal(Blunt())
    config.write_text("way: blunt\nedge: 1\n")
    message = complaint(capsys, "fake", "chooses", "M", "--config", str(config))
    assert "--edge belongs to --way sharp; blunt has none" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--way dull", "--way takes sharp|blunt, not 'dull'"),
        ("--way blunt --edge 1", "--edge belongs to --way sharp; blunt has none. Leave it out."),
        ("--pull 0", "--pull is 0.0; give above 0"),
        ("--goal x", "there is no option --goal"),
        ("--pul 1", "there is no option --pul (did you mean --pull?)"),
    ],
)
def test_what_cannot_be_understood_of_a_choice(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in complaint(capsys, "fake", "chooses", "M", *words.split())


def test_help_says_which_choice_has_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fake", "chooses", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for line in (
        "--way sharp|blunt Which way. [default: sharp]",
        "options of the chosen --way:",
        "--pull NUMBER `sharp`: How hard (default 0.1). `blunt`: How hard it is (default 2.0).",
        "--edge NUMBER `sharp`: How fine. [default: 0.5]",
    ):
        assert line in page


def test_a_choice_by_values() -> None:
    arguments = signatures.as_arguments(chooses, {"way": "blunt", "added": 1.0})
    assert arguments == {"goal": Goal(Blunt(), (Added(1.0),))}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "not enough memory. End other"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate: you tried to allocate 2000000000 b"),
            "not enough memory",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (
            OSError(errno.EMFILE, "Too many open files", "a.png"),
            "a.png can't be read or written: Too many",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "Raise the limit (`ulimit -n`)"),
    ],
)
def test_what_the_machine_lacks_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    says: str,
) -> None:
    def lacking(_: object) -> None:
        raise error

    monkeypatch.setattr(dispatch, "run_command", lacking)
    assert cli.main(["build", "bdhs"]) == 2
    assert says in capsys.readouterr().err


REAL_COMMANDS = list(cli.COMMANDS)


@pytest.mark.parametrize("name", REAL_COMMANDS)
def test_every_command_exists_and_documents_every_option(name: str) -> None:
    module_name, function_name = cli.COMMANDS[name].function.split(":")
    function = getattr(importlib.import_module(module_name), function_name)
    options = signatures.read_options(function)
    assert [option for option, value in options.items() if not value.help] == []
    assert set(cli.COMMANDS[name].positionals) <= set(options)
    # A launcher's processes take the shards of what can be done in shards.
    assert cli.COMMANDS[name].shared or "shard" not in options
    assert (inspect.getdoc(function) or "").strip()
    assert help_pages.help_text("veridical", function, options, cli.COMMANDS[name].positionals)


def veridical(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; from veridical.cli.dispatch import main; sys.exit(main())",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*command, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=600,
    )


def test_exit_statuses_of_the_process() -> None:
    version = veridical("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("veridical ")
    assert veridical("--help").returncode == 0
    wrong = veridical("ask", "embedded", "missing.png", "What is it?")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("veridical: IMAGE missing.png")
    assert len(wrong.stderr.splitlines()) <= 2
    assert "Traceback" not in wrong.stderr


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from veridical.cli.dispatch import main; main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'scipy', 'numpy'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_library_that_uses_an_old_name_of_another_is_not_the_users_concern() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dispatch.calm_libraries()
        warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("something else", FutureWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["something else"]


def test_a_command_ends_with_the_place_of_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("M", "--data", "d", "--out", str(tmp_path))
    assert capsys.readouterr().out.splitlines()[-1] == f"Results: {tmp_path}"
    run("M", "--data", "d", "--out", str(tmp_path / "nothing"))
    assert capsys.readouterr().out == ""


def test_only_an_interrupted_training_command_is_told_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stopped(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dispatch, "run_command", stopped)
    assert cli.main(["train", "dpo"]) == dispatch.INTERRUPTED_STATUS
    assert "--resume true goes on from the last checkpoint." in capsys.readouterr().err
    for step in (8, 16, 24):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    for step in (8, 16):  # the last one was not finished
        (tmp_path / "checkpoints" / f"checkpoint-{step}" / "manifest.json").touch()
    for out in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        cli.main(["train", "dpo", *out])
        assert "goes on from the checkpoint of step 16." in capsys.readouterr().err
    cli.main(["build", "pairs"])
    assert "--resume true" not in capsys.readouterr().err


def test_output_that_nobody_reads_ends_a_command_without_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "veridical", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=600)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_commands_for_one_process_refuse_a_launcher(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(variable, value)
    alone = [name for name, command in cli.COMMANDS.items() if not command.shared]
    assert {"build best", "build join", "data check"} < set(alone)
    for name in alone:
        assert cli.main(name.split()) == 2
        told = f"`{name}` runs in one process; start it without a launcher." if rank == "0" else ""
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_rests_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """And is afterwards as it was, a failed import or not."""
    seen = []

    def imported(module: str) -> None:
        seen.append(gc.isenabled())
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", imported)
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ImportError):
            dispatch.find_function(cli.COMMANDS["ask"])
        assert (seen, gc.isenabled()) == ([False], before)
    finally:
        (gc.enable if was else gc.disable)()
