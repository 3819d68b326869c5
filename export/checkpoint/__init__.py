"""Checkpoints in: Hugging Face folders and GGUF files, read piece by piece.

    checkpoint = open_checkpoint(path or demo_checkpoint())
    unused = check_tensors(checkpoint, expected_shapes)
    for block in blocks(checkpoint.tensors["model.embed_tokens.weight"], "bfloat16"):
        file.write(block)

Opening reads headers, configuration and tokenizer; tensors are read when asked for, a block at
a time, so the memory a conversion takes does not depend on the size of the model.
"""

from __future__ import annotations

from pathlib import Path

from ...artifacts.errors import ArtifactError
from .base import Checkpoint, check_tensors, is_plain, is_there, left_out
from .demo import demo_checkpoint
from .finite import finite
from .gguf_checkpoint import open_gguf, split_parts
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
    """Open a Hugging Face folder, a .gguf file, or a folder with one GGUF model in it.

    Args:
        path: a folder with config.json and safetensors, a .gguf file (for a split one any of
            its parts), or a folder with exactly one GGUF model.

    Raises:
        ArtifactError: the path is missing, ambiguous or of another kind, or the checkpoint is
            damaged, incomplete or not Gemma 3.
    """
    is_there(path)
    if not path.exists():
        raise ArtifactError(
            f"{path}: no such file or folder; expected a Hugging Face folder or a .gguf file; "
            "check --checkpoint"
        )
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ArtifactError(
                f"{path}: expected a folder with {CONFIG} or a .gguf file, got another file; "
                "pass the folder that holds it"
            )
        return open_gguf(path)
    has_safetensors = (path / SINGLE).is_file() or (path / INDEX).is_file()
    if not ((path / CONFIG).is_file() and has_safetensors):
        files = (file for file in sorted(path.glob("*.gguf")) if file.is_file())
        models = {split_parts(file)[0]: file for file in files}
        if len(models) > 1:
            raise ArtifactError(
                f"{path}: holds {len(models)} GGUF models; expected one "
                f"({', '.join(model.name for model in list(models)[:3])}); pass one file"
            )
        if models:
            return open_gguf(next(iter(models.values())))
    return open_huggingface(path)
