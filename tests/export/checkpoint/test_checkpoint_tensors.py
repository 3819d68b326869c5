"""Row blocks: rounding, block sizes, and the memory that streaming takes."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.export.checkpoint import blocks, demo_checkpoint, open_checkpoint

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def source_of(make_folder, value):
    return open_checkpoint(make_folder({"model.norm.weight": value})).tensors["model.norm.weight"]


def test_float32_rounds_to_the_nearest_bfloat16_and_ties_to_even(make_folder):
    bits = np.array(
        [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x7F7FFFFF],
        np.uint32,
    )
    (block,) = blocks(source_of(make_folder, bits.view(np.float32)), "bfloat16")
    assert block.dtype == BFLOAT16
    expected = [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF82, 0x7F80]
    assert block.view(np.uint16).tolist() == expected


def test_every_float16_is_rounded_once(make_folder):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    (block,) = blocks(source_of(make_folder, halves), "bfloat16")
    bits = halves.astype(np.float32).view(np.uint32).astype(np.uint64)
    nearest_even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    np.testing.assert_array_equal(block.view(np.uint16), nearest_even)
    (exact,) = blocks(source_of(make_folder, halves), "float32")
    np.testing.assert_array_equal(exact, halves)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_bits_pass_through(make_folder, dtype):
    value = np.arange(0x3F00, 0x4100, dtype=np.uint16).view(BFLOAT16)
    (block,) = blocks(source_of(make_folder, value), dtype)
    np.testing.assert_array_equal(block.astype(np.float32), value.astype(np.float32))


@pytest.mark.parametrize(
    ("limit_bytes", "rows"),
    [(1, [1] * 10), (64, [2] * 5), (100, [3, 3, 3, 1]), (320, [10]), (1 << 30, [10])],
)
def test_blocks_are_consecutive_and_within_the_limit(make_folder, limit_bytes, rows):
    value = np.arange(80, dtype=np.float32).reshape(10, 8)  # 32 bytes a row
    got = list(blocks(source_of(make_folder, value), "float32", limit_bytes))
    assert [len(block) for block in got] == rows
    np.testing.assert_array_equal(np.concatenate(got), value)


def test_tensors_of_more_dimensions_keep_them(make_folder):
    value = np.arange(48, dtype=np.float32).reshape(3, 4, 2, 2)
    source = source_of(make_folder, value)
    assert source.shape == (3, 4, 2, 2)
    np.testing.assert_array_equal(source.read_rows(1, 3), value[1:])


STREAM = """
import resource, sys
from pathlib import Path
from gemma3_export.export.checkpoint import blocks, open_checkpoint

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
checkpoint = open_checkpoint(Path(sys.argv[1]))
total = 0
for name in ("model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"):
    for block in blocks(checkpoint.tensors[name], sys.argv[2]):
        total += block.nbytes
print(peak() - before, total)
"""


def growth_while_streaming(path, dtype):
    """Peak resident memory over that of the imports, and the bytes that were streamed."""
    run = subprocess.run(
        [sys.executable, "-c", STREAM, str(path), dtype],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    growth, total = map(int, run.stdout.split())
    return growth, total


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streaming_a_quantised_embedding_takes_a_few_blocks_of_memory(dtype):
    growth, total = growth_while_streaming(demo_checkpoint(), dtype)
    assert total == (262_144 * 640 + 640 * 2048) * (4 if dtype == "float32" else 2)
    assert growth < 300e6


def test_streaming_safetensors_does_not_keep_its_pages(make_folder):
    tensors = {
        "model.embed_tokens.weight": np.ones((120_000, 640), np.float32),  # 307 MB
        "model.layers.0.mlp.down_proj.weight": np.ones((8, 8), np.float32),
    }
    growth, total = growth_while_streaming(make_folder(tensors), "bfloat16")
    assert total == (120_000 * 640 + 64) * 2
    assert growth < 200e6
