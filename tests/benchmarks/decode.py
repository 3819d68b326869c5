"""Decode and prefill of the real 270M: the bundle's programs against plain jax.jit and memory.

The peer is the same model written the textbook way: weights (out, in) in einsum, one uniform
cache joined with the new keys, jitted and called a token at a time. The limit is the machine's
memory rate, measured in the same run; a decode step must read every weight once.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from gemma3_export.artifacts.bundle import Bundle
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.artifacts.store import map_weight
from gemma3_export.export.checkpoint import demo_checkpoint
from gemma3_export.export.options import ExportOptions, parse_mesh
from gemma3_export.export.pipeline import export
from gemma3_export.model.config import Gemma3TextConfig
from gemma3_export.model.rope import rope_tables
from gemma3_export.runtime.buckets import Shape
from gemma3_export.runtime.model import LoadedModel
from measure import interleaved, memory_reader

CONTEXT, STEPS, PREFILL = 512, 32, 512


def main() -> None:
    """Export, load, measure in turn, print ratios."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        export(_options(out), lambda *_: None)
        model = LoadedModel.load(out, "1x1", "cpu")
        config = Gemma3TextConfig.from_dict(Bundle.open(out).manifest.model.config)
        _report(model, config)


def _options(out: Path) -> ExportOptions:
    return ExportOptions(
        meshes=(parse_mesh("1x1"),), batch=(1,), prefill=(PREFILL,), cache=(1024,),
        generate=STEPS, platforms=("cpu",), dtype="bfloat16", jobs=2, out=out, force=False,
        checkpoint=demo_checkpoint(), abstract=None,
    )  # fmt: skip


def _report(model: LoadedModel, config: Gemma3TextConfig) -> None:
    limit_bytes = 512 << 20
    runs = {
        "limit": memory_reader(limit_bytes),
        "generate": _generate(model),
        "prefill": _prefill(model),
        "plain": _plain(model, config),
    }
    times = interleaved(runs, repeats=5)
    weights = sum(math.prod(w.shape) * 2 for w in model.bundle.manifest.weights)
    rate = limit_bytes / times["limit"]
    step, plain = times["generate"] / STEPS, times["plain"]
    print(f"Gemma 3 270M, bfloat16, batch 1, context {CONTEXT}, jax {jax.__version__}")
    print(f"memory rate            {rate / 1e9:8.1f} GB/s")
    print(f"decode, bundle         {1 / step:8.1f} tok/s  {weights / step / rate:.2f} of the limit")
    print(f"decode, plain jax.jit  {1 / plain:8.1f} tok/s  bundle is {plain / step:.1f}x")
    print(f"prefill {PREFILL}, bundle    {PREFILL / times['prefill']:8.1f} tok/s")


def _sampling() -> tuple[np.ndarray, ...]:
    zero = np.zeros(1, np.float32)
    one = np.ones(1, np.float32)
    return zero, zero.astype(np.int32), one, zero, zero.astype(np.uint32)


class _Caller:
    """Calls a program again and again on a cache that stays at one position."""

    def __init__(self, model: LoadedModel, bucket: Bucket, inputs: tuple[np.ndarray, ...]):
        self._program = model.program(bucket)
        self._cache = model.new_cache(Shape(bucket.batch, bucket.cache))
        self._inputs = inputs

    def __call__(self) -> object:
        outputs, self._cache = self._program(self._inputs, self._cache)
        return outputs


def _generate(model: LoadedModel) -> _Caller:
    row = np.ones(1, np.int32)
    stop = np.full((1, 8), -1, np.int32)
    inputs = (row * 5, row * CONTEXT, row * STEPS, stop, *_sampling())
    return _Caller(model, Bucket(ProgramName.GENERATE, 1, STEPS, 1024), inputs)


def _prefill(model: LoadedModel) -> _Caller:
    row = np.ones(1, np.int32)
    tokens = np.arange(PREFILL, dtype=np.int32)[None] + 1000
    inputs = (tokens, row * 0, row * PREFILL, *_sampling())
    return _Caller(model, Bucket(ProgramName.PREFILL, 1, PREFILL, 1024), inputs)


def _plain(model: LoadedModel, config: Gemma3TextConfig):
    """One textbook decode step under jax.jit, cache donated."""
    bundle = model.bundle
    params = {w.name: jnp.asarray(map_weight(bundle, w)) for w in bundle.manifest.weights}
    shape = (2, config.num_hidden_layers, 1, config.num_key_value_heads, 1024, config.head_dim)
    state = {"cache": jnp.zeros(shape, jnp.bfloat16)}
    step = jax.jit(_textbook_step(config), donate_argnums=(1,))
    token, position = jnp.full(1, 5, jnp.int32), jnp.full(1, CONTEXT, jnp.int32)

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


if __name__ == "__main__":
    main()
