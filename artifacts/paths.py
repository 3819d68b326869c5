"""Paths of files inside a bundle: relative, with `/`, and never leaving it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from .errors import ArtifactError

MANIFEST = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
_MOST_LINKS = 40  # as Linux has it


def is_bundle_path(path: str) -> bool:
    """Whether `path` is a plain relative path: parts joined by `/`, none of them `..`.

    Backslashes and colons are refused so that the path means the same on every system.
    """
    parts = path.split("/")
    return path.isprintable() and not any(
        part in ("", ".", "..") or "\\" in part or ":" in part for part in parts
    )


def resolve_inside(root: Path, path: str) -> Path:
    """The regular file `path` of the bundle at `root`, links inside it followed.

    Links are taken part by part: one that leaves the bundle is refused even if it comes back, since
    whoever owns the folders in between would choose the file.

    Raises:
        ArtifactError: the file is missing, is not a regular file, or a link leads out of the
            bundle.
    """
    try:
        real = root.resolve(strict=True)
        target = _walk(real, path)
        mode = target.lstat().st_mode if target is not None else 0
    except (OSError, RuntimeError) as error:  # RuntimeError: links that form a loop
        reason = error.strerror if isinstance(error, OSError) else "links form a loop"
        raise ArtifactError(
            f"{root}: expected file {path} of the bundle, got: {reason}; "
            "copy the bundle again or re-export it"
        ) from error
    if target is None:
        raise ArtifactError(
            f"{root}: expected {path} inside the bundle, got a link out of it; "
            "copy the file itself into the bundle"
        )
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"{root}: expected {path} to be a regular file, got something else; "
            "copy the bundle again or re-export it"
        )
    return target


def _walk(root: Path, path: str) -> Path | None:
    """What `path` leads to from folder `root`, which no link is in the way to; None for outside."""
    here, links = root, 0
    parts = path.split("/")[::-1]  # the next one last
    while parts:
        part = parts.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if here == root:
                return None
            here = here.parent
            continue
        mode = (here / part).lstat().st_mode
        if not stat.S_ISLNK(mode):
            here = here / part
            if parts and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = str((here / part).readlink())
        if target.startswith("/"):
            if not target.startswith(f"{root}/"):
                return None
            here, target = root, target[len(f"{root}/") :]
        parts += target.split("/")[::-1]
    return here
