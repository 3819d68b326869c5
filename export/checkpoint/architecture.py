"""Whether a config.json is of a model that can be exported; what is not is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artifacts.errors import ArtifactError
from ..arguments import QUANTIZE
from .base import ARCHITECTURES

_MODEL_TYPES = ("gemma3", "gemma3_text")
_DEFAULT_PATTERN = 6
_OTHERS = {
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3n": "Gemma 3n",
    "gemma4": "Gemma 4",
    "t5gemma": "T5Gemma",
    "t5gemma2": "T5Gemma 2",
    "recurrent_gemma": "RecurrentGemma",
    "vaultgemma": "VaultGemma",
    "shieldgemma2": "ShieldGemma 2",
    "paligemma": "PaliGemma",
    "colpali": "ColPali",
}
"""Relatives whose checkpoints look much like ours, by the beginning of their model_type."""


def check_architecture(path: Path, config: dict[str, Any]) -> None:
    """Refuse a config.json, read from `path`, of another model than Gemma 3 as it is exported.

    Raises:
        ArtifactError: another model_type or class, weights that are quantised, layers with
            configurations of their own, or rotary keys that transformers reads past.
    """
    _check_model_type(path, config)
    _check_classes(path, config.get("architectures"))
    text = config.get("text_config")
    if not isinstance(text or {}, dict):
        raise ArtifactError(f"{path}: text_config must be an object; download the file again")
    for name, section in (("", config), ("text_config.", text or {})):
        _check_quantization(path, name, section)
        if section.get("per_layer_config"):
            raise ArtifactError(
                f"{path}: {name}per_layer_config: layers that differ in more than layer_types are "
                "not exported; expected one configuration for all layers"
            )
        _check_direction(path, name, section)
    _check_layers(path, text or config)
    _check_rope(path, config, text or config)


def _check_model_type(path: Path, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    text = config.get("text_config")
    inner = text.get("model_type") if isinstance(text, dict) else None
    for name, value, known in (
        ("model_type", model_type, _MODEL_TYPES),
        ("text_config.model_type", inner, (None, "gemma3_text")),
    ):
        if value not in known:
            expected = " or ".join(filter(None, known))
            raise ArtifactError(
                f"{path}: {name} {_shown(value)}{_relative(value)} is not supported; expected "
                f"{expected} (a Gemma 3 checkpoint)"
            )


def _relative(model_type: Any) -> str:
    kinds = [name for name in _OTHERS if str(model_type).startswith(name)]
    return f" ({_OTHERS[max(kinds, key=len)]})" if kinds else ""


def _check_classes(path: Path, classes: Any) -> None:
    if classes is None:
        return
    if not isinstance(classes, list):
        raise ArtifactError(
            f"{path}: architectures: expected a list of class names, got {_shown(classes)}; "
            "fix config.json"
        )
    for name in classes:
        if name not in ARCHITECTURES:
            raise ArtifactError(
                f"{path}: architectures: {_shown(name)} is not exported; expected one of "
                f"{', '.join(ARCHITECTURES)}; to export only the text model in it, save it as "
                "Gemma3ForCausalLM with transformers"
            )


def _check_quantization(path: Path, name: str, section: dict[str, Any]) -> None:
    for key in ("quantization_config", "compression_config"):
        settings = section.get(key)
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise ArtifactError(
                f"{path}: {name}{key}: the weights are quantised ({_shown(method)}); expected "
                "plain ones (bf16, f16, f32 or f64): export the checkpoint it was made from with "
                f"{QUANTIZE}, or save it dequantised; where they are plain, take {key} out"
            )


def _check_direction(path: Path, name: str, section: dict[str, Any]) -> None:
    """Refuse `is_causal`, which changes the masks of transformers beside the field made for it."""
    if "is_causal" in section and not section["is_causal"]:
        raise ArtifactError(
            f"{path}: {name}is_causal: expected true, or nothing, got "
            f"{_shown(section['is_causal'])}; for layers that look "
            "both ways write use_bidirectional_attention"
        )


def _check_layers(path: Path, text: dict[str, Any]) -> None:
    """Refuse a pattern of layers that is written where transformers does not read it.

    And a number that transformers needs and that is null: an absent one has a default.
    """
    for field in ("sliding_window", "query_pre_attn_scalar"):
        if field in text and text[field] is None:
            raise ArtifactError(
                f"{path}: {field}: expected a number, got null, which transformers does not run "
                "with; write the number, or take it out for the default"
            )
    pattern = text.get("_sliding_window_pattern")
    read = text.get("layer_types") or text.get("sliding_window_pattern")
    if pattern not in (None, _DEFAULT_PATTERN) and not read:
        raise ArtifactError(
            f"{path}: _sliding_window_pattern: transformers reads layer_types or "
            f"sliding_window_pattern and would take {_DEFAULT_PATTERN} for it, not "
            f"{_shown(pattern)}; write one of them"
        )


def _check_rope(path: Path, config: dict[str, Any], text: dict[str, Any]) -> None:
    """Refuse what transformers 5.23 reads past: it would compute something else than is written."""
    for name in ("rope_scaling", "rope_parameters"):
        if config.get(name) and config[name] != text.get(name):
            raise ArtifactError(
                f"{path}: {name}: transformers reads it in text_config and past it at the top; "
                "move it there"
            )
    old = text.get("rope_scaling")
    if isinstance(old, dict) and "rope_type" not in old and old.get("type", "default") != "default":
        raise ArtifactError(
            f"{path}: rope_scaling.type: transformers reads rope_type here and would leave the "
            "scaling out; write rope_type"
        )
    new = text.get("rope_parameters")
    sections = {"rope_scaling": old}
    if isinstance(new, dict):
        if new.get("truncate") is False:
            return
        sections |= {f"rope_parameters.{kind}": value for kind, value in new.items()}
    for where, section in sections.items():
        if isinstance(section, dict) and section.get("truncate") is False:
            raise ArtifactError(
                f"{path}: {where}.truncate: transformers reads truncate of rope_parameters itself "
                "and would take it for true; write it there, or take it out"
            )


def _shown(value: Any) -> str:
    return repr(value)[:80]
