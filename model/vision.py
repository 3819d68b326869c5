"""The SigLIP vision tower and the projector into the text stack, named as in Hugging Face.

Shapes: N images, C channels, P patches, V vision width, A heads, H head width, M soft tokens of
an image, D width of the text stack. Source: transformers `siglip/modeling_siglip.py` and
`gemma3/modeling_gemma3.py`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from .lowering.context import LoweringContext, local_context
from .lowering.target import Platform
from .text import Gemma3RMSNorm, parameter
from .vision_config import Gemma3Config, SiglipVisionConfig

Array = jax.Array

_QUERY_BLOCK = 512
"""Queries attended at a time: all 4096 at once would need 1 GB of scores for one image."""


class SiglipLinear(nnx.Module):
    """y = x W^T + b with W (out, in), as the checkpoint stores it; Glorot initialisation."""

    def __init__(
        self, shape: tuple[int, int], axes: tuple[str, str], dtype: jnp.dtype,
        rngs: nnx.Rngs | None, counts: tuple[int, int] | None = None,
    ):  # fmt: skip
        bias_axis = axes[0] if axes[0] != "vision_embed" else "norm"
        self.weight = parameter(shape, axes, dtype, (2 / sum(shape)) ** 0.5, rngs, counts)
        self.bias = parameter(shape[:1], (bias_axis,), dtype, 0.0, rngs, (counts or shape)[:1])

    def __call__(self, x: Array, context: LoweringContext) -> Array:
        """x [...,in] float32 -> [...,out] float32."""
        y = context.product(x, self.weight[...], "vision layers")
        return y + self.bias[...].astype(jnp.float32)


class SiglipLayerNorm(nnx.Module):
    """(x - mean) / deviation * w + b, in float32."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        shape = (config.hidden_size,)
        self.weight = parameter(shape, ("norm",), dtype, 0.0, rngs)
        if rngs is not None:
            self.weight.set_value(jnp.ones(shape, dtype))
        self.bias = parameter(shape, ("norm",), dtype, 0.0, rngs)
        self.eps = config.layer_norm_eps

    def __call__(self, x: Array) -> Array:
        """x [...,V] -> same shape, float32."""
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return x * self.weight[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)


class PatchEmbedding(nnx.Module):
    """A convolution that steps by its own size: one product per patch."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        V, C, size = config.hidden_size, config.num_channels, config.patch_size
        axes = ("vision_embed", "patch", "patch", "patch")
        std = (C * size * size) ** -0.5
        self.weight = parameter((V, C, size, size), axes, dtype, std, rngs)
        self.bias = parameter((V,), ("norm",), dtype, 0.0, rngs)
        self.size, self.side = size, config.patches_per_side

    def __call__(self, pixels: Array, context: LoweringContext) -> Array:
        """pixels [N,C,image,image] -> [N,P,V] float32, patches row by row."""
        N, C, size, side = pixels.shape[0], pixels.shape[1], self.size, self.side
        whole = pixels[:, :, : side * size, : side * size]
        patches = whole.reshape(N, C, side, size, side, size).transpose(0, 2, 4, 1, 3, 5)
        weight = self.weight[...]
        flat = weight.reshape(weight.shape[0], -1)
        y = context.product(patches.reshape(N, side * side, -1), flat, "patches to vision")
        return y + self.bias[...].astype(jnp.float32)


class PositionEmbedding(nnx.Module):
    """A learned vector for every patch."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        shape = (config.patches, config.hidden_size)
        std = config.hidden_size**-0.5
        self.weight = parameter(shape, ("patch", "vision_embed"), dtype, std, rngs)


