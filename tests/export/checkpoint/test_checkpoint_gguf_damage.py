"""GGUF files that are cut short or damaged are refused by arithmetic, never by accident."""

import struct

import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import open_checkpoint

TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "a"]


def test_truncation_is_refused_wherever_the_file_ends(vocabulary, assert_refused, make_gguf):
    path = make_gguf(metadata=vocabulary(TOKENS))
    content = path.read_bytes()
    for length in [*range(0, 3000, 37), len(content) // 2, len(content) - 64, len(content) - 1]:
        path.write_bytes(content[:length])
        assert_refused(path, "tiny.gguf: ", "download the file again")


HEADER = struct.Struct("<4sIQQ")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"GGML" + bytes(60), ("not a GGUF file", "GGML")),
        (HEADER.pack(b"GGUF", 1, 0, 0), ("GGUF version 1", "2 or 3")),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), ("GGUF version 50331648", "little-endian")),
        (HEADER.pack(b"GGUF", 3, 0, 1 << 60), ("header claims",)),
        (HEADER.pack(b"GGUF", 3, 1 << 60, 0), ("header claims",)),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q", 1 << 63), ("header claims",)),
        (
            HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 8, 1 << 61),
            ("array of 2305843009213693952 strings",),
        ),
        (
            HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"k", 9, 6, 1 << 61),
            ("header claims 9223372036854775808 bytes",),
        ),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1sI", 1, b"k", 99), ("unknown type 99",)),
        (HEADER.pack(b"GGUF", 3, 0, 1) + struct.pack("<Q1s", 1, b"\xff"), ("not UTF-8",)),
        (
            HEADER.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sI", 1, b"t", 5) + bytes(64),
            ("tensor t claims 5 dimensions",),
        ),
        (
            HEADER.pack(b"GGUF", 3, 1, 0)
            + struct.pack("<Q1sIQQIQ", 1, b"t", 2, 1 << 62, 1 << 62, 0, 0),
            ("truncated: tensor t ends at byte 85070591730234615865843651857942052960",),
        ),
        (
            HEADER.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 33, 8, 0),
            ("tensor t of shape (33,) does not divide by Q8_0",),
        ),
        (
            HEADER.pack(b"GGUF", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 32, 4096, 0),
            ("GGML type number 4096",),
        ),
        (
            HEADER.pack(b"GGUF", 3, 2, 0)
            + struct.pack("<Q1sIQIQ", 1, b"t", 1, 1, 0, 0) * 2
            + bytes(64),
            ("two tensors are named t",),
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", ("is a Git LFS pointer",)),
    ],
)  # fmt: skip
def test_damaged_header_is_refused_by_arithmetic(assert_refused, tmp_path, content, parts):
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert_refused(path, "bad.gguf: ", *parts)


def test_damaged_bytes_never_raise_anything_but_an_artifact_error(vocabulary, make_gguf):
    path = make_gguf(metadata=vocabulary(TOKENS))
    content = path.read_bytes()
    header = content.index(b"output_norm.weight") + 60
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            open_checkpoint(path)
        except ArtifactError:
            refused += 1
    assert refused > 100  # the others damaged a name or a number that is as good
