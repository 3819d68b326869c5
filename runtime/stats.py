"""What a run cost: seconds since the process began, and the most memory it ever held."""

from __future__ import annotations

import os
import resource
import sys
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


def peak_rss_bytes() -> int:
    """The most memory this process has had resident, mapped weights included."""
    try:
        status = Path("/proc/self/status").read_text()
        # Not getrusage: there a process starts with the peak of the one that started it.
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def rate(count: int, seconds: float) -> float | None:
    """`count` per second, None when there was nothing to measure."""
    return count / seconds if count and seconds > 0 else None
