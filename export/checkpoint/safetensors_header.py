"""The header of a safetensors file, read without mapping the file.

The safetensors library maps the whole file: streaming a 336 MB tensor by row slices left
378 MB more resident, so a 5 GB shard would count as 5 GB. The format is eight bytes of length
and a JSON object (github.com/huggingface/safetensors, "Format"), so we read that ourselves
and refuse what the library refuses.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from .base import is_plain, refuse_lfs_pointer
from .tensors import PLAIN_DTYPES, TensorSource

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the library's own bound
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16,
         "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64,
         "F64": 64}  # fmt: skip


def read_safetensors(path: Path) -> dict[str, TensorSource]:
    """Every tensor of the file, by the name it has there.

    Raises:
        ArtifactError: the file cannot be read, its header is damaged, or its length is not
            what the header says. An unsupported dtype is refused by `check_dtype`, since
            some files carry integer buffers that nobody reads.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(64)
            refuse_lfs_pointer(path, prefix)
            length = int.from_bytes(prefix[:_LENGTH_BYTES], "little")
            if not 0 < length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise _damaged(path, f"header of {length} bytes in a file of {size} bytes")
            file.seek(_LENGTH_BYTES)
            text = file.read(length)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    return _tensors(path, text, size)


def check_dtype(source: TensorSource) -> None:
    """Refuse a tensor whose stored type is not a float that the export reads."""
    if source.dtype not in PLAIN_DTYPES:
        raise ArtifactError(
            f"{source.path}: tensor {source.name} has dtype {source.dtype}; expected one of "
            f"{', '.join(PLAIN_DTYPES)}; use the unquantised checkpoint"
        )


def _tensors(path: Path, text: bytes, size: int) -> dict[str, TensorSource]:
    start = _LENGTH_BYTES + len(text)
    spans: list[tuple[int, int]] = []
    tensors = {}
    for name, entry in _header(path, text).items():
        if not is_plain(name):
            raise _damaged(path, f"tensor name {name[:80]!r} is not a line of text")
        dtype, shape, begin, end = _entry(path, name, entry)
        if math.prod(shape) * _BITS[dtype] != (end - begin) * 8:
            raise _damaged(path, f"tensor {name} takes {end - begin} bytes, not {dtype}{shape}")
        spans.append((begin, end))
        tensors[name] = TensorSource(name, shape, dtype, path, start + begin)
    expected = start
    for begin, end in sorted(spans):
        if start + begin != expected:
            raise _damaged(path, f"tensors overlap or leave a hole at byte {expected}")
        expected = start + end
    if size != expected:
        raise ArtifactError(
            f"{path}: {'truncated' if size < expected else 'too long'}: expected {expected} "
            f"bytes by its header, got {size}; download the file again"
        )
    return tensors


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise ValueError("duplicate keys")
        return fields

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path, "header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
            if dtype not in _BITS:
                raise ArtifactError(
                    f"{path}: tensor {name} has dtype {dtype}; expected one of "
                    f"{', '.join(PLAIN_DTYPES)}; use the unquantised checkpoint"
                )
            if 0 <= begin <= end and all(type(dim) is int and dim >= 0 for dim in shape):
                return dtype, tuple(shape), begin, end
    raise _damaged(path, f"entry of tensor {name} is malformed")


def _damaged(path: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{path}: damaged safetensors header ({why}); download the file again")
