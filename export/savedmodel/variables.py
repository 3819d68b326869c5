"""The weights on their way into the SavedModel, a few of them at a time.

TensorFlow writes variables from memory, all of them at once. Here their memory is the bundle's
mapped file, which nothing looks into, so that no page of it is ever resident; what TensorFlow
writes is given to it in shards, each mapped when its turn comes and let go of before the next. So
the process holds 8 MiB of weights, or a 128th of them, whatever the size of a tensor.
"""

# The stubs of TensorFlow that pyright brings lack operators and many functions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tensorflow as tf

from ...artifacts.memory import return_freed_memory
from ...artifacts.store import numpy_dtype

_SHARD_BYTES = 8 << 20
"""The most weights in a data file of the SavedModel, and so held at a time, of a small model."""
_SHARDS = 128
"""About the most data files: TensorFlow opens them all at once, and 1024 may be all it can."""
_JOINED = ("bfloat16", "float32", "int8", "uint8")
"""Dtypes of tensors that TensorFlow's reader puts together from parts in several files."""

Shard = Mapping[str, Mapping[str, tf.Tensor]]
"""What lies in one data file: tensors by their checkpoint key and their part, "" being all."""


class MappedWeight:
    """A weight in its file, or a contiguous part of one, for TensorFlow to make a tensor of.

    It would copy an array first, lest somebody change it; what it takes an array from it does not.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: str) -> None:
        """`offset` in bytes, a multiple of 64: then TensorFlow needs no copy to align it."""
        self.shape, self.dtype = shape, numpy_dtype(dtype)
        self.nbytes = math.prod(shape) * self.dtype.itemsize
        self._path, self._offset = path, offset

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The elements: pages of the file, each read when it is looked at."""
        assert dtype in (None, self.dtype)
        assert not copy
        # A mapping of its own, gone with the last view of it.
        return np.memmap(self._path, self.dtype, "r", self._offset, self.shape)

    def part(self, first: int, shape: tuple[int, ...]) -> MappedWeight:
        """The elements from number `first` on."""
        offset = self._offset + first * self.dtype.itemsize
        return MappedWeight(self._path, offset, shape, self.dtype.name)


class _Part(NamedTuple):
    """What a data file has of a variable: all of it, with no `spec`, or the block it names."""

    key: str
    spec: str
    source: MappedWeight | tf.Tensor

    @property
    def nbytes(self) -> int:
        return self.source.nbytes if isinstance(self.source, MappedWeight) else 0


class _Shards(Sequence[Shard]):
    """Shards that are read when they are looked at, the one before being let go of."""

    def __init__(self, plan: list[list[_Part]]) -> None:
        self._plan = plan
        self._held: dict[str, dict[str, tf.Tensor]] = {}

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Shard:
        parts = self._plan[index]
        self._held.clear()
        self._held = {part.key: {} for part in parts}
        for part in parts:
            self._held[part.key][part.spec] = tf.convert_to_tensor(part.source)
        return self._held


class WeightShards(tf.train.experimental.ShardingCallback):
    """Gives TensorFlow's writer of checkpoints the variables' values from the bundle's files."""

    def __init__(self, variables: Iterable[tuple[tf.Variable, MappedWeight]]) -> None:
        self._weights = {variable.ref(): weight for variable, weight in variables}
        total = sum(weight.nbytes for weight in self._weights.values())
        self._most = max(_SHARD_BYTES, total // _SHARDS)

    @property
    def description(self) -> str:
        """What the policy is, for TensorFlow's log."""
        return f"Weights from their files, at most {self._most} bytes in a shard."

    def __call__(
        self, shardable_tensors: Sequence[tf.train.experimental.ShardableTensor]
    ) -> Sequence[Shard]:
        """All tensors in shards, in their order; called once, when the variables are written."""
        # The graph is made: what was only needed to make it shall not lie beside the weights.
        jax.clear_caches()
        gc.collect()
        return_freed_memory()
        plan: list[list[_Part]] = [[]]
        for part in self._parts(shardable_tensors):
            if plan[-1] and sum(p.nbytes for p in plan[-1]) + part.nbytes > self._most:
                plan.append([])
            plan[-1].append(part)
        return _Shards(plan)

    def _parts(self, tensors: Iterable[tf.train.experimental.ShardableTensor]) -> Iterator[_Part]:
        waiting = dict(self._weights)
        for each in tensors:
            variable = each.trackable
            weight = isinstance(variable, tf.Variable) and waiting.pop(variable.ref(), None)
            if weight:
                assert (tuple(each.shape), each.dtype) == (weight.shape, weight.dtype), each.name
                yield from _cut(each.checkpoint_key, weight, self._most)
            else:  # the table of slots, the description of the objects
                yield _Part(each.checkpoint_key, each.slice_spec, each.tensor)
        assert not waiting, "a variable is not written"


def _cut(key: str, weight: MappedWeight, nbytes: int) -> Iterator[_Part]:
    """A weight in parts of at most `nbytes`, each contiguous in the file; whole if it fits."""
    if weight.nbytes <= nbytes or weight.dtype.name not in _JOINED:
        yield _Part(key, "", weight)
        return
    shape = weight.shape
    inner = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    most = nbytes // weight.dtype.itemsize
    axis = next(axis for axis, elements in enumerate(inner) if elements <= most)
    rows, first = most // inner[axis], 0
    for outer in np.ndindex(shape[:axis]):
        for begin in range(0, shape[axis], rows):
            size = (*(1 for _ in outer), min(rows, shape[axis] - begin), *shape[axis + 1 :])
            start = (*outer, begin, *(0 for _ in shape[axis + 1 :]))
            saved = tf.Variable.SaveSliceInfo(key, list(shape), list(start), list(size))
            yield _Part(key, saved.spec, weight.part(first, size))
            first += math.prod(size)
