"""What a run cost: seconds since the process began, and tokens per second."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED_AT = time.monotonic()


def process_started_at() -> float:
    """When this process began, on the clock of `time.monotonic`.

    Where the system does not tell (no /proc), when this module was imported.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds from boot; see proc(5)
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError):
        return _IMPORTED_AT


def rate(count: int, seconds: float) -> float | None:
    """`count` per second, None when there was nothing to measure."""
    return count / seconds if count and seconds > 0 else None
