"""The header of a safetensors file: written so that tensors are aligned, read strictly.

A file is 8 bytes of little-endian header length, a JSON object from tensor names to dtype,
shape and byte range, and the tensors without holes (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import ALIGNMENT
from .codec import REMEDY, decode, parse_json, refuse
from .errors import ArtifactError
from .layout import ITEMSIZE
from .manifest import Weight

SAFETENSORS_DTYPES = {
    "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int32": "I32", "uint32": "U32",
    "int8": "I8", "uint8": "U8", "float8_e4m3fn": "F8_E4M3", "bool": "BOOL",
}  # fmt: skip
MAX_HEADER_BYTES = 2**24
"""As of manifests, which say the same of each tensor; the safetensors library takes 100 MB."""
PADDING = "__padding__."
"""Names of the tensors that fill what would be holes start like this; their dtype is U8."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file; `data_offsets` are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """A file to be written: its header, where its weights start, and its length in bytes."""

    header: bytes
    weights: tuple[Weight, ...]
    nbytes: int


def plan_layout(tensors: Sequence[tuple[str, tuple[int, ...], str]], file: str) -> Layout:
    """Lay out `(name, shape, dtype)` in the given order, each start a multiple of 64 bytes.

    The header is padded with spaces, as the format allows. Where a tensor's size is not a
    multiple of 64, a padding tensor of up to 63 bytes fills the gap before the next one:
    the format allows no holes. None of the published model sizes needs one.
    """
    entries: dict[str, Any] = {}
    end = 0
    for name, shape, dtype in tensors:
        assert name not in entries, name
        if gap := -end % ALIGNMENT:
            entries[f"{PADDING}{len(entries)}"] = _entry("U8", (gap,), end, gap)
            end += gap
        size = math.prod(shape) * ITEMSIZE[dtype]
        entries[name] = _entry(SAFETENSORS_DTYPES[dtype], shape, end, size)
        end += size
    # `pt` is what Hugging Face loaders ask for before they read a file.
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":"))
    text += " " * (-(8 + len(text)) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text.encode("ascii")
    weights = tuple(
        Weight(name, shape, dtype, file, len(header) + entries[name]["data_offsets"][0])
        for name, shape, dtype in tensors
    )
    return Layout(header, weights, len(header) + end)


def _entry(dtype: str, shape: tuple[int, ...], start: int, size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}


def read_header(path: Path, where: str) -> tuple[dict[str, Entry], int]:
    """The tensors of a safetensors file, and the number of bytes before the first of them.

    Raises:
        ArtifactError: the header is too long, not JSON, or of another form.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            refuse(where, "", f"a safetensors header within {size} bytes", f"{length} bytes")
        value = parse_json(file.read(length), where)
    if not isinstance(value, dict):
        refuse(where, "", "a safetensors header that is an object", "another value")
    decode(dict[str, str], value.pop("__metadata__", {}), where)
    return decode(dict[str, Entry], value, where), 8 + length


def check_header(path: Path, weights: Sequence[Weight], where: str) -> None:
    """Compare the header of a weight file with what the manifest says of it.

    Raises:
        ArtifactError: names the tensor that is missing, unknown, or of another dtype, shape
            or offset; or says that the tensors leave a hole or do not fill the file.
    """
    entries, start = read_header(path, where)
    for weight in weights:
        if weight.name not in entries:
            refuse(where, "", f"tensor {weight.name}", "a file without it")
        entry = entries[weight.name]
        begin = weight.offset - start
        expected = Entry(
            SAFETENSORS_DTYPES[weight.dtype], weight.shape, (begin, begin + weight.nbytes)
        )
        if entry != expected:
            refuse(where, weight.name, _describe(expected), _describe(entry))
    _check_unknown(entries, weights, where)
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.data_offsets[0] != end or entry.data_offsets[1] < end:
            refuse(where, name, f"a start at byte {end}", _describe(entry))
        end = entry.data_offsets[1]
    data = path.stat().st_size - start
    if end != data:
        refuse(where, "", f"tensors that fill {data} bytes", f"{end} bytes")


def _check_unknown(entries: dict[str, Entry], weights: Sequence[Weight], where: str) -> None:
    for name in sorted(entries.keys() - {weight.name for weight in weights}):
        entry = entries[name]
        if not name.startswith(PADDING) or entry.dtype != "U8":
            raise ArtifactError(f"{where}: expected no tensor {name}, got one; {REMEDY}")


def _describe(entry: Entry) -> str:
    return f"{entry.dtype} {list(entry.shape)} at bytes {list(entry.data_offsets)}"
