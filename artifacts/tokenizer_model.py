"""What a SentencePiece model file may hold: what would change the ids of a text, or is a danger.

gemma3-host reads such files itself and refuses the same with the same words
(runtime/native/host/tokenizer_model.cc). Here they are checked before SentencePiece parses them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

import numpy as np

MAX_PIECE_BYTES = 256
"""Bytes of a piece; the longest of Gemma's, 31 spaces, has 93."""

_MAX_PIECES = 2**24
_MAX_BYTES = 2**30
_MAX_NESTED = 64
_UNREADABLE = "is not a readable SentencePiece model"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6
_BPE = 2
_BYTE_PIECE = re.compile(rb"<0x[0-9A-F]{2}>")

_Field = tuple[int, int, int, int]
"""Number, wire type, and where the field's content begins and ends; of a varint, its value."""


class TokenizerModelError(ValueError):
    """Why a file is no tokenizer that can be used: words that go on from "tokenizer FILE "."""


def check_tokenizer_model(content: bytes) -> None:
    """Refuse a serialised ModelProto that the runtimes do not take.

    Two ids with one piece are not looked for: SentencePiece refuses them, and `repeated_piece`
    says which.

    Raises:
        TokenizerModelError: the file is damaged, has pieces too large or that are not text, or
            asks for more than byte-pair encoding with byte fallback and spaces as U+2581.
    """
    pieces, settings = _read(content)
    settings.check()
    pieces.check_kinds()


def repeated_piece(content: bytes) -> str | None:
    """Which piece of a checked file is there twice: words as in TokenizerModelError."""
    numbers: dict[bytes, int] = {}
    for number, text in enumerate(_read(content)[0].texts()):
        other = numbers.setdefault(text, number)
        if other != number:
            return f"has a piece {number} that is piece {other} again"
    return None


def message_fields(content: bytes, at: int = 0, end: int | None = None) -> Iterator[_Field]:
    """The fields of a protobuf message, the bytes from `at` to `end`; see `_Field`.

    Raises:
        TokenizerModelError: they are no message.
    """
    end = len(content) if end is None else end
    while at < end:
        field, at = _field(content, at, end)
        yield field


def _read(content: bytes) -> tuple[_Pieces, _Settings]:
    if not 0 < len(content) <= _MAX_BYTES:
        raise TokenizerModelError(_UNREADABLE)
    plain, pieces, settings = _PlainPieces(content), _Pieces(content), _Settings()
    at, size = 0, len(content)
    while at < size:
        at = plain.add_to(pieces, at)
        if at >= size:
            break
        start = at
        (number, wire, begin, end), at = _field(content, at, size)
        if number > 5:
            raise TokenizerModelError(f"has a field {number} that SentencePiece models have not")
        _expect(wire, _BYTES)
        pieces.skip(start, at)
        if number == 1:
            pieces.add(*_piece(content, begin, end, pieces.count))
        else:
            settings.read(content, number, begin, end)
        if pieces.count > _MAX_PIECES:
            raise TokenizerModelError(f"has more than {_MAX_PIECES} pieces")
    if not pieces.count:
        raise TokenizerModelError(_UNREADABLE)
    pieces.finish()
    return pieces, settings


class _PlainPieces:
    """The pieces written as nearly all are, found without a step for each.

    Plain is: short, first the text (1), then the score (2), then the type (3) unless it is NORMAL.
    """

    def __init__(self, content: bytes) -> None:
        array = np.frombuffer(content, np.uint8)
        last = len(content) - 1

        def byte(at: np.ndarray) -> np.ndarray:
            return array[np.minimum(at, last)]

        # What looks like a piece: most are, and a run of them that lead to one another is.
        at = np.flatnonzero((array[:-2] == 0x0A) & (array[2:] == 0x0A))
        size, length = byte(at + 1), byte(at + 3)
        fits = (length > 0) & (size < 0x80) & ((size == length + 7) | (size == length + 9))
        at, size, length = at[fits], size[fits].astype(np.int64), length[fits].astype(np.int64)
        tail = at + 4 + length
        typed = size == length + 9
        kind = np.where(typed, byte(tail + 6), np.uint8(_NORMAL))
        fits = (byte(tail) == 0x15) & (~typed | (byte(tail + 5) == 0x18))
        fits &= (kind >= 1) & (kind <= 6) & (at + 2 + size <= len(content))
        fits &= ~((byte(tail + 4) & 0x7F == 0x7F) & (byte(tail + 3) >= 0x80))  # finite
        self._at, self._tail, self._kind = at[fits], tail[fits], kind[fits]
        self._next = self._at + 2 + size[fits]
        self._ends = np.flatnonzero(self._next[:-1] != self._at[1:])  # of runs, but the last

    def add_to(self, pieces: _Pieces, at: int) -> int:
        """Add the run of pieces that begins at `at`, if one does; where the next field is."""
        first = int(np.searchsorted(self._at, at))
        if first == len(self._at) or self._at[first] != at:
            return at
        run = int(np.searchsorted(self._ends, first))
        last = int(self._ends[run]) if run < len(self._ends) else len(self._at) - 1
        span = slice(first, last + 1)
        pieces.add_many(self._at[span], self._tail[span], self._next[span], self._kind[span])
        return int(self._next[last])


