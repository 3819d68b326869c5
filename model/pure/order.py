"""The order of weights in the store, by their names."""

from __future__ import annotations

_TEXT_LAYER = (
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj", "post_attention_layernorm",
    "pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    "post_feedforward_layernorm",
)  # fmt: skip

_WITHIN_MODULE = ("weight", "weight_scale", "bias")


def text_order(name: str) -> tuple[int, int, int, int]:
    """Embeddings, then layers in order, then the rest.

    q, k, v and gate, up are neighbours with their weights ahead of scales and biases, so that a
    host may map each group as one matrix.
    """
    parts = name.split(".")
    if "layers" not in parts:
        return (0, 0, len(name), 0) if "embed_tokens" in parts else (2, 0, len(name), 0)
    at = parts.index("layers")
    module = ".".join(parts[at + 2 : -1])
    return (1, int(parts[at + 1]), _WITHIN_MODULE.index(parts[-1]), _TEXT_LAYER.index(module))


_VISION_LAYER = (
    "layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2",
)  # fmt: skip


def vision_order(name: str) -> tuple[int, int, int, int]:
    """Embeddings, layers in order, last norm, projector; q, k, v weights are neighbours."""
    parts = name.split(".")
    if "layers" in parts:
        at = parts.index("layers")
        module = ".".join(parts[at + 2 : -1])
        is_bias = parts[-1] == "bias"
        return (1, int(parts[at + 1]), is_bias, _VISION_LAYER.index(module))
    if "embeddings" in parts:
        return (0, 0, 0, 0)
    return (2 if parts[0] == "vision_tower" else 3, 0, 0, 0)
