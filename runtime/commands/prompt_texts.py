"""Prompts of a command line that stand elsewhere: in files, or on standard input."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Sequence

from ...artifacts.errors import UsageError

STANDARD_INPUT = "-"
MOST_BYTES = 1 << 24
"""No model takes as much; what never ends, such as /dev/zero, is refused."""
PATIENCE_S = 2.0
"""How long a pipe may say nothing until the command says what it waits for."""


def read_prompts(prompts: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """The texts of --prompt, `-` being standard input, and after them those of --prompt-file.

    A newline at the end of a file is not part of its text.

    Raises:
        UsageError: one cannot be read, is not UTF-8, or is larger than any prompt.
    """
    if list(prompts).count(STANDARD_INPUT) > 1:
        raise UsageError("--prompt -: expected once, for what is read once; use --prompt-file")
    texts = [_read("--prompt -", 0) if prompt == STANDARD_INPUT else prompt for prompt in prompts]
    return (*texts, *(_read_file(name) for name in files))


def read_piped() -> tuple[str, ...]:
    """The text that a pipe, a file or a socket brings on standard input, where nobody names one.

    Empty where standard input is a terminal or another device, such as /dev/null, or has no text.
    A pipe is read until its writers close it, however long that takes: a slow writer and one that
    will never write look the same. Who waits in vain is told why on stderr.

    Raises:
        UsageError: it cannot be read, is not UTF-8, or is larger than any prompt.
    """
    where = "standard input"
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # closed
        return ()
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return ()
    if not select.select([0], [], [], PATIENCE_S)[0]:
        print(f"waiting for the prompt on {where}; --prompt TEXT gives one", file=sys.stderr)
    text = _read(where, 0)
    return (text,) if text else ()


def _read_file(name: str) -> str:
    where = f"--prompt-file {name}"
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(where, error) from error
    try:
        return _read(where, descriptor)
    finally:
        os.close(descriptor)


def _read(where: str, descriptor: int) -> str:
    data = bytearray()
    try:
        while len(data) <= MOST_BYTES and (new := os.read(descriptor, MOST_BYTES + 1 - len(data))):
            data += new
    except OSError as error:
        raise _unreadable(where, error) from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{where}: expected at most {MOST_BYTES} bytes of text, got more")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: expected text in UTF-8; convert it first") from error
    return text.removesuffix("\n").removesuffix("\r")


def _unreadable(where: str, error: OSError | ValueError) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return UsageError(f"{where}: cannot be read ({reason}); name a text file")
