"""Tiny Gemma 3 checkpoints that come out the same, byte for byte, on every machine.

The goldens were computed from these weights and the tests export the same ones, so nothing here
may depend on a library's random distributions or file writer: numpy keeps the raw Philox stream
fixed for ever, but not how it turns that into normal numbers. Sums of four raw 16-bit words are
close enough to normal and exact in float32.

Needs numpy alone, so that both the tests and the Hugging Face side of `make.py` can import it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_BASE: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
}
_LOCAL, _GLOBAL = "sliding_attention", "full_attention"

TINY: dict[str, dict[str, Any]] = {
    # Old style, as the published 1B: thetas at the top, layers by pattern; the last is global.
    "default": _BASE
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
    },
    # New style with layers in no regular order, untied, odd window, query scalar unlike head_dim.
    "layer_types": _BASE
    | {
        "vocab_size": 320,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "query_pre_attn_scalar": 20,
        "max_position_embeddings": 256,
        "sliding_window": 5,
        "layer_types": [_LOCAL, _GLOBAL, _LOCAL, _LOCAL, _GLOBAL, _GLOBAL, _LOCAL],
        "rope_parameters": {
            _GLOBAL: {"rope_type": "default", "rope_theta": 200000.0},
            _LOCAL: {"rope_type": "default", "rope_theta": 5000.0},
        },
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
    },
    # All that can be left out is: 8 heads, 4 KV heads, head_dim 256, window 4096, pattern 6, tied.
    "sparse": _BASE | {"num_hidden_layers": 7},
    # Old style, as the published 4B and larger; the last layer is local.
    "linear": _BASE
    | {
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 10000.0,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    # New style, `type` for `rope_type`, the local entry and the global theta left to defaults.
    "linear_type": _BASE
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_parameters": {_GLOBAL: {"type": "linear", "factor": 4.0}},
        "tie_word_embeddings": False,
    },
    # Positions beyond 16 stretch the base; 24 generated tokens cross it from every short prompt.
    "dynamic": _BASE
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 16,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 10000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    },
    "yarn": _BASE
    | {
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "max_position_embeddings": 512,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 10000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 64,
        },
        "tie_word_embeddings": False,
    },
    "yarn_mscale": _BASE
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 512,
        "sliding_window": 8,
        "layer_types": [_LOCAL, _GLOBAL, _LOCAL, _GLOBAL, _LOCAL, _GLOBAL],
        "rope_parameters": {
            _GLOBAL: {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 8.0,
                "beta_slow": 0.5,
                "mscale": 1.5,
                "mscale_all_dim": 0.5,
            },
            _LOCAL: {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    # Short factors for 16 tokens, long ones beyond; attention factor sqrt(1 + ln 16 / ln 16).
    "longrope": _BASE
    | {
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "layer_types": [_LOCAL, _LOCAL, _GLOBAL, _LOCAL, _LOCAL, _GLOBAL, _LOCAL],
        "rope_parameters": {
            _GLOBAL: {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
            },
            _LOCAL: {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    # Wavelengths 6.3 | 20 | 63 ... against bounds 8 and 32: kept, blended and divided all occur.
    "llama3": _BASE
    | {
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "rope_theta": 10000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "tie_word_embeddings": False,
    },
    # Biases on q, k, v and o; as many KV heads as heads; nothing but local layers at the end.
    "bias": _BASE
    | {
        "num_hidden_layers": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 40,
        "query_pre_attn_scalar": 40,
        "max_position_embeddings": 256,
        "sliding_window": 8,
        "sliding_window_pattern": 3,
        "attention_bias": True,
    },
    # Logits near 10 occur, so a cap of 8 changes the probabilities much.
    "softcap": _BASE
    | {
        "vocab_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "max_position_embeddings": 256,
        "sliding_window": 11,
        "sliding_window_pattern": 3,
        "final_logit_softcapping": 8.0,
        "tie_word_embeddings": False,
    },
}
"""config.json of each tiny checkpoint, by name."""

# What Gemma3TextConfig takes for what a config leaves out (transformers 5.23).
_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a text-only checkpoint, by Hugging Face name, (out, in) order."""
    full = _DEFAULTS | config
    embed, ffw = full["hidden_size"], full["intermediate_size"]
    query = full["num_attention_heads"] * full["head_dim"]
    key = full["num_key_value_heads"] * full["head_dim"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (full["vocab_size"], embed),
        "model.norm.weight": (embed,),
    }
    if not full["tie_word_embeddings"]:
        found["lm_head.weight"] = (full["vocab_size"], embed)
    for layer in range(full["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for norm in (
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ):
            found[f"{prefix}{norm}.weight"] = (embed,)
        projections = {
            "q": (query, embed),
            "k": (key, embed),
            "v": (key, embed),
            "o": (embed, query),
        }
        for letter, shape in projections.items():
            found[f"{prefix}self_attn.{letter}_proj.weight"] = shape
            if full["attention_bias"]:
                found[f"{prefix}self_attn.{letter}_proj.bias"] = shape[:1]
        for letter in "qk":
            found[f"{prefix}self_attn.{letter}_norm.weight"] = (full["head_dim"],)
        found[f"{prefix}mlp.gate_proj.weight"] = (ffw, embed)
        found[f"{prefix}mlp.up_proj.weight"] = (ffw, embed)
        found[f"{prefix}mlp.down_proj.weight"] = (embed, ffw)
    return dict(sorted(found.items()))


def weights(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor of the tiny checkpoint `name`, float32, in the order of their names."""
    tied = (_DEFAULTS | TINY[name])["tie_word_embeddings"]
    for tensor, shape in shapes(TINY[name]).items():
        mean, deviation = distribution(tensor, shape, tied)
        yield tensor, normal(f"{name}/{tensor}", shape, mean, deviation)


def distribution(tensor: str, shape: tuple[int, ...], tied: bool) -> tuple[float, float]:
    """Mean and deviation that make attention peaked and the next token far from certain."""
    if "q_norm" in tensor or "k_norm" in tensor:
        return 0.5, 0.3  # sharp scores: a wrong rotation must show
    if tensor == "model.norm.weight":
        return (4.0 if tied else 1.0), 0.3
    if "norm" in tensor:
        return 0.0, 0.3
    if tensor == "model.embed_tokens.weight":
        return 0.0, 0.05 if tied else 0.2  # small, or a tied head would only repeat its input
    if tensor == "lm_head.weight":
        return 0.0, 0.2
    if tensor.endswith(".bias"):
        return 0.0, 0.5
    return 0.0, 1 / math.sqrt(shape[-1])


def normal(key: str, shape: tuple[int, ...], mean: float, deviation: float) -> np.ndarray:
    """Nearly normal float32 numbers, a function of `key` alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=seed).random_raw(math.prod(shape))
    words = sum((raw >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4))
    centred = np.asarray(words, np.float64) - 4 * 0xFFFF / 2
    unit = math.sqrt(4 * (2**32 - 1) / 12)  # deviation of the sum of four uniform words
    return (mean + centred * (deviation / unit)).astype(np.float32).reshape(shape)


_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def _cast(values: np.ndarray, dtype: str) -> bytes:
    """Little-endian bytes of float32 `values` in `dtype`, rounded to nearest even."""
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    if dtype == "float16":
        return values.astype("<f2").tobytes()
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()


def write_checkpoint(name: str, folder: Path, dtype: str = "float32") -> Path:
    """Write `config.json` and `model.safetensors` of the tiny model `name` into `folder`.

    dtype is float32, float16 or bfloat16. Returns `folder`, which is made where missing.
    """
    return write_files(TINY[name], weights(name), folder, dtype)


def write_files(
    config: dict[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    folder: Path,
    dtype: str = "float32",
) -> Path:
    """Write `config.json` and `model.safetensors` with float32 `tensors` rounded to `dtype`.

    The safetensors file is laid out here (header length, JSON header, tensors in the order
    given) because the library's own writer may change its order of tensors between versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps(config | {"torch_dtype": dtype}, indent=2) + "\n"
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes] = []
    end = 0
    for tensor, values in tensors:
        data = _cast(values, dtype)
        header[tensor] = {
            "dtype": _DTYPES[dtype],
            "shape": list(values.shape),
            "data_offsets": [end, end + len(data)],
        }
        chunks.append(data)
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + b"".join(chunks)
    )
    return folder


def fingerprint(folder: Path) -> str:
    """SHA-256 (hex) over `config.json` and `model.safetensors` of a written checkpoint."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()
