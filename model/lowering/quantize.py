"""Finding the numbers of quantised weights: blocks of rows in, numbers and scales out.

How they are stored is said in recipes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np

from .recipes import Scheme

Quantized = tuple[np.ndarray, np.ndarray]
"""Numbers and scales of some rows, as they are stored."""

_SMALLEST_SCALE = 2.0**-100
_INT8, _FLOAT8, _INT4 = 127.0, 448.0, 8.0
# Where the largest number of a group may come to lie, in steps: 8 uses the whole range.
_PEAKS = (8.0, 7.0, 7.4, 7.7, 8.3, 8.6, 9.0, 9.5, 10.0)
# Groups quantised at a time: few enough for the cache of a processor, many enough that threads do
# not wait for each other between calls of numpy (2,048: two threads are slower than one).
_GROUPS_AT_ONCE = 8192


def quantize(blocks: Iterable[np.ndarray], scheme: Scheme, workers: int = 1) -> Iterator[Quantized]:
    """Numbers and scales of float32 row blocks [rows, I], block by block.

    `workers` threads share the groups of int4; the other schemes wait for memory only.
    """
    if scheme == Scheme.INT4:
        with ThreadPoolExecutor(workers) as pool:
            for block in blocks:
                yield _int4(block, pool)
        return
    quantize_block = {Scheme.INT8: _int8, Scheme.FP8: _float8}[scheme]
    for block in blocks:
        yield quantize_block(block)


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


def _int4(rows: np.ndarray, pool: ThreadPoolExecutor) -> Quantized:
    """Each group takes the scale, of nine tried, with the smallest squared error."""
    size = Scheme.INT4.group
    groups = rows.reshape(-1, size)
    packed = np.empty((len(groups), size // 2), np.uint8)
    scale = np.empty(len(groups), ml_dtypes.bfloat16)

    def work(start: int) -> None:
        part = slice(start, start + _GROUPS_AT_ONCE)
        numbers, scale[part] = _best_groups(groups[part])
        packed[part] = (numbers[: size // 2] | numbers[size // 2 :] << 4).T

    list(pool.map(work, range(0, len(groups), _GROUPS_AT_ONCE)))
    return packed.reshape(len(rows), -1), scale.reshape(len(rows), -1)


def _best_groups(groups: np.ndarray) -> Quantized:
    """groups [n,32] float32 -> numbers plus 8 [32,n] uint8, scales [n] bfloat16.

    Groups are laid in columns, so that every operation goes along many of them at once.
    """
    largest = np.argmax(np.abs(groups), axis=1)
    peak = -np.take_along_axis(groups, largest[:, None], axis=1)[:, 0]  # becomes a negative number
    groups = np.ascontiguousarray(groups.T)
    unit = _divide(np.ones_like(peak), peak)
    best_error = np.full(len(peak), np.inf, np.float32)
    best_scale = np.zeros(len(peak), np.float32)
    numbers, products = np.empty_like(groups), np.empty_like(groups)
    for steps in _PEAKS:
        _steps(groups, peak / np.float32(steps), numbers)
        # The scale that fits these numbers best, as it will be stored, and the numbers again.
        fit = _sum(np.multiply(groups, numbers, out=products))
        scale = _as_bfloat16(_divide(fit, _sum(np.multiply(numbers, numbers, out=products))))
        _steps(groups, scale, numbers)
        # In units of the largest number: squares of large ones would overflow.
        np.multiply(numbers, scale, out=products)
        np.subtract(groups, products, out=products)
        products *= unit
        error = _sum(np.square(products, out=products))
        better = error < best_error
        np.copyto(best_error, error, where=better)
        np.copyto(best_scale, scale, where=better)
    _steps(groups, best_scale, numbers)
    np.copyto(numbers, 0, where=best_scale == 0)  # of numbers that are not finite too
    return (numbers + _INT4).astype(np.uint8), best_scale.astype(ml_dtypes.bfloat16)


def _steps(groups: np.ndarray, scale: np.ndarray, out: np.ndarray) -> None:
    """The nearest whole steps of `scale` [n], from -8 to 7; of groups of zeros 0."""
    np.multiply(groups, _divide(np.ones_like(scale), scale), out=out)
    np.rint(out, out=out)
    np.clip(out, -_INT4, _INT4 - 1, out=out)


def _sum(groups: np.ndarray) -> np.ndarray:
    """The sums of [32,n] down the columns [n]; `groups` is used up.

    In the order in which numpy adds 32 numbers that lie side by side.
    """
    parts = groups[:8]
    for first in (8, 16, 24):
        np.add(parts, groups[first : first + 8], out=parts)
    for step in (1, 2, 4):
        np.add(parts[:: 2 * step], parts[step :: 2 * step], out=parts[:: 2 * step])
    return parts[0].copy()


def _divide(value: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(value, by, out=np.zeros_like(value), where=by != 0)


def _as_bfloat16(scale: np.ndarray) -> np.ndarray:
    return scale.astype(ml_dtypes.bfloat16).astype(np.float32)