class SiglipVisionEmbeddings(nnx.Module):
    """Patches as vectors, each with its position's added. There is no class token."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.patch_embedding = PatchEmbedding(config, dtype, rngs)
        self.position_embedding = PositionEmbedding(config, dtype, rngs)

    def __call__(self, pixels: Array, context: LoweringContext) -> Array:
        """pixels [N,C,image,image] -> [N,P,V] float32."""
        positions = self.position_embedding.weight[...].astype(jnp.float32)
        return self.patch_embedding(pixels, context) + positions


class SiglipAttention(nnx.Module):
    """Every patch attends to every patch of its image."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        V, A = config.hidden_size, config.num_attention_heads
        inward, outward = ("vision_heads", "vision_embed"), ("vision_embed", "vision_heads")
        self.k_proj = SiglipLinear((V, V), inward, dtype, rngs, counts=(A, V))
        self.v_proj = SiglipLinear((V, V), inward, dtype, rngs, counts=(A, V))
        self.q_proj = SiglipLinear((V, V), inward, dtype, rngs, counts=(A, V))
        self.out_proj = SiglipLinear((V, V), outward, dtype, rngs, counts=(V, A))
        self.heads, self.head_dim = A, config.head_dim

    def __call__(self, x: Array, context: LoweringContext) -> Array:
        """x [N,P,V] -> [N,P,V] float32."""
        N, P, V = x.shape
        axes = ("images", "patches", "vision_heads", "norm")

        def heads(linear: SiglipLinear) -> Array:
            # Both factors of a score in the weights' dtype, as the text stack's cache does.
            y = linear(x, context).reshape(N, P, self.heads, self.head_dim)
            return context.constrain(y, axes).astype(linear.weight[...].dtype)

        query, key, value = heads(self.q_proj), heads(self.k_proj), heads(self.v_proj)
        mixed = _attend(query, key, value, self.head_dim**-0.5, context)
        return self.out_proj(context.constrain(mixed, axes).reshape(N, P, V), context)


def _attend(
    query: Array, key: Array, value: Array, scale: float, context: LoweringContext
) -> Array:
    """Softmax attention, [N,P,A,H] each -> [N,P,A,H] float32.

    XLA:CPU multiplies a batch of matrices one after the other on one core, and goes through the
    scores of all heads several times; those of one head stay in the processor's cache. On a mesh
    heads are split, and are not gone through.
    """
    N, P, A, H = query.shape
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))  # [N,A,P,H]
    if context.platform == Platform.CPU and context.one_device:
        one_by_one = tuple(x.reshape(N * A, P, H) for x in (query, key, value))
        mixed = jax.lax.map(lambda head: _in_blocks(head[0], head[1], head[2], scale), one_by_one)
        return mixed.reshape(N, A, P, H).swapaxes(1, 2)
    return _in_blocks(query, key, value, scale).swapaxes(1, 2)


