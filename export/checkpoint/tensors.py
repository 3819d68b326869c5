"""Tensors that are still on disk: read by row blocks, converted to the bundle's dtype."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ...artifacts.errors import ArtifactError

BLOCK_BYTES = 64 << 20

# Types numpy reads without decoding. Safetensors and GGUF use the same names for them.
PLAIN_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

BUNDLE_DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class TensorSource:
    """A tensor inside a checkpoint file, described but not read.

    Attributes:
        name: Hugging Face text-layout name, e.g. `model.layers.0.mlp.up_proj.weight`.
        shape: as in torch, (out, in) for matrices.
        dtype: the type in the file: `F64`, `F32`, `F16`, `BF16`, or a GGML type such as `Q4_K`.
        path: the file.
        offset: bytes from the start of the file; rows follow each other without gaps.
        shift: added in float32 on reading. GGUF stores norm weights as 1 + w, so -1 there.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    path: Path
    offset: int
    shift: float = 0.0

    @property
    def rows(self) -> int:
        """Size of the first dimension."""
        return self.shape[0]

    @property
    def row_elements(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape[1:])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return stored_bytes(self.row_elements, self.dtype)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop (exclusive), read from the file: [stop - start, *shape[1:]].

        The result is float32 for quantised and shifted tensors, else the file's own dtype.
        Reads into fresh memory; a memory map would count as resident for every page touched.

        Raises:
            ArtifactError: the file ends before these rows (it changed since it was opened).
        """
        assert 0 <= start <= stop <= self.rows, (self.name, start, stop, self.shape)
        size = (stop - start) * self.row_bytes
        try:
            offset = self.offset + start * self.row_bytes
            raw = np.fromfile(self.path, dtype=np.uint8, count=size, offset=offset)
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot read tensor {self.name}: {error}") from error
        if raw.size != size:
            raise ArtifactError(
                f"{self.path}: file ended inside tensor {self.name}: expected {size} bytes, "
                f"got {raw.size}; it changed while it was being read, run again"
            )
        if self.dtype in PLAIN_DTYPES:
            values = raw.view(PLAIN_DTYPES[self.dtype])
        else:
            # Rows of a 1-D tensor are single elements, which have no quantised form.
            byte_rows = raw.reshape(stop - start, self.row_bytes)
            values = dequantize(byte_rows, GGMLQuantizationType[self.dtype])
        if self.shift:
            values = values.astype(np.float32) + np.float32(self.shift)
        return values.reshape(stop - start, *self.shape[1:])


def blocks(
    source: TensorSource, dtype: str, limit_bytes: int = BLOCK_BYTES
) -> Iterator[np.ndarray]:
    """Consecutive row blocks of a tensor in the bundle's dtype, together the whole tensor.

    Args:
        source: the tensor.
        dtype: `float32` or `bfloat16`. Narrowing rounds to nearest, ties to even.
        limit_bytes: most bytes a block may take in float32; at least one row is yielded.
            Decoding a quantised block takes about twice that for a moment.

    Yields:
        Arrays [rows, *shape[1:]] of `dtype`.
    """
    target = BUNDLE_DTYPES[dtype]
    step = max(1, limit_bytes // max(1, source.row_elements * 4))
    for start in range(0, source.rows, step):
        values = source.read_rows(start, min(start + step, source.rows))
        with np.errstate(over="ignore"):  # `finite` says by name what is too large
            if values.dtype in (np.float16, np.float64) and target != np.float32:
                # Half precision exactly; double precision by way of single, as torch rounds it.
                values = values.astype(np.float32)
            values = values if values.dtype == target else values.astype(target)
        yield values


def stored_bytes(elements: int, dtype: str) -> int:
    """Bytes that `elements` consecutive values of a row take in a file of this type."""
    if dtype in PLAIN_DTYPES:
        return elements * PLAIN_DTYPES[dtype].itemsize
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    assert elements % block == 0, (elements, dtype)
    return elements // block * size


@functools.cache
def can_dequantize(dtype: str) -> bool:
    """Whether the gguf library turns this GGML type into float32 (some it only names)."""
    kind = GGMLQuantizationType[dtype]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
