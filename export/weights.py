"""The weights of a checkpoint on their way into the bundle, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..artifacts.manifest import Weight
from ..artifacts.store import Planned, plan_weights, store_bytes, write_weights
from ..artifacts.writer import BundleWriter
from ..model.quantized import SCALE, Recipe, Scheme
from ..model.quantizing import quantize
from .checkpoint import Checkpoint, blocks
from .progress import Bytes


def write_checkpoint_weights(
    writer: BundleWriter, checkpoint: Checkpoint | None, planned: Sequence[Planned], recipe: Recipe,
    progress: Callable[[str, int, int], None],
) -> tuple[Weight, ...]:  # fmt: skip
    """Write what is planned, quantised as the recipe says; only planned without a checkpoint."""
    if checkpoint is None:
        return plan_weights(planned)
    scales: dict[str, np.ndarray] = {}
    total, done = Bytes(store_bytes(planned)), 0
    with write_weights(writer, planned) as store:

        def write(name: str, block: np.ndarray) -> None:
            nonlocal done
            progress(f"weights: {name}", Bytes(done), total)
            store.write(name, block)
            done += block.nbytes

        for name, _, dtype in planned:
            scheme = recipe.scheme(name)
            if name in scales:
                write(name, scales.pop(name))
            elif scheme == Scheme.NONE:
                for block in blocks(checkpoint.tensors[name], dtype):
                    write(name, block)
            else:
                scales[name + SCALE] = _write_quantized(write, checkpoint, name, scheme)
    return store.weights


def _write_quantized(
    write: Callable[[str, np.ndarray], None], checkpoint: Checkpoint, name: str, scheme: Scheme
) -> np.ndarray:
    """Write the numbers of a matrix; returns its scales, which come later in the store."""
    parts = []
    for numbers, scale in quantize(blocks(checkpoint.tensors[name], "float32"), scheme):
        write(name, numbers)
        parts.append(scale)
    return np.concatenate(parts)
