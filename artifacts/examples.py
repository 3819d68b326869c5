"""The end of what `--help` prints: command lines to try."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """The epilog of a click command; each line is kept as it is, on however narrow a terminal."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
