"""Running the decoder layers: each kind written once and called, or a scan over the period.

A lowered program that spells out every layer grows with their number, and so does the time to
lower it. Two ways round that, equal in what they compute:

- called: layers of one kind are one function of the module, called once per layer with its own
  weights and cache. XLA inlines the calls before it optimises, so this costs nothing at run
  time. It is what every program does unless told otherwise.
- scan: the period of local and global layers is a loop body. The compiler too sees only one
  period. Weights and caches are separate arguments of the program, so the loop must first copy
  them into stacks, and the caches back out: at run time that is a second copy of the model in
  memory, written in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ..config import Gemma3TextConfig, LayerType
from .remat import rematerialise

Array = jax.Array
Tree = Any
"""A pytree of arrays."""
LayerCall = Callable[[Any, Array, Tree, Tree], tuple[Array, Tree]]
"""(layer, x, what its kind shares, its own state) -> (x, its new state)."""
_Layer = Callable[[Tree, Array, Tree, Tree], tuple[Array, Tree]]
"""The same as a pure function: weights in the place of the layer."""


def run_layers(
    call: LayerCall, layers: Sequence[nnx.Module], config: Gemma3TextConfig, x: Array,
    shared: Mapping[LayerType, Tree], states: Sequence[Tree],
) -> tuple[Array, tuple[Tree, ...]]:  # fmt: skip
    """Put x [B,T,D] through every layer.

    Args:
      call: runs one layer; a layer's kind may change what it does, its number must not.
      config: layer_types gives the kind of each layer; scan_layers and gradient_checkpointing
        are obeyed.
      shared: for each kind what all its layers use, such as masks and rope tables.
      states: what each layer alone uses and renews, such as its cache; may be None each.

    Returns:
      x [B,T,D] after the last layer, and the new states in the order of the layers.
    """
    kinds = config.layer_types
    weights = [nnx.split(layer) for layer in layers]
    functions = {
        kind: _layer_function(call, weights[kinds.index(kind)][0], kind, config)
        for kind in sorted(set(kinds))
    }
    new: list[Tree] = []
    first = 0
    if config.scan_layers and (period := repeating_period(kinds)) * 2 <= len(kinds):
        first = len(kinds) // period * period
        x, new = _scan(
            functions, kinds[:period], [w for _, w in weights[:first]], x, shared, states
        )
    for index in range(first, len(kinds)):
        kind = kinds[index]
        x, state = functions[kind](weights[index][1], x, shared[kind], states[index])
        new.append(state)
    return x, tuple(new)


def repeating_period(kinds: Sequence[LayerType]) -> int:
    """The least p such that every layer is of the same kind as the one p before it."""
    for period in range(1, len(kinds)):
        if all(kinds[i] == kinds[i - period] for i in range(period, len(kinds))):
            return period
    return len(kinds)


def layers_form(config: Gemma3TextConfig) -> str:
    """`scan` or `unrolled`: how `run_layers` runs the layers of this config."""
    repeats = repeating_period(config.layer_types) * 2 <= config.num_hidden_layers
    return "scan" if config.scan_layers and repeats else "unrolled"


def _layer_function(
    call: LayerCall, graph: Any, kind: LayerType, config: Gemma3TextConfig
) -> _Layer:
    def layer(weights: Tree, x: Array, shared: Tree, state: Tree) -> tuple[Array, Tree]:
        return call(nnx.merge(graph, weights), x, shared, state)

    layer.__name__ = f"{kind.removesuffix('_attention')}_layer"
    # jit is what makes it a function of the module rather than a copy for each layer.
    return jax.jit(rematerialise(layer, config.gradient_checkpointing))


def _scan(
    functions: Mapping[LayerType, _Layer], kinds: Sequence[LayerType], weights: Sequence[Tree],
    x: Array, shared: Mapping[LayerType, Tree], states: Sequence[Tree],
) -> tuple[Array, list[Tree]]:  # fmt: skip
    """Scan over whole periods of `kinds`; `weights` has an entry for each layer that is in one."""
    size, count = len(kinds), len(weights)

    def stacked(trees: Sequence[Tree]) -> list[Tree]:
        """For each place in the period the trees of its layers, stacked."""
        return [
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees[index:count:size])
            for index in range(size)
        ]

    def body(x: Array, slices: tuple[list[Tree], list[Tree]]) -> tuple[Array, list[Tree]]:
        new = []
        for kind, weight, state in zip(kinds, *slices, strict=True):
            x, state = functions[kind](weight, x, shared[kind], state)
            new.append(state)
        return x, new

    x, new = jax.lax.scan(body, x, (stacked(weights), stacked(states)))
    return x, [
        jax.tree.map(lambda leaf, at=index // size: leaf[at], new[index % size])
        for index in range(count)
    ]
