"""Tokens that were added to a checkpoint's tokenizer after its tokenizer.model was made.

Which files say so, and which of them counts, is as in transformers 5: tokenizer.json where there
is one, else added_tokens.json and tokenizer_config.json. Files that contradict one another are
refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from ...artifacts.errors import ArtifactError
from .base import read_json
from .tokenizer import SPACE, PieceType, edit_sentencepiece
from .tokenizer_merges import UnsupportedTokenizerError

_SAVE_AGAIN = "save the tokenizer again with transformers"
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_SURROUNDINGS = ("single_word", "lstrip", "rstrip")


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in a text before anything is merged."""

    number: int
    content: str
    special: bool
    """Steers the model: texts show it only on request, and never become it."""
    normalized: bool
    """Looked for once spaces have become U+2581, after those that are not normalized."""

    @property
    def piece(self) -> str:
        """As SentencePiece writes it."""
        return self.content.replace(" ", SPACE)


def read_added_tokens(
    folder: Path, document: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> list[AddedToken]:
    """The added tokens of a folder by id, from tokenizer.json's content if it has one.

    Raises:
        ArtifactError: a token takes its surroundings with it, or two files disagree.
    """
    decoder = settings.get("added_tokens_decoder") or {}
    plain = folder / "added_tokens.json"
    numbers = read_json(plain) if plain.is_file() else {}
    where = folder / "tokenizer_config.json"
    try:
        decoded = [_token({**entry, "id": int(number)}) for number, entry in decoder.items()]
        if document is None:
            tokens = {token.number: token for token in decoded}
            where = plain
            for content, number in numbers.items():
                entry = {"id": number, "content": content, "special": _is_named(content, settings)}
                tokens.setdefault(number, _token(entry))
        else:
            where = folder / "tokenizer.json"
            listed = document.get("added_tokens") or []
            tokens = {token.number: token for token in map(_token, listed)}
    except UnsupportedTokenizerError as error:
        raise ArtifactError(f"{where}: {error}; {_SAVE_AGAIN}") from error
    except ArtifactError:  # says what is wrong already
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where}: added tokens are damaged ({error}); {_SAVE_AGAIN}"
        ) from error
    _check_agreement(folder, tokens, decoded, numbers)
    return [tokens[number] for number in sorted(tokens)]


def _token(entry: Mapping[str, Any]) -> AddedToken:
    content, number = entry["content"], entry["id"]
    if not isinstance(content, str) or not content or type(number) is not int or number < 0:
        raise UnsupportedTokenizerError(f"added token {content!r} has the id {number!r}")
    for flag in _SURROUNDINGS:
        if entry.get(flag):
            raise UnsupportedTokenizerError(
                f"added token {content!r} has {flag} true, which the runtimes do not do"
            )
    special = bool(entry.get("special"))
    return AddedToken(number, content, special, bool(entry.get("normalized", not special)))


def _is_named(content: str, settings: Mapping[str, Any]) -> bool:
    """Whether tokenizer_config.json names the token among the special ones."""
    return content in special_names(settings)


def special_names(settings: Mapping[str, Any]) -> list[str]:
    """The special tokens that tokenizer_config.json names, with or without an id."""
    names: list[Any] = [settings.get(f"{role}_token") for role in _ROLES]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        more = settings.get(key) or []
        names += more.values() if isinstance(more, dict) else more
    contents = [name.get("content") if isinstance(name, dict) else name for name in names]
    return [content for content in contents if isinstance(content, str) and content]


