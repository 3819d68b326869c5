"""Checkpoints in: Hugging Face folders and GGUF files, read piece by piece.

    checkpoint = open_checkpoint(path or demo_checkpoint())
    unused = check_tensors(checkpoint, expected_shapes)
    for block in blocks(checkpoint.tensors["model.embed_tokens.weight"], "bfloat16"):
        file.write(block)

Opening reads headers, configuration and tokenizer; tensors are read when asked for, a block at
a time, so the memory a conversion takes does not depend on the size of the model.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...artifacts.errors import ArtifactError
from ..arguments import CHECKPOINT
from .base import Checkpoint, check_tensors, is_plain, is_there, left_out
from .demo import demo_checkpoint
from .finite import finite
from .gguf_checkpoint import find_gguf, open_gguf
from .gguf_file import is_gguf
from .huggingface import CONFIG, open_huggingface
from .shards import INDEX, SINGLE
from .tensors import TensorSource, blocks

__all__ = [
    "Checkpoint",
    "TensorSource",
    "blocks",
    "check_tensors",
    "demo_checkpoint",
    "finite",
    "is_plain",
    "left_out",
    "open_checkpoint",
]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face folder, a GGUF file, or a folder with one GGUF model in it.

    Args:
        path: a folder with config.json and safetensors, a GGUF file of any name (for a split one
            any of its parts), or a folder with exactly one GGUF model.

    Raises:
        ArtifactError: the path is missing, ambiguous or of another kind, or the checkpoint is
            damaged, incomplete or not Gemma 3.
    """
    is_there(path)
    if not path.exists():
        raise ArtifactError(
            f"{path}: no such file or folder; expected a Hugging Face folder or a .gguf file; "
            f"check {CHECKPOINT}"
        )
    if path.is_file():
        if path.suffix.lower() != ".gguf" and not is_gguf(path):
            raise ArtifactError(
                f"{path}: expected a folder with {CONFIG} or a GGUF file, got another file; "
                "pass the folder that holds it"
            )
        return open_gguf(path)
    has_safetensors = (path / SINGLE).is_file() or (path / INDEX).is_file()
    if not ((path / CONFIG).is_file() and has_safetensors):
        model, notes = find_gguf(path)
        if model is not None:
            checkpoint = open_gguf(model)
            return dataclasses.replace(checkpoint, notes=(*notes, *checkpoint.notes))
    return open_huggingface(path)
