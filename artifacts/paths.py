"""Paths of files inside a bundle: relative, with `/`, and never leaving it."""

from __future__ import annotations

import stat
from pathlib import Path

from .errors import ArtifactError

MANIFEST = "manifest.json"


def is_bundle_path(path: str) -> bool:
    """Whether `path` is a plain relative path: parts joined by `/`, none of them `..`.

    Backslashes and colons are refused so that the path means the same on every system.
    """
    parts = path.split("/")
    return path.isprintable() and not any(
        part in ("", ".", "..") or "\\" in part or ":" in part for part in parts
    )


def resolve_inside(root: Path, path: str) -> Path:
    """The regular file `path` of the bundle at `root`, links followed.

    Raises:
        ArtifactError: the file is missing, is not a regular file, or a link leads out of the
            bundle.
    """
    try:
        real = (root / path).resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links that form a loop
        reason = error.strerror if isinstance(error, OSError) else "links form a loop"
        raise ArtifactError(
            f"{root}: expected file {path} of the bundle, got: {reason}; "
            "copy the bundle again or re-export it"
        ) from error
    if not real.is_relative_to(root.resolve()):
        raise ArtifactError(
            f"{root}: expected {path} inside the bundle, got a link to {real}; "
            "copy the file itself into the bundle"
        )
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"{root}: expected {path} to be a regular file, got something else; "
            "copy the bundle again or re-export it"
        )
    return real
