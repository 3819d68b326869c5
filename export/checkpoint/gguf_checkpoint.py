"""A GGUF file of Gemma 3 as a checkpoint with a Hugging Face configuration.

Files of llama.cpp and of Ollama, whose blobs have no suffix: the first bytes say what a file is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError, one_line
from ...model.embedding import DenseLayer, EmbeddingHead, Normalize, Pooling
from .base import Checkpoint
from .gguf_config import EMBEDDING, eos_token_ids, gguf_config, is_embedder, model_metadata
from .gguf_file import GgufFile, is_gguf, read_gguf, read_gguf_metadata
from .gguf_metadata import Metadata
from .gguf_tokenizer import read_tokenizer
from .names import canonical_gguf_name
from .tensors import TensorSource

_SPLIT_NAME = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_SUFFIX, _BLOBS = ".gguf", "sha256-*"
_VISION = ("v.", "mm.")
"""Tensors of the vision side, which Ollama keeps in the same file."""
_DENSE = re.compile(r"dense(?:_(?P<after>[23])|\.(?P<number>[01]))\.weight")
"""Those of an embedding model's dense layers: llama.cpp's names, and Ollama's."""
# llama.cpp's numbers for ways to pool.
_POOLING = {1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST_TOKEN}


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of one that was split (`-00001-of-0000N.gguf`).

    Raises:
        ArtifactError: a part is missing, damaged or truncated, the architecture is another,
            metadata that the model needs is missing or unknown, or a tensor is foreign to Gemma 3.
    """
    file = _read_parts(path)
    metadata = file.metadata
    model = model_metadata(metadata, path)
    stored = {name: t for name, t in file.tensors.items() if not name.startswith(_VISION)}
    tensors = _canonical(path, stored)
    config = gguf_config(metadata, tensors, path)
    head, head_notes = _head(model, tensors)
    tokenizer, tokenizer_notes = read_tokenizer(path, metadata)
    ggml = Metadata(path, metadata, "tokenizer.ggml.")
    left = len(file.tensors) - len(stored)
    vision = (f"{left} tensors of the vision side (v.*, mm.*) are left out: export from the "
              "Hugging Face folder for images",) if left else ()  # fmt: skip
    return Checkpoint(
        path=path,
        name=Metadata(path, metadata, "general.").text("name") or path.stem,
        config=config.config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=Metadata(path, metadata, "tokenizer.").text("chat_template"),
        generation_config={"eos_token_id": eos_token_ids(metadata, path)},
        add_bos=ggml.flag("add_bos_token", True),
        add_eos=ggml.flag("add_eos_token", False),
        text_end=ggml.integer("eos_token_id", 1, least=0),
        head=head,
        notes=(*vision, *config.notes, *head_notes, *tokenizer_notes),
    )


def find_gguf(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The one GGUF model in a folder, None where there is none; and notes on what is beside it.

    Raises:
        ArtifactError: there are several, or one cannot be read.
    """
    named = [file for file in sorted(folder.glob("*")) if file.suffix.lower() == _SUFFIX]
    files = [file for file in named or sorted(folder.glob(_BLOBS)) if file.is_file()]
    first = {split_parts(file)[0]: file for file in files if named or is_gguf(file)}
    if len(first) < 2:
        return next(iter(first.values()), None), ()
    kinds = {file: _other_than_a_model(file) for file in first.values()}
    models = [file for file, kind in kinds.items() if kind is None]
    if len(models) != 1:
        raise ArtifactError(
            f"{folder}: holds {len(models)} GGUF models; expected one "
            f"({', '.join(file.name for file in (models or list(kinds))[:3])}); pass one file"
        )
    notes = [f"{one_line(file.name)}, {kind}, is left out" for file, kind in kinds.items() if kind]
    return models[0], tuple(notes)


