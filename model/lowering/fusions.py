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


def apply_rms_scale(x: Array, scale: Array, weight: Array) -> Array:
    """x [...,D] times `scale` [...,1] and 1 + weight [D], float32."""
    return x.astype(jnp.float32) * scale * (1.0 + weight.astype(jnp.float32))


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """The RMSNorm of x [...,D] by 1 + weight [D], float32."""
    return apply_rms_scale(x, rms_scale(x, epsilon), weight)


def gelu_gate(gate: Array, up: Array) -> Array:
    """gelu_tanh(gate) * up, elementwise."""
    return jax.nn.gelu(gate, approximate=True) * up


@dataclass(frozen=True)
class Norm:
    """The RMSNorm of x [B,T,D] float32, to be multiplied; weight [D] is what 1 is added to."""

    x: Array
    weight: Array
    epsilon: float

    def lower(self, target: Target) -> Array:
        """[B,T,D] float32."""
        scale = rms_scale(self.x, self.epsilon)
        return target.in_halves(
            self.x.shape[0] * self.x.shape[1], lambda x, w: apply_rms_scale(x, scale, w), "norm",
            self.x, self.weight,
        )  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """gelu_tanh(x) * up, each [B,T,F] float32, to be multiplied."""

    x: Array
    up: Array

    def lower(self, target: Target) -> Array:
        """[B,T,F] float32."""
        rows = self.x.shape[0] * self.x.shape[1]
        wide = target.in_halves(rows, gelu_gate, "ffw", self.x, self.up)
        return target.constrain(wide, ("batch", "tokens", "ffw"))


Operand = Array | Norm | Gate


@dataclass(frozen=True)
class AddNorm:
    """residual [B,T,D] float32 plus the RMSNorm of a product; weight [D] is what 1 is added to."""

    residual: Array
    weight: Array
    epsilon: float

    def apply(self, product: Array) -> Array:
        """product [B,T,D] float32 -> the same shape."""
        return self.residual + rms_norm(product, self.weight, self.epsilon)


def kernel_arguments(
    operand: Operand, epilogue: AddNorm | None, rows: int
) -> tuple[list[Array], dict[str, str | np.float32]]:
    """What a product's kernel takes before its matrices, x first, and its attributes.

    Everything [B,T,...] becomes [rows,...].
    """

    def flat(array: Array) -> Array:
        return array.reshape(rows, -1)

    epsilons = {part.epsilon for part in (operand, epilogue) if isinstance(part, Norm | AddNorm)}
    assert len(epsilons) <= 1, epsilons
    prologue = ""
    match operand:
        case Norm():
            prologue, arrays = "norm", [flat(operand.x), operand.weight]
        case Gate():
            prologue, arrays = "gate", [flat(operand.x), flat(operand.up)]
        case _:
            arrays = [flat(operand)]
    if epilogue is not None:
        arrays += [epilogue.weight, flat(epilogue.residual)]
    attributes = {
        "before": prologue, "after": "" if epilogue is None else "norm",
        "epsilon": np.float32(epsilons.pop() if epsilons else 0.0),
    }  # fmt: skip
    return arrays, attributes
