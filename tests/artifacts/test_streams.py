"""Commands whose output goes nowhere: never a traceback, never status 0 for what was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
import click
from gemma3_export.artifacts.errors import UsageError, run_command

@click.command()
@click.option("--fails", is_flag=True)
@click.option("--warns", is_flag=True)
def command(fails, warns):
    if warns:
        print("to be seen", file=sys.stderr)
    if fails:
        raise UsageError("a mistake")
    for _ in range(20000):
        print("a line of output")

run_command(command)
"""
CLOSED = "error: standard output is closed; redirect it to a file, or to /dev/null\n"
FULL = "error: standard output: No space left on device; what was printed is not whole\n"


def run(redirection: str, *flags: str, script: str = COMMAND) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command with a redirection of bash."""
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" "$@" {redirection}', sys.executable, "-c", script,
         *flags],
        capture_output=True, text=True, check=False,
        # As a shell has it: streams without buffers have nothing left to lose at exit.
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        (">&-", (1, "", CLOSED)),
        (">&- 2>&-", (1, "", "")),
        (">&- 2>/dev/full", (1, "", "")),
        ("1</dev/null", (1, "", CLOSED)),
        (">/dev/full", (1, "", FULL)),
        (">/dev/full 2>/dev/full", (1, "", "")),
        ("| head -c 3", (1, "a l", "")),
        ("<&-", (0, "a line of output\n" * 20000, "")),
        ("2>&-", (0, "a line of output\n" * 20000, "")),
        ("2>/dev/full", (0, "a line of output\n" * 20000, "")),
        ("<&- 2>&-", (0, "a line of output\n" * 20000, "")),
    ],
)
def test_output_that_is_lost_is_one_line_and_status_1(
    redirection: str, expected: tuple[int, str, str]
):
    assert run(redirection) == expected


def test_a_mistake_is_status_2_even_where_it_cannot_be_said():
    assert run("", "--fails") == (2, "", "error: a mistake\n")
    for redirection in ("2>&-", "2>/dev/full"):
        assert run(redirection, "--fails") == (2, "", "")


def test_what_a_command_says_on_stderr_is_output_too():
    assert run("2>&-", "--warns") == (0, "a line of output\n" * 20000, "")
    assert run("2>/dev/full", "--warns")[0] == 1


def test_help_and_version_are_output_too():
    assert run(">/dev/full", "--help") == (1, "", FULL)
    assert run(">&-", "--help") == (1, "", CLOSED)


def test_a_file_opened_next_does_not_get_what_is_printed(tmp_path: Path):
    script = COMMAND.replace(
        "    for _", f"    kept = open({str(tmp_path / 'weights')!r}, 'wb')\n    for _"
    ).replace("print(", "import os; os.write(2, b'from a library'); print(")
    assert run("2>&-", script=script)[0] == 0
    assert (tmp_path / "weights").read_bytes() == b""


def test_text_that_a_terminal_has_no_letters_for_is_written_out():
    script = COMMAND.replace('"a line of output"', "chr(0x20AC)").replace("20000", "1")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u20ac\n", "")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("OSError(28, 'No space left on device', 'f')", "f: no space left on device; free some"),
        ("OSError(36, 'File name too long', b'f')", "f: file name too long; name a shorter one"),
        ("OSError(24, 'Too many open files')", "the system: too many open files; allow more open"),
        ("PermissionError(13, 'Permission denied', 'f')", "f: permission denied; make it access"),
    ],
)
def test_what_the_system_refuses_is_one_line_and_status_2(raised: str, message: str):
    status, out, err = run(
        "", script=COMMAND.replace("    for _", f"    raise {raised}\n    for _")
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {message}")
