"""Standard output and error of a command: closed, full or given up by their reader."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

_STREAMS = ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_WRONLY), (2, "stderr", os.O_WRONLY))
_NAMES = {1: "standard output", 2: "standard error"}


class OutputError(OSError):
    """What a command prints cannot be written; `reader_gone` when its reader has had enough."""

    def __init__(self, descriptor: int, reason: OSError) -> None:
        # Without its number, which others take for an error of their own.
        super().__init__(
            f"{_NAMES[descriptor]} is closed; redirect it to a file, or to {os.devnull}"
            if reason.errno == errno.EBADF
            else f"{_NAMES[descriptor]}: {reason.strerror}; what was printed is not whole"
        )
        self.descriptor = descriptor
        self.reader_gone = reason.errno == errno.EPIPE


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Within the block a failure to print is an OutputError, and text can always be encoded.

    Descriptors that came closed are opened on /dev/null first: else the next file that is opened,
    the weights of a bundle for one, would get what libraries print. Streams that a caller has put
    in place of the process's own are left to it.

    Raises:
        OutputError: standard output is closed, so that all work would be for nothing.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    closed = _open_closed()
    try:
        for descriptor, name, _ in _STREAMS[1:]:
            stream = getattr(sys, name)
            if stream is not None and stream is getattr(sys, f"__{name}__"):
                setattr(sys, name, _guard(stream, descriptor))
        if 1 in closed:
            raise OutputError(1, OSError(errno.EBADF, "closed"))
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def discard(descriptor: int) -> None:
    """Let what is still to be written to a descriptor go nowhere, for flushing at exit to work."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _open_closed() -> set[int]:
    """Open the closed ones among the standard descriptors on /dev/null; which they were."""
    closed = set()
    for descriptor, name, access in _STREAMS:
        try:
            mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            usable = mode in (access, os.O_RDWR)
        except OSError:
            usable = False
        if not usable:
            closed.add(descriptor)
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        if getattr(sys, name) is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
    return closed


class _Raw(io.FileIO):
    """A descriptor whose failures are told apart from those of other files."""

    def write(self, data: Any) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(self.fileno(), error) from error


def _guard(stream: TextIO, descriptor: int) -> TextIO:
    """The stream again, over a descriptor whose failures are OutputErrors."""
    errors = stream.errors or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor, "w", closefd=False)),
        encoding=stream.encoding,
        # Half a text is worth more than a traceback where a terminal lacks a letter.
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=descriptor == 2 or stream.isatty(),
        write_through=getattr(stream, "write_through", False),
    )
