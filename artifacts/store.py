"""The weight store: one safetensors file that is written as a stream and mapped by readers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from .bundle import Bundle
from .errors import ArtifactError
from .manifest import Weight
from .safetensors_header import plan_layout
from .writer import BundleFile, BundleWriter

WEIGHT_FILE = "weights/model.safetensors"
Planned = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of a tensor to store."""


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of a dtype name of the manifest."""
    narrow = {"bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}
    return np.dtype(narrow.get(name, name))


def plan_weights(tensors: Sequence[Planned]) -> tuple[Weight, ...]:
    """Where each tensor will lie in the store; what an abstract bundle records."""
    return plan_layout(tensors, WEIGHT_FILE).weights


def store_bytes(tensors: Sequence[Planned]) -> int:
    """Length in bytes of the weight file of `tensors`."""
    return plan_layout(tensors, WEIGHT_FILE).nbytes


class WeightWriter:
    """Appends tensors to a weight file, block by block; made by `write_weights`."""

    def __init__(self, file: BundleFile, weights: tuple[Weight, ...]) -> None:
        self.weights = weights
        """The records for the manifest, known from the start."""
        self._file = file
        self._next = 0

    def write(self, name: str, block: np.ndarray) -> None:
        """Append rows to tensor `name`: `block` is [rows, ...] with the tensor's dtype."""
        assert not self.complete, name
        weight = self.weights[self._next]
        assert name == weight.name, f"expected {weight.name}, got {name}"
        assert block.dtype == numpy_dtype(weight.dtype), (name, block.dtype, weight.dtype)
        assert block.shape[1:] == weight.shape[1:], (name, block.shape, weight.shape)
        if self._file.bytes < weight.offset:
            self._file.write(bytes(weight.offset - self._file.bytes))
        self._file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        end = weight.offset + weight.nbytes
        assert self._file.bytes <= end, f"more rows than {weight.shape} for {name}"
        self._next += self._file.bytes == end

    @property
    def complete(self) -> bool:
        """Whether every planned tensor has all its rows."""
        return self._next == len(self.weights)


@contextlib.contextmanager
def write_weights(writer: BundleWriter, tensors: Sequence[Planned]) -> Iterator[WeightWriter]:
    """Write the weight file of a bundle: tensors in their planned order, each by blocks of rows.

    Only the block given is held; the digest is computed on the way.
    """
    layout = plan_layout(tensors, WEIGHT_FILE)
    with writer.open_file(WEIGHT_FILE) as file:
        file.write(layout.header)
        store = WeightWriter(file, layout.weights)
        yield store
        assert store.complete, "the block ended before the last planned tensor"


def map_weight(bundle: Bundle, weight: Weight) -> np.ndarray:
    """A read-only view of `weight` in the mapped weight file: no bytes are read or copied.

    Each file is mapped once; the mapping lives as long as the bundle or a view of it.

    Raises:
        ArtifactError: the bundle is abstract.
    """
    if bundle.manifest.abstract:
        raise ArtifactError(
            f"{bundle.root}: expected weights, got an abstract bundle (programs only); "
            "re-export with --checkpoint and without --abstract"
        )
    mapping = bundle.mappings.get(weight.file)
    if mapping is None:
        mapping = np.memmap(bundle.path(weight.file), dtype=np.uint8, mode="r")
        mapping = bundle.mappings.setdefault(weight.file, mapping)
    flat = mapping[weight.offset : weight.offset + weight.nbytes]
    return np.asarray(flat).view(numpy_dtype(weight.dtype)).reshape(weight.shape)
