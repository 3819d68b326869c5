"""The weights of a checkpoint on their way into the bundle, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..artifacts.manifest import Weight
from ..artifacts.store import Planned, plan_weights, store_bytes, write_weights
from ..artifacts.writer import BundleWriter
from ..model.lowering.quantize import quantize
from ..model.lowering.quantized import SCALE
from ..model.lowering.recipes import Recipe, Scheme
from .checkpoint import Checkpoint, blocks, finite
from .progress import Bytes


def write_checkpoint_weights(
    writer: BundleWriter, checkpoint: Checkpoint | None, planned: Sequence[Planned], recipe: Recipe,
    progress: Callable[[str, int, int], None], workers: int, nonfinite: set[str] | None = None,
) -> tuple[Weight, ...]:  # fmt: skip
    """Write what is planned, quantised as the recipe says; only planned without a checkpoint.

    `workers` threads quantise. `nonfinite` takes the names of tensors with numbers that are none;
    None refuses them, and so does a matrix that is quantised. Raises ArtifactError.
    """
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
                source = checkpoint.tensors[name]
                for block in finite(source, blocks(source, dtype), nonfinite):
                    write(name, block)
            else:
                scales[name + SCALE] = _write_quantized(write, checkpoint, name, scheme, workers)
    return store.weights


def _write_quantized(
    write: Callable[[str, np.ndarray], None], checkpoint: Checkpoint, name: str, scheme: Scheme,
    workers: int,
) -> np.ndarray:  # fmt: skip
    """Write the numbers of a matrix; returns its scales, which come later in the store."""
    parts = []
    source = checkpoint.tensors[name]
    numbers_of = finite(source, blocks(source, "float32"), None)
    for numbers, scale in quantize(numbers_of, scheme, workers):
        write(name, numbers)
        parts.append(scale)
    return np.concatenate(parts)
