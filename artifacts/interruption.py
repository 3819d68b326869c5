"""How a command ends when it is told to: at once, and with nothing half-written left behind.

Python runs a handler between two steps of the main thread, which may be minutes inside a compiler
or a call of a device. So a thread of its own waits for the signal and ends the process, without
waiting for anything: what must not outlive the process is registered here beforehand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a command in order; its status is 128 and the number: 130, 143 and 129."""
_CLEAR_LINE, _SHOW_CURSOR = b"\r\x1b[K", b"\x1b[?25h"

_unfinished: list[Path] = []
_children: list[subprocess.Popen[bytes]] = []
_making = threading.RLock()
_ending = threading.Lock()


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """A file or folder that is removed if the process is told to end before the block does."""
    _unfinished.append(path)
    try:
        yield
    finally:
        _unfinished.remove(path)


@contextlib.contextmanager
def making() -> Iterator[None]:
    """Make files in what is `unfinished`, or processes: none is made once the end has begun."""
    with _making:
        yield


def run_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` with its output captured; the process does not outlive this one."""
    with making():
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        _children.append(child)
    with child:
        try:
            out, err = child.communicate()
        except BaseException:
            child.kill()
            raise
        finally:
            _children.remove(child)
    _stay_if_ending()  # it was killed then: what comes of that is nobody's business
    return subprocess.CompletedProcess(command, child.returncode, out, err)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """End the process at once on Ctrl-C, SIGTERM and SIGHUP, with the usual status and no word.

    A signal that is ignored already, as SIGHUP under nohup, stays ignored. Outside the main
    thread, where Python has no say in signals, nothing changes.
    """
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread() or not heeded:
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading,), daemon=True)
    watcher.start()
    old_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # The handlers do nothing: having one is what makes Python tell the pipe.
    old = {number: signal.signal(number, lambda *_: None) for number in heeded}
    try:
        yield
    finally:
        _stay_if_ending()
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)
        os.close(writing)
        watcher.join()
        os.close(reading)


def _stay_if_ending() -> None:
    """Never come back from here once the process is being ended."""
    if _ending.locked():
        _ending.acquire()


def _watch(reading: int) -> None:
    """Wait for the number of a signal, or for the end of the pipe."""
    while number := os.read(reading, 1):
        if number[0] in SIGNALS:
            _end(number[0])


def _end(number: int) -> None:
    """Remove what is unfinished and end the process with the status of a signal."""
    _ending.acquire()  # both for ever
    _making.acquire()
    for child in list(_children):  # before the folder that it writes into
        with contextlib.suppress(Exception):
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for path in reversed(_unfinished):
        with contextlib.suppress(Exception):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    _end_workers()
    with contextlib.suppress(OSError):  # last, for a bar may still be drawn
        if os.isatty(2):
            os.write(2, _CLEAR_LINE + _SHOW_CURSOR)
    os._exit(128 + number)


def _end_workers() -> None:
    """Kill worker processes and give up their semaphores, of which their tracker would warn."""
    if "multiprocessing.util" not in sys.modules:
        return
    from multiprocessing import active_children, util

    with contextlib.suppress(Exception):
        for worker in active_children():
            worker.kill()
    finalize = getattr(util, "_run_finalizers", None)
    with contextlib.suppress(Exception):
        if finalize is not None:
            finalize(0)
