"""Quantised weights: how a matrix is stored in fewer bits, and which matrices are.

A matrix W [O,I] is kept as small numbers and scales, W = numbers * scale:

    int8   numbers int8 [O,I], one scale float32 for each output: [O]
    fp8    numbers float8_e4m3fn [O,I], one scale float32 for each output: [O]
    int4   numbers -8..7, a scale bfloat16 for each group of 32 inputs of an output: [O,I/32].
           Two numbers lie in a byte, each plus 8: byte b of a group holds number b of the group
           in its low half and number b + 16 in its high half (as GGML's Q4_0): uint8 [O,I/2]

How the numbers are found is quantizing.py's business.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

Array = jax.Array

GROUP = 32
"""Inputs that share a scale in int4."""
SCALE = "_scale"
"""What the name of a weight's scales ends with, after the name of the weight."""

_LAYER_MATRIX = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight")
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


class Scheme(enum.StrEnum):
    """How the numbers of a matrix are stored."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"


@dataclass(frozen=True)
class ParameterSpec:
    """A weight's checkpoint name, shape (out, in), dtype, logical axes and divisible units."""

    name: str
    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """Which scheme each matrix gets. Norms, biases, the vision side and small heads get none."""

    layers: Scheme = Scheme.NONE
    """The projections of attention and MLP in every layer of the text stack."""
    embedding: Scheme = Scheme.NONE
    """The embedding, and the head over the vocabulary, tied or not."""

    def scheme(self, name: str) -> Scheme:
        """The scheme of the weight called `name`."""
        if name in _VOCABULARY:
            return self.embedding
        return self.layers if _LAYER_MATRIX.fullmatch(name) else Scheme.NONE

    def stored(self, spec: ParameterSpec) -> tuple[ParameterSpec, ...]:
        """What is stored for a weight: itself, or its numbers and its scales."""
        scheme = self.scheme(spec.name)
        if scheme == Scheme.NONE:
            return (spec,)
        numbers = {Scheme.INT8: jnp.int8, Scheme.FP8: jnp.float8_e4m3fn, Scheme.INT4: jnp.uint8}
        dtype = jnp.dtype(numbers[scheme])
        name = spec.name + SCALE
        if scheme != Scheme.INT4:
            scale = ParameterSpec(
                name, spec.shape[:1], jnp.dtype(jnp.float32), spec.axes[:1], spec.counts[:1]
            )
            return dataclasses.replace(spec, dtype=dtype), scale
        outputs, inputs = spec.shape
        assert inputs % GROUP == 0, spec
        groups = inputs // GROUP
        # Both are cut between groups, and where the matrix itself may be cut.
        counts = (spec.counts[0], math.gcd(spec.counts[1], groups))
        packed = ParameterSpec(spec.name, (outputs, inputs // 2), dtype, spec.axes, counts)
        scales = ParameterSpec(name, (outputs, groups), jnp.dtype(jnp.bfloat16), spec.axes, counts)
        return packed, scales


UNQUANTIZED = Recipe()
BY_BITS = {
    None: UNQUANTIZED,
    8: Recipe(Scheme.INT8, Scheme.INT8),
    4: Recipe(Scheme.INT4, Scheme.INT8),
}
"""What a config's `bits` asks for."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix [O,I] in the arrays of its scheme, as the module docstring says.

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


def unpacked(packed: Array) -> Array:
    """Pairs in bytes to numbers: uint8 [...,I/2] -> int8 [...,I] of -8 to 7."""
    groups = packed.reshape(*packed.shape[:-1], -1, GROUP // 2)
    low, high = groups & jnp.uint8(15), groups >> jnp.uint8(4)
    numbers = jnp.concatenate([low, high], axis=-1).astype(jnp.int8) - jnp.int8(8)
    return numbers.reshape(*packed.shape[:-1], -1)


def scaled(numbers: Array, scale: Array) -> Array:
    """numbers [...,I] times their scales, [...] or one a group [...,I/32] -> float32 [...,I]."""
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
        numbers = unpacked(numbers)
    return scaled(numbers, weight.scale[index])
