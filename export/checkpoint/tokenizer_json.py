"""tokenizer.json (the Hugging Face `tokenizers` format) -> a SentencePiece model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from .tokenizer import SPACE, PieceType, SpecialIds
from .tokenizer_merges import UnsupportedTokenizerError, bpe_tokenizer_model, is_run

_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def sentencepiece_from_tokenizer_json(document: dict[str, Any], where: Path) -> bytes:
    """A serialised ModelProto that gives the ids tokenizer.json gives.

    Raises:
        ArtifactError: the tokenizer is of another kind than Gemma's, or its merges are not
            those of a SentencePiece vocabulary.
    """
    model = document.get("model") or {}
    added = document.get("added_tokens") or []
    try:
        check_kind(document, model)
        vocabulary = _vocabulary(model["vocab"], added)
        if model["unk_token"] not in vocabulary:
            raise UnsupportedTokenizerError(f"its unk_token {model['unk_token']!r} is no piece")
        kinds = _kinds(vocabulary, added, model["unk_token"])
        merges = model["merges"]
    except ArtifactError:  # says what is wrong already
        raise
    except (UnsupportedTokenizerError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: cannot be turned into a SentencePiece model ({error}); "
            "put the checkpoint's tokenizer.model beside it"
        ) from error
    index = {piece: number for number, piece in enumerate(vocabulary)}
    special = SpecialIds(
        unk=index[model["unk_token"]],
        bos=index.get("<bos>", -1),
        eos=index.get("<eos>", -1),
        pad=index.get("<pad>", -1),
    )
    return bpe_tokenizer_model(vocabulary, kinds, merges, special, where)


def check_kind(document: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raise UnsupportedTokenizerError for a tokenizer.json of another kind than Gemma's."""
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise UnsupportedTokenizerError(f"it is {model.get('type')}, not BPE with byte fallback")
    if model.get("ignore_merges") or model.get("dropout"):
        raise UnsupportedTokenizerError("it ignores or drops merges")
    for affix in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(affix):
            raise UnsupportedTokenizerError(f"its model has the {affix} {model[affix]!r}")
    if document.get("normalizer") != _NORMALIZER:
        raise UnsupportedTokenizerError("its normalizer does more than write spaces as U+2581")
    # Gemma splits at spaces after the normalizer has left none; any other split matters.
    splitter = document.get("pre_tokenizer") or {"type": "Split", "pattern": {"String": " "}}
    if splitter.get("type") != "Split" or splitter.get("pattern") != {"String": " "}:
        raise UnsupportedTokenizerError("its pre_tokenizer splits the text")
    decoder = document.get("decoder")
    if decoder not in (None, _DECODER):
        raise UnsupportedTokenizerError("its decoder is not Gemma's")
    for token in document.get("added_tokens") or []:
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            raise UnsupportedTokenizerError(
                f"added token {token['content']!r} strips its surroundings"
            )


def _vocabulary(vocab: dict[str, int], added: list[dict[str, Any]]) -> list[str]:
    """The pieces by id."""
    by_id = {number: piece for piece, number in vocab.items()}
    for token in added:
        if by_id.setdefault(token["id"], token["content"]) != token["content"]:
            raise UnsupportedTokenizerError(f"id {token['id']} has two pieces")
    if sorted(by_id) != list(range(len(by_id))):
        raise UnsupportedTokenizerError("its ids are not 0..n-1")
    return [by_id[number] for number in range(len(by_id))]


def _kinds(vocabulary: list[str], added: list[dict[str, Any]], unknown: str) -> list[PieceType]:
    kinds = dict.fromkeys(vocabulary, PieceType.NORMAL)
    for token in added:
        piece = token["content"]
        if token.get("special"):
            kinds[piece] = PieceType.CONTROL
        elif is_run(piece) and token.get("normalized"):
            raise UnsupportedTokenizerError(f"added token {piece!r} is normalized")
        elif SPACE not in piece or token.get("normalized") or is_run(piece):
            kinds[piece] = PieceType.USER_DEFINED
        else:
            raise UnsupportedTokenizerError(f"added token {piece!r} mixes U+2581 and text")
    kinds[unknown] = PieceType.UNKNOWN
    return [kinds[piece] for piece in vocabulary]
