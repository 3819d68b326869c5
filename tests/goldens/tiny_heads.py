"""Tiny checkpoints with another head than the language model's, made as `tiny.py` makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .tiny import distribution, normal, shapes, write_files

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"
_BASE: dict[str, Any] = {
    "model_type": "gemma3_text",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "max_position_embeddings": 256,
    "layer_types": [_LOCAL, _GLOBAL, _LOCAL, _LOCAL],
    "rope_parameters": {
        _GLOBAL: {"rope_type": "default", "rope_theta": 200000.0},
        _LOCAL: {"rope_type": "default", "rope_theta": 5000.0},
    },
}

CLASSIFIERS: dict[str, dict[str, Any]] = {
    # As transformers 5.23 writes one; more keys than the window holds.
    "classifier": _BASE
    | {
        "architectures": ["Gemma3TextForSequenceClassification"],
        "id2label": {"0": "bad", "1": "so so", "2": "good"},
        "label2id": {"bad": 0, "so so": 1, "good": 2},
        "pad_token_id": 0,
        "sliding_window": 6,
    },
    # No names for the classes, another pad token, and a softcap that is not for classes.
    "capped": _BASE
    | {
        "architectures": ["Gemma3TextForSequenceClassification"],
        "num_labels": 4,
        "pad_token_id": 7,
        "sliding_window": 9,
        "final_logit_softcapping": 0.5,
    },
}
"""config.json of each classifier, by name."""


EMBEDDERS: dict[str, dict[str, Any]] = {
    # As EmbeddingGemma: names without `model.`, two dense layers. A window of 8 is one of 5.
    "embedder": _BASE
    | {
        "architectures": ["Gemma3TextModel"],
        "use_bidirectional_attention": True,
        "sliding_window": 8,
    },
    # No dense layers, and an odd window: 7 is one of 4.
    "bare": _BASE
    | {
        "architectures": ["Gemma3TextModel"],
        "use_bidirectional_attention": True,
        "sliding_window": 7,
    },
}
"""config.json of each embedding model, by name."""

DENSE: dict[str, tuple[tuple[str, tuple[int, int], bool], ...]] = {
    "embedder": (("2_Dense", (96, 64), False), ("3_Dense", (48, 96), True)),
    "bare": (),
}
"""Folder, shape (out, in) and bias of the dense layers of each embedding model."""


def label_count(config: dict[str, Any]) -> int:
    """Number of classes."""
    return config.get("num_labels") or len(config["id2label"])


def classifier_weights(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor of the classifier `name`, float32."""
    config = CLASSIFIERS[name]
    for tensor, shape in shapes(config | {"tie_word_embeddings": True}).items():
        mean, deviation = distribution(tensor, shape, tied=False)
        yield tensor, normal(f"{name}/{tensor}", shape, mean, deviation)
    shape = (label_count(config), config["hidden_size"])
    yield "score.weight", normal(f"{name}/score.weight", shape, 0.0, 0.2)


def write_classifier(name: str, folder: Path) -> Path:
    """Write the classifier `name` into `folder`, which is made where missing."""
    return write_files(CLASSIFIERS[name], classifier_weights(name), folder)


def embedder_weights(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor of the embedding model `name` but the dense layers, float32."""
    for tensor, shape in shapes(EMBEDDERS[name] | {"tie_word_embeddings": True}).items():
        mean, deviation = distribution(tensor, shape, tied=False)
        values = normal(f"{name}/{tensor}", shape, mean, deviation)
        yield tensor.removeprefix("model."), values


def dense_weights(name: str, number: int) -> dict[str, np.ndarray]:
    """`linear.weight`, and `linear.bias` where it has one, of a dense layer."""
    folder, shape, bias = DENSE[name][number]
    key = f"{name}/{folder}/linear"
    found = {"linear.weight": normal(f"{key}.weight", shape, 0.0, shape[1] ** -0.5)}
    if bias:
        found["linear.bias"] = normal(f"{key}.bias", shape[:1], 0.0, 0.5)
    return found


def write_embedder(name: str, folder: Path) -> Path:
    """Write the embedding model `name` into `folder` as sentence-transformers stores it."""
    write_files(EMBEDDERS[name], embedder_weights(name), folder)
    if DENSE[name]:
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False,
                   "pooling_mode_mean_tokens": True}  # fmt: skip
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for number, (layer, shape, bias) in enumerate(DENSE[name]):
        config = {
            "in_features": shape[1],
            "out_features": shape[0],
            "bias": bias,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        write_files(config, dense_weights(name, number).items(), folder / layer)
    return folder
