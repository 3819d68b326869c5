"""Whether the numbers of a tensor are numbers: NaN and infinity found on the way to the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ...artifacts.errors import ArtifactError
from ..arguments import ALLOW_NONFINITE, DTYPE
from .tensors import TensorSource, blocks

_CHUNK = 1 << 16
"""Numbers looked at together: few enough to stay in the processor's cache for the second look."""


def finite(
    source: TensorSource, converted: Iterable[np.ndarray], allowed: set[str] | None
) -> Iterator[np.ndarray]:
    """The blocks of a tensor as they are, each looked through first.

    Args:
        source: the tensor they are of.
        converted: what `blocks` gives, float32 or bfloat16.
        allowed: None refuses; a set takes the names of tensors that have such numbers.

    Raises:
        ArtifactError: a number is NaN or infinite, or too large for the dtype.
    """
    for block in converted:
        if not is_finite(block):
            if allowed is None:
                raise _refusal(source, str(block.dtype))
            allowed.add(source.name)
        yield block


def is_finite(values: np.ndarray) -> bool:
    """Whether float32 or bfloat16 numbers are all finite.

    By their bits, in two passes without copies: as signed numbers those of positive infinity and
    positive NaNs are the largest, as unsigned ones those of the negative.
    """
    size = values.dtype.itemsize
    signed, unsigned = (np.dtype(f"{kind}{size}") for kind in "iu")
    infinity = 0x7F80 << 8 * (size - 2)
    flat = np.ascontiguousarray(values).reshape(-1)
    negative = infinity | 1 << 8 * size - 1
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if chunk.view(signed).max() >= infinity or chunk.view(unsigned).max() >= negative:
            return False
    return True


def _refusal(source: TensorSource, dtype: str) -> ArtifactError:
    """What is wrong with a tensor that is not finite in `dtype`; reads all of it again."""
    stored, rounded, first, total = 0, 0, None, 0
    step = max(1, _CHUNK // max(1, source.row_elements))
    narrow = blocks(source, dtype, step * max(1, source.row_elements) * 4)
    for start, block in zip(range(0, source.rows, step), narrow, strict=True):
        raw = source.read_rows(start, min(start + step, source.rows))
        bad = ~np.isfinite(block.astype(np.float32))
        stored += int((~np.isfinite(raw.astype(np.float64))).sum())
        rounded += int(bad.sum())
        if first is None and bad.any():
            first = total + int(np.argmax(bad.reshape(-1)))
        total += block.size
    assert first is not None, source.name
    index = ",".join(map(str, np.unravel_index(first, source.shape)))
    if stored:
        count, what = stored, "that are NaN or infinite"
        remedy = "download the checkpoint again, or save one whose training did not diverge"
    else:
        count, what = rounded, f"too large for {dtype}"
        remedy = f"export with {DTYPE} float32" if dtype == "bfloat16" else "save it rescaled"
    return ArtifactError(
        f"{source.path}: tensor {source.name} has numbers {what} ({count} of {total}, the first at "
        f"[{index}]); expected finite ones; {remedy} "
        f"({ALLOW_NONFINITE} exports it as it is, where it is not quantised)"
    )
