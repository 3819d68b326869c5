"""GGUF metadata of architecture gemma3 -> the config.json the model would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError
from .tensors import TensorSource

ARCHITECTURE = "gemma3"
EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_QUERY_BIAS = "model.layers.0.self_attn.q_proj.bias"
_END_OF_TURN = "<end_of_turn>"

# What llama.cpp assumes where the metadata is silent (its loader for this architecture).
_SLIDING_WINDOW_PATTERN = 6
_GLOBAL_ROPE_BASE = 1_000_000.0
_LOCAL_ROPE_BASE = 10_000.0
_LAYERS_OF_27B = 62


@dataclass(frozen=True)
class Metadata:
    """Metadata of one file under one prefix (`gemma3.`, `tokenizer.ggml.`), read with types."""

    path: Path
    values: Mapping[str, Any]
    prefix: str

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands."""
        return self.values.get(self.prefix + key, default)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer; an array (one value per layer) must repeat one value."""
        value = self.get(key, default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or value < least:
            raise self.wrong(key, value, f"one integer of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        """A finite number, or the default."""
        value = self.get(key, default)
        if value is None:
            return None
        if type(value) not in (int, float) or not np.isfinite(value):
            raise self.wrong(key, value, "a finite number")
        return float(value)

    def text(self, key: str) -> str | None:
        """A string, or None."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, value, "text")
        return value

    def array(self, key: str, kind: type) -> Any:
        """A list of strings (`list`) or an array of numbers (`np.ndarray`)."""
        value = self.get(key)
        if not isinstance(value, kind):
            raise self.wrong(key, value, "an array")
        return value

    def wrong(self, key: str, value: object, expected: str) -> ArtifactError:
        """The error for a value that is missing or of the wrong kind."""
        got = "nothing" if value is None else " ".join(repr(value).split())[:60]
        return ArtifactError(
            f"{self.path}: metadata {self.prefix}{key}: expected {expected}, got {got}; "
            "convert the model again"
        )


def gguf_config(
    metadata: Mapping[str, Any], tensors: Mapping[str, TensorSource], path: Path
) -> dict[str, Any]:
    """A config.json with every text field.

    Args:
        metadata: of the whole file.
        tensors: by canonical name; they decide vocabulary size, tying and biases.
        path: the file, for messages.

    Raises:
        ArtifactError: metadata that the model needs is missing or of the wrong kind, or asks
            for something that GGUF cannot say completely.
    """
    model = Metadata(path, metadata, f"{ARCHITECTURE}.")
    tokenizer = Metadata(path, metadata, "tokenizer.ggml.")
    hidden = model.integer("embedding_length")
    heads = model.integer("attention.head_count")
    layers = model.integer("block_count")
    context = model.integer("context_length")
    head_dim = model.integer("attention.key_length", max(1, hidden // heads))
    eos = eos_token_ids(metadata, path)
    # Converters leave the window out of a model whose layers are all global.
    pattern = 1 if model.get("attention.sliding_window") is None else _SLIDING_WINDOW_PATTERN
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": _QUERY_BIAS in tensors,
        "attn_logit_softcapping": model.number("attn_logit_softcapping"),
        "bos_token_id": tokenizer.integer("bos_token_id", 2, least=0),
        "eos_token_id": eos if len(eos) > 1 else eos[0],
        "final_logit_softcapping": model.number("final_logit_softcapping"),
        "head_dim": head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden,
        "intermediate_size": model.integer("feed_forward_length"),
        "max_position_embeddings": context,
        "model_type": "gemma3_text",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": model.integer("attention.head_count_kv", heads),
        "pad_token_id": tokenizer.integer("padding_token_id", 0, least=0),
        # The file does not say; llama.cpp knows the 27B by its number of layers, too.
        "query_pre_attn_scalar": hidden // heads if layers == _LAYERS_OF_27B else head_dim,
        "rms_norm_eps": model.number("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_local_base_freq": model.number("rope.freq_base_swa", _LOCAL_ROPE_BASE),
        "rope_scaling": _rope_scaling(model),
        "rope_theta": model.number("rope.freq_base", _GLOBAL_ROPE_BASE),
        "sliding_window": model.integer("attention.sliding_window", context),
        "sliding_window_pattern": model.integer("attention.sliding_window_pattern", pattern),
        "tie_word_embeddings": _HEAD not in tensors,
        "vocab_size": tensors[EMBEDDING].rows,
    }


def eos_token_ids(metadata: Mapping[str, Any], path: Path) -> list[int]:
    """Ids that end a generation: end of text, and end of turn where the model speaks in turns.

    Many converted chat models name <end_of_turn> only in their chat template.
    """
    tokenizer = Metadata(path, metadata, "tokenizer.ggml.")
    ids = {tokenizer.integer("eos_token_id", 1, least=0)}
    if tokenizer.get("eot_token_id") is not None:
        ids.add(tokenizer.integer("eot_token_id", least=0))
    template = Metadata(path, metadata, "tokenizer.").text("chat_template")
    if template and _END_OF_TURN in template and tokenizer.get("tokens"):
        tokens = tokenizer.array("tokens", list)
        ids.update(number for number, token in enumerate(tokens) if token == _END_OF_TURN)
    return sorted(ids)


def _rope_scaling(model: Metadata) -> dict[str, Any] | None:
    """Scaling of the global layers in Hugging Face's terms."""
    kind = model.text("rope.scaling.type") or "linear"
    factor = model.number("rope.scaling.factor", model.number("rope.scale_linear"))
    if kind == "none" or not factor or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = model.integer("rope.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise model.wrong("rope.scaling.type", kind, "none, linear or yarn")
