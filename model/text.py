"""The Gemma 3 text stack as flax.nnx modules, named as in Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .attention import (
    HeadNorms,
    Visibility,
    attend,
    attend_within,
    attention_kernel,
    attention_weights,
    kernel_attends,
)
from .batch import last_place, row_at
from .cache import (
    KVCache,
    LayerCache,
    cached,
    reach,
    update_layer,
    weights_by_position,
)
from .config import Gemma3TextConfig, LayerType
from .context import LoweringContext
from .forms import ATTENTION_KERNEL
from .operands import AddedNorm, Gated, Normed, Operand, rms_norm
from .quantized import take_rows
from .rope import apply_rope, rope_tables

Array = jax.Array


def parameter(
    shape: Sequence[int], axes: Sequence[str], dtype: jnp.dtype, std: float,
    rngs: nnx.Rngs | None, counts: Sequence[int] | None = None,
) -> nnx.Param:  # fmt: skip
    """A weight declared once: shape, dtype, logical axes and initialiser.

    `counts` are the units each dimension may be cut into (default: its size). Without rngs
    the weight is abstract: shape and dtype only, as lowering needs it.
    """
    if rngs is None:
        value = jax.ShapeDtypeStruct(tuple(shape), dtype)
    else:
        normal = jax.random.normal(rngs.params(), tuple(shape), jnp.float32)
        value = (normal * np.float32(std)).astype(dtype)
    return nnx.Param(value, axes=tuple(axes), counts=tuple(counts or shape))


class Linear(nnx.Module):
    """y = x W^T (+ b) with W (out, in), as the checkpoint stores it."""

    def __init__(
        self, shape: tuple[int, int], axes: tuple[str, str], config: Gemma3TextConfig,
        dtype: jnp.dtype, rngs: nnx.Rngs | None, *, bias: bool = False,
        counts: tuple[int, int] | None = None,
    ):  # fmt: skip
        std = config.initializer_range
        self.weight = parameter(shape, axes, dtype, std, rngs, counts)
        if bias:
            self.bias = parameter(shape[:1], axes[:1], dtype, 0.0, rngs, (counts or shape)[:1])
        self.has_bias = bias
        self.role = f"{axes[1]} to {axes[0]}"

    def __call__(
        self, x: Operand, context: LoweringContext, after: AddedNorm | None = None
    ) -> Array:
        """x [...,in] float32 -> [...,out] float32, with `after` done to it."""
        return project([self], x, context, after)[0]


def project(
    linears: Sequence[Linear], x: Operand, context: LoweringContext, after: AddedNorm | None = None
) -> list[Array]:
    """x [...,in] float32 by each of `linears`, which read the same -> [...,out] float32 each.

    `after` is done to what comes out.
    """
    weights = [linear.weight.get_value() for linear in linears]
    biased = any(linear.has_bias for linear in linears)
    joined = None if biased else after
    made = context.products(x, weights, [linear.role for linear in linears], joined)
    if not biased:
        return made
    made = [
        y + linear.bias[...].astype(jnp.float32) if linear.has_bias else y
        for y, linear in zip(made, linears, strict=True)
    ]
    return made if after is None else [after.written(y) for y in made]


class Gemma3RMSNorm(nnx.Module):
    """x / rms(x) * (1 + w) in float32; the checkpoint stores w, which begins at 0."""

    kernel_init = staticmethod(jax.nn.initializers.ones)
    """Ones: what 1 + w is to begin with, as EasyDeL has it."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.weight = parameter((size,), ("norm",), dtype, 0.0, rngs)
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """x [...,size] -> same shape, float32."""
        return rms_norm(x, self.weight[...], self.eps)

    def before(self, x: Array) -> Normed:
        """The same of x [B,T,size], to be multiplied."""
        return Normed(x, self.weight[...], self.eps)

    def onto(self, residual: Array) -> AddedNorm:
        """The same of a product [B,T,size] that is to come, added to `residual`."""
        return AddedNorm(residual, self.weight[...], self.eps)


