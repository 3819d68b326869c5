"""The same model as people write it: textbook forms under plain `jax.jit`.

Weights (out, in) in einsum, one uniform cache joined with the new keys, a call a token.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.store import map_weight
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.rope import rope_tables

LABEL = "plain jax.jit, textbook forms"


def plain_decode(bundle: Bundle, context: int, cache_length: int = 1024) -> Callable[[], object]:
    """One decode step of a bfloat16 bundle's weights after `context` tokens, cache donated."""
    config = Gemma3TextConfig.from_dict(bundle.manifest.model.config)
    params = {w.name: jnp.asarray(map_weight(bundle, w)) for w in bundle.manifest.weights}
    heads = config.num_key_value_heads
    shape = (2, config.num_hidden_layers, 1, heads, cache_length, config.head_dim)
    state = {"cache": jnp.zeros(shape, jnp.bfloat16)}
    step = jax.jit(_textbook_step(config), donate_argnums=(1,))
    token, position = jnp.full(1, 5, jnp.int32), jnp.full(1, context, jnp.int32)

    def run() -> object:
        token_out, state["cache"] = step(params, state["cache"], token, position)
        return token_out

    return run


def _textbook_step(config: Gemma3TextConfig):
    K, H = config.num_key_value_heads, config.head_dim
    G = config.num_attention_heads // K

    def norm(x, w):
        x = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.rms_norm_eps)
        return (x * scale * (1 + w.astype(jnp.float32))).astype(jnp.bfloat16)

    def rotate(x, cos, sin):
        a, b = jnp.split(x.astype(jnp.float32), 2, -1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(jnp.bfloat16)

    def linear(x, w):
        return jnp.einsum("bd,od->bo", x, w)

    def step(params, cache, token, position):
        embed = params["model.embed_tokens.weight"]
        x = embed[token] * jnp.asarray(config.hidden_size**0.5, jnp.bfloat16)
        slot = jnp.arange(cache.shape[-2])
        for i, kind in enumerate(config.layer_types):
            w = {n.split(f"layers.{i}.")[1]: v for n, v in params.items() if f".layers.{i}." in n}
            cos, sin = (
                t[:, 0, None] for t in rope_tables(config, kind, position[:, None], position)
            )
            h = norm(x, w["input_layernorm.weight"])
            q = linear(h, w["self_attn.q_proj.weight"]).reshape(1, K * G, H)
            k = linear(h, w["self_attn.k_proj.weight"]).reshape(1, K, H)
            v = linear(h, w["self_attn.v_proj.weight"]).reshape(1, K, H)
            q = rotate(norm(q, w["self_attn.q_norm.weight"]), cos, sin).reshape(1, K, G, H)
            k = rotate(norm(k, w["self_attn.k_norm.weight"]), cos, sin)
            cache = (
                cache.at[0, i, 0, :, position[0]].set(k[0]).at[1, i, 0, :, position[0]].set(v[0])
            )
            scores = jnp.einsum("bkgh,bksh->bkgs", q, cache[0, i]).astype(jnp.float32)
            seen = slot <= position[0]
            if kind == "sliding_attention":
                seen &= slot > position[0] - config.sliding_window
            scores = jnp.where(seen, scores * config.query_pre_attn_scalar**-0.5, -1e30)
            weights = jax.nn.softmax(scores, -1).astype(jnp.bfloat16)
            mixed = jnp.einsum("bkgs,bksh->bkgh", weights, cache[1, i]).reshape(1, -1)
            out = linear(mixed, w["self_attn.o_proj.weight"])
            x = x + norm(out, w["post_attention_layernorm.weight"])
            h = norm(x, w["pre_feedforward_layernorm.weight"])
            gate = jax.nn.gelu(linear(h, w["mlp.gate_proj.weight"]), approximate=True)
            out = linear(gate * linear(h, w["mlp.up_proj.weight"]), w["mlp.down_proj.weight"])
            x = x + norm(out, w["post_feedforward_layernorm.weight"])
        logits = linear(norm(x, params["model.norm.weight"]), embed)
        return jnp.argmax(logits, -1), cache

    return step
