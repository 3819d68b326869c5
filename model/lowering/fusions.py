"""What stands right before and right after the products of a layer.

A C++ kernel does these in the same call; elsewhere they are written out, for XLA to fuse.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .target import Target

Array = jax.Array


def rms_scale(x: Array, epsilon: float) -> Array:
    """1 / rms of x [...,D], [...,1] float32."""
    x = x.astype(jnp.float32)
    return jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def rms_scaled(x: Array, scale: Array, weight: Array) -> Array:
    """x [...,D] times `scale` [...,1] and 1 + weight [D], float32."""
    return x.astype(jnp.float32) * scale * (1.0 + weight.astype(jnp.float32))


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """The RMSNorm of x [...,D] by 1 + weight [D], float32."""
    return rms_scaled(x, rms_scale(x, epsilon), weight)


def gated(gate: Array, up: Array) -> Array:
    """gelu_tanh(gate) * up, elementwise."""
    return jax.nn.gelu(gate, approximate=True) * up


@dataclass(frozen=True)
class Normed:
    """The RMSNorm of x [B,T,D] float32, to be multiplied; weight [D] is what 1 is added to."""

    x: Array
    weight: Array
    epsilon: float

    def written(self, target: Target) -> Array:
        """[B,T,D] float32."""
        scale = rms_scale(self.x, self.epsilon)
        return target.in_halves(
            self.x.shape[0] * self.x.shape[1], lambda x, w: rms_scaled(x, scale, w), "norm",
            self.x, self.weight,
        )  # fmt: skip


@dataclass(frozen=True)
class Gated:
    """gelu_tanh(x) * up, each [B,T,F] float32, to be multiplied."""

    x: Array
    up: Array

    def written(self, target: Target) -> Array:
        """[B,T,F] float32."""
        rows = self.x.shape[0] * self.x.shape[1]
        wide = target.in_halves(rows, gated, "ffw", self.x, self.up)
        return target.constrain(wide, ("batch", "tokens", "ffw"))


Operand = Array | Normed | Gated


@dataclass(frozen=True)
class AddedNorm:
    """residual [B,T,D] float32 plus the RMSNorm of a product; weight [D] is what 1 is added to."""

    residual: Array
    weight: Array
    epsilon: float

    def written(self, product: Array) -> Array:
        """product [B,T,D] float32 -> the same shape."""
        return self.residual + rms_norm(product, self.weight, self.epsilon)


def kernel_arguments(
    operand: Operand, after: AddedNorm | None, rows: int
) -> tuple[list[Array], dict[str, str | np.float32]]:
    """What a product's kernel takes before its matrices, x first, and its attributes.

    Everything [B,T,...] becomes [rows,...].
    """

    def flat(array: Array) -> Array:
        return array.reshape(rows, -1)

    epsilons = {part.epsilon for part in (operand, after) if isinstance(part, Normed | AddedNorm)}
    assert len(epsilons) <= 1, epsilons
    before = ""
    match operand:
        case Normed():
            before, arrays = "norm", [flat(operand.x), operand.weight]
        case Gated():
            before, arrays = "gate", [flat(operand.x), flat(operand.up)]
        case _:
            arrays = [flat(operand)]
    if after is not None:
        arrays += [after.weight, flat(after.residual)]
    attributes = {
        "before": before, "after": "" if after is None else "norm",
        "epsilon": np.float32(epsilons.pop() if epsilons else 0.0),
    }  # fmt: skip
    return arrays, attributes
