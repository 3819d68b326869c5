"""Rotary position embedding: every Hugging Face variant, with tables in float32.

Source: transformers `modeling_rope_utils.py`. Each kind of layer has a base and a variant of its
own: `rope_theta` and `rope_scaling`, `rope_local_base_freq` and `rope_local_scaling`.

`dynamic` and `longrope` depend on the length of the sequence. Hugging Face chooses the
frequencies of a forward call by the largest position in that call, and keys already in the
cache stay as they were rotated. So do we, per row: a prefill chunk or a decode step selects
by its own last valid position.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .config import Gemma3TextConfig, LayerType
from .config_rope import RopeType, rope_type

Array = jax.Array


class _Variant(NamedTuple):
    """The rotary embedding of one kind of layer."""

    theta: float
    kind: RopeType
    scaling: dict[str, Any]
    head_dim: int
    positions: int
    """max_position_embeddings."""

    @property
    def base(self) -> np.ndarray:
        """Inverse frequencies before scaling, [H/2] float32."""
        return _inverse_frequencies(self.theta, self.head_dim)

    @property
    def original(self) -> float:
        """The context length before scaling."""
        return self.scaling.get("original_max_position_embeddings") or self.positions


def _variant(config: Gemma3TextConfig, layer_type: LayerType) -> _Variant:
    if layer_type == LayerType.SLIDING:
        theta, scaling = config.rope_local_base_freq, config.rope_local_scaling
    else:
        theta, scaling = config.rope_theta, config.rope_scaling
    return _Variant(
        theta, rope_type(scaling), scaling or {}, config.head_dim, config.max_position_embeddings
    )


def local_frequencies(config: Gemma3TextConfig) -> np.ndarray:
    """Inverse frequencies of the sliding layers before any scaling, [head_dim / 2] float32."""
    return _inverse_frequencies(config.rope_local_base_freq, config.head_dim)


def rope_tables(
    config: Gemma3TextConfig, layer_type: LayerType, positions: Array, last: Array
) -> tuple[Array, Array]:
    """Cosine and sine tables for one kind of layer.

    Args:
      positions: [B,T] int32 absolute positions.
      last: [B] int32, the largest valid position of each row in this call.

    Returns:
      cos, sin: [B,T,head_dim/2] float32, already multiplied by the variant's attention factor.
    """
    frequencies, scale = _frequencies(_variant(config, layer_type), last)
    if frequencies.ndim == 1:
        frequencies = frequencies[None, :]
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies[:, None, :]  # [B,T,H/2]
    return jnp.cos(angles) * np.float32(scale), jnp.sin(angles) * np.float32(scale)


def apply_rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate x [B,T,heads,H] by half-split pairs; cos and sin are [B,T,H/2].

    The result ends in a concatenation: XLA:CPU does not fuse that into the product that
    consumes it, where it would be recomputed for every output element.
    """
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _inverse_frequencies(theta: float, head_dim: int) -> np.ndarray:
    # In float64, rounded once: an error of one ulp here grows with the position.
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return (float(theta) ** -exponents).astype(np.float32)


def _frequencies(variant: _Variant, last: Array) -> tuple[Array, float]:
    """Inverse frequencies, [H/2] or per row [B,H/2], and the factor on cos and sin."""
    match variant.kind:
        case RopeType.DEFAULT:
            return jnp.asarray(variant.base), 1.0
        case RopeType.LINEAR:
            return jnp.asarray(variant.base / np.float32(variant.scaling["factor"])), 1.0
        case RopeType.DYNAMIC:
            return _dynamic(variant, last), 1.0
        case RopeType.YARN:
            return _yarn(variant)
        case RopeType.LONGROPE:
            return _longrope(variant, last)
        case RopeType.LLAMA3:
            return jnp.asarray(_llama3(variant)), 1.0


def _dynamic(variant: _Variant, last: Array) -> Array:
    """NTK-aware base by the current length, once that exceeds max_position_embeddings."""
    factor, dim, limit = float(variant.scaling["factor"]), variant.head_dim, variant.positions
    length = jnp.maximum(last + 1, limit).astype(jnp.float32)  # [B]
    stretch = (factor * length / limit) - (factor - 1.0)
    theta = variant.theta * stretch ** (dim / (dim - 2))  # [B]
    exponents = jnp.arange(0, dim, 2, dtype=jnp.float32) / dim
    return 1.0 / theta[:, None] ** exponents[None, :]


def _yarn(variant: _Variant) -> tuple[Array, float]:
    """Interpolate low frequencies, keep high ones, with a linear ramp between (YaRN)."""
    scaling, base, original = variant.scaling, variant.base, variant.original
    dim, theta = variant.head_dim, variant.theta
    factor = float(scaling["factor"])

    def magnitude(scale: float, mscale: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0

    attention_factor = scaling.get("attention_factor")
    if attention_factor is None:
        mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
        if mscale and mscale_all:
            attention_factor = magnitude(factor, mscale) / magnitude(factor, mscale_all)
        else:
            attention_factor = magnitude(factor)

    def correction_dim(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = correction_dim(scaling.get("beta_fast") or 32)
    high = correction_dim(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    blended = base / np.float32(factor) * ramp + base * (1 - ramp)
    return jnp.asarray(blended.astype(np.float32)), float(attention_factor)


def _longrope(variant: _Variant, last: Array) -> tuple[Array, float]:
    """Short factors up to the original length, long factors beyond it."""
    scaling, base, original = variant.scaling, variant.base, variant.original
    factor = scaling.get("factor") or variant.positions / original
    attention_factor = scaling.get("attention_factor")
    if attention_factor is None:
        attention_factor = (
            1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        )
    short = base / np.asarray(scaling["short_factor"], np.float32)
    long = base / np.asarray(scaling["long_factor"], np.float32)
    is_long = (last + 1 > original)[:, None]  # [B,1]
    return jnp.where(is_long, jnp.asarray(long), jnp.asarray(short)), float(attention_factor)


def _llama3(variant: _Variant) -> np.ndarray:
    """Scale long wavelengths, keep short ones, blend smoothly in the middle band."""
    scaling, base, original = variant.scaling, variant.base, variant.original
    factor = scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / base
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * base / factor + smooth * base
    scaled = np.where(wavelength > original / low, base / factor, base)
    medium = (wavelength >= original / high) & (wavelength <= original / low)
    return np.where(medium, blended, scaled).astype(np.float32)
