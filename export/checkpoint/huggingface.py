"""A Hugging Face folder: config.json, safetensors (one file or shards), tokenizer, template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from ..arguments import CHECKPOINT
from .architecture import check_architecture
from .base import Checkpoint, is_leftover, is_there, read_bytes, read_json
from .head import resolve_head
from .names import canonical_name
from .safetensors_header import check_dtype
from .sentence_transformers import MODULES, Embedder, read_embedder
from .shards import SINGLE, stored_tensors
from .tensors import TensorSource
from .tokenizer_files import FolderTokenizer, read_tokenizer

CONFIG = "config.json"
_READ = (".json", ".safetensors", ".model", ".jinja")
"""Endings of the files that are looked at."""
_HIDDEN_SIZE, _BOS = 2304, 2
"""Where a config does not say, as in transformers."""


def open_huggingface(folder: Path) -> Checkpoint:
    """Open a folder that holds config.json and safetensors.

    Raises:
        ArtifactError: a file is missing, damaged, truncated or a link to nothing, the architecture
            is not Gemma 3, or a weight has a dtype other than BF16, F16, F32 and F64.
    """
    _refuse_dangling_links(folder)
    if not (folder / CONFIG).is_file():
        raise ArtifactError(
            f"{folder}: no {CONFIG} and no .gguf file; expected a Hugging Face folder "
            f"({CONFIG} and {SINGLE}) or a GGUF file; pass its path to {CHECKPOINT}"
        )
    config = read_json(folder / CONFIG)
    check_architecture(folder / CONFIG, config)
    generation = folder / "generation_config.json"
    embedder = _embedder(folder, config)
    stored, notes = stored_tensors(folder)
    tensors = _canonical(folder, stored | embedder.tensors)
    tensors, config, head_notes = resolve_head(tensors, config)
    tokenizer = read_tokenizer(folder)
    config, bos_notes = _with_bos(config, tokenizer)
    return Checkpoint(
        path=folder,
        name=folder.resolve().name,
        config=config,
        tensors=tensors,
        tokenizer=tokenizer.model,
        chat_template=_chat_template(folder),
        generation_config=read_json(generation) if generation.is_file() else {},
        add_bos=tokenizer.add_bos,
        add_eos=tokenizer.add_eos,
        text_end=tokenizer.eos_id,
        head=embedder.head,
        prompts=embedder.prompts,
        notes=(
            *notes, *head_notes, *embedder.notes, *tokenizer.notes, *bos_notes,
            *_adapter_note(folder),
        ),
    )  # fmt: skip


def _with_bos(
    config: dict[str, Any], tokenizer: FolderTokenizer
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config with the id that the tokenizer begins a text with, and a note if it had another.

    transformers takes the tokenizer's for a prompt and does not look at the config's.
    """
    text, bos_id = config.get("text_config") or config, tokenizer.bos_id
    config_bos_id = text.get("bos_token_id")
    if (
        not tokenizer.add_bos
        or bos_id is None
        or bos_id == (_BOS if config_bos_id is None else config_bos_id)
    ):
        return config, ()
    changed = config | {"bos_token_id": bos_id}
    if config.get("text_config"):
        changed["text_config"] = text | {"bos_token_id": bos_id}
    where = "the defaults" if config_bos_id is None else CONFIG
    note = (
        f"texts begin with id {bos_id}, as the tokenizer has it and as in transformers, not with "
        f"the bos_token_id of {where}, {_BOS if config_bos_id is None else config_bos_id}"
    )
    return changed, (note,)


def _embedder(folder: Path, config: dict[str, Any]) -> Embedder:
    """What makes vectors of the model's hidden states, for a model that is not a classifier."""
    names = config.get("architectures") or []
    if any("Classification" in str(name) for name in names):
        listed = (folder / MODULES).is_file()
        note = f"{MODULES} is not used: the scores of classes are those of the classifier's head"
        return Embedder(notes=(note,) if listed else ())
    text = config.get("text_config") or config
    both_ways = text.get("use_bidirectional_attention") is True
    return read_embedder(folder, text.get("hidden_size") or _HIDDEN_SIZE, assumed=both_ways)


def _refuse_dangling_links(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ:
            is_there(path)


def _adapter_note(folder: Path) -> tuple[str, ...]:
    if not (folder / "adapter_model.safetensors").is_file():
        return ()
    return ("adapter_model.safetensors beside the weights is not applied to them",)


def _canonical(folder: Path, stored: dict[str, TensorSource]) -> dict[str, TensorSource]:
    """The tensors under their canonical names, without buffers."""
    tensors: dict[str, TensorSource] = {}
    for key, source in stored.items():
        name = canonical_name(key)
        if name is None:
            continue
        if name in tensors:
            raise ArtifactError(
                f"{folder}: tensors {tensors[name].name} and {key} both mean {name}; expected "
                "one; save the checkpoint again with transformers"
            )
        if not is_leftover(name):
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
