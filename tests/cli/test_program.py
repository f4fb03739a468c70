"""What holds for every command: help, version, common options, errors as one line, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from nonvacuous import __version__
from nonvacuous.cli import main
from nonvacuous.commands import bounds as bounds_module
from nonvacuous.core.errors import CertificateRefused, InvalidInput, UnsupportedModule

STUDIES = main.commands["study"]
assert isinstance(STUDIES, click.Group)
LEAVES = {
    **{name: command for name, command in main.commands.items() if command is not STUDIES},
    **{f"study {name}": command for name, command in STUDIES.commands.items()},
}
COMMANDS = sorted(LEAVES)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does(run: Any, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: nonvacuous {command}" in result.stdout
    assert all(option in result.stdout for option in ("--json", "--quiet", "--version"))


@pytest.mark.parametrize("words", [[], *(command.split() for command in COMMANDS)])
def test_version_is_an_option_of_every_command(run: Any, words: list[str]) -> None:
    result = run(*words, "--version")
    assert (result.exit_code, result.stdout) == (0, f"nonvacuous {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_common_options(command: str) -> None:
    names = {name for parameter in LEAVES[command].params for name in parameter.opts}
    assert {"--seed", "--device", "--batch-size", "--json", "--quiet", "--version"} <= names


@pytest.mark.parametrize("command", ["audit", "gallery", "train"])
def test_what_writes_takes_out_and_force(command: str) -> None:
    names = {name for parameter in main.commands[command].params for name in parameter.opts}
    assert {"--out", "--force"} <= names


def test_common_options_without_effect_are_accepted(run: Any) -> None:
    plain = run("bounds", "seeger")
    assert run("bounds", "seeger", "--seed", 1, "--device", "cuda", "--batch-size", 3).stdout == plain.stdout


def test_module_and_script_are_the_same_program(shell: Any) -> None:
    assert shell("--version").stdout == f"nonvacuous {__version__}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["adit"], "No such command 'adit'"),
        (["bounds", "a", "b"], "extra argument (b). `nonvacuous bounds --help`"),
        (["bounds", "--colour"], "No such option"),
        (["audit"], "Missing option"),
        (
            ["train", "--model", "mlp:2-2", "--train", "digits", "--out", "w.safetensors", "--epochs", "no"],
            "'no' is not a valid integer",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_with_where_to_look(run: Any, words: list[str], says: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ") and says in result.stderr and "--help` lists the options" in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (InvalidInput("the data are empty"), 2, "error: the data are empty\n"),
        (CertificateRefused("digest: altered"), 1, "error: digest: altered\n"),
        (UnsupportedModule("GELU: no rule"), 1, "error: GELU: no rule\n"),
        (MemoryError(), 1, "error: out of memory. Try a smaller --batch-size\n"),
        (PermissionError(13, "Permission denied", "x.json"), 1, "error: x.json: Permission denied\n"),
        (KeyboardInterrupt(), 130, "interrupted: stopped by Ctrl-C\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, says: str
) -> None:
    _failing(monkeypatch, error)
    result = run("bounds")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", says)


def test_a_bug_asks_for_a_report_and_shows_its_traceback_on_demand(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch, ZeroDivisionError("by\nzero"))
    monkeypatch.delenv("NONVACUOUS_DEBUG", raising=False)
    result = run("bounds")
    assert result.exit_code == 70
    assert "this is a bug in nonvacuous (ZeroDivisionError: by zero). Please report it" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("NONVACUOUS_DEBUG", "1")
    result = run("bounds")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(bounds_module, "_list", fail)


def test_warnings_are_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn(*_: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a plug-in could not be loaded", stacklevel=1)
            warnings.warn("old name", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(bounds_module, "_list", warn)
    assert run("bounds").stderr == "warning: a plug-in could not be loaded\n"


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    full = [sys.executable, "-m", "nonvacuous", "bounds"]
    with subprocess.Popen(full, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""


def test_an_ascii_terminal_is_survived(shell: Any) -> None:
    result = shell("bounds", "seeger", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert "ln(2?n/?)" in result.stdout


@pytest.mark.parametrize(("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_only_where_wanted(monkeypatch: pytest.MonkeyPatch, variable: dict[str, str], coloured: bool) -> None:
    from nonvacuous.commands import program

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []
    monkeypatch.setattr(click, "echo", lambda text, **settings: seen.append(settings["color"]))
    program.complain("error", "x")
    assert seen == [None if coloured else False]


def test_piped_output_has_no_escapes_and_no_boxes(shell: Any) -> None:
    text = shell("bounds").stdout + shell("bounds", "seeger").stdout
    assert "\x1b" not in text
    assert not set(text) & set("│┃━─┏┓└┘")
