"""What a forward pass must know beyond numbers: the platform it is lowered for, and the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .forms import Platform, choose_product, row_product
from .sharding import ACTIVATION, Sharder

Array = jax.Array


@dataclass(frozen=True)
class LoweringContext:
    """Passed down the modules; never changes what is computed, only how it is written."""

    platform: Platform = Platform.CPU
    sharder: Sharder | None = None

    def product(self, x: Array, weight: Array) -> Array:
        """x [...,I] times weight [O,I] transposed -> [...,O] float32, in the best form."""
        rows = x.size // x.shape[-1]
        form = choose_product(self.platform, rows, weight.dtype)
        if form is row_product:
            return form(x.reshape(rows, -1), weight).reshape(*x.shape[:-1], weight.shape[0])
        return form(x, weight)

    @property
    def _one_device(self) -> bool:
        return self.sharder is None or self.sharder.devices == 1

    def constrain(self, x: Array, axes: Sequence[str]) -> Array:
        """Tell the partitioner where an activation with these logical axes lives."""
        if self.sharder is None or self._one_device:
            return x
        spec = self.sharder.spec(ACTIVATION, axes, x.shape)
        sharding = self.sharder.sharding(spec)
        assert sharding is not None
        return jax.lax.with_sharding_constraint(x, sharding)

    def end_producer(self, x: Array, axis: str) -> Array:
        """x [...,size], computed in two halves and joined; `axis` is the last dimension's name.

        XLA:CPU pulls the producer of a product's vector operand into the product and
        recomputes it for every output element; it does not pull a concatenation. An
        optimization barrier does not help, being gone before fusion. On a mesh each device
        halves its own part, so that nothing moves.
        """
        if self.platform != Platform.CPU:
            return x
        shards = 1
        if self.sharder is not None:
            shards = self.sharder.shards(axis, x.shape[-1])
        parts = x.reshape(*x.shape[:-1], shards, x.shape[-1] // shards)
        half = parts.shape[-1] // 2
        return jnp.concatenate([parts[..., :half], parts[..., half:]], axis=-1).reshape(x.shape)


def softcap(x: Array, cap: float | None) -> Array:
    """cap * tanh(x / cap), or x itself when there is no cap."""
    return x if cap is None else jnp.tanh(x / cap) * cap
