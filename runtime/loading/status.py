"""What people see on stderr while they wait, and nothing when nobody watches."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TextIO


class StatusLine:
    """One line on stderr that is written over and finally removed; only on a terminal."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._shown = ""

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.say("")

    def say(self, message: str) -> None:
        """Replace the line; an empty message removes it, before other output is printed."""
        if self._watched and message != self._shown:
            print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
            self._shown = message


def print_table(rows: list[tuple[str, str, str]], file: TextIO) -> None:
    """Lines of name, value and remark, in columns."""
    names, values, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for name, value, remark in rows:
        print(f"{name:<{names}}  {value:>{values}}  {remark}".rstrip(), file=file)
