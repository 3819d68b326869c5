"""The Gemma 3 text stack as flax.nnx modules, named as in Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .attention import (
    HeadNorms,
    attend,
    attend_within,
    attention_kernel,
    attention_weights,
    kernel_attends,
    weights_within,
)
from .cache import (
    LayerCache,
    cached,
    reach,
    update_layer,
    weights_by_position,
)
from .config import Gemma3TextConfig, LayerType
from .dropout import Dropout, dropout_key, layer_dropout
from .lowering.context import LoweringContext, local_context
from .lowering.forms import ATTENTION_KERNEL
from .lowering.fusions import AddNorm, Gate, Norm, Operand, rms_norm
from .lowering.quantized import take_rows
from .rope import apply_rope
from .steps import LayerStep
from .whole import AttentionLayerOutput, DecoderLayerOutput, WholeText

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
        self,
        x: Operand,
        context: LoweringContext | None = None,
        epilogue: AddNorm | None = None,
    ) -> Array:
        """x [...,in] -> [...,out] float32, with `epilogue` done to it."""
        return project([self], as_operand(x), context or local_context(), epilogue)[0]


def as_operand(x: Operand) -> Operand:
    """x in float32, which is what products take."""
    return x if isinstance(x, Norm | Gate) else jnp.asarray(x).astype(jnp.float32)


def project(
    linears: Sequence[Linear],
    x: Operand,
    context: LoweringContext,
    epilogue: AddNorm | None = None,
) -> list[Array]:
    """x [...,in] float32 by each of `linears`, which read the same -> [...,out] float32 each.

    `epilogue` is done to what comes out.
    """
    weights = [linear.weight.get_value() for linear in linears]
    biased = any(linear.has_bias for linear in linears)
    inner = None if biased else epilogue
    products = context.products(x, weights, [linear.role for linear in linears], inner)
    if not biased:
        return products
    products = [
        y + linear.bias[...].astype(jnp.float32) if linear.has_bias else y
        for y, linear in zip(products, linears, strict=True)
    ]
    return products if epilogue is None else [epilogue.apply(y) for y in products]


class Gemma3RMSNorm(nnx.Module):
    """x / rms(x) * (1 + w) in float32; the checkpoint stores w, which begins at 0."""

    kernel_init = staticmethod(jax.nn.initializers.ones)
    """What 1 + w is to begin with: ones."""

    def __init__(self, size: int, eps: float, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.weight = parameter((size,), ("norm",), dtype, 0.0, None)
        if rngs is not None:
            factor = self.kernel_init(rngs.params(), (size,), jnp.float32)
            self.weight.set_value((factor - 1.0).astype(dtype))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """x [...,size] -> same shape, float32."""
        return rms_norm(x, self.weight[...], self.eps)

    def operand(self, x: Array) -> Norm:
        """The same of x [B,T,size], to be multiplied."""
        return Norm(x, self.weight[...], self.eps)

    def epilogue(self, residual: Array) -> AddNorm:
        """The same of a product [B,T,size] that is to come, added to `residual`."""
        return AddNorm(residual, self.weight[...], self.eps)


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
        self, hidden_states: Operand, context: LoweringContext | None = None,
        epilogue: AddNorm | None = None,
    ) -> Array:  # fmt: skip
        """hidden_states [B,T,D] -> [B,T,D] float32, with `epilogue` done to it."""
        context = context or local_context()
        gate, up = project([self.gate_proj, self.up_proj], as_operand(hidden_states), context)
        return self.down_proj(Gate(gate, up), context, epilogue)


class Gemma3Attention(nnx.Module):
    """Grouped-query attention with RMSNorm on queries and keys.

    Called, it reads whole texts; `extend` and `encode` are what programs are made of.
    """

    def __init__(
        self,
        config: Gemma3TextConfig,
        layer_type: LayerType | int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        """`layer_type` is the kind of the layer, or its number in config.layer_types."""
        if isinstance(layer_type, int):
            layer_type = config.layer_types[layer_type]
        self.deterministic = True
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
        self, hidden_states: Array, attention_mask: Array | None = None,
        position_ids: Array | None = None, token_type_ids: Array | None = None,
        output_attentions: bool = False, rngs: nnx.Rngs | None = None,
    ) -> AttentionLayerOutput:  # fmt: skip
        """Read whole texts, hidden_states [B,T,D] normed, without a cache.

        The window of the layer's kind, the order of tokens and the rotary tables are its own;
        arguments as in Gemma3TextModel, but that attention_mask is [B,T].
        """
        whole = WholeText.of(
            self.config, self.layer_type, hidden_states.shape, attention_mask, position_ids,
            token_type_ids,
        )  # fmt: skip
        x, dropout = hidden_states.astype(jnp.float32), self.call_dropout(rngs)
        weights = self.weights_within(x, *whole, local_context()) if output_attentions else None
        return AttentionLayerOutput(
            self.encode(x, *whole, local_context(), dropout=dropout), weights
        )

    def call_dropout(self, rngs: nnx.Rngs | None) -> Dropout | None:
        """What is dropped where the layer is called alone."""
        return layer_dropout(self.config, dropout_key(self.config, self.deterministic, rngs))

    def extend(
        self, x: Operand, step: LayerStep, cache: LayerCache, context: LoweringContext,
        epilogue: AddNorm | None = None, dropout: Dropout | None = None,
    ) -> tuple[Array, LayerCache]:  # fmt: skip
        """x [B,T,D] -> ([B,T,D] float32, the layer's cache with the chunk written).

        `epilogue` is done to the first.
        """
        if kernel_attends(cache, context):
            mixed, cache = self._extend_by_kernel(x, step, cache, context)
            return self.o_proj(mixed, context, epilogue), cache
        query, new = self._project(x, step.rope, cache.key.dtype, context)
        mixed = attend(
            query, new, cache, step.visible,
            self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping, context,
            self.layer_type, dropout,
        )  # fmt: skip
        start = context.delay(step.start, until=mixed)
        cache = update_layer(self.layer_type, cache, new, start, step.length, context.platform)
        return self._output(mixed, context, epilogue), cache

    def _extend_by_kernel(
        self, x: Operand, step: LayerStep, cache: LayerCache, context: LoweringContext
    ) -> tuple[Array, LayerCache]:
        """All before the last projection, most of it by one C++ kernel: [B,T,N*H] and the cache."""
        config, kind = self.config, self.layer_type
        context.recorder.forms[str(kind)] = ATTENTION_KERNEL
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
        epilogue: AddNorm | None = None, dropout: Dropout | None = None,
    ) -> Array:  # fmt: skip
        """Without a cache: x [B,T,D], visible [B,T,T] bool -> [B,T,D] float32, `epilogue` done."""
        query, new = self._project(x, rope, self.dtype, context)
        scale, cap = self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping
        mixed = attend_within(query, new, visible, scale, cap, dropout)
        return self._output(mixed, context, epilogue)

    def weights_within(
        self, x: Operand, rope: tuple[Array, Array], visible: Array, context: LoweringContext
    ) -> Array:
        """What a token of `encode` with the same arguments gives to each: [B,N,T,T] float32."""
        query, new = self._project(x, rope, self.dtype, context)
        scale, cap = self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping
        weights = weights_within(query, new, visible, scale, cap)
        return weights.reshape(query.shape[0], query.shape[2], query.shape[1], -1)

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

    def _output(self, mixed: Array, context: LoweringContext, epilogue: AddNorm | None) -> Array:
        """mixed [B,T,N,H] -> [B,T,D] float32, `epilogue` done."""
        mixed = context.constrain(mixed, ("batch", "tokens", "heads", "norm"))
        return self.o_proj(mixed.reshape(*mixed.shape[:2], -1), context, epilogue)


class Gemma3DecoderLayer(nnx.Module):
    """Attention and MLP, each between two norms, each on a residual.

    Called, it reads whole texts; `extend` and `encode` are what programs are made of.
    """

    def __init__(
        self,
        config: Gemma3TextConfig,
        layer_type: LayerType | int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
    ):
        """As Gemma3Attention."""
        D, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Gemma3Attention(config, layer_type, dtype, rngs)
        self.mlp = Gemma3MLP(config, dtype, rngs)
        self.input_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.post_attention_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.pre_feedforward_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)
        self.post_feedforward_layernorm = Gemma3RMSNorm(D, eps, dtype, rngs)

    def __call__(
        self, hidden_states: Array, attention_mask: Array | None = None,
        position_ids: Array | None = None, token_type_ids: Array | None = None,
        output_attentions: bool = False, rngs: nnx.Rngs | None = None,
    ) -> DecoderLayerOutput:  # fmt: skip
        """Read whole texts, hidden_states [B,T,D], without a cache; as Gemma3Attention."""
        attention = self.self_attn
        whole = WholeText.of(
            attention.config, attention.layer_type, hidden_states.shape, attention_mask,
            position_ids, token_type_ids,
        )  # fmt: skip
        x, dropout, weights = hidden_states.astype(jnp.float32), attention.call_dropout(rngs), None
        if output_attentions:
            weights = attention.weights_within(
                self.input_layernorm.operand(x), *whole, local_context()
            )
        return DecoderLayerOutput(self.encode(x, *whole, local_context(), dropout), weights)

    def extend(
        self, x: Array, step: LayerStep, cache: LayerCache, context: LoweringContext,
        dropout: Dropout | None = None,
    ) -> tuple[Array, LayerCache]:  # fmt: skip
        """x [B,T,D] -> ([B,T,D], cache)."""
        x, cache = self.self_attn.extend(
            self.input_layernorm.operand(x), step, cache, context,
            self.post_attention_layernorm.epilogue(x), dropout,
        )  # fmt: skip
        return self._finish(x, context), cache

    def attention_weights(
        self, x: Array, step: LayerStep, cache: LayerCache, context: LoweringContext,
        positions: int,
    ) -> Array:  # fmt: skip
        """x [B,T,D] -> what its tokens give to the key at each position, [B,N,T,positions]."""
        normed = self.input_layernorm.operand(x)
        return self.self_attn.weights(normed, step, cache, context, positions)

    def encode(
        self, x: Array, rope: tuple[Array, Array], visible: Array, context: LoweringContext,
        dropout: Dropout | None = None,
    ) -> Array:  # fmt: skip
        """Without a cache: x [B,T,D], visible [B,T,T] bool -> [B,T,D]."""
        x = self.self_attn.encode(
            self.input_layernorm.operand(x), rope, visible, context,
            self.post_attention_layernorm.epilogue(x), dropout,
        )  # fmt: skip
        return self._finish(x, context)

    def _finish(self, x: Array, context: LoweringContext) -> Array:
        """The MLP's half of the layer."""
        operand = self.pre_feedforward_layernorm.operand(x)
        x = self.mlp(operand, context, self.post_feedforward_layernorm.epilogue(x))
        return context.constrain(x, ("batch", "tokens", "norm"))
