"""What an opened checkpoint is, whatever its file format, and how it is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from .tensors import TensorSource

MODEL_TYPES = ("gemma3", "gemma3_text")
DEFAULT_EOS = 1
_LISTED = 4
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers are read and whose tensors are still on disk.

    Attributes:
        path: the folder or file it was opened from.
        name: for people: folder name, or the GGUF file's own model name.
        config: content of a Hugging Face config.json; fields it leaves out stay out.
        tensors: by canonical name. Text tensors have text-only names whatever the layout of
            the files; vision tensors begin with `vision_tower.vision_model.` and
            `multi_modal_projector.`; those of sentence-transformers' Dense layers with
            `dense.0.` and `dense.1.`.
        tokenizer: a serialised SentencePiece ModelProto, or None if the checkpoint has none.
        chat_template: Jinja source, or None.
        generation_config: content of generation_config.json, or {}.
        add_bos: whether its tokenizer begins a text with the bos token.
        add_eos: whether its tokenizer ends a text with the end token.
    """

    path: Path
    name: str
    config: dict[str, Any]
    tensors: Mapping[str, TensorSource]
    tokenizer: bytes | None
    chat_template: str | None
    generation_config: dict[str, Any]
    add_bos: bool = True
    add_eos: bool = False

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation: generation config, else config, else Gemma's <eos>."""
        text_config = self.config.get("text_config") or {}
        for source in (self.generation_config, self.config, text_config):
            value = source.get("eos_token_id")
            if value is not None:
                return tuple(value) if isinstance(value, list) else (value,)
        return (DEFAULT_EOS,)


def check_tensors(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Refuse a checkpoint whose tensors are not those of the architecture.

    Args:
        checkpoint: the opened checkpoint.
        expected: shape of every tensor the architecture reads, by canonical name.

    Returns:
        Names of tensors outside the text stack (vision, projector, heads) that `expected`
        does not read.

    Raises:
        ArtifactError: a tensor is missing or of wrong shape, or the text stack has one that
            the architecture would silently leave out.
    """
    tensors = checkpoint.tensors
    unused = [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in unused if name.startswith(("model.", "lm_head."))]
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} ({_brief(names)})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise ArtifactError(
            f"{checkpoint.path}: tensors do not match the architecture: {', '.join(parts)}; "
            "expected those its config names; download the checkpoint again or mend config.json"
        )
    for name, shape in expected.items():
        if tensors[name].shape != tuple(shape):
            raise ArtifactError(
                f"{tensors[name].path}: tensor {name} has a wrong shape: expected "
                f"{_shape(shape)} by the config, got {_shape(tensors[name].shape)}; "
                "use the config.json and weights of one and the same checkpoint"
            )
    return tuple(unused)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ArtifactError: the file cannot be read, is not JSON, or is not an object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8
        raise ArtifactError(
            f"{path}: not JSON ({error}); expected a JSON object; download the file again"
        ) from error
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path}: expected a JSON object, got {type(value).__name__}; download the file again"
        )
    return value


def read_bytes(path: Path) -> bytes:
    """Content of a small file.

    Raises:
        ArtifactError: it cannot be read, or is the stand-in that Git LFS leaves for a file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    refuse_lfs_pointer(path, content)
    return content


def refuse_lfs_pointer(path: Path, start: bytes) -> None:
    """Raise ArtifactError if a file that starts with these bytes is a Git LFS pointer."""
    if start.startswith(_LFS_POINTER):
        raise ArtifactError(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
        )


def _brief(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
