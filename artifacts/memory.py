"""Memory of this process: the most it ever held, which every command reports; giving it back."""

from __future__ import annotations

import contextlib
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


def return_freed_memory() -> None:
    """Hand freed heap memory back to the system, where the C library can.

    XLA's compiler frees hundreds of megabytes that glibc would keep for the life of the process
    (seen: 270 MB after two programs of the 270M, 40 ms to return).
    """
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
