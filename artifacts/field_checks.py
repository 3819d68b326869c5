"""Checks of single fields of a manifest: refusals that name the field and its JSON path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .codec import INT64, refuse
from .errors import ArtifactError
from .manifest import ITEMSIZE, Mesh, Spec
from .paths import is_bundle_path
from .sharding import shard_shape

MAX_RANK = 8


def check_array(where: str, path: str, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse a shape or dtype that no tensor has."""
    check_dtype(where, f"{path}.dtype", dtype)
    if len(shape) > MAX_RANK:
        refuse(where, f"{path}.shape", f"at most {MAX_RANK} dimensions", str(len(shape)))
    for size in shape:
        check_at_least(where, f"{path}.shape", 1, size)
    if math.prod(shape) * ITEMSIZE[dtype] not in INT64:
        refuse(where, f"{path}.shape", "fewer than 2^63 bytes", "x".join(map(str, shape)))


def check_spec(where: str, path: str, shape: tuple[int, ...], spec: Spec, mesh: Mesh) -> None:
    """Refuse a spec that does not suit a shape and mesh."""
    try:
        shard_shape(shape, spec, mesh)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {path}: {error}; re-export the bundle") from error


def check_dtype(where: str, path: str, dtype: str) -> None:
    """Refuse a dtype that manifests do not know."""
    check_known(where, path, dtype, ITEMSIZE)


def check_at_least(where: str, path: str, least: int, got: int) -> None:
    """Refuse a number below `least`."""
    if got < least:
        refuse(where, path, f"at least {least}", str(got))


def check_path(where: str, path: str, got: str) -> None:
    """Refuse what is no path inside a bundle."""
    if not is_bundle_path(got):
        refuse(where, path, "a relative path inside the bundle", got)


def check_known(where: str, path: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among the known ones."""
    if name not in known:
        refuse(where, path, one_of(known), name)


def check_unique(where: str, path: str, names: Sequence[str]) -> None:
    """Refuse a name given twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(where, path, "each name once", f"{name} twice")
        seen.add(name)


def one_of(names: Iterable[str]) -> str:
    """The first names of a list, for an error."""
    listed = list(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"one of {', '.join(listed[:8]) or '(none)'}{more}"
