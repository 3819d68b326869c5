"""The tokenizer of a GGUF file as a SentencePiece model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError, one_line
from .gguf_metadata import Metadata
from .tokenizer import PieceType, SpecialIds, build_sentencepiece
from .tokenizer_merges import bpe_tokenizer_model

_SENTENCEPIECE, _MERGES = "llama", "gpt2"
# Others split the text before merging, which SentencePiece does not.
_SPLITTING_NOTHING = (None, "default", "gemma", "gemma3")
_USED = frozenset({
    "model", "pre", "tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id",
    "eos_token_ids", "eot_token_id", "eom_token_id", "unknown_token_id", "padding_token_id",
    "add_bos_token", "add_eos_token", "add_space_prefix",
})  # fmt: skip
_NEUTRAL = {
    "add_sep_token": False, "add_padding_token": False, "add_unknown_token": False,
    "remove_extra_whitespaces": False,
}  # fmt: skip


def read_tokenizer(path: Path, values: dict[str, Any]) -> tuple[bytes | None, tuple[str, ...]]:
    """A serialised ModelProto, None for a file without a tokenizer; and notes.

    Raises:
        ArtifactError: the vocabulary is damaged, or means something that SentencePiece does not.
    """
    metadata = Metadata(path, values, "tokenizer.ggml.")
    kind = metadata.text("model")
    if kind is None:
        return None, ()
    for key, neutral in _NEUTRAL.items():
        if metadata.flag(key, neutral) is not neutral:
            raise metadata.wrong(key, not neutral, str(neutral).lower())
    charsmap = metadata.get("precompiled_charsmap")
    if charsmap is not None and np.size(charsmap):
        raise metadata.wrong("precompiled_charsmap", charsmap, "no bytes: Gemma's text is not")
    known = {*_USED, *_NEUTRAL, "precompiled_charsmap"}
    others = [key for key in metadata.names() if key not in known and not key.endswith("_token_id")]
    notes = (
        (f"metadata of the tokenizer is not used: {one_line(', '.join(others)[:200])}",)
        if others
        else ()
    )
    tokens = metadata.array("tokens", list)
    types = _types(metadata, tokens)
    if kind == _SENTENCEPIECE:
        return _from_scores(metadata, tokens, types), notes
    if kind == _MERGES:
        return _from_merges(metadata, tokens, types), notes
    raise metadata.wrong(
        "model", kind, f"'{_SENTENCEPIECE}', a SentencePiece vocabulary, or '{_MERGES}' with merges"
    )


def _types(metadata: Metadata, tokens: list[str]) -> list[PieceType]:
    types = metadata.array("token_type", np.ndarray)
    kinds = {int(kind): kind for kind in PieceType}
    if len(types) != len(tokens) or not set(types.tolist()) <= set(kinds):
        raise ArtifactError(
            f"{metadata.path}: tokenizer has {len(tokens)} tokens and {len(types)} types; "
            "expected one each per token, types 1 to 6; convert the model again"
        )
    return [kinds[kind] for kind in types.tolist()]


def _from_scores(metadata: Metadata, tokens: list[str], types: list[PieceType]) -> bytes:
    """The SentencePiece model that the file's tokens, scores and types came from."""
    scores = metadata.array("scores", np.ndarray)
    if len(scores) != len(tokens):
        raise ArtifactError(
            f"{metadata.path}: tokenizer has {len(tokens)} tokens and {len(scores)} scores; "
            "expected one each per token; convert the model again"
        )
    special = SpecialIds(
        unk=metadata.integer("unknown_token_id", 3, least=0),
        bos=metadata.integer("bos_token_id", 2, least=0),
        eos=metadata.integer("eos_token_id", 1, least=0),
        pad=metadata.integer("padding_token_id", 0, least=0),
    )
    pieces = list(zip(tokens, scores.tolist(), types, strict=True))
    prefix = metadata.flag("add_space_prefix", False)
    return build_sentencepiece(pieces, special, metadata.path, prefix)


def _from_merges(metadata: Metadata, tokens: list[str], types: list[PieceType]) -> bytes:
    """The SentencePiece model of pieces and merges, as Ollama takes them from a tokenizer.json.

    That is one of Gemma's: pieces with U+2581 for a space, and one for each byte. A vocabulary
    in GPT-2's own alphabet has none of these and is refused.
    """
    if metadata.text("pre") not in _SPLITTING_NOTHING:
        raise metadata.wrong("pre", metadata.get("pre"), "default: a text that is not split")
    if metadata.flag("add_space_prefix", False):
        raise metadata.wrong("add_space_prefix", True, "false")
    unknown = metadata.integer("unknown_token_id", 3, least=0)
    if unknown >= len(tokens):
        raise metadata.wrong("unknown_token_id", unknown, f"less than {len(tokens)}")
    special = SpecialIds(
        unk=unknown,
        bos=metadata.integer("bos_token_id", 2, least=0),
        eos=metadata.integer("eos_token_id", 1, least=0),
        pad=metadata.integer("padding_token_id", 0, least=0),
    )
    merges = metadata.array("merges", list)
    try:
        return bpe_tokenizer_model(tokens, types, merges, special, metadata.path)
    except ArtifactError as error:
        reason = str(error).rpartition(";")[0]
        raise ArtifactError(
            f"{reason}; convert the model again from a folder with a tokenizer.model"
        ) from error
