"""Quantised weights: the arrays of a matrix stored by a scheme of recipes.py.

How the numbers are found is said in quantize.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .recipes import FORMATS, Recipe, Scheme

Array = jax.Array

SCALE = "_scale"
"""What the name of a weight's scales ends with, after the name of the weight."""


@dataclass(frozen=True)
class ParameterSpec:
    """A weight's checkpoint name, shape (out, in), dtype, logical axes and divisible units."""

    name: str
    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str, ...]
    counts: tuple[int, ...]


def stored_parameters(recipe: Recipe, spec: ParameterSpec) -> tuple[ParameterSpec, ...]:
    """What is stored for a weight: itself, or its numbers and its scales."""
    scheme = recipe.scheme(spec.name)
    if scheme == Scheme.NONE:
        return (spec,)
    numbers, scale = jnp.dtype(FORMATS[scheme].array), jnp.dtype(FORMATS[scheme].scale)
    name = spec.name + SCALE
    if not scheme.group:
        scales = ParameterSpec(name, spec.shape[:1], scale, spec.axes[:1], spec.counts[:1])
        return dataclasses.replace(spec, dtype=numbers), scales
    outputs, inputs = spec.shape
    assert inputs % scheme.group == 0, spec
    groups = inputs // scheme.group
    # Both are cut between groups, and where the matrix itself may be cut.
    counts = (spec.counts[0], math.gcd(spec.counts[1], groups))
    packed = ParameterSpec(spec.name, (outputs, inputs // 2), numbers, spec.axes, counts)
    return packed, ParameterSpec(name, (outputs, groups), scale, spec.axes, counts)


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix [O,I] in the arrays of its scheme: see recipes.py.

    `dtype` is that of the computation: activations may be rounded to it, never further where it
    is float32.
    """

    numbers: Array
    scale: Array
    scheme: Scheme
    dtype: jnp.dtype

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs) of the matrix."""
        outputs, width = self.numbers.shape
        return outputs, 2 * width if self.scheme == Scheme.INT4 else width


jax.tree_util.register_dataclass(
    QuantizedWeight, data_fields=["numbers", "scale"], meta_fields=["scheme", "dtype"]
)

Matrix = Array | QuantizedWeight


def assemble(
    recipe: Recipe, specs: Sequence[ParameterSpec], params: Mapping[str, Array]
) -> dict[str, Matrix]:
    """The weights of `specs` from what is stored of them; KeyError when something is missing."""
    weights: dict[str, Matrix] = {}
    for spec in specs:
        scheme = recipe.scheme(spec.name)
        value = params[spec.name]
        weights[spec.name] = (
            value
            if scheme == Scheme.NONE
            else QuantizedWeight(value, params[spec.name + SCALE], scheme, spec.dtype)
        )
    return weights


def rows_of(weight: Matrix, first: int, count: int) -> Matrix:
    """At most `count` outputs of a matrix, from `first` on."""
    return jax.tree.map(lambda part: part[first : first + count], weight)


def unpack(packed: Array, group: int) -> Array:
    """Pairs in bytes to numbers: uint8 [...,I/2] -> int8 [...,I] of -8 to 7.

    The halves of a group of `group` inputs share its bytes.
    """
    groups = packed.reshape(*packed.shape[:-1], -1, group // 2)
    low, high = groups & jnp.uint8(15), groups >> jnp.uint8(4)
    numbers = jnp.concatenate([low, high], axis=-1).astype(jnp.int8) - jnp.int8(8)
    return numbers.reshape(*packed.shape[:-1], -1)


def apply_scales(numbers: Array, scale: Array) -> Array:
    """numbers [...,I] times their scales, [...] or one a group [...,I/group] -> float32 [...,I]."""
    values, factors = numbers.astype(jnp.float32), scale.astype(jnp.float32)
    if scale.ndim < numbers.ndim:
        return values * factors[..., None]
    groups = values.reshape(*factors.shape, -1) * factors[..., None]
    return groups.reshape(numbers.shape)


def take_rows(weight: Matrix, index: Array) -> Array:
    """Rows of a matrix in float32: weight [O,I], index [...] -> [...,I]."""
    if not isinstance(weight, QuantizedWeight):
        return weight[index].astype(jnp.float32)
    numbers = weight.numbers[index]
    if weight.scheme == Scheme.INT4:
        numbers = unpack(numbers, weight.scheme.group)
    return apply_scales(numbers, weight.scale[index])
