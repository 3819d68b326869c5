"""TransformerCache: keys and values as users of the modules keep them between calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from ..cache import KVCache, LayerCache, cache_slots
from ..config import Gemma3TextConfig

Array = jax.Array


class KeysAndValues(NamedTuple):
    """The keys and values of one layer, each [B,K,S,H]."""

    key: Array
    value: Array


@dataclasses.dataclass(frozen=True)
class CacheMetadata:
    """What a cache is made from: its sizes."""

    batch_size: int
    max_length: int
    """Tokens a row can hold, padding not counted."""
    pad_token_id: int
    slots: tuple[int, ...]
    """Of each layer, how many tokens it keeps: on sliding layers the newest."""
    num_key_value_heads: int
    head_dim: int
    dtype: jnp.dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransformerCache:
    """The KV cache of a batch, a pytree; `key, value = cache[i]` are layer i's, [B,K,S,H] each.

    Padding is never written: each row's tokens are at positions 0, 1, ... whatever its padding.
    """

    layers: KVCache
    positions: Array
    """[B] int32, tokens of each row in the cache. More than max_length: a compiled call was given
    more than fits, gave NaN for that row, and lost some of its tokens."""
    columns: Array
    """[] int32, columns of input that calls have fed, padding included."""
    starts: Array | None
    """[B] int32, leading columns of each row that are padding; None: found by the pad token."""
    max_length: int = dataclasses.field(metadata={"static": True})
    """Tokens a row can hold."""
    pad_token_id: int = dataclasses.field(metadata={"static": True})

    def __getitem__(self, layer: int) -> KeysAndValues:
        return _keys_and_values(self.layers[layer])

    def __iter__(self) -> Iterator[KeysAndValues]:
        return map(_keys_and_values, self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @classmethod
    def init_cache(
        cls, metadata: CacheMetadata, starts: Array | int | None = None,
        shardings: Mapping[str, Sharding] | None = None,
    ) -> TransformerCache:  # fmt: skip
        """A fresh cache.

        Args:
          starts: leading padding of each row, [B] or one for all; None finds it in the first call,
            where neither that call's attention_mask nor this says it.
          shardings: where `key` and `value` [B,K,S,H] and `positions` [B] go. The default is the
            device that JAX chooses.

        Raises ValueError for an unknown name in `shardings`.
        """
        unknown = set(shardings or ()) - set(_PARTS)
        if unknown:
            raise ValueError(f"shardings: expected names from {_PARTS}, got {sorted(unknown)}")

        def layer(slots: int) -> LayerCache:
            shape = (metadata.batch_size, metadata.num_key_value_heads, slots, metadata.head_dim)
            empty = (put(part, jnp.zeros(shape, metadata.dtype), shardings) for part in _PARTS[:2])
            return LayerCache(*empty)

        rows = metadata.batch_size
        if starts is not None:
            starts = jnp.broadcast_to(jnp.asarray(starts, jnp.int32), (rows,))
        return cls(
            tuple(map(layer, metadata.slots)),
            put("positions", jnp.zeros(rows, jnp.int32), shardings), jnp.int32(0), starts,
            metadata.max_length, metadata.pad_token_id,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Its parts by name, arrays as they are."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return fields | {"layers": tuple(tuple(layer) for layer in self.layers)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TransformerCache:
        """The inverse of `to_dict`."""
        layers = tuple(LayerCache(*layer) for layer in data["layers"])
        return cls(**{**data, "layers": layers})


def _keys_and_values(layer: LayerCache) -> KeysAndValues:
    if layer.key_scale is not None:
        raise ValueError("an int8 cache has scales beside keys and values: see cache.layers")
    return KeysAndValues(layer.key, layer.value)


_PARTS = ("key", "value", "positions")


def put(part: str, array: Array, shardings: Mapping[str, Sharding] | None) -> Array:
    """The array, moved to the sharding of that part if there is one."""
    sharding = (shardings or {}).get(part)
    return array if sharding is None else jax.device_put(array, sharding)


def cache_metadata(
    config: Gemma3TextConfig, dtype: jnp.dtype, batch_size: int, max_length: int,
    pad_token_id: int | None,
) -> CacheMetadata:  # fmt: skip
    """Sizes of a cache for rows of up to `max_length` tokens, padding not counted.

    Sliding layers keep a window of them; all where config.cache_implementation is `static`, and
    then position p is in slot p on every layer. Keys and values are of `dtype`, the model's: int8
    caches are the export's. pad_token_id of None is the config's. Raises ValueError for a size
    below 1.
    """
    if batch_size < 1 or max_length < 1:
        raise ValueError(
            f"init_cache: expected batch_size and max_length of at least 1, "
            f"got {batch_size} and {max_length}"
        )
    is_static = config.cache_implementation == "static"
    slots = tuple(
        max_length if is_static else cache_slots(config, kind, max_length)
        for kind in config.layer_types
    )
    return CacheMetadata(
        batch_size, max_length, config.pad_token_id if pad_token_id is None else pad_token_id,
        slots, config.num_key_value_heads, config.head_dim, jnp.dtype(dtype),
    )  # fmt: skip


def leading_padding(array: Array, padding_id: int) -> Array:
    """The number of padding tokens at the beginning of each row: array [B,T] -> [B] int32."""
    pads = jnp.cumprod((array == padding_id).astype(jnp.int32), axis=-1)
    return jnp.sum(pads, axis=-1, dtype=jnp.int32)
