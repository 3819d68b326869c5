"""Putting a finished file or folder in place in one step: lock, leftovers, swap, flush, space."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import UsageError, argument
from .interruption import making, unfinished

OUT = argument("out")

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def check_free_space(path: Path, needed_bytes: int) -> None:
    """Refuse work that cannot fit; `path` need not exist yet.

    Raises:
        UsageError: the file system of `path` has fewer than `needed_bytes` bytes free.
    """
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UsageError(
            f"not enough disk space at {folder}: expected {needed_bytes} bytes free, got {free}; "
            f"free some or write to another disk with {OUT}"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` when the block ends, whole, or not at all.

    Half-written files that killed writers of `path` left beside it are removed, those of
    gemma3-host too.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with unfinished(partial), contextlib.ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        with making():
            stack.callback(os.close, _made_and_locked(partial))
        _remove_abandoned(path)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)


def _made_and_locked(partial: Path) -> int:
    """A descriptor whose lock says, for as long as it is open, that `partial` has a writer."""
    while True:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks: nobody removes it then
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # removed as abandoned before it was locked
            if os.path.samestat(os.fstat(descriptor), partial.stat()):
                return descriptor
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove the files that writers of `path` who are no more were writing."""
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for old in _siblings(path, "partial"):
            with contextlib.suppress(OSError):  # no file, not ours, or locked: it has a writer
                descriptor = os.open(old, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if stat.S_ISREG(os.fstat(descriptor).st_mode):
                        old.unlink()
                finally:
                    os.close(descriptor)


def partial_folder(out: Path) -> Path:
    """Where this process builds what will become `out`: beside it, so that renaming is enough."""
    return out.parent / f".{out.name}.partial-{os.getpid()}"


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Hold the lock of `out`: a file beside it, free again when this process ends, however.

    Raises:
        UsageError: another writer holds it.
    """
    path = out.parent / f".{out.name}.lock"
    descriptor = _lock(path, out)
    with unfinished(path):
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _lock(path: Path, out: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode() or "unknown"
            os.close(descriptor)
            raise UsageError(
                f"{out} is being written by another export (process {holder}); "
                f"wait until it ends or choose another {OUT}"
            ) from None
        # The last holder removed the file if it could: a lock on a removed file protects nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def clear_leftovers(out: Path) -> None:
    """Remove what killed writers of `out` left, and bring back a bundle they had moved aside.

    Call it while holding the lock: then every such folder belongs to a dead process.
    """
    for old in _siblings(out, "old"):
        if not out.exists():
            old.rename(out)
    for kind in ("partial", "old"):
        for folder in _siblings(out, kind):
            shutil.rmtree(folder)


def _siblings(out: Path, kind: str) -> list[Path]:
    prefix = f".{out.name}.{kind}-"
    return sorted(
        path
        for path in out.parent.iterdir()
        if path.name.startswith(prefix) and path.name.removeprefix(prefix).isdecimal()
    )


def put_in_place(folder: Path, out: Path) -> None:
    """Make finished `folder` appear as `out`; what was there is removed afterwards.

    Where the system can exchange two names, `out` is at every moment the old folder or the
    new one. Elsewhere it is absent between two renames, and `clear_leftovers` brings the old
    one back if the process dies there.
    """
    sync_folders(folder)
    if not out.exists():
        folder.rename(out)
        old = None
    elif exchange(folder, out):
        old = folder
    else:
        old = out.parent / f".{out.name}.old-{os.getpid()}"
        out.rename(old)
        folder.rename(out)
    sync_folder(out.parent)
    if old is not None:
        shutil.rmtree(old)


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or file system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(first), None, str(second))


def sync_folders(root: Path) -> None:
    """Flush `root` and every folder in it: its files have been flushed when they were closed."""
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
