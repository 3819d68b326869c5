"""Machine code that programs were compiled to, kept from one start of a host to the next.

FORMAT.md, "Compiled programs", says what lies where and when it is believed. Running machine code
means trusting who wrote it, so an entry is read only if its index carries a code (HMAC) made with
a key that only this user has: what came with a copied bundle is never run. A code that does not
fit, a damaged entry or a folder that cannot be written costs time, never a wrong result.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .interruption import unfinished

FOLDER = "compiled"
INDEX = "index.json"
INDEX_VERSION = 1
KEY_BYTES = 32
_PARTIAL = ".partial-"
_MAX_INDEX_BYTES = 2**24
_LOCK_SECONDS = 10.0
_OWNER_ONLY = 0o600
_LOG = logging.getLogger(__name__)


def user_folder() -> Path | None:
    """Where this user's caches are: `gemma3-export` in $XDG_CACHE_HOME or ~/.cache.

    None where the user has no home.
    """
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():
        return configured / "gemma3-export"
    try:
        return Path.home() / ".cache" / "gemma3-export"
    except RuntimeError:
        return None


def user_key(folder: Path) -> bytes | None:
    """The secret of this user that indexes are authenticated with, made on first use.

    None when it cannot be written, or when others could have read or replaced it.
    """
    path = folder / "key"
    with contextlib.suppress(OSError):
        if not path.exists():
            _make_key(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            private = status.st_uid == os.getuid() and not status.st_mode & 0o077
            key = file.read(KEY_BYTES + 1)
        return key if private and len(key) == KEY_BYTES else None
    return None


def why_no_key(folder: Path | None) -> str:
    """What is in the way where `user_key` gives none, and what to do about it."""
    if folder is None:
        return "this user has no home folder; set XDG_CACHE_HOME to a folder for caches"
    if os.path.lexists(folder / "key"):
        return (
            f"expected a key in {folder / 'key'} of {KEY_BYTES} bytes that only you can read; "
            "remove that file to have another made"
        )
    return f"no key can be made in {folder}; set XDG_CACHE_HOME to a folder that you can write"


def _make_key(path: Path) -> None:
    """Write a new key, unless another process is faster: a link appears whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{threading.get_ident()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def fingerprint(identity: Mapping[str, str]) -> str:
    """The name of the folder for what `identity` says of host, compiler, machine and options."""
    text = "".join(f"{name}={value}\n" for name, value in sorted(identity.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read_regular(path: Path, most: int) -> bytes:
    """A file, `most` + 1 bytes of it at most; OSError for a pipe, which nobody may ever fill."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most + 1)


def _lock(descriptor: int) -> None:
    """Wait for the lock, but not for ever: whoever can read the folder can hold it."""
    last = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                raise
        time.sleep(0.02)


@dataclass(frozen=True)
class Entry:
    """A file of the folder, as its index records it."""

    bytes: int
    sha256: str


class CompiledStore:
    """Compiled programs for one fingerprint: in the bundle, or else in a folder of the user.

    Threads and processes may share the folders. What is found damaged is logged, once each.
    """

    def __init__(self, places: Sequence[Path], identity: Mapping[str, str], key: bytes) -> None:
        """`places` are folders that hold one folder for each fingerprint, the preferred first."""
        self.fingerprint = fingerprint(identity)
        self._folders = [place / self.fingerprint for place in places]
        self._identity = dict(identity)
        self._key = key
        self._owner = hashlib.sha256(key).hexdigest()[:16]
        self._said: set[Path] = set()

    @classmethod
    def open(cls, bundle: Path, identity: Mapping[str, str]) -> CompiledStore | None:
        """The store for the bundle in folder `bundle`.

        None, and a warning that says why, where this user cannot keep a key.
        """
        folder = user_folder()
        key = user_key(folder) if folder is not None else None
        if folder is None or key is None:
            _LOG.warning("compiled programs cannot be kept: %s", why_no_key(folder))
            return None
        return cls([bundle / FOLDER, folder / FOLDER], identity, key)

    def read(self, name: str) -> bytes | None:
        """The contents of entry `name`; None when there is none to be trusted."""
        for folder in self._folders:
            entry = (self._read_index(folder) or {}).get(name)
            if entry is None:
                continue
            with contextlib.suppress(OSError):
                data = _read_regular(folder / name, entry.bytes)
                if len(data) == entry.bytes and hashlib.sha256(data).hexdigest() == entry.sha256:
                    return data
            self._report(folder / name)
        return None

    def report(self, name: str) -> None:
        """Log, once, that entry `name` was read and is of no use."""
        self._report(self._folders[0] / name)

    def _report(self, where: Path) -> None:
        if where not in self._said:
            self._said.add(where)
            _LOG.warning("%s is damaged: compiling again", where)

    def write(self, name: str, data: bytes) -> bool:
        """Keep `data` as entry `name` in the first place that can be written.

        False, and a warning the first time, if none can.
        """
        for folder in self._folders:
            with contextlib.suppress(OSError), self._locked(folder) as entries:
                if entries is not None:
                    _replace(folder / name, data)
                    entries[name] = Entry(len(data), hashlib.sha256(data).hexdigest())
                    _replace(folder / INDEX, self._format(entries))
                    return True
        where = self._folders[-1]
        if where not in self._said:
            self._said.add(where)
            _LOG.warning("compiled programs cannot be kept in %s", where)
        return False

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[dict[str, Entry] | None]:
        """The entries of `folder` while no other process changes them; None if it is not ours."""
        if folder.parent.is_symlink() or folder.is_symlink():
            yield None  # would write outside the bundle
            return
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor)
            for leftover in folder.glob(f"{_PARTIAL}*"):  # of processes that died while writing
                leftover.unlink(missing_ok=True)
            yield self._read_index(folder)
        finally:
            os.close(descriptor)

    def _read_index(self, folder: Path) -> dict[str, Entry] | None:
        """The entries of `folder`, none when it has no index; None when another user wrote it."""
        path = folder / INDEX
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            data = _read_regular(path, _MAX_INDEX_BYTES)
            if len(data) > _MAX_INDEX_BYTES:
                raise ValueError("too large")
            value = json.loads(data)
            if value["owner"] != self._owner or value["version"] != INDEX_VERSION:
                return None
            entries = {name: Entry(**entry) for name, entry in value["entries"].items()}
            if hmac.compare_digest(value["mac"], self._mac(entries)):
                return entries
        except FileNotFoundError:
            return {}
        except OSError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # not an index at all
        self._report(path)
        return {}

    def _format(self, entries: Mapping[str, Entry]) -> bytes:
        value = {
            "version": INDEX_VERSION,
            "identity": self._identity,
            "entries": {name: vars(entry) for name, entry in entries.items()},
            "owner": self._owner,
            "mac": self._mac(entries),
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    def _mac(self, entries: Mapping[str, Entry]) -> str:
        lines = [f"gemma3-export compiled {INDEX_VERSION}", self.fingerprint]
        lines += [f"{name} {entry.bytes} {entry.sha256}" for name, entry in sorted(entries.items())]
        message = "".join(f"{line}\n" for line in lines)
        return hmac.new(self._key, message.encode(), "sha256").hexdigest()


def _replace(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; the caller holds the lock of its folder."""
    partial = path.with_name(f"{_PARTIAL}{path.name}")
    with unfinished(partial):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
