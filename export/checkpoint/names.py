"""Tensor names of every checkpoint layout -> the names of the text-only layout."""

from __future__ import annotations

import re

# Buffers that older versions of transformers saved; they are computed, not learned.
_BUFFERS = re.compile(r"position_ids$|\brotary_emb(_local)?\.\w*inv_freq$")

# Applied once each, in this order. The multimodal layouts differ in where they put `model.`:
#   language_model.model.layers.*   vision_tower.vision_model.*          multi_modal_projector.*
#   model.language_model.layers.*   model.vision_tower.vision_model.*    model.multi_modal_...
#   language_model.model.layers.*   vision_tower.embeddings.*
_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.", ""),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("vision_tower.vision_model.vision_model.", "vision_tower.vision_model."),
    # A bare decoder, as EmbeddingGemma is published.
    ("embed_tokens.", "model.embed_tokens."),
    ("layers.", "model.layers."),
    ("norm.", "model.norm."),
)

_GGUF_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GGUF_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")


def canonical_name(key: str) -> str | None:
    """Canonical name of a Hugging Face tensor; None for a buffer that is no weight."""
    if _BUFFERS.search(key):
        return None
    for prefix, replacement in _PREFIXES:
        if key.startswith(prefix):
            key = replacement + key.removeprefix(prefix)
    return key


def canonical_gguf_name(name: str) -> str | None:
    """Canonical name of a GGUF tensor; None when Gemma 3 has no such tensor."""
    match = _GGUF_NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match["layer"], match["part"], match["kind"]
    if layer is None:
        return f"{_GGUF_TOP[part]}.{kind}" if part in _GGUF_TOP else None
    if part not in _GGUF_LAYER:
        return None
    return f"model.layers.{int(layer)}.{_GGUF_LAYER[part]}.{kind}"
