"""Writing a bundle: nothing is visible at its place until all of it is there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .atomic import OUT, clear_leftovers, exclusive, partial_folder, put_in_place
from .bundle import MAX_MANIFEST_BYTES, Bundle
from .codec import encode, format_json, parse_json
from .errors import ArtifactError, UsageError, argument
from .interruption import making, unfinished
from .manifest import FileRecord, Manifest
from .paths import MANIFEST, is_bundle_path

FORCE = argument("force")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST,
    errno.ENOENT,  # of a file in /proc
)  # fmt: skip


class BundleFile:
    """A file of the bundle while it is written, with the digest of what went in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._file.write(data)
        self._digest.update(data)
        self.bytes += memoryview(data).nbytes

    def record(self, path: str) -> FileRecord:
        """The manifest's record of the file as written so far."""
        return FileRecord(path, self.bytes, self._digest.hexdigest())


class BundleWriter:
    """Builds a bundle in a hidden folder beside `out` and renames it into place at `commit`.

    Use it as a context manager. Entering refuses what it can before any work is done; leaving
    without `commit`, by an exception or not, removes everything that was written. Threads may
    write different files at the same time.
    """

    def __init__(self, out: Path | str, force: bool = False) -> None:
        self.out = Path(out).resolve()
        self.root = partial_folder(self.out)
        self._force = force
        self._records: dict[str, FileRecord] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        """Take the lock of `out` and make the hidden folder.

        Raises:
            UsageError: `out` exists and force is not set, or is not a bundle; another export
                is writing it; or its parent cannot be written.
        """
        check_target(self.out, self._force)
        with self._stack:
            self._stack.enter_context(_disk_full_explained(self.out))
            try:
                self.out.parent.mkdir(parents=True, exist_ok=True)
                self._stack.enter_context(exclusive(self.out))
                clear_leftovers(self.out)
                check_target(self.out, self._force)  # clearing may have brought one back
                self._stack.enter_context(unfinished(self.root))
                self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
                with making():
                    self.root.mkdir()
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
                raise UsageError(
                    f"cannot write {self.out}: {error.strerror} ({error.filename}); "
                    f"choose another {OUT}"
                ) from error
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> bool | None:
        return self._stack.__exit__(*raised)  # pyright: ignore[reportArgumentType]

    def add_file(self, path: str, data: bytes) -> FileRecord:
        """Write a whole file at bundle path `path`."""
        with self.open_file(path) as file:
            file.write(data)
        return self._records[path]

    def adopt_file(self, path: str) -> FileRecord:
        """Record a file that something else wrote at bundle path `path` of the folder."""
        assert is_bundle_path(path), path
        assert path not in self._records, path
        target = self.root / path
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        self._records[path] = FileRecord(path, target.stat().st_size, digest)
        return self._records[path]

    @contextlib.contextmanager
    def open_file(self, path: str) -> Iterator[BundleFile]:
        """Write a file at bundle path `path` piece by piece; recorded when the block ends."""
        assert is_bundle_path(path), path
        assert path != MANIFEST, "commit writes the manifest"
        target = self.root / path
        with making():
            target.parent.mkdir(parents=True, exist_ok=True)
            opened = target.open("xb")
        with opened as raw:
            file = BundleFile(raw)
            yield file
            raw.flush()
            os.fsync(raw.fileno())
        self._records[path] = file.record(path)

    @contextlib.contextmanager
    def draft(self, manifest: Manifest) -> Iterator[Path]:
        """The hidden folder as a bundle with `manifest`, for another process to read.

        More files can be written afterwards.
        """
        files = tuple(self._records[path] for path in sorted(self._records))
        draft = self.root / MANIFEST
        draft.write_bytes(_manifest_bytes(dataclasses.replace(manifest, files=files)))
        try:
            yield self.root
        finally:
            draft.unlink()

    def commit(self, manifest: Manifest) -> Manifest:
        """Write `manifest` with the records of all files, last, and put the bundle in place.

        Returns the manifest as written.

        Raises:
            UsageError: it would be larger than readers take.
        """
        assert not manifest.files, "commit fills in the files"
        files = tuple(self._records[path] for path in sorted(self._records))
        manifest = dataclasses.replace(manifest, files=files)
        with (self.root / MANIFEST).open("xb") as file:
            file.write(_manifest_bytes(manifest))
            file.flush()
            os.fsync(file.fileno())
        try:
            on_disk = Bundle.open(self.root).manifest
        except ArtifactError as error:
            raise AssertionError(f"this bundle would be refused: {error}") from error
        assert on_disk == manifest
        put_in_place(self.root, self.out)
        return manifest


def _manifest_bytes(manifest: Manifest) -> bytes:
    data = format_json(encode(manifest)).encode()
    if len(data) > MAX_MANIFEST_BYTES:
        raise UsageError(
            f"the manifest would have {len(data)} bytes: expected at most {MAX_MANIFEST_BYTES}; "
            f"it describes {len(manifest.programs)} programs: export fewer meshes, platforms, "
            "batches, prefill sizes or cache lengths into one bundle"
        )
    return data


def check_target(out: Path, force: bool) -> None:
    """Refuse to write at `out` if something is there, unless `force` may replace it.

    Raises:
        UsageError: it exists and `force` is not set, or it is neither a bundle nor an empty
            folder.
    """
    if not out.name:
        raise UsageError(f"cannot write a bundle at {out}; name a new folder with {OUT}")
    if not os.path.lexists(out):
        return
    if not force:
        raise UsageError(
            f"{out} exists and is left as it is; remove it, choose another {OUT}, or replace a "
            f"bundle with {FORCE}"
        )
    if not _is_bundle(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            f"{out} is not a bundle, and {FORCE} replaces nothing else; remove it yourself or "
            f"choose another {OUT}"
        )


def _is_bundle(path: Path) -> bool:
    """Whether a gemma3-export of any version wrote the folder; it may be damaged."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        value = parse_json((path / MANIFEST).read_bytes(), str(path))
    except ArtifactError:
        return False
    ours = ("format_version", "programs", "weight_sets")
    return isinstance(value, dict) and all(name in value for name in ours)


@contextlib.contextmanager
def _disk_full_explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise UsageError(
            f"disk full while writing {out}: the unfinished bundle was removed; free some space "
            f"or write to another disk with {OUT}"
        ) from error
