"""How a tensor is split over a mesh, by arithmetic alone."""

from __future__ import annotations

import math

from .errors import ArtifactError
from .layout import ITEMSIZE
from .manifest import Mesh, Spec


def shard_shape(shape: tuple[int, ...], spec: Spec, mesh: Mesh) -> tuple[int, ...]:
    """The shape of the part of a tensor that one device of `mesh` holds.

    Raises:
        ArtifactError: the spec has another rank than the shape, names an axis the mesh lacks
            or one axis twice, or splits a dimension into parts of unequal size.
    """
    if len(spec) != len(shape):
        raise ArtifactError(f"expected a spec of {len(shape)} dimensions, got {len(spec)}")
    sizes = {axis.name: axis.size for axis in mesh.axes}
    used = [name for axes in spec for name in axes]
    for name in used:
        if name not in sizes:
            raise ArtifactError(
                f"expected axes of mesh {mesh.name} ({', '.join(sizes)}), got {name}"
            )
    if len(set(used)) != len(used):
        raise ArtifactError(f"expected each axis at most once in a spec, got {', '.join(used)}")
    parts = [math.prod(sizes[name] for name in axes) for axes in spec]
    for dimension, (size, count) in enumerate(zip(shape, parts, strict=True)):
        if size % count:
            raise ArtifactError(
                f"expected dimension {dimension} to divide into {count} parts, got size {size}"
            )
    return tuple(size // count for size, count in zip(shape, parts, strict=True))


def device_bytes(shape: tuple[int, ...], dtype: str, spec: Spec, mesh: Mesh) -> int:
    """Bytes of the part of a tensor that one device of `mesh` holds; all hold the same.

    Raises:
        ArtifactError: as `shard_shape`.
    """
    return math.prod(shard_shape(shape, spec, mesh)) * ITEMSIZE[dtype]
