"""Timing for the benchmarks: interleaved repeats, medians, and the machine's own limits."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.export.measure import interleaved


def medians(candidates: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that drift of the machine hits all alike."""
    for run in candidates.values():
        jax.block_until_ready(run())  # compiles, and touches the memory
    times = interleaved(candidates, repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def memory_readers(nbytes: int = 512 << 20) -> tuple[Callable[[], object], ...]:
    """Ways of reading `nbytes` of memory once: the fastest is what the machine can do.

    XLA's one-row product of float32, which runs at memory speed where a plain sum does not on
    every XLA; and the largest number, by numpy in as many threads as there are cores.
    """
    data = jnp.ones((nbytes // 4096, 1024), jnp.float32)
    row = jnp.ones((1, 1024), jnp.float32)
    product = jax.jit(lambda x, w: x @ w.T)
    count = os.cpu_count() or 1
    parts = np.array_split(np.ones(nbytes // 4, np.float32), count)
    pool = ThreadPoolExecutor(count)
    return lambda: product(row, data), lambda: list(pool.map(np.max, parts))