class _Pieces:
    """Where the texts of the pieces are, and their types."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._texts = np.frombuffer(content, np.uint8).copy()
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count = 0

    def add_many(
        self, at: np.ndarray, tail: np.ndarray, following: np.ndarray, kind: np.ndarray
    ) -> None:
        """Pieces written plainly: where each begins, its text ends and the next one is."""
        # What is no text becomes line ends, so that all texts can be checked at once.
        for offset in range(4):
            self._texts[at + offset] = 0x0A
        for offset in range(5):
            self._texts[tail + offset] = 0x0A
        typed = tail[following - tail == 7]
        for offset in (5, 6):
            self._texts[typed + offset] = 0x0A
        self._parts.append((at + 4, tail, kind))
        self.count += len(at)

    def skip(self, begin: int, end: int) -> None:
        """Leave bytes out of the check of texts."""
        self._texts[begin:end] = 0x0A

    def add(self, begin: int, end: int, kind: int) -> None:
        """A piece whose text has been checked."""
        self._parts.append((np.array([begin]), np.array([end]), np.array([kind], np.uint8)))
        self.count += 1

    def finish(self) -> None:
        """Refuse texts that are not UTF-8 without NUL."""
        self._begin, self._end, self._kind = map(np.concatenate, zip(*self._parts, strict=True))
        texts = self._texts.tobytes()
        try:
            texts.decode()
            offset = texts.find(b"\0")
        except UnicodeDecodeError as error:
            nul = texts.find(b"\0", 0, error.start)
            offset = nul if nul >= 0 else error.start
        if offset >= 0:
            number = int(np.searchsorted(self._begin, offset, side="right")) - 1
            raise TokenizerModelError(f"has a piece {number} that is not UTF-8 without NUL")

    def texts(self, kind: int | None = None) -> Iterator[bytes]:
        """The texts in order, of one kind if asked."""
        chosen = slice(None) if kind is None else self._kind == kind
        for begin, end in zip(
            self._begin[chosen].tolist(), self._end[chosen].tolist(), strict=True
        ):
            yield self._content[begin:end]

    def check_kinds(self) -> None:
        """Refuse kinds of pieces that a tokenizer with byte fallback does not have, or lacks."""
        numbers = np.flatnonzero(self._kind == _BYTE).tolist()
        spelled = list(self.texts(_BYTE))
        for number, text in zip(numbers, spelled, strict=True):
            if not _BYTE_PIECE.fullmatch(text):
                raise TokenizerModelError(
                    f"has a piece {number} of type 6: expected <0x00> to <0xFF>"
                )
        unknown = int(np.count_nonzero(self._kind == _UNKNOWN))
        if unknown != 1:
            raise TokenizerModelError(f"has {unknown} unknown pieces: expected 1")
        if (bytes_ := len(set(spelled))) != 256:
            raise TokenizerModelError(f"has {bytes_} byte pieces: expected 256")
        beginnings: list[bytes] = []
        for text in sorted(self.texts(_USER_DEFINED)):
            while beginnings and not text.startswith(beginnings[-1]):
                beginnings.pop()
            beginnings.append(text)
            if len(beginnings) > _MAX_NESTED:  # more than SentencePiece looks at
                raise TokenizerModelError(
                    f"has more than {_MAX_NESTED} user-defined pieces that begin with one another"
                )


def _piece(content: bytes, begin: int, end: int, number: int) -> tuple[int, int, int]:
    """Where the text of a piece begins and ends, and its type."""
    text, score, kind = (begin, begin), 0.0, _NORMAL
    for field, wire, first, last in message_fields(content, begin, end):
        expected = {1: _BYTES, 2: _FIXED32, 3: _VARINT}.get(field)
        if expected is None:
            raise TokenizerModelError(
                f"has a piece {number} with a field {field} that SentencePiece pieces have not"
            )
        if wire != expected:
            raise TokenizerModelError(_UNREADABLE)
        if field == 1:
            text = first, last
        elif field == 2:
            (score,) = struct.unpack("<f", content[first:last])
        else:
            kind = first
    size = text[1] - text[0]
    if not 1 <= size <= MAX_PIECE_BYTES:
        raise TokenizerModelError(
            f"has a piece {number} of {size} bytes: expected 1 to {MAX_PIECE_BYTES}"
        )
    if not 1 <= kind <= 6:
        raise TokenizerModelError(f"has a piece {number} of type {kind}: expected 1 to 6")
    if not _is_text(content[slice(*text)]):
        raise TokenizerModelError(f"has a piece {number} that is not UTF-8 without NUL")
    if not math.isfinite(score):
        raise TokenizerModelError(f"has a piece {number} whose score is not finite")
    return *text, kind


class _Settings:
    """What a model says beside its pieces; as in protobuf, the last value of a field counts."""

    def __init__(self) -> None:
        self._trainer: dict[int, int] = {3: 1, 24: 0, 35: 0}  # Unigram
        self._surface = b""
        self._normalizer: dict[int, int] = {3: 1, 4: 1, 5: 1}
        self._charsmaps = {3: 0, 5: 0}

    def read(self, content: bytes, number: int, begin: int, end: int) -> None:
        if number == 4:
            if end > begin:
                raise TokenizerModelError("has self_test_data: expected none")
            return
        for field, wire, first, last in message_fields(content, begin, end):
            numbers = self._trainer if number == 2 else self._normalizer
            if field in numbers:
                _expect(wire, _VARINT)
                if number != 5:
                    numbers[field] = first
            elif field == 44 and number == 2:
                _expect(wire, _BYTES)
                self._surface = content[first:last]
            elif field == 2 and number != 2:
                _expect(wire, _BYTES)
                self._charsmaps[number] = last - first

    def check(self) -> None:
        model_type = self._trainer[3]
        if model_type != _BPE:
            raise TokenizerModelError(f"has model_type {model_type}: expected 2, BPE")
        if not self._trainer[35]:
            raise TokenizerModelError("has byte_fallback false: expected true")
        if self._trainer[24]:
            raise TokenizerModelError("has treat_whitespace_as_suffix true: expected false")
        if len(self._surface) > MAX_PIECE_BYTES or not _is_text(self._surface):
            raise TokenizerModelError(
                f"has an unk_surface that is not UTF-8 of at most {MAX_PIECE_BYTES} bytes"
            )
        for number, name in ((3, "normalizer_spec"), (5, "denormalizer_spec")):
            if size := self._charsmaps[number]:
                raise TokenizerModelError(
                    f"has a precompiled_charsmap of {size} bytes in its {name}: expected none"
                )
        if self._normalizer[3]:
            raise TokenizerModelError("has add_dummy_prefix true: expected false")
        if self._normalizer[4]:
            raise TokenizerModelError("has remove_extra_whitespaces true: expected false")
        if not self._normalizer[5]:
            raise TokenizerModelError("has escape_whitespaces false: expected true")


def _expect(wire: int, expected: int) -> None:
    if wire != expected:
        raise TokenizerModelError(_UNREADABLE)


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in text


def _field(content: bytes, at: int, end: int) -> tuple[_Field, int]:
    """The field at `at` of a message that ends at `end`, and where the next one is."""
    tag, at = _varint(content, at, end)
    number, wire = tag >> 3, tag & 7
    if number == 0:
        raise TokenizerModelError(_UNREADABLE)
    if wire == _VARINT:
        value, at = _varint(content, at, end)
        return (number, wire, value, value), at
    if wire == _BYTES:
        size, at = _varint(content, at, end)
    elif wire in (_FIXED32, _FIXED64):
        size = 4 if wire == _FIXED32 else 8
    else:
        raise TokenizerModelError(_UNREADABLE)
    if size > end - at:
        raise TokenizerModelError(_UNREADABLE)
    return (number, wire, at, at + size), at + size


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), at
    raise TokenizerModelError(_UNREADABLE)
