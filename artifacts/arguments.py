"""Errors of a function instead of a command: they name its arguments."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from .errors import UsageError

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")


@contextlib.contextmanager
def speaks_of_arguments(**renamed: str) -> Iterator[None]:
    """Write the flags in the message of a UsageError as arguments: `--top-k` as `top_k`.

    Args:
        renamed: arguments that are not called as their flag is: `mesh="meshes"`.
    """

    def argument(flag: re.Match[str]) -> str:
        name = flag.group(1).replace("-", "_")
        return renamed.get(name, name)

    try:
        yield
    except UsageError as error:
        message = _FLAG.sub(argument, str(error))
        if message == str(error):
            raise
        raise type(error)(message).with_traceback(error.__traceback__) from error.__cause__
