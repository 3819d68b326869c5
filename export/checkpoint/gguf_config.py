"""GGUF metadata of architecture gemma3 or gemma-embedding -> the config.json of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError
from ...model.config_fields import MOST_LAYERS
from .gguf_keys import check_keys
from .gguf_metadata import Metadata
from .tensors import TensorSource

ARCHITECTURE, EMBEDDER = "gemma3", "gemma-embedding"
EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_QUERY_BIAS = "model.layers.0.self_attn.q_proj.bias"
_END_OF_TURN = "<end_of_turn>"
_SLIDING, _FULL = "sliding_attention", "full_attention"

# What llama.cpp assumes where the metadata is silent (its loader for this architecture).
_SLIDING_WINDOW_PATTERN = 6
_GLOBAL_ROPE_BASE = 1_000_000.0
_LOCAL_ROPE_BASE = 10_000.0
_LAYERS_OF_1B, _LAYERS_OF_27B = 26, 62
_LAYERS_OF_LARGER = (34, 48, _LAYERS_OF_27B)
_FACTOR_OF_LARGER = 8.0
_OLLAMA_KEYS = ("rope.local.freq_base", "rope.global.freq_base")
_OLLAMA_PREFIXES = ("vision.", "mm.")


@dataclass(frozen=True)
class GgufConfig:
    """A config.json with every text field, and what was put right on the way, for people."""

    config: dict[str, Any]
    notes: tuple[str, ...]


def model_metadata(metadata: Mapping[str, Any], path: Path) -> Metadata:
    """The metadata under the prefix of the file's architecture.

    Raises:
        ArtifactError: it is another architecture, or not a model.
    """
    general = Metadata(path, metadata, "general.")
    architecture, kind = general.text("architecture"), general.text("type")
    if architecture not in (ARCHITECTURE, EMBEDDER) or kind not in (None, "model"):
        what = "" if kind in (None, "model") else f" of type {kind!r}"
        raise ArtifactError(
            f"{path}: GGUF architecture {architecture!r}{what} is not supported; expected a model "
            f"of {ARCHITECTURE} or {EMBEDDER} (text; vision weights, which an mmproj file holds, "
            "come in Hugging Face folders)"
        )
    model = Metadata(path, metadata, f"{architecture}.")
    if architecture == EMBEDDER:
        # Some converters keep the prefix of the language model.
        other = Metadata(path, metadata, f"{ARCHITECTURE}.")
        if other.names() and model.names():
            raise model.wrong("*", f"keys of {other.prefix} as well", "one prefix")
        return other if other.names() else model
    return model


def is_embedder(metadata: Mapping[str, Any]) -> bool:
    """Whether a model makes vectors of texts and reads in both directions."""
    return metadata["general.architecture"] == EMBEDDER


def gguf_config(
    metadata: Mapping[str, Any], tensors: Mapping[str, TensorSource], path: Path
) -> GgufConfig:
    """A config.json with every text field.

    Args:
        metadata: of the whole file.
        tensors: by canonical name; they decide vocabulary size, tying and biases.
        path: the file, for messages.

    Raises:
        ArtifactError: metadata that the model needs is missing or of the wrong kind, or a key
            asks for something that is not computed here.
    """
    model = model_metadata(metadata, path)
    embeds = is_embedder(metadata)
    hidden, heads = model.integer("embedding_length"), model.integer("attention.head_count")
    layers = model.integer("block_count")
    if layers > MOST_LAYERS:  # before anything is made for each
        raise model.wrong("block_count", layers, f"at most {MOST_LAYERS}")
    head_dim = model.integer("attention.key_length", max(1, hidden // heads))
    # The file does not say; llama.cpp knows the 27B by its number of layers, too.
    scalar = hidden // heads if layers == _LAYERS_OF_27B and not embeds else head_dim
    check_keys(model, hidden, head_dim, scalar)
    if model.flag("attention.causal", not embeds) is embeds:
        raise model.wrong("attention.causal", embeds, f"{str(not embeds).lower()} or nothing")
    scaling, cap, notes = _corrected(model, layers)
    return GgufConfig(
        {
            "architectures": ["Gemma3TextModel" if embeds else "Gemma3ForCausalLM"],
            "attention_bias": _QUERY_BIAS in tensors,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": cap,
            "head_dim": head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": hidden,
            "intermediate_size": model.integer("feed_forward_length"),
            "max_position_embeddings": model.integer("context_length"),
            "model_type": "gemma3_text",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": model.integer("attention.head_count_kv", heads),
            "query_pre_attn_scalar": scalar,
            "rms_norm_eps": model.number("attention.layer_norm_rms_epsilon", 1e-6),
            "rope_local_base_freq": model.one_of("rope.freq_base_swa", "rope.local.freq_base")
            or _LOCAL_ROPE_BASE,
            "rope_scaling": scaling,
            "rope_theta": model.one_of("rope.freq_base", "rope.global.freq_base")
            or _GLOBAL_ROPE_BASE,
            "tie_word_embeddings": _HEAD not in tensors,
            "vocab_size": tensors[EMBEDDING].rows,
            **_windows(model, layers),
            **_token_ids(metadata, path),
            **({"use_bidirectional_attention": True} if embeds else {}),
        },
        notes,
    )


def eos_token_ids(metadata: Mapping[str, Any], path: Path) -> list[int]:
    """Ids that end a generation: end of text, and end of turn where the model speaks in turns.

    Many converted chat models name <end_of_turn> only in their chat template.
    """
    tokenizer = Metadata(path, metadata, "tokenizer.ggml.")
    ids = {tokenizer.integer("eos_token_id", 1, least=0)}
    for key in ("eot_token_id", "eom_token_id"):
        if tokenizer.get(key) is not None:
            ids.add(tokenizer.integer(key, least=0))
    if tokenizer.get("eos_token_ids") is not None:  # Ollama's list
        ids.update(tokenizer.array("eos_token_ids", np.ndarray).tolist())
    template = Metadata(path, metadata, "tokenizer.").text("chat_template")
    if template and _END_OF_TURN in template and tokenizer.get("tokens"):
        tokens = tokenizer.array("tokens", list)
        ids.update(number for number, token in enumerate(tokens) if token == _END_OF_TURN)
    return sorted(ids)


def _token_ids(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    tokenizer = Metadata(path, metadata, "tokenizer.ggml.")
    eos = eos_token_ids(metadata, path)
    return {
        "bos_token_id": tokenizer.integer("bos_token_id", 2, least=0),
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "pad_token_id": tokenizer.integer("padding_token_id", 0, least=0),
    }


def _windows(model: Metadata, layers: int) -> dict[str, Any]:
    """The window, and which layers have it."""
    context = model.integer("context_length")
    window = model.integer("attention.sliding_window", 0, least=0)
    key = "attention.sliding_window_pattern"
    pattern = model.get(key)
    if isinstance(pattern, np.ndarray):
        if pattern.shape != (layers,) or not set(pattern.tolist()) <= {0, 1}:
            raise model.wrong(key, pattern.tolist(), f"true or false for each of {layers} layers")
        sliding = [bool(each) for each in pattern]
    else:
        every = model.integer(key, _SLIDING_WINDOW_PATTERN if window else 1, least=0)
        sliding = [every == 0 or (layer + 1) % every != 0 for layer in range(layers)]
    if not window:
        # Converters leave the window out of a model whose layers are all global.
        if any(sliding):
            raise model.wrong("attention.sliding_window", None, f"the window that {key} is of")
        return {"sliding_window": context, "sliding_window_pattern": 1}
    if isinstance(pattern, np.ndarray) or every == 0:
        kinds = [_SLIDING if each else _FULL for each in sliding]
        return {"sliding_window": window, "layer_types": kinds}
    return {"sliding_window": window, "sliding_window_pattern": every}


def _corrected(
    model: Metadata, layers: int
) -> tuple[dict[str, Any] | None, float | None, tuple[str, ...]]:
    """Rotary scaling, the cap of the logits, and notes.

    Ollama's converter wrote a cap into files of the 1B, which has none, and left out the scaling
    of the larger ones; Ollama puts both right as it loads them, and so do we.
    """
    scaling, cap = _rope_scaling(model), model.number("final_logit_softcapping")
    theirs = [
        key for key in model.names() if key in _OLLAMA_KEYS or key.startswith(_OLLAMA_PREFIXES)
    ]
    window = model.integer("attention.sliding_window", 0, least=0)
    if not theirs or not 0 < window < model.integer("context_length"):
        return scaling, cap, ()
    notes = []
    if layers == _LAYERS_OF_1B and cap:
        notes.append(
            f"metadata {model.prefix}final_logit_softcapping of {cap} is left out, as by Ollama, "
            "whose converter wrote it: Gemma 3 has no cap"
        )
        cap = None
    silent = not any(key.startswith("rope.scal") for key in model.names())
    if layers in _LAYERS_OF_LARGER and silent:
        notes.append(
            f"metadata {model.prefix}rope.scaling.factor is missing and taken to be "
            f"{_FACTOR_OF_LARGER}, as by Ollama, whose converter left it out"
        )
        scaling = {"rope_type": "linear", "factor": _FACTOR_OF_LARGER}
    return scaling, cap, tuple(notes)


def _rope_scaling(model: Metadata) -> dict[str, Any] | None:
    """Scaling of the global layers in Hugging Face's terms."""
    kind = model.text("rope.scaling.type") or "linear"
    factor = model.number("rope.scaling.factor", model.number("rope.scale_linear"))
    if kind not in ("none", "linear", "yarn"):
        raise model.wrong("rope.scaling.type", kind, "none, linear or yarn")
    if kind == "none" or not factor or factor == 1.0:
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if factor < 1.0:
        raise model.wrong("rope.scaling.factor", factor, "at least 1")
    context = model.integer("context_length")
    original = model.integer("rope.scaling.original_context_length", context)
    betas = {
        "beta_fast": model.number("rope.scaling.beta_fast"),
        "beta_slow": model.number("rope.scaling.beta_slow"),
    }
    return {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        **{name: value for name, value in betas.items() if value is not None},
    }