def with_named_tokens(content: bytes, settings: Mapping[str, Any]) -> bytes:
    """The SentencePiece model with the special tokens at its end that have no id anywhere."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    missing = [
        (name, PieceType.CONTROL)
        for name in dict.fromkeys(special_names(settings))
        if processor.id_to_piece(processor.piece_to_id(name)) != name
    ]
    return edit_sentencepiece(content, {}, missing) if missing else content


def _check_agreement(
    folder: Path,
    tokens: Mapping[int, AddedToken],
    decoded: Iterable[AddedToken],
    numbers: Mapping[str, int],
) -> None:
    by_content = {token.content: token for token in tokens.values()}
    decoded = list(decoded)
    for token in decoded:
        other = tokens.get(token.number)
        if other is None or (other.content, other.special) != (token.content, token.special):
            raise _disagreement(folder / "tokenizer_config.json", token.content, token.number)
    if decoded:
        # transformers drops and renumbers what added_tokens_decoder leaves out.
        for number in sorted(tokens.keys() - {token.number for token in decoded}):
            raise _disagreement(folder / "tokenizer_config.json", tokens[number].content, number)
    for content, number in numbers.items():
        other = by_content.get(content)
        if other is None or other.number != number:
            raise _disagreement(folder / "added_tokens.json", content, number)
    if len(by_content) != len(tokens):
        raise ArtifactError(f"{folder}: an added token has two ids; {_SAVE_AGAIN}")


def _disagreement(path: Path, content: str, number: int) -> ArtifactError:
    return ArtifactError(
        f"{path}: added token {content!r} of id {number} is not the same in the tokenizer's other "
        f"files; {_SAVE_AGAIN}"
    )


def merge_added_tokens(content: bytes, added: list[AddedToken], where: Path) -> bytes:
    """The SentencePiece model with the added tokens in it.

    Args:
        content: a checked ModelProto.
        added: by id.
        where: the model file, for messages.

    Raises:
        ArtifactError: an id has another piece, ids are left out, or tokens overlap.
    """
    _check_order(added, where)
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    count = processor.get_piece_size()
    changed: dict[int, PieceType] = {}
    appended: list[tuple[str, PieceType]] = []
    for token in added:
        if token.number < count:
            piece = processor.id_to_piece(token.number)
            if piece not in (token.piece, token.content):
                raise _conflict(where, token, f"its piece of that id is {piece!r}")
            kind = _kind_of(processor, token, where)
            if kind is not None:
                changed[token.number] = kind
            continue
        if token.number != count + len(appended):
            raise _conflict(where, token, f"no token has the id {count + len(appended)}")
        other = processor.piece_to_id(token.piece)
        if processor.id_to_piece(other) == token.piece:
            raise _conflict(where, token, f"it has the piece as id {other}")
        kind = PieceType.CONTROL if token.special else PieceType.USER_DEFINED
        appended.append((token.piece, kind))
    return edit_sentencepiece(content, changed, appended) if changed or appended else content


def _conflict(where: Path, token: AddedToken, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{where}: {token.content!r} cannot be added as id {token.number} ({reason}); "
        f"{_SAVE_AGAIN}, or remove tokenizer.model to use tokenizer.json alone"
    )


def _kind_of(
    processor: sentencepiece.SentencePieceProcessor, token: AddedToken, where: Path
) -> PieceType | None:
    """What a piece of the model becomes; None to leave it as it is."""
    if processor.is_unknown(token.number):
        return None
    if processor.is_byte(token.number):
        raise _conflict(where, token, "it stands for a byte")
    if token.special:
        return None if processor.is_control(token.number) else PieceType.CONTROL
    if SPACE in token.content and not token.normalized:
        return None  # looked for before spaces become U+2581, so never found
    return PieceType.USER_DEFINED


def _check_order(added: list[AddedToken], where: Path) -> None:
    """Refuse normalized tokens that others would take a part of first.

    SentencePiece looks for all user-defined pieces at once. Transformers looks for normalized
    ones in what the others have left.
    """
    first = {token.piece for token in added if not token.normalized and not token.special}
    beginnings = {piece[:end] for piece in first for end in range(1, len(piece) + 1)}
    for token in added:
        if token.special or not token.normalized:
            continue
        piece = token.piece
        for begin in range(len(piece)):
            inside = any(
                piece[begin:end] in first
                for end in range(begin + 1, len(piece) + 1)
                if (begin, end) != (0, len(piece))
            )
            if inside or (begin > 0 and piece[begin:] in beginnings):
                raise _conflict(where, token, "another added token overlaps it")
