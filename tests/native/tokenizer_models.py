"""Tokenizer models that are damaged or hostile, made from a good one."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator


def varint(value: int) -> bytes:
    """Base-128, low group first."""
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def number(field: int, value: int) -> bytes:
    """A varint field."""
    return varint(field << 3) + varint(value)


def message(field: int, content: bytes) -> bytes:
    """A field of bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def piece(text: bytes, kind: int = 1, score: float = 0.0) -> bytes:
    """A piece as SentencePiece writes it."""
    body = message(1, text) + b"\x15" + struct.pack("<f", score)
    return message(1, body + (number(3, kind) if kind != 1 else b""))


# precompiled_charsmap whose trie leads outside of it
CHARSMAP = struct.pack("<I", 4096) + struct.pack("<1024I", *([0x7FFFFFFF] * 1024)) + b"\0"

# What to append to a good model, and what is said of it. Later values of a field count.
HOSTILE: list[tuple[str, bytes, str]] = [
    ("long piece", piece(b"a" * 1_000_000, 4), "of 1000000 bytes: expected 1 to 256"),
    ("257 bytes", piece(b"a" * 257), "of 257 bytes: expected 1 to 256"),
    ("no text", message(1, b"\x15\0\0\0\0"), "of 0 bytes: expected 1 to 256"),
    ("charsmap", message(3, message(2, CHARSMAP)), "a precompiled_charsmap of 4101 bytes in its n"),
    ("denormalizer", message(5, message(2, b"x")), "of 1 bytes in its denormalizer_spec: expected"),
    ("prefix", message(3, number(3, 1)), "has add_dummy_prefix true: expected false"),
    ("spaces", message(3, number(4, 1)), "has remove_extra_whitespaces true: expected false"),
    ("escape", message(3, number(5, 0)), "has escape_whitespaces false: expected true"),
    ("unigram", message(2, number(3, 1)), "has model_type 1: expected 2, BPE"),
    ("words", message(2, number(3, 3)), "has model_type 3: expected 2, BPE"),
    ("no bytes", message(2, number(35, 0)), "has byte_fallback false: expected true"),
    ("suffix", message(2, number(24, 1)), "has treat_whitespace_as_suffix true: expected false"),
    ("surface", message(2, message(44, b"\xff")), "has an unk_surface that is not UTF-8"),
    ("long surface", message(2, message(44, b"a" * 257)), "that is not UTF-8 of at most 256 bytes"),
    ("self test", message(4, message(1, b"x")), "has self_test_data: expected none"),
    ("not UTF-8", piece(b"\xed\xa0\x80"), "that is not UTF-8 without NUL"),
    ("NUL", piece(b"a\0b", 4), "that is not UTF-8 without NUL"),
    ("type 0", piece(b"zz", 0), "of type 0: expected 1 to 6"),
    ("type 7", piece(b"zz", 7), "of type 7: expected 1 to 6"),
    ("huge type", piece(b"zz", 2**32 + 1), "of type 4294967297: expected 1 to 6"),
    ("NaN", piece(b"zz", 1, float("nan")), "whose score is not finite"),
    ("infinite", piece(b"zz", 4, float("-inf")), "whose score is not finite"),
    ("byte", piece(b"<0x4a>", 6), "of type 6: expected <0x00> to <0xFF>"),
    ("two unknown", piece(b"<unk2>", 2), "has 2 unknown pieces: expected 1"),
    ("again", piece(b"the"), "again"),
    ("control again", piece(b"<bos>"), "again"),
    ("field of a piece", message(1, message(1, b"zz") + number(200, 1)), "with a field 200 that"),
    ("field", message(6, b""), "has a field 6 that SentencePiece models have not"),
    ("extension", number(200, 1), "has a field 200 that SentencePiece models have not"),
    ("wire of a score", message(1, message(1, b"zz") + number(2, 1)), "is not a readable Sent"),
    ("wire of pieces", number(1, 7), "is not a readable SentencePiece model"),
    ("group", b"\x0b\x0c", "is not a readable SentencePiece model"),
    ("field 0", b"\x00\x00", "is not a readable SentencePiece model"),
    ("endless varint", b"\x0a" + b"\xff" * 11, "is not a readable SentencePiece model"),
    ("beyond the end", b"\x0a\x7f\x0a", "is not a readable SentencePiece model"),
    ("nested", b"".join(piece(b"Q" * size, 4) for size in range(1, 66)),
     "has more than 64 user-defined pieces that begin with one another"),
]  # fmt: skip

# What to append to a good model without making it worse.
HARMLESS: list[tuple[str, bytes]] = [
    ("64 nested", b"".join(piece(b"Q" * size, 4) for size in range(1, 65))),
    ("256 bytes", piece(b"a" * 256, 4)),
    ("unused", piece(b"X", 5) + piece(b"XY", 5, 3.0) + piece(b"n f", 5, 9.0)),
    ("no type, other order", message(1, b"\x15\0\0\0\0" + message(1, "\u00e9\u00e9".encode()))),
    ("surface", message(2, message(44, b"<?>"))),
    ("training", message(2, number(4, 7) + message(30, b"abc") + b"\x55\0\0\0\0")),
]


def damaged(good: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Models with flipped, cut, repeated and exchanged bytes."""
    draw = random.Random(seed)
    for _ in range(count):
        content = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content))
            kind = draw.randrange(5)
            if kind < 2:
                content[at] ^= 1 << draw.randrange(8)
            elif kind == 2:
                content[at] = draw.choice((0, 0x0A, 0x15, 0x18, 0x7F, 0x80, 0xFF))
            elif kind == 3:
                del content[at : at + draw.randint(1, 30)]
            else:
                content[at:at] = content[at : at + draw.randint(1, 60)]
        yield bytes(content[: draw.choice((len(content), draw.randrange(1, len(content) + 1)))])