class Gemma3TextScaledWordEmbedding(nnx.Module):
    """Token embeddings times sqrt(D), that factor rounded to the weight's dtype."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        shape = (config.vocab_size, config.hidden_size)
        axes = ("vocab_in", "embed_in")
        self.weight = parameter(shape, axes, dtype, config.initializer_range, rngs)
        self.scale = float(np.asarray(config.hidden_size**0.5).astype(dtype))

    def __call__(self, tokens: Array) -> Array:
        """tokens [B,T] int32 -> [B,T,D] float32."""
        return take_rows(self.weight.get_value(), tokens) * self.scale


class Gemma3MLP(nnx.Module):
    """down(gelu_tanh(gate(x)) * up(x))."""

    def __init__(self, config: Gemma3TextConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        D, F = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear((F, D), ("ffw", "embed"), config, dtype, rngs)
        self.up_proj = Linear((F, D), ("ffw", "embed"), config, dtype, rngs)
        self.down_proj = Linear((D, F), ("embed", "ffw"), config, dtype, rngs)

    def __call__(
        self, x: Operand, context: LoweringContext, after: AddedNorm | None = None
    ) -> Array:
        """x [B,T,D] -> [B,T,D] float32, with `after` done to it."""
        gate, up = project([self.gate_proj, self.up_proj], x, context)
        return self.down_proj(Gated(gate, up), context, after)


class Gemma3Attention(nnx.Module):
    """Grouped-query attention with RMSNorm on queries and keys."""

    def __init__(
        self,
        config: Gemma3TextConfig,
        layer_type: LayerType,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        D, N, K = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        H, bias = config.head_dim, config.attention_bias
        self.config, self.layer_type, self.dtype = config, layer_type, dtype
        q_axes, kv_axes = ("heads", "embed"), ("kv_heads", "embed")
        self.q_proj = Linear(
            (N * H, D), q_axes, config, dtype, rngs, bias=bias, counts=(N, D))  # fmt: skip
        self.k_proj = Linear(
            (K * H, D), kv_axes, config, dtype, rngs, bias=bias, counts=(K, D))  # fmt: skip
        self.v_proj = Linear(
            (K * H, D), kv_axes, config, dtype, rngs, bias=bias, counts=(K, D))  # fmt: skip
        self.o_proj = Linear(
            (D, N * H), ("embed", "heads"), config, dtype, rngs, bias=bias, counts=(D, N)
        )
        self.q_norm = Gemma3RMSNorm(H, config.rms_norm_eps, dtype, rngs)
        self.k_norm = Gemma3RMSNorm(H, config.rms_norm_eps, dtype, rngs)

    def __call__(
        self, x: Operand, step: LayerStep, cache: LayerCache, context: LoweringContext,
        after: AddedNorm | None = None,
    ) -> tuple[Array, LayerCache]:  # fmt: skip
        """x [B,T,D] -> ([B,T,D] float32, the layer's cache with the chunk written).

        `after` is done to the first.
        """
        if kernel_attends(cache, context):
            mixed, cache = self._extend_by_kernel(x, step, cache, context)
            return self.o_proj(mixed, context, after), cache
        query, new = self._project(x, step.rope, cache.key.dtype, context)
        mixed = attend(
            query, new, cache, step.visible,
            self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping, context,
            self.layer_type,
        )  # fmt: skip
        start = context.after(mixed, step.start)
        cache = update_layer(self.layer_type, cache, new, start, step.length, context.platform)
        return self._output(mixed, context, after), cache

    def _extend_by_kernel(
        self, x: Operand, step: LayerStep, cache: LayerCache, context: LoweringContext
    ) -> tuple[Array, LayerCache]:
        """All before the last projection, most of it by one C++ kernel: [B,T,N*H] and the cache."""
        config, kind = self.config, self.layer_type
        context.forms[str(kind)] = ATTENTION_KERNEL
        norms = HeadNorms(self.q_norm.weight[...], self.k_norm.weight[...], config.rms_norm_eps)
        return attention_kernel(
            project([self.q_proj, self.k_proj, self.v_proj], x, context), norms, step.rope,
            step.start, step.length, step.visible.groups, cache, kind,
            reach(kind, config.sliding_window), config.query_pre_attn_scalar**-0.5,
            config.attn_logit_softcapping,
        )  # fmt: skip

    def weights(
        self, x: Operand, step: LayerStep, cache: LayerCache, context: LoweringContext,
        positions: int,
    ) -> Array:  # fmt: skip
        """What a call with the same arguments gives to the key at each position.

        x [B,T,D] -> [B,N,T,positions] float32. The call's projections and scores are written
        again, and merged by the compiler.
        """
        query, new = self._project(x, step.rope, cache.key.dtype, context)
        old, own = attention_weights(
            query, new, cache, step.visible,
            self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping,
        )  # fmt: skip
        weights = weights_by_position(self.layer_type, old, own, step.start, positions)
        return context.constrain(weights, ("batch", "heads", "tokens", "norm"))

    def encode(
        self, x: Operand, rope: tuple[Array, Array], visible: Array, context: LoweringContext,
        after: AddedNorm | None = None,
    ) -> Array:  # fmt: skip
        """Without a cache: x [B,T,D], visible [B,T,T] bool -> [B,T,D] float32, `after` done."""
        query, new = self._project(x, rope, self.dtype, context)
        scale, cap = self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping
        return self._output(attend_within(query, new, visible, scale, cap), context, after)

    def _project(
        self, x: Operand, rope: tuple[Array, Array], dtype: jnp.dtype, context: LoweringContext
    ) -> tuple[Array, LayerCache]:
        """Rotated queries [B,T,N,H], and keys and values [B,K,T,H] kept in `dtype`.

        Queries are float32; where `dtype` is int8, in the dtype that they meet keys in.
        """
        H = self.config.head_dim
        cos, sin = rope
        query, key, value = (
            y.reshape(*y.shape[:2], -1, H)
            for y in project([self.q_proj, self.k_proj, self.v_proj], x, context)
        )
        query, key = self.q_norm(query), self.k_norm(key)
        query = context.constrain(apply_rope(query, cos, sin), ("batch", "tokens", "heads", "norm"))
        kv_axes = ("batch", "tokens", "kv_heads", "norm")
        key = context.constrain(apply_rope(key, cos, sin), kv_axes)
        value = context.constrain(value, kv_axes)
        if dtype == jnp.int8:
            query = query.astype(self.dtype)
        return query, cached(key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), dtype)

    def _output(self, mixed: Array, context: LoweringContext, after: AddedNorm | None) -> Array:
        """mixed [B,T,N,H] -> [B,T,D] float32, `after` done."""
        mixed = context.constrain(mixed, ("batch", "tokens", "heads", "norm"))
        return self.o_proj(mixed.reshape(*mixed.shape[:2], -1), context, after)


class Gemma3DecoderLayer(nnx.Module):
    """Attention and MLP, each between two norms, each on a residual."""

    def __init__(
        self,
        config: Gemma3TextConfig,
        layer_type: LayerType,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        D, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Gemma3Attention(config, layer_type, dtype, rngs)
        self.mlp = Gemma3MLP(config, dtype, rngs)
        self.input_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.post_attention_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.pre_feedforward_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.post_feedforward_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)

    def __call__(
        self, x: Array, step: LayerStep, cache: LayerCache, context: LoweringContext
    ) -> tuple[Array, LayerCache]:
        """x [B,T,D] -> ([B,T,D], cache)."""
        x, cache = self.self_attn(
            self.input_layernorm.before(x), step, cache, context,
            self.post_attention_layernorm.onto(x),
        )  # fmt: skip
        return self._finish(x, context), cache

    def attention_weights(
        self, x: Array, step: LayerStep, cache: LayerCache, context: LoweringContext,
        positions: int,
    ) -> Array:  # fmt: skip
        """x [B,T,D] -> what its tokens give to the key at each position, [B,N,T,positions]."""
        normed = self.input_layernorm.before(x)
        return self.self_attn.weights(normed, step, cache, context, positions)

    def encode(
        self, x: Array, rope: tuple[Array, Array], visible: Array, context: LoweringContext
    ) -> Array:
        """Without a cache: x [B,T,D], visible [B,T,T] bool -> [B,T,D]."""
        x = self.self_attn.encode(
            self.input_layernorm.before(x), rope, visible, context,
            self.post_attention_layernorm.onto(x),
        )  # fmt: skip
        return self._finish(x, context)

    def _finish(self, x: Array, context: LoweringContext) -> Array:
        """The MLP's half of the layer."""
        x = self.mlp(
            self.pre_feedforward_layernorm.before(x), context,
            self.post_feedforward_layernorm.onto(x),
        )  # fmt: skip
        return context.constrain(x, ("batch", "tokens", "norm"))


class LayerStep(NamedTuple):
    """What the layers of one kind share in one call: positions, masks and rope tables."""

    start: Array
    """[B] int32, position of each row's first token."""
    length: Array | None
    """[B] int32, valid tokens of each row; None is one token in every row."""
    visible: Visibility
    rope: tuple[Array, Array]


def layer_steps(
    config: Gemma3TextConfig, start: Array, length: Array | None, tokens: int, cache: KVCache,
    context: LoweringContext, groups: Array | None = None, rotated: Array | None = None,
) -> dict[LayerType, LayerStep]:  # fmt: skip
    """For each kind of layer what a chunk of `tokens` tokens is to it.

    `groups` [B,T] are the chunk's images, see image_groups; None where it has none. `rotated`
    [B,T] are positions for the rotary embedding that are not on from `start`.
    """
    positions = start[:, None] + jnp.arange(tokens, dtype=jnp.int32)[None, :]  # [B,T]
    final = jnp.zeros_like(start) if length is None else last_place(length)
    last = start if length is None else start + final
    turned = positions
    if rotated is not None:
        turned, last = rotated, row_at(rotated, final)
    steps: dict[LayerType, LayerStep] = {}
    for kind, layer in zip(config.layer_types, cache, strict=True):
        if kind in steps:
            continue
        slots, window = layer.key.shape[2], config.sliding_window
        visible = Visibility.of(kind, slots, window, start, tokens, groups)
        rope = context.made_once(*rope_tables(config, kind, turned, last), turned)
        steps[kind] = LayerStep(start, length, visible, rope)
    return steps