def _other_than_a_model(path: Path) -> str | None:
    """What a GGUF file holds in place of a model, in words; None for a model."""
    general = Metadata(path, read_gguf_metadata(path), "general.")
    kind = general.text("type")
    if kind == "mmproj" or general.text("architecture") == "clip":
        return "the vision side of a model (mmproj)"
    return None if kind in (None, "model") else f"of type {kind!r}"


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
    for number, (part, file) in enumerate(zip(parts, files, strict=True)):
        _check_part(part, number, len(parts), file.metadata)
        for name, source in file.tensors.items():
            if name in tensors:
                raise ArtifactError(
                    f"{part}: tensor {name} is also in {tensors[name].path.name}; expected it "
                    "once; download all parts of one split again"
                )
            tensors[name] = source
    first = Metadata(parts[0], files[0].metadata, "split.")
    expected = first.integer("tensors.count", len(tensors), least=0)
    if expected != len(tensors):
        raise ArtifactError(
            f"{path}: expected {expected} tensors in all parts, got {len(tensors)}; download "
            "all parts of one split again"
        )
    return GgufFile(files[0].metadata, tensors)


def _check_part(path: Path, number: int, count: int, metadata: Mapping[str, Any]) -> None:
    split = Metadata(path, metadata, "split.")
    says = split.integer("no", number, least=0), split.integer("count", count, least=0) or 1
    if says != (number, count):
        raise ArtifactError(
            f"{path}: expected part {number + 1} of {count}, as it is named, got part "
            f"{says[0] + 1} of {says[1]} of a split GGUF; name the parts NAME-00001-of-"
            f"{says[1]:05d}.gguf, ..., or join them with llama-gguf-split --merge"
        )


def _canonical(path: Path, stored: dict[str, TensorSource]) -> dict[str, TensorSource]:
    tensors: dict[str, TensorSource] = {}
    for gguf_name, source in stored.items():
        dense = _DENSE.fullmatch(gguf_name)
        if dense:
            name = f"dense.{dense['number'] or int(dense['after']) - 2}.weight"
        else:
            name = canonical_gguf_name(gguf_name)
        if name is None or name in tensors:
            raise ArtifactError(
                f"{source.path}: tensor {gguf_name} is not part of Gemma 3 as this exporter "
                "knows it; expected blk.N.*, token_embd, output_norm, output once each"
            )
        shift = -1.0 if "norm" in name else 0.0  # GGUF stores 1 + w
        tensors[name] = dataclasses.replace(source, name=name, shift=shift)
    if EMBEDDING not in tensors or len(tensors[EMBEDDING].shape) != 2:
        raise ArtifactError(f"{path}: tensor token_embd.weight is missing or no matrix")
    return tensors


def _head(
    model: Metadata, tensors: Mapping[str, TensorSource]
) -> tuple[EmbeddingHead | None, tuple[str, ...]]:
    """What makes vectors, for an embedding model; and what was assumed of it."""
    embeds, key = is_embedder(model.values), "pooling_type"
    kind = model.integer(key, 1 if embeds else 0, least=0)
    if kind == 0 and not embeds:
        return None, ()
    if kind not in _POOLING:
        known = ", ".join(f"{number} ({mode})" for number, mode in _POOLING.items())
        raise model.wrong(key, kind, known)
    pooling = _POOLING[kind]
    layers = _dense_layers(model, tensors)
    through = " through its dense layers" if layers else ", as the file has no dense layers"
    notes = (f"the vector of a text is pooled by {pooling}{through}, and taken to be of length 1: "
             "a GGUF file does not say",)  # fmt: skip
    return EmbeddingHead((pooling,), (*layers, Normalize())), notes


def _dense_layers(model: Metadata, tensors: Mapping[str, TensorSource]) -> list[DenseLayer]:
    layers = []
    for number, after in enumerate((2, 3)):
        source = tensors.get(f"dense.{number}.weight")
        sizes = (None, None) if source is None else source.shape
        for key, size in zip(("out", "in"), sizes, strict=True):
            name = f"dense_{after}_feat_{key}"
            if model.get(name) is not None and model.integer(name) != size:
                raise model.wrong(name, model.get(name), f"{size}, as in the tensor")
        if source is not None:
            layers.append(DenseLayer(source.shape[0], bias=False))
    if len(layers) == 1 and "dense.0.weight" not in tensors:
        raise model.wrong("dense_2_feat_out", None, "tensor dense_2.weight before dense_3.weight")
    return layers