def _in_blocks(query: Array, key: Array, value: Array, scale: float) -> Array:
    """Softmax attention, [...,P,H] each -> [...,P,H] float32, a block of queries at a time."""

    def block(part: Array) -> Array:  # [...,Q,H]
        scores = jnp.einsum("...qh,...ph->...qp", part, key, preferred_element_type=jnp.float32)
        weights = jnp.exp(scale * (scores - jnp.max(scores, axis=-1, keepdims=True)))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.einsum(
            "...qp,...ph->...qh", weights.astype(value.dtype), value,
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        return mixed / total  # fewer divisions than of the weights

    *lead, P, H = query.shape
    if P <= _QUERY_BLOCK or P % _QUERY_BLOCK:
        return block(query)
    blocks = jnp.moveaxis(query.reshape(*lead, P // _QUERY_BLOCK, _QUERY_BLOCK, H), -3, 0)
    return jnp.moveaxis(jax.lax.map(block, blocks), 0, -3).reshape(query.shape)


class SiglipMLP(nnx.Module):
    """fc2(gelu_tanh(fc1(x)))."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        V, F = config.hidden_size, config.intermediate_size
        self.fc1 = SiglipLinear((F, V), ("vision_ffw", "vision_embed"), dtype, rngs)
        self.fc2 = SiglipLinear((V, F), ("vision_embed", "vision_ffw"), dtype, rngs)

    def __call__(self, x: Array, context: LoweringContext) -> Array:
        """x [N,P,V] -> [N,P,V] float32."""
        wide = jax.nn.gelu(self.fc1(x, context), approximate=True)
        return self.fc2(context.constrain(wide, ("images", "patches", "vision_ffw")), context)


class SiglipEncoderLayer(nnx.Module):
    """Attention and MLP, each after a norm, each on a residual."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.layer_norm1 = SiglipLayerNorm(config, dtype, rngs)
        self.self_attn = SiglipAttention(config, dtype, rngs)
        self.layer_norm2 = SiglipLayerNorm(config, dtype, rngs)
        self.mlp = SiglipMLP(config, dtype, rngs)

    def __call__(self, x: Array, context: LoweringContext) -> Array:
        """x [N,P,V] -> [N,P,V] float32."""
        x = x + self.self_attn(self.layer_norm1(x), context)
        x = x + self.mlp(self.layer_norm2(x), context)
        return context.constrain(x, ("images", "patches", "norm"))


class SiglipEncoder(nnx.Module):
    """The layers of the tower."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.layers = nnx.List(
            SiglipEncoderLayer(config, dtype, rngs) for _ in range(config.num_hidden_layers)
        )

    def __call__(self, x: Array, context: LoweringContext) -> Array:
        """x [N,P,V] -> [N,P,V] float32."""
        for layer in self.layers:
            x = layer(x, context)
        return x


class SiglipVisionTransformer(nnx.Module):
    """Embeddings, layers and a last norm. The pooling head is not read by Gemma 3."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.embeddings = SiglipVisionEmbeddings(config, dtype, rngs)
        self.encoder = SiglipEncoder(config, dtype, rngs)
        self.post_layernorm = SiglipLayerNorm(config, dtype, rngs)

    def __call__(self, pixels: Array, context: LoweringContext) -> Array:
        """pixels [N,C,image,image] -> last hidden state [N,P,V] float32."""
        x = context.constrain(self.embeddings(pixels, context), ("images", "patches", "norm"))
        return self.post_layernorm(self.encoder(x, context))


class SiglipVisionModel(nnx.Module):
    """The vision tower, one level down as in checkpoints' names."""

    def __init__(self, config: SiglipVisionConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.config = config
        self.vision_model = SiglipVisionTransformer(config, dtype, rngs)

    def __call__(self, pixels: Array, context: LoweringContext | None = None) -> Array:
        """pixels [N,C,image,image] float32 in -1..1 -> last hidden state [N,P,V] float32."""
        expected = (self.config.num_channels, self.config.image_size, self.config.image_size)
        assert pixels.shape[1:] == expected, f"pixels {pixels.shape}, expected N of {expected}"
        return self.vision_model(pixels, context or local_context())


class Gemma3MultiModalProjector(nnx.Module):
    """Patches, averaged over squares and normed, as soft tokens of the text stack."""

    def __init__(self, config: Gemma3Config, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        vision = config.vision_config
        V, D = vision.hidden_size, config.text_config.hidden_size
        self.mm_input_projection_weight = parameter(  # (in, out), unlike every other weight
            (V, D), ("vision_embed", "projected"), dtype, config.initializer_range, rngs
        )
        self.mm_soft_emb_norm = Gemma3RMSNorm(V, vision.layer_norm_eps, dtype, rngs)
        self.tokens_per_side, self.pool = config.tokens_per_side, config.patches_per_token_side

    def __call__(self, x: Array, context: LoweringContext | None = None) -> Array:
        """x [N,P,V] -> soft tokens [N,M,D] float32, row by row."""
        x, (N, _, V) = x.astype(jnp.float32), x.shape
        side, pool = self.tokens_per_side, self.pool
        pooled = x.reshape(N, side, pool, side, pool, V).mean(axis=(2, 4)).reshape(N, -1, V)
        normed = self.mm_soft_emb_norm(pooled)
        return (context or local_context()).product(
            normed, self.mm_input_projection_weight[...].T, "vision to soft tokens"
        )


class Gemma3ImageEncoder(nnx.Module):
    """Vision tower and projector under the names they have in a checkpoint."""

    def __init__(self, config: Gemma3Config, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        self.vision_tower = SiglipVisionModel(config.vision_config, dtype, rngs)
        self.multi_modal_projector = Gemma3MultiModalProjector(config, dtype, rngs)

    def __call__(self, pixels: Array, context: LoweringContext) -> Array:
        """pixels [N,C,image,image] float32 in -1..1 -> soft tokens [N,M,D] float32."""
        return soft_tokens_of(self.vision_tower, self.multi_modal_projector, pixels, context)


def soft_tokens_of(
    tower: SiglipVisionModel, projector: Gemma3MultiModalProjector, pixels: Array,
    context: LoweringContext,
) -> Array:  # fmt: skip
    """pixels [N,C,image,image] float32 in -1..1 -> soft tokens [N,M,D] float32."""
    pixels = context.constrain(pixels, ("images", "norm", "norm", "norm"))
    soft = projector(tower(pixels, context), context)
    return context.constrain(soft, ("images", "norm", "norm"))
