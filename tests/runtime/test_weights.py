from __future__ import annotations

import tracemalloc
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from gemma3_export.runtime.loading.arrays import ALIGNMENT, to_devices
from jax.sharding import NamedSharding, PartitionSpec

P = PartitionSpec
SHAPE = (256, 512)


@pytest.fixture(params=[np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def mapped(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    values = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(request.param)
    (tmp_path / "w").write_bytes(values.tobytes())
    return np.memmap(tmp_path / "w", dtype=request.param, mode="r", shape=SHAPE)


def sharding(*spec: str | None) -> NamedSharding:
    return NamedSharding(jax.make_mesh((2, 4), ("data", "model")), P(*spec))


def offsets(array: jax.Array, mapped: np.ndarray) -> list[int]:
    """Where each shard's memory starts, in bytes from the mapping's start."""
    start = mapped.ctypes.data
    return [shard.data.unsafe_buffer_pointer() - start for shard in array.addressable_shards]


def test_replicas_are_the_mapping_itself(mapped: np.ndarray):
    placed = to_devices(mapped, sharding())
    assert offsets(placed, mapped) == [0] * 8
    np.testing.assert_array_equal(placed, mapped)


def test_shards_of_rows_are_parts_of_the_mapping(mapped: np.ndarray):
    placed = to_devices(mapped, sharding("model"))
    quarter = mapped.nbytes // 4
    assert offsets(placed, mapped) == [0, quarter, 2 * quarter, 3 * quarter] * 2
    np.testing.assert_array_equal(placed, mapped)


def test_shards_of_columns_are_copied_once_for_all_replicas(mapped: np.ndarray):
    placed = to_devices(mapped, sharding(None, "model"))
    starts = offsets(placed, mapped)
    assert starts[:4] == starts[4:]
    assert len(set(starts)) == 4
    assert not any(0 <= start < mapped.nbytes for start in starts)
    np.testing.assert_array_equal(placed, mapped)


def test_a_tensor_at_an_unaligned_offset_is_copied_and_right(mapped: np.ndarray):
    unaligned = mapped.reshape(-1)[1:]
    assert unaligned.ctypes.data % ALIGNMENT
    np.testing.assert_array_equal(to_devices(unaligned, sharding()), unaligned)


def test_no_more_than_the_copied_shards_is_allocated(mapped: np.ndarray):
    tracemalloc.start()
    kept = [to_devices(mapped, sharding()), to_devices(mapped, sharding("model"))]
    whole, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    kept.append(to_devices(mapped, sharding(None, "model")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert whole < mapped.nbytes / 2
    assert peak - whole < mapped.nbytes * 1.5
