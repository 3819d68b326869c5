"""The one way this project says that the user's input is wrong."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .streams import OutputError, discard, guarded

if TYPE_CHECKING:
    import click

EXIT_FAILURE = 1
EXIT_USAGE = 2


_ARGUMENT = re.compile("\x02([^\x02\x03]*)\x03([^\x02\x03]*)\x02")


def argument(name: str, flag: str | None = None) -> str:
    """An argument, to be put into the message of a UsageError, which is shown in two ways.

    Args:
        name: what it is called in Python, such as `top_k`.
        flag: what it is called on a command line; None for `--top-k`.
    """
    return f"\x02{name}\x03{flag or '--' + name.replace('_', '-')}\x02"


class UsageError(ValueError):
    """A mistake the user can fix: bad flag, bad file, request that fits nothing.

    The message is one line that says what, where, expected, got and remedy. Commands print
    it without a traceback and exit with status 2. Where it speaks of an `argument`, it calls it
    as in Python, and commands show `for_command`, which has its flag.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        super().__init__(_ARGUMENT.sub(r"\1", message))

    def __reduce__(self) -> tuple[type[UsageError], tuple[str]]:
        return type(self), (self._message,)  # an error of another process knows its flags too

    @property
    def for_command(self) -> str:
        """The message with flags in place of arguments."""
        return _ARGUMENT.sub(r"\2", self._message)


class ArtifactError(UsageError):
    """A bundle, checkpoint or tokenizer file that is missing, damaged or of an unknown version."""


def one_line(message: str) -> str:
    """`message` with every control character escaped, so that a file name cannot add lines.

    Bytes that are not UTF-8, which Python keeps as lone surrogates, are shown as bytes.
    """
    characters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
    return re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", "".join(characters))


def run_command(command: click.Command, leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a click command and end the process: 0 done, 2 the user's mistake, 1 anything else.

    A UsageError, whatever click finds wrong with the command line, and what the system refuses of
    a file become one line `error: ...` on stderr. Output that cannot be written is one line and
    status 1, or status 1 without a word where its reader has gone. Ctrl-C, SIGTERM and SIGHUP
    end the command at once (see `interruption`). Any other exception keeps its traceback.
    Commands return None: click gives back the status of `context.exit(status)` in the same way.
    Unless there is a traceback to show, the process ends by `leave`.
    """
    import click  # here and not above: hosts that only read bundles need no command line

    from .interruption import interruptible

    status = 0
    try:
        with guarded():
            try:
                with interruptible():
                    result = command.main(prog_name=Path(sys.argv[0]).name, standalone_mode=False)
                sys.stdout.flush()
                status = result if isinstance(result, int) else 0
            except UsageError as error:
                status = _fail(error.for_command)
            except click.ClickException as error:
                status = _fail(_explain(error))
            except click.Abort:
                status = _fail("interrupted", EXIT_FAILURE)
            except OSError as error:
                if isinstance(error, OutputError) or error.errno not in _REFUSALS:
                    raise
                status = _fail(_refusal(error))
            sys.stderr.flush()
    except OutputError as error:
        status = EXIT_FAILURE
        discard(error.descriptor)
        if error.descriptor == 1 and not error.reader_gone:
            try:
                print(f"error: {error}", file=sys.stderr, flush=True)
            except OSError:  # lost as well; what is left of it must not be tried again at exit
                discard(2)
    except BrokenPipeError:  # a stream that the caller has put in place of our own
        discard(sys.stdout.fileno())
        status = EXIT_FAILURE
    leave(status)


# What a system says of a file, and what its user can do.
_REFUSALS = {
    errno.EACCES: "make it accessible to this user",
    errno.EPERM: "make it accessible to this user",
    errno.EROFS: "name one in a place that can be written",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "name one that links do not lead to in a circle",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files",
    errno.EIO: "check the disk",
}


def _refusal(error: OSError) -> str:
    what = "the system" if error.filename is None else os.fsdecode(error.filename)
    return f"{what}: {(error.strerror or '').lower()}; {_REFUSALS[error.errno or 0]}"


def _explain(error: click.ClickException) -> str:
    """What click found wrong, and the command whose help says how to fix it."""
    context = getattr(error, "ctx", None)
    see = f"ee {context.command_path} --help" if context is not None else ""
    # What click says of options and commands that it does not know differs with its version.
    wrong = getattr(error, "option_name", None) or getattr(error, "command_name", None)
    if wrong is not None and (meant := sorted(getattr(error, "possibilities", None) or [])):
        kind = "option" if hasattr(error, "option_name") else "command"
        *others, last = meant
        listed = f"{', '.join(others)} or {last}" if others else last
        return f"No such {kind} {wrong!r}; did you mean {listed}? S{see}"
    return error.format_message().rstrip(".?") + (see and f"; s{see}")


def _fail(message: str, status: int = EXIT_USAGE) -> int:
    """Say in one line what is wrong, as far as stderr can be written; the status to end with."""
    try:
        print(f"error: {one_line(message)}", file=sys.stderr)
    except OSError:
        discard(2)
    return status
