"""The most memory this process ever held; what every command reports."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_rss_bytes() -> int:
    """The most memory this process has had resident, mapped weights included."""
    try:
        status = Path("/proc/self/status").read_text()
        # Not getrusage: there a process starts with the peak of the one that started it.
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def largest_child_bytes() -> int:
    """The most memory any process that this one started, and that has ended, has had; or 0."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT


def give_back_freed() -> None:
    """Return freed memory to the system, which glibc keeps else in case it is asked for again."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)
