"""The one way this project says that the user's input is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import click

EXIT_FAILURE = 1
EXIT_USAGE = 2


class UsageError(Exception):
    """A mistake the user can mend: bad flag, bad file, request that fits nothing.

    The message is one line that says what, where, expected, got and remedy. Commands print
    it without a traceback and leave with status 2.
    """


class ArtifactError(UsageError):
    """A bundle, checkpoint or tokenizer file that is missing, damaged or of an unknown version."""


def one_line(message: str) -> str:
    """`message` with every control character escaped, so that a file name cannot add lines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def run_command(command: click.Command, leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a click command and end the process: 0 done, 2 the user's mistake, 1 anything else.

    A UsageError, and whatever click finds wrong with the command line, becomes one line
    `error: ...` on stderr. A reader that closed our stdout gets no message. Any other
    exception keeps its traceback. Commands return None: click gives back the status of
    `context.exit(status)` in the same way. A command that has done its work ends by `leave`.
    """
    import click  # here and not above: hosts that only read bundles need no command line

    try:
        result = command.main(prog_name=Path(sys.argv[0]).name, standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        _fail(str(error))
    except click.ClickException as error:
        _fail(_explain(error))
    except click.Abort:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except PermissionError as error:
        _fail(f"{error.filename}: permission denied; make it accessible to this user")
    except BrokenPipeError:
        # Python flushes stdout once more at exit; without this it would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    sys.stderr.flush()
    leave(result if isinstance(result, int) else 0)


def _explain(error: click.ClickException) -> str:
    """What click found wrong, and the command whose help says how to mend it."""
    context = getattr(error, "ctx", None)
    remedy = f"; see {context.command_path} --help" if context is not None else ""
    return error.format_message().rstrip(".?") + remedy


def _fail(message: str) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
