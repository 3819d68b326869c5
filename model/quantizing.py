"""Finding the numbers of quantised weights: blocks of rows in, numbers and scales out.

How they are stored is said in quantized.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import ml_dtypes
import numpy as np

from .quantized import GROUP, Scheme

Quantized = tuple[np.ndarray, np.ndarray]
"""Numbers and scales of some rows, as they are stored."""

_SMALLEST_SCALE = 2.0**-100
_INT8, _FLOAT8, _INT4 = 127.0, 448.0, 8.0
# Where the largest number of a group may come to lie, in steps: 8 uses the whole range.
_PEAKS = (8.0, 7.0, 7.4, 7.7, 8.3, 8.6, 9.0, 9.5, 10.0)
# Groups quantised at a time, so that all candidates find them in the processor's cache.
_GROUPS_AT_ONCE = 4096


def quantize(blocks: Iterable[np.ndarray], scheme: Scheme) -> Iterator[Quantized]:
    """Numbers and scales of float32 row blocks [rows, I], block by block."""
    by_scheme = {Scheme.INT8: _int8, Scheme.FP8: _float8, Scheme.INT4: _int4}
    for block in blocks:
        yield by_scheme[scheme](block)


def _int8(rows: np.ndarray) -> Quantized:
    """The largest number of a row becomes 127 or -127."""
    scale = _row_scale(rows, _INT8)
    numbers = np.empty(rows.shape, np.int8)
    np.rint(rows / scale[:, None], out=numbers, casting="unsafe")
    return numbers, scale


def _float8(rows: np.ndarray) -> Quantized:
    """The largest number of a row becomes the largest that float8_e4m3fn has, 448."""
    scale = _row_scale(rows, _FLOAT8)
    return (rows / scale[:, None]).astype(ml_dtypes.float8_e4m3fn), scale


def _row_scale(rows: np.ndarray, largest: float) -> np.ndarray:
    peak = np.max(np.abs(rows), axis=1)
    return np.maximum(peak / np.float32(largest), np.float32(_SMALLEST_SCALE))


def _int4(rows: np.ndarray) -> Quantized:
    """Each group takes the scale, of nine tried, with the smallest squared error."""
    groups = rows.reshape(-1, GROUP)
    numbers = np.empty(groups.shape, np.uint8)
    scale = np.empty(len(groups), ml_dtypes.bfloat16)
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        part = slice(start, start + _GROUPS_AT_ONCE)
        numbers[part], scale[part] = _best_groups(groups[part])
    packed = numbers[:, : GROUP // 2] | numbers[:, GROUP // 2 :] << 4
    return packed.reshape(len(rows), -1), scale.reshape(len(rows), -1)


def _best_groups(groups: np.ndarray) -> Quantized:
    """groups [n,32] float32 -> numbers plus 8 [n,32] uint8, scales [n] bfloat16."""
    place = np.argmax(np.abs(groups), axis=1)
    peak = -np.take_along_axis(groups, place[:, None], axis=1)  # becomes a negative number
    unit = _divide(np.ones_like(peak), peak)
    best_error = np.full(len(groups), np.inf, np.float32)
    best_scale = np.zeros(len(groups), np.float32)
    best_numbers = np.zeros(groups.shape, np.float32)
    for steps in _PEAKS:
        numbers = _steps(groups, peak / np.float32(steps))
        # The scale that fits these numbers best, as it will be stored, and the numbers again.
        fitted = _stored(_divide((groups * numbers).sum(1), (numbers * numbers).sum(1)))
        numbers = _steps(groups, fitted[:, None])
        # In units of the largest number: squares of large ones would overflow.
        error = np.square((groups - numbers * fitted[:, None]) * unit).sum(1)
        better = error < best_error
        best_error[better], best_scale[better] = error[better], fitted[better]
        best_numbers[better] = numbers[better]
    return (best_numbers + _INT4).astype(np.uint8), best_scale.astype(ml_dtypes.bfloat16)


def _steps(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The nearest whole steps of `scale` [n,1], from -8 to 7; of groups of zeros 0."""
    inverse = _divide(np.ones_like(scale), scale)
    return np.clip(np.rint(groups * inverse), -_INT4, _INT4 - 1)


def _divide(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(value, by, out=np.zeros_like(value), where=by != 0)


def _stored(scale: np.ndarray) -> np.ndarray:
    return scale.astype(ml_dtypes.bfloat16).astype(np.float32)
