"""Weights from a mapped file to the devices of a mesh, copying only what must be copied."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import NamedSharding

# XLA:CPU uses host memory as it is when it starts at such an address, and copies it otherwise.
ALIGNMENT = 64


def place(mapped: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The global array of `mapped`, each device holding its shard.

    A shard is cut from the mapping and handed straight to its device: no whole tensor is ever
    built. On CPU a shard that lies in one piece stays the mapped file itself (pages shared with
    every process that runs the bundle); one that does not, such as a slice of columns, is copied
    once and shared by the devices that replicate it.
    """
    whole = np.asarray(mapped)
    copies: dict[str, np.ndarray] = {}

    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        view = whole if index is None else whole[index]
        if view.flags.c_contiguous and view.ctypes.data % ALIGNMENT == 0:
            return view
        key = str(index)  # slices cannot be dictionary keys before Python 3.12
        if key not in copies:
            copies[key] = _aligned_copy(view)
        return copies[key]

    return jax.make_array_from_callback(whole.shape, sharding, shard)


def _aligned_copy(view: np.ndarray) -> np.ndarray:
    """A contiguous copy of `view` at an address that XLA:CPU need not copy again."""
    count = math.prod(view.shape) * view.itemsize
    buffer = np.empty(count + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[start : start + count].view(view.dtype).reshape(view.shape)
    np.copyto(copy, view)
    copy.flags.writeable = False
    return copy
