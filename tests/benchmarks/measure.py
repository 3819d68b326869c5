"""Timing for the benchmarks: interleaved repeats, medians, and the machine's own limits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from gemma3_export.export.measure import interleaved


def medians(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that drift of the machine hits all alike."""
    for run in candidates.values():
        jax.block_until_ready(run())  # compiles, and touches the memory
    times = interleaved(candidates, repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def memory_reader(nbytes: int = 512 << 20) -> Callable[[], object]:
    """Something that reads `nbytes` of memory once, as fast as XLA can: a sum of float32."""
    data = jnp.ones((nbytes // 4096, 1024), jnp.float32)
    # The one-row product runs at memory speed; a plain sum does not on every XLA.
    row = jnp.ones((1, 1024), jnp.float32)
    product = jax.jit(lambda x, w: x @ w.T)
    return lambda: product(row, data)
