"""Tiny multimodal checkpoints and pictures, the same bytes on every machine; see tiny.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import tiny

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_BASE: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "boi_token_index": 250,
    "eoi_token_index": 251,
    "image_token_index": 252,
}

TINY_VISION: dict[str, dict[str, Any]] = {
    # As the published 4B: old style, scaled rope, tied. An image of 4 tokens fits the window of 8.
    "image": _BASE
    | {
        "mm_tokens_per_image": 4,
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "max_position_embeddings": 256,
            "sliding_window": 8,
            "sliding_window_pattern": 3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 7,
            "vision_use_head": False,
        },
    },
    # An image of 16 tokens against a window of 5; layers in no order; an untied head; six vision
    # heads, which four devices cannot share; two columns of pixels that no patch looks at.
    "image_beyond_window": _BASE
    | {
        "mm_tokens_per_image": 16,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "gemma3_text",
            "vocab_size": 320,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "max_position_embeddings": 256,
            "sliding_window": 5,
            "layer_types": [_LOCAL, _GLOBAL, _LOCAL, _LOCAL, _GLOBAL, _LOCAL],
            "rope_parameters": {
                _GLOBAL: {"rope_type": "default", "rope_theta": 200000.0},
                _LOCAL: {"rope_type": "default", "rope_theta": 5000.0},
            },
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "image_size": 58,
            "patch_size": 7,
            "layer_norm_eps": 1e-05,
            "vision_use_head": False,
        },
    },
}
"""config.json of each tiny multimodal checkpoint, by name."""

# How checkpoints of different ages name the same weights: what comes before the text-only name
# (`model.layers...`, `lm_head...`), the tower's `vision_tower.vision_model.` and the projector's.
LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    # The published checkpoints, and transformers before 4.52.
    "language_model.model": (
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
    # transformers since 4.52.
    "model.language_model": (
        ("model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ),
    # The tower without its inner level.
    "vision_tower.embeddings": (
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("vision_tower.vision_model.", "vision_tower."),
    ),
}


def stored_name(canonical: str, layout: str) -> str:
    """What a checkpoint of this layout calls a weight."""
    for prefix, replacement in LAYOUTS[layout]:
        if canonical.startswith(prefix):
            return replacement + canonical.removeprefix(prefix)
    return canonical


def vision_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the tower and the projector, by canonical name."""
    vision = config["vision_config"]
    wide, ffw, size = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    tower, projector = "vision_tower.vision_model.", "multi_modal_projector."
    found: dict[str, tuple[int, ...]] = {
        f"{tower}embeddings.patch_embedding.weight": (wide, 3, size, size),
        f"{tower}embeddings.patch_embedding.bias": (wide,),
        f"{tower}embeddings.position_embedding.weight": ((vision["image_size"] // size) ** 2, wide),
        f"{tower}post_layernorm.weight": (wide,),
        f"{tower}post_layernorm.bias": (wide,),
        f"{projector}mm_input_projection_weight": (wide, config["text_config"]["hidden_size"]),
        f"{projector}mm_soft_emb_norm.weight": (wide,),
    }
    for layer in range(vision["num_hidden_layers"]):
        shapes: dict[str, tuple[int, ...]] = {"layer_norm1": (wide,), "layer_norm2": (wide,)}
        shapes |= {f"self_attn.{name}_proj": (wide, wide) for name in ("k", "out", "q", "v")}
        shapes |= {"mlp.fc1": (ffw, wide), "mlp.fc2": (wide, ffw)}
        for module, shape in shapes.items():
            found[f"{tower}encoder.layers.{layer}.{module}.weight"] = shape
            found[f"{tower}encoder.layers.{layer}.{module}.bias"] = shape[:1]
    return found


def vision_weights(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor of the tiny checkpoint `name` by canonical name, float32, text stack first."""
    config = TINY_VISION[name]
    tied = config.get("tie_word_embeddings", True)
    text = tiny.shapes(config["text_config"] | {"tie_word_embeddings": tied})
    for tensor, shape in text.items():
        mean, deviation = tiny.distribution(tensor, shape, tied)
        yield tensor, tiny.normal(f"{name}/{tensor}", shape, mean, deviation)
    for tensor, shape in vision_shapes(config).items():
        mean, deviation = _distribution(tensor, shape)
        yield tensor, tiny.normal(f"{name}/{tensor}", shape, mean, deviation)


def _distribution(tensor: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and deviation that make every weight of the tower show in the soft tokens."""
    if tensor.endswith("mm_soft_emb_norm.weight"):
        return 0.0, 0.3  # applied as 1 + w
    if "norm" in tensor and tensor.endswith(".weight"):
        return 1.0, 0.3
    if tensor.endswith((".bias", "position_embedding.weight")):
        return 0.0, 0.3
    if "q_proj" in tensor or "k_proj" in tensor:
        return 0.0, 2 / math.sqrt(shape[-1])  # sharp attention
    if tensor.endswith("mm_input_projection_weight"):
        return 0.0, 1 / math.sqrt(shape[0])
    return 0.0, 1 / math.sqrt(math.prod(shape[1:]))


def pixels(name: str, images: int) -> np.ndarray:
    """The first `images` pictures of a tiny checkpoint, [images,3,size,size] float32 in -1..1.

    Each is noise about a level of its own, so that their soft tokens differ.
    """
    size = TINY_VISION[name]["vision_config"]["image_size"]
    found = []
    for index in range(images):
        level = tiny.normal(f"{name}/level/{index}", (3, 1, 1), 0.0, 0.4)
        found.append(level + tiny.normal(f"{name}/pixels/{index}", (3, size, size), 0.0, 0.4))
    return np.clip(np.stack(found), -1, 1).astype(np.float32)


def write_checkpoint(
    name: str, folder: Path, layout: str = "language_model.model", dtype: str = "float32"
) -> Path:
    """Write the tiny checkpoint `name` into `folder` under the names of `layout`."""
    tensors = sorted((stored_name(key, layout), value) for key, value in vision_weights(name))
    return tiny.write_files(TINY_VISION[name], tensors, folder, dtype)


IMAGE_CLASSIFIER: dict[str, Any] = TINY_VISION["image"] | {
    "architectures": ["Gemma3ForSequenceClassification"],
    "id2label": {"0": "cat", "1": "dog", "2": "neither"},
    "label2id": {"cat": 0, "dog": 1, "neither": 2},
}
"""config.json of a classifier that sees images."""


def write_image_classifier(folder: Path) -> Path:
    """Write it into `folder` under the names of transformers 5."""
    shape = (3, IMAGE_CLASSIFIER["text_config"]["hidden_size"])
    tensors = [
        (stored_name(key, "model.language_model"), value) for key, value in vision_weights("image")
    ]
    tensors.append(("score.weight", tiny.normal("image/score.weight", shape, 0.0, 0.2)))
    return tiny.write_files(IMAGE_CLASSIFIER, sorted(tensors, key=lambda item: item[0]), folder)
