"""A Hugging Face folder: config.json, safetensors (one file or shards), tokenizer, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from .base import MODEL_TYPES, Checkpoint, read_bytes, read_json
from .names import canonical_name
from .safetensors_header import check_dtype, read_safetensors
from .sentence_transformers import dense_tensors
from .tensors import TensorSource
from .tokenizer_files import read_tokenizer

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LONGEST_NAME = 200
"""Characters; asking the system for a longer name is an error of its own."""


def open_huggingface(folder: Path) -> Checkpoint:
    """Open a folder that holds config.json and safetensors.

    Raises:
        ArtifactError: a file is missing, damaged or truncated, the architecture is not
            Gemma 3, or a weight has a dtype other than BF16, F16 and F32.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(
            f"{folder}: no {CONFIG} and no .gguf file; expected a Hugging Face folder "
            f"({CONFIG} and {SINGLE}) or a GGUF file; pass its path to --checkpoint"
        )
    config = read_json(folder / CONFIG)
    _check_architecture(folder / CONFIG, config)
    generation = folder / "generation_config.json"
    tokenizer = read_tokenizer(folder)
    return Checkpoint(
        path=folder,
        name=folder.resolve().name,
        config=config,
        tensors=_canonical(
            folder, _stored_tensors(folder) | dense_tensors(folder), _is_tied(config)
        ),
        tokenizer=tokenizer.model,
        chat_template=_chat_template(folder),
        generation_config=read_json(generation) if generation.is_file() else {},
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
    )


def _check_architecture(path: Path, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ArtifactError(
            f"{path}: model_type {model_type!r} is not supported; expected "
            f"{' or '.join(MODEL_TYPES)} (a Gemma 3 checkpoint)"
        )
    if not isinstance(config.get("text_config") or {}, dict):
        raise ArtifactError(f"{path}: text_config must be an object; download the file again")


def _is_tied(config: dict[str, Any]) -> bool:
    """Whether the head is the embedding: the top level decides, as in transformers."""
    text_config = config.get("text_config") or {}
    tied = config.get("tie_word_embeddings", text_config.get("tie_word_embeddings"))
    return True if tied is None else bool(tied)


def _stored_tensors(folder: Path) -> dict[str, TensorSource]:
    """Every tensor by its stored name, from the single file or from the shards of the index."""
    if (folder / SINGLE).is_file():
        return read_safetensors(folder / SINGLE)
    index = folder / INDEX
    if not index.is_file():
        raise ArtifactError(
            f"{folder}: no weights: expected {SINGLE} or {INDEX} with its shards; "
            "download them (other formats: save_pretrained(safe_serialization=True))"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and name == Path(name).name for name in weight_map.values()
    ):
        raise ArtifactError(
            f"{index}: weight_map must map tensor names to file names in the same folder; "
            "download the file again"
        )
    shards = {}
    for shard in sorted(set(weight_map.values())):
        if len(shard) > _LONGEST_NAME or not (folder / shard).is_file():
            raise ArtifactError(
                f"{folder}: shard {shard[:80]} is missing, though {INDEX} names it; "
                "download it into the folder"
            )
        shards[shard] = read_safetensors(folder / shard)
    for key, shard in weight_map.items():
        if key not in shards[shard]:
            raise ArtifactError(
                f"{folder / shard}: tensor {key} is not in the shard, though {INDEX} says so; "
                "use index and shards of one and the same checkpoint"
            )
    return {key: shards[shard][key] for key, shard in weight_map.items()}


def _canonical(
    folder: Path, stored: dict[str, TensorSource], tied: bool
) -> dict[str, TensorSource]:
    """The tensors under their canonical names, without buffers and a tied head's copy."""
    tensors: dict[str, TensorSource] = {}
    for key, source in stored.items():
        name = canonical_name(key)
        # transformers ignores a stored head when the config ties it to the embedding.
        if name is None or (tied and name == "lm_head.weight"):
            continue
        if name in tensors:
            raise ArtifactError(
                f"{folder}: tensors {tensors[name].name} and {key} both mean {name}; expected "
                "one; save the checkpoint again with transformers"
            )
        check_dtype(source)
        tensors[name] = source
    return {
        name: TensorSource(name, source.shape, source.dtype, source.path, source.offset)
        for name, source in tensors.items()
    }


def _chat_template(folder: Path) -> str | None:
    """The template, from wherever the version of transformers that saved it put it."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return read_bytes(plain).decode("utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, list):  # several, each {"name", "template"}
                entries = [entry for entry in template if isinstance(entry, dict)]
                named = {entry.get("name"): entry.get("template") for entry in entries}
                template = named.get("default")
            if isinstance(template, str):
                return template
    return None
