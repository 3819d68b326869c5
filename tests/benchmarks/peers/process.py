"""A child process, with the time it took and the most memory it held."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finished:
    """A child that ended well: seconds from its start to its end, and bytes at its peak."""

    stdout: str
    seconds: float
    peak_rss_bytes: int


def run(
    command: Sequence[str | Path],
    timeout: float = 600,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end; raises RuntimeError with its last lines when it fails."""
    started = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(child.pid, peak), daemon=True)
    watcher.start()
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    seconds = time.perf_counter() - started
    watcher.join()
    if child.returncode:
        last = "\n".join((out + err).splitlines()[-8:])
        raise RuntimeError(f"{command[0]} ended with status {child.returncode}:\n{last}")
    return Finished(out, seconds, peak[0])


def _watch(pid: int, peak: list[int]) -> None:
    """Note the high-water mark of a process until it is gone.

    Not its rusage: there a child starts with the peak of the process that started it.
    """
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            mark = status.read_text().partition("VmHWM:")[2].split()
        except OSError:
            return
        if not mark:  # a zombie has no memory
            return
        peak[0] = max(peak[0], int(mark[0]) * 1024)
        time.sleep(0.01)
