"""Gemma's tokenizer as a SentencePiece model, rebuilt from what other formats keep of it.

The protobuf messages are written here field by field (sentencepiece_model.proto). The
`sentencepiece` package ships generated protobuf code, but it demands a protobuf runtime at
least as new as the compiler that made it, which TensorFlow's pin may forbid.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from ...artifacts.errors import ArtifactError
from ...artifacts.tokenizer_model import (
    TokenizerModelError,
    check_tokenizer_model,
    message_fields,
    repeated_piece,
)

SPACE = "\u2581"
"""What SentencePiece writes for a space."""

_MODEL_TYPE_BPE = 2
_VARINT, _BYTES, _FLOAT = 0, 2, 5
_SCORE_AND_TYPE = struct.Struct("<BfBB")


class PieceType(enum.IntEnum):
    """ModelProto.SentencePiece.Type; GGUF's tokenizer.ggml.token_type uses the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens; -1 for one that the vocabulary has not."""

    unk: int
    bos: int
    eos: int
    pad: int


def build_sentencepiece(
    pieces: Sequence[tuple[str, float, PieceType]],
    special: SpecialIds,
    where: Path,
    add_space_prefix: bool = False,
) -> bytes:
    """A serialised BPE ModelProto with byte fallback and no text normalisation.

    Args:
        pieces: (piece, score, type) by id; a higher score merges earlier. User-defined
            pieces may have plain spaces: SentencePiece escapes spaces before it matches.
        special: ids of the special tokens.
        where: the file the vocabulary came from, for messages.
        add_space_prefix: put a space before the text (Gemma does not).

    Raises:
        ArtifactError: SentencePiece does not accept the vocabulary.
    """
    count = len(pieces)
    for name, index in vars(special).items():
        if not -1 <= index < count:
            raise ArtifactError(
                f"{where}: {name} token id is {index}, expected less than the vocabulary's "
                f"{count}; the file is damaged, download it again"
            )
    content = b"".join(
        _field(1, _BYTES, _piece(piece, score, PieceType.UNKNOWN if index == special.unk else kind))
        for index, (piece, score, kind) in enumerate(pieces)
    )
    content += _field(2, _BYTES, _trainer_spec([piece for piece, _, _ in pieces], special))
    content += _field(3, _BYTES, _normalizer_spec(add_space_prefix))
    check_sentencepiece(content, where)
    return content


def check_sentencepiece(content: bytes, where: Path) -> None:
    """Refuse bytes that the runtimes do not take; `where` is the file they came from."""
    try:
        check_tokenizer_model(content)
        sentencepiece.SentencePieceProcessor(model_proto=content)
    except TokenizerModelError as error:
        raise ArtifactError(
            f"{where}: the tokenizer {error}; export with a checkpoint of Gemma's tokenizer"
        ) from error
    except (RuntimeError, OSError, ValueError) as error:
        reason = repeated_piece(content)
        if reason is None:
            reason = f"is none that SentencePiece loads ({str(error).strip().splitlines()[:1]})"
        raise ArtifactError(f"{where}: the tokenizer {reason}; download the file again") from error


def edit_sentencepiece(
    content: bytes, changed: Mapping[int, PieceType], appended: Sequence[tuple[str, PieceType]]
) -> bytes:
    """A checked ModelProto with other types for some pieces, and with more pieces after its own."""
    pieces: list[bytes] = []
    others: list[bytes] = []
    for number, _, begin, end in message_fields(content):
        field = content[begin:end]
        if number != 1:
            others.append(_field(number, _BYTES, field))
            continue
        if len(pieces) in changed:
            parts = [
                _field(part, wire, field[first:last])
                for part, wire, first, last in message_fields(field)
                if part != 3
            ]
            kind = next((first for part, _, first, _ in message_fields(field) if part == 3), 1)
            if kind != changed[len(pieces)]:
                field = b"".join(parts) + _field(3, _VARINT, _varint(changed[len(pieces)]))
        pieces.append(_field(1, _BYTES, field))
    more = [_field(1, _BYTES, _piece(piece, 0.0, kind)) for piece, kind in appended]
    return b"".join(pieces + more + others)


def without_self_test(content: bytes, where: Path) -> bytes:
    """A ModelProto without the sample texts that SentencePiece would encode at each start."""
    try:
        if all(number != 4 for number, _, _, _ in message_fields(content)):
            return content
        return b"".join(
            _field(number, _BYTES, content[begin:end])
            for number, wire, begin, end in message_fields(content)
            if number != 4 and wire == _BYTES
        )
    except TokenizerModelError as error:
        raise ArtifactError(f"{where}: the tokenizer {error}; download the file again") from error


def _piece(piece: str, score: float, kind: PieceType) -> bytes:
    text = piece.replace(" ", SPACE) if kind == PieceType.USER_DEFINED else piece
    # score (2) and type (3), written at once: there are a quarter of a million pieces.
    tail = _SCORE_AND_TYPE.pack(2 << 3 | _FLOAT, score, 3 << 3 | _VARINT, kind)
    return _field(1, _BYTES, text.encode()) + tail


def _trainer_spec(pieces: Sequence[str], special: SpecialIds) -> bytes:
    numbers = (
        (3, _MODEL_TYPE_BPE),  # model_type
        (4, len(pieces)),  # vocab_size
        (35, True),  # byte_fallback
        (40, special.unk),
        (41, special.bos),
        (42, special.eos),
        (43, special.pad),
    )
    names = ((45, special.unk), (46, special.bos), (47, special.eos), (48, special.pad))
    fields = [_field(number, _VARINT, _varint(value)) for number, value in numbers]
    fields += [_field(number, _BYTES, pieces[at].encode()) for number, at in names if at >= 0]
    return b"".join(fields)


def _normalizer_spec(add_space_prefix: bool) -> bytes:
    return (
        _field(1, _BYTES, b"identity")  # name
        + _field(3, _VARINT, _varint(add_space_prefix))  # add_dummy_prefix
        + _field(4, _VARINT, _varint(False))  # remove_extra_whitespaces
        + _field(5, _VARINT, _varint(True))  # escape_whitespaces
    )


def _field(number: int, wire: int, payload: bytes) -> bytes:
    """One protobuf field; `payload` is already encoded unless it is length-delimited."""
    tag = _varint(number << 3 | wire)
    return tag + _varint(len(payload)) + payload if wire == _BYTES else tag + payload


def _varint(value: int) -> bytes:
    """Base-128, low group first; negative numbers as 64-bit two's complement."""
    if 0 <= value <= 0x7F:
        return bytes((value,))
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
