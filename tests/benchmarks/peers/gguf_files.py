"""GGUF files of the weights a bundle was exported from: what llama.cpp is measured with.

Matrices become BF16, Q8_0 or Q4_0 by the gguf library, embedding included (llama.cpp's `--pure`);
vectors stay float32. The demo checkpoint is a GGUF file of mixed types, which is dequantised first,
as the export does: all formats are of the same weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gemma3_export.export.checkpoint.gguf_file import read_gguf
from gemma3_export.export.checkpoint.tensors import TensorSource
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

FORMATS = {
    "BF16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "Q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
_ROWS = 16384  # quantised at a time: the embedding is 0.7 GB of float32


def write_gguf_files(source: Path, folder: Path) -> dict[str, Path]:
    """The files by format, written to `folder` unless they are there already."""
    paths = {name: folder / f"{source.stem}.{name}.gguf" for name in FORMATS}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in paths.items():
        if not path.exists():
            partial = path.with_suffix(".partial")
            _write(source, name, partial)
            partial.rename(path)
    return paths


def weight_bytes(path: Path) -> int:
    """Bytes of the tensors of a file: what a token must read."""
    return sum(tensor.rows * tensor.row_bytes for tensor in read_gguf(path).tensors.values())


def _write(source: Path, name: str, path: Path) -> None:
    kind, file_type = FORMATS[name]
    read = read_gguf(source)
    writer = GGUFWriter(path, read.metadata["general.architecture"])
    for key, value in read.metadata.items():
        if key not in ("general.architecture", "general.file_type") and ".imatrix." not in key:
            _add(writer, key, value)
    writer.add_file_type(file_type)
    for tensor_name, tensor in read.tensors.items():
        matrix = len(tensor.shape) > 1
        values = _quantized(tensor, kind if matrix else GGMLQuantizationType.F32)
        # The shape in bytes of a quantised array says its shape in elements.
        writer.add_tensor(tensor_name, values, raw_dtype=kind if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """A metadata item, in the types that llama.cpp asks for."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)


def _quantized(tensor: TensorSource, kind: GGMLQuantizationType) -> np.ndarray:
    """All rows of a tensor, by blocks that fit the memory."""
    done = []
    for start in range(0, tensor.rows, _ROWS):
        values = tensor.read_rows(start, min(start + _ROWS, tensor.rows)).astype(np.float32)
        done.append(quants.quantize(values - np.float32(tensor.shift), kind))
    return np.concatenate(done)
