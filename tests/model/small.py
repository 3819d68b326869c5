"""A small text stack, and the same mathematics over whole texts in numpy float64.

`reference_logits` has no cache, no chunks, no buckets and no forms: it is what everything that
has them must agree with. It knows the default RoPE only; the variants have tests of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.model.config import Gemma3TextConfig, LayerType
from gemma3_export.model.pure.causal_lm import CausalLM

SMALL = Gemma3TextConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    query_pre_attn_scalar=8,
    sliding_window=5,
    sliding_window_pattern=2,
    max_position_embeddings=128,
    initializer_range=0.3,
)
"""A sliding layer with a window of 5 and a full one."""


def small_config(**changes) -> Gemma3TextConfig:
    """SMALL with some fields changed; layer types follow the pattern again."""
    return dataclasses.replace(SMALL, **{"layer_types": (), **changes})


def small_weights(config: Gemma3TextConfig, dtype: str = "float32") -> dict[str, jax.Array]:
    """Random weights in which every parameter matters: no zeros, norms included."""
    numbers = np.random.default_rng(7)
    return {
        p.name: jnp.asarray(numbers.normal(0, 0.3, p.shape), jnp.dtype(dtype))
        for p in CausalLM(config, jnp.dtype(dtype)).parameters()
    }


def reference_logits(
    config: Gemma3TextConfig, weights: Mapping[str, jax.Array], tokens: list[int],
    keep: Callable[[np.ndarray], np.ndarray] = lambda kept: kept,
) -> np.ndarray:  # fmt: skip
    """Logits [T,V] float64 of every place of one text.

    `keep` is what a cache makes of keys and of values [T,K,H].
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    embedding = w["model.embed_tokens.weight"]
    dtype = weights["model.embed_tokens.weight"].dtype
    x = embedding[tokens] * float(np.asarray(config.hidden_size**0.5).astype(dtype))
    for index, kind in enumerate(config.layer_types):
        layer = {
            name.removeprefix(f"model.layers.{index}."): value
            for name, value in w.items()
            if name.startswith(f"model.layers.{index}.")
        }
        x = x + _norm(
            config, layer, "post_attention_layernorm", _attention(config, kind, layer, x, keep)
        )
        x = x + _norm(config, layer, "post_feedforward_layernorm", _mlp(config, layer, x))
    hidden = _norm(config, w, "model.norm", x)
    logits = hidden @ w.get("lm_head.weight", embedding).T
    cap = config.final_logit_softcapping
    return logits if cap is None else cap * np.tanh(logits / cap)


def reference_greedy(
    config: Gemma3TextConfig, weights: Mapping[str, jax.Array], prompt: list[int], count: int
) -> list[int]:
    """The `count` likeliest next tokens after `prompt`, one at a time."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(reference_logits(config, weights, tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _norm(config: Gemma3TextConfig, w: Mapping[str, np.ndarray], name: str, x: np.ndarray):
    scale = np.sqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps)
    return x / scale * (1 + w[f"{name}.weight"])


def _linear(w: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.float64(0))


def _attention(
    config: Gemma3TextConfig, kind: LayerType, w: Mapping[str, np.ndarray], x: np.ndarray,
    keep: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:  # fmt: skip
    normed = _norm(config, w, "input_layernorm", x)
    T, H = len(x), config.head_dim
    theta = config.rope_theta if kind == LayerType.FULL else config.rope_local_base_freq
    query, key, value = (
        _linear(w, f"self_attn.{name}_proj", normed).reshape(T, -1, H) for name in "qkv"
    )
    query = _rotate(_norm(config, w, "self_attn.q_norm", query), theta)
    key = keep(_rotate(_norm(config, w, "self_attn.k_norm", key), theta))
    value = keep(value)
    q, k = np.arange(T)[:, None], np.arange(T)[None, :]
    visible = (k <= q) & ((kind == LayerType.FULL) | (k > q - config.sliding_window))
    heads = []
    for head in range(config.num_attention_heads):
        shared = head * config.num_key_value_heads // config.num_attention_heads
        scores = query[:, head] @ key[:, shared].T / np.sqrt(config.query_pre_attn_scalar)
        if config.attn_logit_softcapping is not None:
            scores = np.tanh(scores / config.attn_logit_softcapping)
            scores = scores * config.attn_logit_softcapping
        weights = np.exp(log_softmax(np.where(visible, scores, -np.inf)))
        heads.append(weights @ value[:, shared])
    return _linear(w, "self_attn.o_proj", np.concatenate(heads, axis=-1))


def _rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """x [T,heads,H] of positions 0..T-1: each pair (i, i + H/2) is a complex number turned."""
    T, _, H = x.shape
    turn = np.exp(1j * np.arange(T)[:, None] * theta ** -(np.arange(H // 2) * 2 / H))[:, None]
    turned = (x[..., : H // 2] + 1j * x[..., H // 2 :]) * turn
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _mlp(config: Gemma3TextConfig, w: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    normed = _norm(config, w, "pre_feedforward_layernorm", x)
    gate, up = _linear(w, "mlp.gate_proj", normed), _linear(w, "mlp.up_proj", normed)
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return _linear(w, "mlp.down_proj", gelu * up)
