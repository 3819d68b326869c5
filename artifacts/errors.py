"""The one way this project says that the user's input is wrong."""

import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_USAGE = 2


class UsageError(Exception):
    """A mistake the user can mend: bad flag, bad file, request that fits nothing.

    The message is one line that says what, where, expected, got and remedy. Commands print
    it without a traceback and leave with status 2.
    """


class ArtifactError(UsageError):
    """A bundle, checkpoint or tokenizer file that is missing, damaged or of an unknown version."""


def run_command(command: Callable[[], object]) -> NoReturn:
    """Run a click command and end the process: 0 done, 2 the user's mistake, 1 anything else."""
    try:
        command()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    sys.exit(0)
