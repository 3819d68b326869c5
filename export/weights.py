"""The weights of a checkpoint on their way into the bundle, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..artifacts.manifest import Weight
from ..artifacts.store import Planned, WeightWriter, plan_weights, write_weights
from ..artifacts.writer import BundleWriter
from ..model.quantized import SCALE, Recipe, Scheme
from ..model.quantizing import quantize
from .checkpoint import Checkpoint, blocks


def write_checkpoint_weights(
    writer: BundleWriter, checkpoint: Checkpoint | None, planned: Sequence[Planned], recipe: Recipe,
    progress: Callable[[str, int, int], None], workers: int,
) -> tuple[Weight, ...]:  # fmt: skip
    """Write what is planned, quantised as the recipe says; only planned without a checkpoint.

    `workers` threads quantise.
    """
    if checkpoint is None:
        return plan_weights(planned)
    scales: dict[str, np.ndarray] = {}
    with write_weights(writer, planned) as store:
        for done, (name, _, dtype) in enumerate(planned):
            progress(f"weights: {name}", done, len(planned))
            scheme = recipe.scheme(name)
            if name in scales:
                store.write(name, scales.pop(name))
            elif scheme == Scheme.NONE:
                for block in blocks(checkpoint.tensors[name], dtype):
                    store.write(name, block)
            else:
                scales[name + SCALE] = _write_quantized(store, checkpoint, name, scheme, workers)
    return store.weights


def _write_quantized(
    store: WeightWriter, checkpoint: Checkpoint, name: str, scheme: Scheme, workers: int
) -> np.ndarray:
    """Write the numbers of a matrix; returns its scales, which come later in the store."""
    parts = []
    for numbers, scale in quantize(blocks(checkpoint.tensors[name], "float32"), scheme, workers):
        store.write(name, numbers)
        parts.append(scale)
    return np.concatenate(parts)
