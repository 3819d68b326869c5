"""Arrays on the devices of a mesh: weights from a mapped file, copying only what must be copied,
and zeros for a cache."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import NamedSharding

from ...artifacts.store import numpy_dtype

# XLA:CPU uses host memory as it is when it starts at such an address, and copies it otherwise.
ALIGNMENT = 64


def to_devices(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """`array` as a global JAX array, each device holding its shard.

    A shard is cut from the mapping and handed straight to its device: no whole tensor is ever
    built. On CPU a shard that lies in one piece stays the mapped file itself (pages shared with
    every process that runs the bundle); one that does not, such as a slice of columns, is copied
    once and shared by the devices that replicate it.
    """
    whole = np.asarray(array)
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


def zeros(shape: tuple[int, ...], dtype: str, sharding: NamedSharding) -> jax.Array:
    """Zeros on the devices of `sharding`, in memory of their own, which can be donated.

    No program makes them: compiling one takes longer than all else that a start with stored
    programs does.
    """
    shard = sharding.shard_shape(shape)
    count, item = math.prod(shard), numpy_dtype(dtype).itemsize
    buffer = np.zeros(count * item + 2 * ALIGNMENT, np.uint8)
    # Misaligned, or XLA:CPU may borrow this memory, and what is borrowed cannot be donated.
    start = -buffer.ctypes.data % ALIGNMENT + item
    source = buffer[start : start + count * item].view(numpy_dtype(dtype)).reshape(shard)
    devices = sorted(sharding.addressable_devices, key=lambda device: device.id)
    copies = [jax.device_put(source, device) for device in devices]
    return jax.make_array_from_single_device_arrays(shape, sharding, copies)


def _aligned_copy(view: np.ndarray) -> np.ndarray:
    """A contiguous copy of `view` at an address that XLA:CPU need not copy again."""
    count = math.prod(view.shape) * view.itemsize
    buffer = np.empty(count + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[start : start + count].view(view.dtype).reshape(view.shape)
    np.copyto(copy, view)
    copy.flags.writeable = False
    return copy
