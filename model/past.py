"""TransformerCache: keys and values as users of the modules hold them between calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from .cache import KVCache, LayerCache, init_cache
from .config import Gemma3TextConfig

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransformerCache:
    """The KV cache of a batch, a pytree; `cache[i]` is layer i's keys and values [B,K,S,H].

    Padding is never written: each row's tokens stand at positions 0, 1, ... whatever its padding.
    """

    layers: KVCache
    positions: Array
    """[B] int32, tokens of each row in the cache."""
    columns: Array
    """[] int32, columns of input that calls have fed, padding included."""
    starts: Array | None
    """[B] int32, leading columns of each row that are padding; None: found by the pad token."""
    max_length: int = dataclasses.field(metadata={"static": True})
    """Tokens a row can hold."""
    pad_token_id: int = dataclasses.field(metadata={"static": True})

    def __getitem__(self, layer: int) -> LayerCache:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Its parts by name, arrays as they are."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"layers": tuple(tuple(layer) for layer in self.layers)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransformerCache:
        """The inverse of `to_dict`."""
        layers = tuple(LayerCache(*layer) for layer in data["layers"])
        return cls(**{**data, "layers": layers})


_PARTS = ("key", "value", "positions")


def make_cache(
    config: Gemma3TextConfig, dtype: jnp.dtype, batch_size: int, max_length: int,
    starts: Array | int | None, shardings: Mapping[str, Sharding] | None, pad_token_id: int | None,
) -> TransformerCache:  # fmt: skip
    """A fresh cache for rows of up to `max_length` tokens, padding not counted.

    Args:
      starts: leading padding of each row, [B] or one for all; None finds it in the first call,
        where neither that call's attention_mask nor this says it.
      shardings: where `key` and `value` [B,K,S,H] and `positions` [B] go. The default is the
        device that JAX chooses.
      pad_token_id: None is the config's.

    Raises ValueError for a size below 1 or an unknown name in `shardings`.
    """
    if batch_size < 1 or max_length < 1:
        raise ValueError(
            f"init_cache: expected batch_size and max_length of at least 1, "
            f"got {batch_size} and {max_length}"
        )
    unknown = set(shardings or ()) - set(_PARTS)
    if unknown:
        raise ValueError(f"shardings: expected names from {_PARTS}, got {sorted(unknown)}")
    placed = dict(shardings or {})

    def place(part: str, array: Array) -> Array:
        return jax.device_put(array, placed[part]) if part in placed else array

    layers = tuple(
        LayerCache(place("key", layer.key), place("value", layer.value))
        for layer in init_cache(config, batch_size, max_length, dtype)
    )
    if starts is not None:
        starts = jnp.broadcast_to(jnp.asarray(starts, jnp.int32), (batch_size,))
    positions = place("positions", jnp.zeros(batch_size, jnp.int32))
    pad = config.pad_token_id if pad_token_id is None else pad_token_id
    return TransformerCache(layers, positions, jnp.int32(0), starts, max_length, pad)


def leading_padding(array: Array, padding_id: int) -> Array:
    """How many tokens before the first that is not padding: array [B,T] -> [B] int32."""
    pads = jnp.cumprod((array == padding_id).astype(jnp.int32), axis=-1)
    return jnp.sum(pads, axis=-1, dtype=jnp.int32)
