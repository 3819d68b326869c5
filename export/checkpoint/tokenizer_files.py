"""The tokenizer of a Hugging Face folder, from the files that transformers 5 reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from ...artifacts.errors import ArtifactError
from .added_tokens import (
    AddedToken,
    merge_added_tokens,
    read_added_tokens,
    with_named_tokens,
)
from .base import read_bytes, read_json
from .tokenizer import check_sentencepiece, without_self_test
from .tokenizer_json import check_kind, sentencepiece_from_tokenizer_json
from .tokenizer_merges import UnsupportedTokenizerError


@dataclass(frozen=True)
class FolderTokenizer:
    """What a folder says of its tokenizer."""

    model: bytes | None
    """A serialised SentencePiece ModelProto that the runtimes take, or None without a tokenizer."""
    add_bos: bool = True
    add_eos: bool = False


def read_tokenizer(folder: Path) -> FolderTokenizer:
    """The tokenizer of a folder.

    tokenizer.model is used where there is one, with the added tokens of the other files; else
    tokenizer.json. What tokenizer.json says counts where both say something.

    Raises:
        ArtifactError: a file is damaged, not of Gemma's kind, or contradicts another.
    """
    converted = folder / "tokenizer.json"
    document = read_json(converted) if converted.is_file() else None
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    if (folder / "tokenizer.model").is_file():
        model = _from_model(folder, document, settings)
    elif document is not None:
        read_added_tokens(folder, document, settings)
        model = sentencepiece_from_tokenizer_json(document, converted)
    else:
        model = None
    if document is None:
        # Gemma's texts begin with <bos> unless somebody says otherwise.
        add_bos = settings.get("add_bos_token") is not False
        return FolderTokenizer(model, add_bos, settings.get("add_eos_token") is True)
    return FolderTokenizer(model, *_surroundings(document, settings, converted))


def _from_model(
    folder: Path, document: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> bytes:
    path = folder / "tokenizer.model"
    content = without_self_test(read_bytes(path), path)
    check_sentencepiece(content, path)
    added = read_added_tokens(folder, document, settings)
    if document is not None:
        _check_same(content, document, added, folder)
    merged = merge_added_tokens(content, added, path)
    if document is None:
        merged = with_named_tokens(merged, settings)
    if merged is not content:
        check_sentencepiece(merged, path)
    return merged


def _check_same(
    content: bytes, document: Mapping[str, Any], added: list[AddedToken], folder: Path
) -> None:
    """Refuse a tokenizer.json that is not tokenizer.model with added tokens."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    count = processor.get_piece_size()
    new = {token.content for token in added}
    model = document.get("model") or {}
    try:
        check_kind(document, model)
        for piece, number in model["vocab"].items():
            other = processor.id_to_piece(number) if 0 <= number < count else None
            if other != piece and not (other is None and piece in new):
                raise UnsupportedTokenizerError(
                    f"piece {piece!r} of id {number} is "
                    f"{'not there' if other is None else repr(other)} in tokenizer.model"
                )
    except (UnsupportedTokenizerError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder / 'tokenizer.json'}: does not agree with tokenizer.model ({error}); remove "
            "the one of them that is not the checkpoint's"
        ) from error


def _surroundings(
    document: Mapping[str, Any], settings: Mapping[str, Any], where: Path
) -> tuple[bool, bool]:
    """Whether tokenizer.json puts <bos> before a text and <eos> after it.

    transformers does not look at add_bos_token and add_eos_token where there is a tokenizer.json.
    """
    before: list[Any] = []
    after: list[Any] = []
    try:
        for processor in _post_processors(document.get("post_processor")):
            names = [
                part["SpecialToken"]["id"] if "SpecialToken" in part else None
                for part in processor["single"]
            ]
            at = names.index(None)
            before, after = [*names[:at], *before], [*after, *names[at + 1 :]]
    except ArtifactError:  # says what is wrong already
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{where}: post_processor cannot be read ({error}); download the file again"
        ) from error
    bos, eos = (_name(settings, key, default) for key, default in
                (("bos_token", "<bos>"), ("eos_token", "<eos>")))  # fmt: skip
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise ArtifactError(
            f"{where}: post_processor puts {before} before a text and {after} after it; expected "
            f"at most {bos} and {eos}, as the runtimes do"
        )
    return bool(before), bool(after)


def _post_processors(processor: Any) -> list[dict[str, Any]]:
    """Those that add tokens, in order."""
    if processor is None or processor["type"] == "ByteLevel":  # which changes offsets only
        return []
    if processor["type"] == "Sequence":
        return [one for inner in processor["processors"] for one in _post_processors(inner)]
    if processor["type"] != "TemplateProcessing":
        raise ValueError(f"its type is {processor['type']}")
    return [processor]


def _name(settings: Mapping[str, Any], key: str, default: str) -> str:
    value = settings.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
