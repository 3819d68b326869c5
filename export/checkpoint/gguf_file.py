"""The GGUF container: metadata and the places of the tensors, read without mapping the file.

The gguf library's reader keeps several arrays per metadata item: on Gemma's vocabulary it takes
15 s and 700 MB, and it maps the file. Here the header is one pass over a buffered file. Every
size the file claims is checked against the bytes it has before anything is allocated.
Format: github.com/ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_VERSION,
    GGMLQuantizationType,
    GGUFValueType,
)

from ...artifacts.errors import ArtifactError
from .base import refuse_lfs_pointer
from .tensors import TensorSource, can_dequantize

_MAGIC = b"GGUF"
_VERSIONS = (2, GGUF_VERSION)
_MAX_DIMS = 4
# Gemma's vocabulary takes 6 MB; no honest metadata item comes near this.
_MAX_ITEM_BYTES = 256 << 20
_SCALARS = {
    GGUFValueType.UINT8: np.dtype("u1"),
    GGUFValueType.INT8: np.dtype("i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
    GGUFValueType.BOOL: np.dtype("?"),
}


@dataclass(frozen=True)
class GgufFile:
    """A parsed header.

    Attributes:
        metadata: scalars as Python values (float32 as the shortest decimal that rounds to it,
            so 1e-06 and not 9.999999974752427e-07), string arrays as lists, others as arrays.
        tensors: by GGUF name, shapes in torch order (GGUF's dimensions reversed).
    """

    metadata: dict[str, Any]
    tensors: dict[str, TensorSource]


def read_gguf(path: Path) -> GgufFile:
    """Parse the header of one GGUF file.

    Raises:
        ArtifactError: the file cannot be read, is no GGUF of version 2 or 3, is damaged or
            truncated, or has a tensor of a type that cannot be dequantised.
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def read_gguf_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, as in GgufFile; raises what `read_gguf` raises of it."""
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read_metadata()[0]
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF does, whatever its name; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class _Reader:
    """Reads forward through a header; every claimed length is checked before it is read."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size = path.stat().st_size

    def read(self) -> GgufFile:
        metadata, tensor_count = self.read_metadata()
        infos = [self.tensor_info() for _ in range(tensor_count)]
        return GgufFile(metadata, self.locate(infos, self.data_start(metadata)))

    def read_metadata(self) -> tuple[dict[str, Any], int]:
        """The metadata, and how many tensors follow."""
        start = self.file.read(64)
        refuse_lfs_pointer(self.path, start)
        if start[:4] != _MAGIC:
            raise ArtifactError(
                f"{self.path}: not a GGUF file: expected it to start with {_MAGIC!r}, got "
                f"{start[:4]!r}; download the file again"
            )
        self.file.seek(len(_MAGIC))
        version = self.number("<u4")
        if version not in _VERSIONS:
            raise ArtifactError(
                f"{self.path}: GGUF version {version} is not supported; expected "
                f"{' or '.join(map(str, _VERSIONS))}, little-endian; convert the model again"
            )
        tensor_count, item_count = self.number("<u8"), self.number("<u8")
        metadata: dict[str, Any] = {}
        for _ in range(item_count):
            key = self.string()
            if key in metadata:
                raise self.damaged(f"two values of {key}")
            metadata[key] = self.value(self.number("<u4"))
        return metadata, tensor_count

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        left = self.size - self.file.tell()
        if count > min(left, _MAX_ITEM_BYTES):
            raise self.damaged(
                f"header claims {count} bytes at {self.file.tell()}, {left} are left"
            )
        return self.file.read(count)

    def number(self, dtype: str) -> int:
        """The next unsigned integer."""
        return int.from_bytes(self.take(np.dtype(dtype).itemsize), "little")

    def string(self) -> str:
        """The next length-prefixed UTF-8 string."""
        content = self.take(self.number("<u8"))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"text before byte {self.file.tell()} is not UTF-8") from error

    def value(self, kind: int) -> Any:
        """The next metadata value of a GGUFValueType."""
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            return self.array()
        values = self.scalars(kind, 1)
        # str() of a numpy float32 is the shortest decimal that rounds to it.
        return float(str(values[0])) if values.dtype.kind == "f" else values[0].item()

    def array(self) -> list[str] | np.ndarray:
        kind, count = self.number("<u4"), self.number("<u8")
        if kind != GGUFValueType.STRING:
            return self.scalars(kind, count)
        if count * 8 > self.size - self.file.tell():  # each has a length of 8 bytes
            raise self.damaged(f"header claims an array of {count} strings")
        return [self.string() for _ in range(count)]

    def scalars(self, kind: int, count: int) -> np.ndarray:
        dtype = _SCALARS.get(kind)  # type: ignore[arg-type]  # an IntEnum key equals its int
        if dtype is None:
            raise self.damaged(f"metadata value of unknown type {kind}")
        return np.frombuffer(self.take(count * dtype.itemsize), dtype)

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape in torch order, GGML type and offset of the next tensor."""
        name, dims = self.string(), self.number("<u4")
        if not 1 <= dims <= _MAX_DIMS:
            raise self.damaged(f"tensor {name} claims {dims} dimensions")
        shape = tuple(self.number("<u8") for _ in range(dims))[::-1]
        return name, shape, self.number("<u4"), self.number("<u8")

    def data_start(self, metadata: dict[str, Any]) -> int:
        """Where tensor data begins: after the header, rounded up to the alignment."""
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise self.damaged(f"alignment {alignment!r} is not a power of two")
        return -(-self.file.tell() // alignment) * alignment

    def locate(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int
    ) -> dict[str, TensorSource]:
        tensors: dict[str, TensorSource] = {}
        for name, shape, kind, offset in infos:
            dtype = self.type_name(name, kind)
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            if shape[-1] % block or 0 in shape:
                raise self.damaged(f"tensor {name} of shape {shape} does not divide by {dtype}")
            end = start + offset + math.prod(shape) // block * size
            if end > self.size:
                raise ArtifactError(
                    f"{self.path}: truncated: tensor {name} ends at byte {end}, the file has "
                    f"{self.size}; download the file again"
                )
            if name in tensors:
                raise self.damaged(f"two tensors are named {name}")
            tensors[name] = TensorSource(name, shape, dtype, self.path, start + offset)
        return tensors

    def type_name(self, tensor: str, kind: int) -> str:
        """Name of a GGML type that can be dequantised."""
        try:
            dtype = GGMLQuantizationType(kind).name
        except ValueError:
            dtype = f"number {kind}"
        if dtype not in GGMLQuantizationType.__members__ or not can_dequantize(dtype):
            raise ArtifactError(
                f"{self.path}: tensor {tensor} has GGML type {dtype}, which the gguf library "
                "cannot dequantise; use a file of another quantisation, such as Q8_0 or Q4_K_M"
            )
        return dtype

    def damaged(self, why: str) -> ArtifactError:
        return ArtifactError(f"{self.path}: damaged GGUF header ({why}); download the file again")
