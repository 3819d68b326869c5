"""The machine a program is lowered for: its platform, and the mesh its arrays are split over."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..sharding import ACTIVATION, Sharder

Array = jax.Array

ONE_BY_ONE = 4
"""Fewer rows than this are multiplied one at a time on CPU."""


class Platform(enum.StrEnum):
    """Lowering platforms, by jax's names."""

    CPU = "cpu"
    CUDA = "cuda"
    TPU = "tpu"


@dataclass(frozen=True)
class Target:
    """A platform and a mesh, and what must be written differently for them."""

    platform: Platform = Platform.CPU
    sharder: Sharder | None = None
    kernels: bool = False
    """Whether the program may call C++ kernels, which its host must then have."""

    @property
    def one_device(self) -> bool:
        """Whether nothing is split over devices."""
        return self.sharder is None or self.sharder.devices == 1

    def constrain(self, x: Array, axes: Sequence[str]) -> Array:
        """Tell the partitioner where an activation with these logical axes lives."""
        if self.sharder is None or self.one_device:
            return x
        spec = self.sharder.spec(ACTIVATION, axes, x.shape)
        sharding = self.sharder.sharding(spec)
        assert sharding is not None
        return jax.lax.with_sharding_constraint(x, sharding)

    def in_halves(
        self, rows: int, function: Callable[..., Array], axis: str, *operands: Array
    ) -> Array:
        """function(*operands), elementwise on [...,size], computed as two halves and joined.

        For the operand of a product of `rows` rows; with many rows it is computed plainly, and so
        it is for C++ kernels, which read it from memory in any case.

        XLA:CPU pulls the producer of a product's vector operand into the product and
        recomputes it for every output element; it does not pull a concatenation of halves
        computed apart. An optimization barrier does not help, being gone before fusion. On a
        mesh each device halves its own part, so that nothing moves; `axis` names the last
        dimension.
        """
        if self.platform != Platform.CPU or rows >= ONE_BY_ONE or self.kernels:
            return function(*operands)
        shape = operands[0].shape
        shards = 1 if self.sharder is None else self.sharder.shards(axis, shape[-1])
        parts = operands
        if shards > 1:
            parts = tuple(x.reshape(*shape[:-1], shards, shape[-1] // shards) for x in operands)
        half = parts[0].shape[-1] // 2
        first = function(*(part[..., :half] for part in parts))
        second = function(*(part[..., half:] for part in parts))
        return jnp.concatenate([first, second], axis=-1).reshape(shape)
