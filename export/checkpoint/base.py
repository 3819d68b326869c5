"""What an opened checkpoint is, whatever its file format, and how it is checked."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from ...artifacts.prompts import TaskPrompts
from ...model.embedding import EmbeddingHead
from .tensors import TensorSource

ARCHITECTURES = (
    "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3ForSequenceClassification",
    "Gemma3TextForSequenceClassification", "Gemma3TextModel", "Gemma3Model",
)  # fmt: skip
"""The classes of transformers that can be exported."""
DEFAULT_EOS = 1
_LISTED = 4
# What compressed-tensors, ModelOpt, AutoFP8 and bitsandbytes put beside a weight.
_LEFTOVER = re.compile(
    r"\.((weight|input|output|kv_cache|[qkv]|kv|prob)_(global_)?scale(_inv|_2)?"
    r"|(weight|input)_(zero_point|shape|g_idx)|weight_format|SCB"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
)
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
            `dense.0.`, `dense.1.`, ...
        tokenizer: a serialised SentencePiece ModelProto, or None if the checkpoint has none.
        chat_template: Jinja source, or None.
        generation_config: content of generation_config.json, or {}.
        add_bos: whether its tokenizer begins a text with the bos token.
        add_eos: whether its tokenizer ends a text with the end token.
        text_end: which that is where add_eos; None for the first that ends a generation.
        head: how a text becomes a vector, where the files say so.
        prompts: what stands before a text of each task of an embedding model, or None.
        notes: what was left out, assumed, or read otherwise than the files say, worth telling.
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
    text_end: int | None = None
    head: EmbeddingHead | None = None
    prompts: TaskPrompts | None = None
    notes: tuple[str, ...] = ()

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation: generation config, else config, else Gemma's <eos>.

        The one that the tokenizer ends a text with comes first: so programs are told of it.
        """
        ids = self._generation_ends()
        if not self.add_eos or self.text_end is None:
            return ids
        return (self.text_end, *(each for each in ids if each != self.text_end))

    def _generation_ends(self) -> tuple[int, ...]:
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
        Names of tensors that `expected` does not read and that may be left out: the vision side,
        dense layers, a head beside that of a classifier, scales left over from quantisation.

    Raises:
        ArtifactError: a tensor is missing or of wrong shape, or there is one that the
            architecture has no place for, such as another head.
    """
    tensors = checkpoint.tensors
    unused = [name for name in tensors if name not in expected]
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in unused if not _may_be_left_out(name, expected)]
    unexpected = [name for name in unknown if name.startswith(("model.", "lm_head."))]
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} ({brief(names)})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise ArtifactError(
            f"{checkpoint.path}: tensors do not match the architecture: {', '.join(parts)}; "
            "expected those its config names; download the checkpoint again or fix config.json"
        )
    if unknown:
        raise ArtifactError(
            f"{checkpoint.path}: {len(unknown)} tensors of heads or modules that Gemma 3 as it is "
            f"exported does not have ({brief(unknown)}); expected those of the classes "
            f"{', '.join(ARCHITECTURES)}; name the right class in config.json, or save the model "
            "without them"
        )
    for name, shape in expected.items():
        if tensors[name].shape != tuple(shape):
            raise ArtifactError(
                f"{tensors[name].path}: tensor {name} has a wrong shape: expected "
                f"{_shape(shape)} by the config, got {_shape(tensors[name].shape)}; "
                "use the config.json and weights of one and the same checkpoint"
            )
    return tuple(unused)


def left_out(unused: Sequence[str]) -> tuple[str, ...]:
    """Notes that name the tensors of a checkpoint that are not in the bundle."""
    scales = [name for name in unused if is_leftover(name)]
    rest = [name for name in unused if name not in set(scales)]
    notes = []
    for module in dict.fromkeys(name.split(".")[0] for name in rest):
        names = [name for name in rest if name.split(".")[0] == module]
        notes.append(f"not in the bundle: {brief(names)}")
    if scales:
        notes.append(
            f"scales left over from quantisation are not read, as in transformers: {brief(scales)}"
        )
    return tuple(notes)


def is_leftover(name: str) -> bool:
    """Whether a tensor is a scale or table that quantisation puts beside a weight."""
    return _LEFTOVER.search(name) is not None


def _may_be_left_out(name: str, expected: Mapping[str, tuple[int, ...]]) -> bool:
    if name == "lm_head.weight":  # a classifier or an embedder keeps that of the generator it was
        return True
    return is_leftover(name) or name.startswith(
        ("vision_tower.", "multi_modal_projector.", "dense.")
    )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ArtifactError: the file cannot be read, is not JSON (NaN is not), has a key twice, or is not
            an object.
    """
    try:
        value = json.loads(
            read_bytes(path), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except ArtifactError:  # says what is wrong already
        raise
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


def is_plain(text: str) -> bool:
    """Whether text is UTF-8 and of one line: no lone surrogates, no control characters."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text)


def is_there(path: Path) -> bool:
    """Whether a file is there. Raises ArtifactError for a link to a file that is not."""
    if path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{path}: is a link to {path.readlink()}, which is not there (as a download that was "
            "cut off leaves it in the hub's cache); download the checkpoint again"
        )
    return path.is_file()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice[:80]!r} stands there twice")
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def brief(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
