"""Which metadata keys of an architecture are understood; all others are refused by name.

A key may change what the model computes, so one that nobody knows here is not passed over. What
llama.cpp reads for these architectures, and what Ollama writes and reads: llama-arch.cpp and
gemma3.cpp there, convert_gemma3.go and model_text.go here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError
from .gguf_metadata import Metadata

USED = frozenset({
    "attention.causal", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_rms_epsilon", "attention.sliding_window",
    "attention.sliding_window_pattern", "block_count", "context_length",
    "dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out",
    "embedding_length", "feed_forward_length", "final_logit_softcapping", "pooling_type",
    "rope.freq_base", "rope.freq_base_swa", "rope.global.freq_base", "rope.local.freq_base",
    "rope.scale_linear", "rope.scaling.beta_fast", "rope.scaling.beta_slow",
    "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.type",
})  # fmt: skip
"""Those that `gguf_config` and the head of an embedding model are made of."""

_HARMLESS = frozenset({
    "rope.scaling.finetuned", "tensor_data_layout", "vocab_size",
})  # fmt: skip
"""Those that change no number: tensors say how large the vocabulary is."""

_VISION = ("vision.", "mm.")
"""Ollama's keys of the vision side, whose tensors are left out with a note."""


def check_keys(model: Metadata, hidden: int, head_dim: int, scalar: float) -> None:
    """Refuse a key that asks for something else than what is computed.

    Args:
        model: metadata under the prefix of the architecture.
        hidden, head_dim: the sizes.
        scalar: queries are multiplied by this to the power of -1/2.

    Raises:
        ArtifactError: names the key, and for one that is known the value it may have.
    """
    neutral: dict[str, Any] = {
        "attention.value_length": head_dim,
        "attention.key_length_swa": head_dim,
        "attention.value_length_swa": head_dim,
        "attention.scale": scalar**-0.5,
        "attention.clamp_kqv": 0.0,
        "attention.max_alibi_bias": 0.0,
        "attention.shared_kv_layers": 0,
        "attn_logit_softcapping": 0.0,  # llama.cpp and Ollama read past it
        "embedding_length_out": hidden,
        "embedding_length_per_layer_input": 0,
        "embedding_scale": hidden**0.5,
        "expert_count": 0,
        "expert_used_count": 0,
        "logit_scale": 1.0,
        "nextn_predict_layers": 0,
        "residual_scale": 1.0,
        "rope.dimension_count": head_dim,
        "rope.dimension_count_swa": head_dim,
        "rope.freq_scale": 1.0,
        # These act on the sliding layers too, which a Hugging Face config does not scale.
        "rope.scaling.alpha": 0.0,
        "rope.scaling.attn_factor": 1.0,
        "rope.scaling.yarn_attn_factor": 1.0,
        # llama.cpp takes these whatever the file says; Ollama has names of its own for them.
        "rope.scaling.yarn_beta_fast": 32.0,
        "rope.scaling.yarn_beta_slow": 1.0,
        "rope.scaling.yarn_log_multiplier": 0.0,
        "rope.scaling.yarn_ext_factor": 1.0,
        "rope.scaling.extrapolation_factor": 1.0,
        "use_parallel_residual": False,
    }
    for key, expected in neutral.items():
        value = model.get(key)
        if value is not None and not _is(value, expected):
            raise model.wrong(key, value, f"{expected!r}, as Gemma 3 has it, or nothing")
    known = USED | _HARMLESS | neutral.keys()
    unknown = [key for key in model.names() if key not in known and not key.startswith(_VISION)]
    if unknown:
        more = f", and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        names = ", ".join(model.prefix + key for key in unknown[:4])
        raise ArtifactError(
            f"{model.path}: metadata {names}{more}: expected keys whose meaning is known here, got "
            "others, which may change what the model computes; export from the Hugging Face "
            "folder the file was made from"
        )


def _is(value: Any, expected: float | bool) -> bool:
    values = value.tolist() if isinstance(value, np.ndarray) else [value]
    if isinstance(expected, bool):
        return all(one is expected for one in values)
    numbers = [one for one in values if type(one) in (int, float)]
    return len(numbers) == len(values) and np.allclose(numbers, expected, rtol=1e-4, atol=0.0)
