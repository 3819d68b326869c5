"""NaN and infinity in weights are found on the way to the bundle, and said where."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gemma3_export.artifacts.errors import ArtifactError
from gemma3_export.export.checkpoint import TensorSource, blocks, finite, open_checkpoint
from gemma3_export.export.checkpoint.finite import is_finite

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
NORM = "model.norm.weight"


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
def test_every_bfloat16_and_as_many_float32_are_told_apart(dtype: np.dtype):
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    if dtype == BFLOAT16:
        values = (bits >> 16).astype(np.uint16).view(BFLOAT16)
    else:
        values = (bits | np.arange(1 << 16, dtype=np.uint32) % 3).view(np.float32)
    expected = np.isfinite(values.astype(np.float32))
    assert [is_finite(value[None]) for value in values] == expected.tolist()
    assert is_finite(values[expected])


@pytest.mark.parametrize("place", [0, 1, (1 << 16) - 1, 1 << 16, 199_999])
def test_one_of_many_is_found_wherever_it_is(place: int):
    values = np.ones((1000, 200), np.float32)
    assert is_finite(values)
    values.reshape(-1)[place] = -np.inf
    assert not is_finite(values)
    assert is_finite(np.ones((0, 4), np.float32))


def source_of(make_folder, value: np.ndarray) -> TensorSource:
    return open_checkpoint(make_folder({NORM: value})).tensors[NORM]


def looked_through(source: TensorSource, dtype: str, allowed: set[str] | None = None) -> np.ndarray:
    return np.concatenate(list(finite(source, blocks(source, dtype, 64), allowed)))


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_tensor_the_count_and_the_first_index_are_said(make_folder, stored, dtype, bad):
    value = np.ones((50, 4, 2), np.float32)
    value[31, 2, 1] = value[31, 3, 0] = value[49, 3, 1] = bad
    source = source_of(make_folder, value.astype(stored))
    with pytest.raises(ArtifactError) as error:
        looked_through(source, dtype)
    message = error.value.for_command
    assert f"tensor {NORM} has numbers that are NaN or infinite (3 of 400, the first at " in message
    assert "the first at [31,2,1])" in message
    assert "--allow-nonfinite" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("stored", "largest", "dtype"),
    [
        (np.float32, 3.4e38, "bfloat16"), (np.float64, 1e300, "float32"),
        (np.float64, -3.4e38, "bfloat16"),
    ],
)  # fmt: skip
def test_a_number_that_is_too_large_for_the_dtype_is_said_to_be(
    make_folder, stored, largest, dtype
):
    source = source_of(make_folder, np.array([1.0, largest, 1.0], stored))
    with pytest.raises(ArtifactError) as error:
        looked_through(source, dtype)
    assert f"has numbers too large for {dtype} (1 of 3, the first at [1])" in str(error.value)
    assert ("--dtype float32" in error.value.for_command) == (dtype == "bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_they_are_allowed_they_pass_and_the_tensor_is_named(make_folder, dtype):
    source = source_of(make_folder, np.array([1.0, np.nan, -np.inf], np.float32))
    allowed: set[str] = set()
    got = looked_through(source, dtype, allowed).astype(np.float32)
    np.testing.assert_array_equal(got, np.array([1.0, np.nan, -np.inf], np.float32))
    assert allowed == {NORM}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_double_precision_is_rounded_by_way_of_single(make_folder, dtype):
    value = np.random.default_rng(0).standard_normal(3000) * 1e3
    value[0] = 1 + 2.0**-8 + 2.0**-40  # single precision loses the last bit; then it is a tie
    got = looked_through(source_of(make_folder, value), dtype)
    expected = value.astype(np.float32)
    if dtype == "bfloat16":
        bits = expected.view(np.uint32).astype(np.uint64)
        expected = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(BFLOAT16)
    np.testing.assert_array_equal(got, expected)
    assert float(got[0]) == (1.0 if dtype == "bfloat16" else 1 + 2.0**-8)


def test_numbers_of_a_quantised_file_are_looked_at_too(make_gguf, weights):
    import gguf

    rows = weights["model.layers.0.mlp.up_proj.weight"].copy()
    raw = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    raw.view(np.uint16).reshape(-1)[17] = 0x7E00  # the scale of the second block: NaN
    path: Path = make_gguf({"blk.0.ffn_up.weight": (raw, gguf.GGMLQuantizationType.Q8_0)})
    source = open_checkpoint(path).tensors["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(ArtifactError, match=r"that are NaN or infinite \(32 of 2048, .* \[1,0\]"):
        looked_through(source, "float32")
