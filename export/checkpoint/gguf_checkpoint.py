"""A GGUF file of architecture gemma3 as a checkpoint with a Hugging Face configuration."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError
from .base import Checkpoint
from .gguf_config import ARCHITECTURE, EMBEDDING, Metadata, eos_token_ids, gguf_config
from .gguf_file import GgufFile, read_gguf
from .names import canonical_gguf_name
from .tensors import TensorSource
from .tokenizer import PieceType, SpecialIds, build_sentencepiece

_SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of one that was split (`-00001-of-0000N.gguf`).

    Raises:
        ArtifactError: a part is missing, damaged or truncated, the architecture is not gemma3,
            metadata that the model needs is missing, or a tensor is foreign to Gemma 3.
    """
    file = _read_parts(path)
    metadata = file.metadata
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise ArtifactError(
            f"{path}: GGUF architecture {architecture!r} is not supported; expected "
            f"{ARCHITECTURE} (a text model; vision weights come in Hugging Face folders)"
        )
    tensors = _canonical(path, file.tensors)
    return Checkpoint(
        path=path,
        name=Metadata(path, metadata, "general.").text("name") or path.stem,
        config=gguf_config(metadata, tensors, path),
        tensors=tensors,
        tokenizer=_tokenizer(path, metadata),
        chat_template=Metadata(path, metadata, "tokenizer.").text("chat_template"),
        generation_config={"eos_token_id": eos_token_ids(metadata, path)},
    )


def split_parts(path: Path) -> list[Path]:
    """All part files of a split GGUF in order; the file itself when its name says no split."""
    match = _SPLIT_NAME.fullmatch(path.name)
    count = int(match["count"]) if match else 0
    if match is None or count == 0:
        return [path]
    return [
        path.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf")
        for number in range(1, count + 1)
    ]


def _read_parts(path: Path) -> GgufFile:
    """Metadata of the first part (the others repeat none of it) and the tensors of all."""
    parts = split_parts(path)
    for part in parts:
        if not part.is_file():
            raise ArtifactError(
                f"{part}: part of a split GGUF is missing; expected {len(parts)} parts beside "
                "each other; download it into the folder"
            )
    files = [read_gguf(part) for part in parts]
    tensors: dict[str, TensorSource] = {}
    for part, file in zip(parts, files, strict=True):
        for name, source in file.tensors.items():
            if name in tensors:
                raise ArtifactError(
                    f"{part}: tensor {name} is also in {tensors[name].path.name}; expected it "
                    "once; download all parts of one split again"
                )
            tensors[name] = source
    expected = files[0].metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise ArtifactError(
            f"{path}: expected {expected} tensors in all parts, got {len(tensors)}; download "
            "all parts of one split again"
        )
    return GgufFile(files[0].metadata, tensors)


def _canonical(path: Path, stored: dict[str, TensorSource]) -> dict[str, TensorSource]:
    tensors = {}
    for gguf_name, source in stored.items():
        name = canonical_gguf_name(gguf_name)
        if name is None:
            raise ArtifactError(
                f"{source.path}: tensor {gguf_name} is not part of Gemma 3 as this exporter "
                "knows it; expected blk.N.*, token_embd, output_norm, output"
            )
        shift = -1.0 if "norm" in name else 0.0  # GGUF stores 1 + w
        tensors[name] = dataclasses.replace(source, name=name, shift=shift)
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise ArtifactError(f"{path}: tensor token_embd.weight is missing or no matrix")
    return tensors


def _tokenizer(path: Path, values: dict[str, Any]) -> bytes | None:
    """The SentencePiece model that the file's tokens, scores and types came from."""
    metadata = Metadata(path, values, "tokenizer.ggml.")
    kind = metadata.text("model")
    if kind is None:
        return None
    if kind != "llama":
        raise metadata.wrong("model", kind, "'llama', a SentencePiece vocabulary")
    tokens = metadata.array("tokens", list)
    scores = metadata.array("scores", np.ndarray)
    types = metadata.array("token_type", np.ndarray)
    kinds = {int(kind): kind for kind in PieceType}
    if len({len(tokens), len(scores), len(types)}) > 1 or not set(types.tolist()) <= set(kinds):
        raise ArtifactError(
            f"{path}: tokenizer has {len(tokens)} tokens, {len(scores)} scores and {len(types)} "
            "types; expected one each per token, types 1 to 6; convert the model again"
        )
    special = SpecialIds(
        unk=metadata.integer("unknown_token_id", 3, least=0),
        bos=metadata.integer("bos_token_id", 2, least=0),
        eos=metadata.integer("eos_token_id", 1, least=0),
        pad=metadata.integer("padding_token_id", 0, least=0),
    )
    pieces = [
        (token, score, kinds[kind])
        for token, score, kind in zip(tokens, scores.tolist(), types.tolist(), strict=True)
    ]
    return build_sentencepiece(pieces, special, path, bool(metadata.get("add_space_prefix")))
