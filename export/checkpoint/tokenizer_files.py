"""The tokenizer of a Hugging Face folder, from the files that transformers 5 reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from ...artifacts.errors import ArtifactError
from ...model.config_fields import is_token_id
from .added_tokens import (
    AddedToken,
    merge_added_tokens,
    read_added_tokens,
    with_named_tokens,
)
from .base import read_bytes, read_json
from .tokenizer import check_sentencepiece, without_self_test
from .tokenizer_json import check_kind, sentencepiece_from_tokenizer_json
from .tokenizer_merges import UnsupportedTokenizerError, check_order

_SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class FolderTokenizer:
    """What a folder says of its tokenizer."""

    model: bytes | None
    """A serialised SentencePiece ModelProto that the runtimes take, or None without a tokenizer."""
    add_bos: bool = True
    add_eos: bool = False
    bos_id: int | None = None
    """What begins a text where add_bos is true; None where no file says."""
    eos_id: int | None = None
    """What ends it where add_eos is true."""
    notes: tuple[str, ...] = ()


def read_tokenizer(folder: Path) -> FolderTokenizer:
    """The tokenizer of a folder.

    tokenizer.model is used where there is one, with the added tokens of the other files; else
    tokenizer.json. What tokenizer.json says counts where both say something.

    Raises:
        ArtifactError: a file is damaged, not of Gemma's kind, or contradicts another.
    """
    converted = folder / "tokenizer.json"
    document = read_json(converted) if converted.is_file() else None
    config = folder / _SETTINGS
    settings = read_json(config) if config.is_file() else {}
    if settings.get("split_special_tokens"):
        raise ArtifactError(
            f"{config}: split_special_tokens: expected false, as added tokens are looked for in "
            "texts, got true; take it out"
        )
    if (folder / "tokenizer.model").is_file():
        model = _from_model(folder, document, settings)
    elif document is not None:
        read_added_tokens(folder, document, settings)
        model = sentencepiece_from_tokenizer_json(document, converted)
    else:
        model = None
    if document is None:
        return _as_settings_say(model, settings)
    return _as_document_says(model, document, settings, converted)


def _as_settings_say(model: bytes | None, settings: Mapping[str, Any]) -> FolderTokenizer:
    """A tokenizer without a tokenizer.json."""
    # Gemma's texts begin with <bos> unless somebody says otherwise.
    add_bos = settings.get("add_bos_token") is not False
    add_eos = settings.get("add_eos_token") is True
    if model is None:
        return FolderTokenizer(None, add_bos, add_eos)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    bos, eos = (
        number if processor.id_to_piece(number := processor.piece_to_id(name)) == name else None
        for name in _names(settings)
    )
    silent = "add_bos_token" not in settings
    note = (
        f"{_SETTINGS} does not say add_bos_token: texts begin with <bos>, as Gemma's do, where "
        "transformers would leave it out"
    )
    return FolderTokenizer(model, add_bos, add_eos, bos, eos, (note,) if silent else ())


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
        check_order(model["merges"], processor, new | {token.piece for token in added})
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


def _as_document_says(
    model: bytes | None, document: Mapping[str, Any], settings: Mapping[str, Any], where: Path
) -> FolderTokenizer:
    """A tokenizer whose tokenizer.json says what is put before and after a text.

    transformers does not look at add_bos_token and add_eos_token where there is a tokenizer.json.
    """
    before: list[Any] = []
    after: list[Any] = []
    ids: dict[str, int] = {}
    try:
        for processor in _post_processors(document.get("post_processor")):
            names = [
                part["SpecialToken"]["id"] if "SpecialToken" in part else None
                for part in processor["single"]
            ]
            at = names.index(None)
            before, after = [*names[:at], *before], [*after, *names[at + 1 :]]
            ids |= {name: _id(processor, document, name) for name in names if name is not None}
    except ArtifactError:  # says what is wrong already
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{where}: post_processor cannot be read ({error}); download the file again"
        ) from error
    bos, eos = _names(settings)
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise ArtifactError(
            f"{where}: post_processor puts {before} before a text and {after} after it; expected "
            f"at most {bos} and {eos}, as the runtimes do"
        )
    notes = tuple(
        f"{_SETTINGS} says {key} {str(settings[key]).lower()}, and tokenizer.json "
        f"{'puts' if default else 'does not put'} {name} {place} a text: the latter is done, as in "
        "transformers"
        for key, default, name, place in (
            ("add_bos_token", bool(before), bos, "before"),
            ("add_eos_token", bool(after), eos, "after"),
        )
        if isinstance(settings.get(key), bool) and settings[key] is not default
    )
    return FolderTokenizer(model, bool(before), bool(after), ids.get(bos), ids.get(eos), notes)


def _id(processor: Mapping[str, Any], document: Mapping[str, Any], name: str) -> int:
    """The id that a post processor puts for a token: its own word, else the vocabulary's."""
    special_token = processor.get("special_tokens", {}).get(name)
    if special_token is None:
        listed = document.get("added_tokens") or []
        added = {token["content"]: token["id"] for token in listed}
        token_ids = [added[name] if name in added else document["model"]["vocab"][name]]
    else:
        token_ids = special_token["ids"]
    if len(token_ids) != 1 or not is_token_id(token_ids[0]):
        raise ValueError(f"{name!r} stands for the ids {token_ids}")
    return token_ids[0]


def _post_processors(processor: Any) -> list[dict[str, Any]]:
    """Those that add tokens, in order."""
    if processor is None or processor["type"] == "ByteLevel":  # which changes offsets only
        return []
    if processor["type"] == "Sequence":
        return [one for inner in processor["processors"] for one in _post_processors(inner)]
    if processor["type"] != "TemplateProcessing":
        raise ValueError(f"its type is {processor['type']}")
    return [processor]


def _names(settings: Mapping[str, Any]) -> tuple[str, str]:
    """What begins and what ends a text."""
    return _name(settings, "bos_token", "<bos>"), _name(settings, "eos_token", "<eos>")


def _name(settings: Mapping[str, Any], key: str, default: str) -> str:
    value = settings.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default
