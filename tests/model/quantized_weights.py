"""Quantised matrices for tests, and what they mean, computed again in numpy float64."""

from __future__ import annotations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from gemma3_export.model.lowering.quantized import QuantizedWeight
from gemma3_export.model.lowering.recipes import Scheme


def random_weight(scheme: Scheme, outputs: int, inputs: int, dtype: str) -> QuantizedWeight:
    """Any numbers the scheme can store, with scales of both signs and all sizes."""
    random = np.random.default_rng(outputs + inputs)
    grouped = scheme == Scheme.INT4
    shape = (outputs, inputs // 32) if grouped else (outputs,)
    scale = random.normal(size=shape) / 16
    if grouped:
        numbers = random.integers(0, 256, (outputs, inputs // 2)).astype(np.uint8)
        scale = scale.astype(ml_dtypes.bfloat16)
    elif scheme == Scheme.INT8:
        numbers = random.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    else:
        numbers = random.normal(0, 64, (outputs, inputs)).astype(ml_dtypes.float8_e4m3fn)
    scale = scale if grouped else scale.astype(np.float32)
    return QuantizedWeight(jnp.asarray(numbers), jnp.asarray(scale), scheme, jnp.dtype(dtype))


def dequantized(numbers: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The matrix [O,I] float64 that stored numbers and scales mean, as FORMAT.md says."""
    numbers, scale = np.asarray(numbers), np.asarray(scale).astype(np.float64)
    if numbers.dtype != np.uint8:
        return numbers.astype(np.float64) * scale[:, None]
    outputs, half = numbers.shape
    matrix = np.empty((outputs, half * 2))
    for i in range(half * 2):
        group, place = divmod(i, 32)
        byte = numbers[:, group * 16 + place % 16]
        value = byte & 15 if place < 16 else byte >> 4
        matrix[:, i] = (value.astype(np.float64) - 8) * scale[:, group]
    return matrix
