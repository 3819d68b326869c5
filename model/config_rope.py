"""The rotary part of a config.json: every key of it is used or refused, none is ignored.

Source: transformers `configuration_gemma3.py` (convert_rope_params_to_dict) for what old and new
style say together, `modeling_rope_utils.py` for the keys that each variant has.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from .config_fields import ConfigError, shown


class RopeType(enum.StrEnum):
    """The rotary embedding variants that Hugging Face names in `rope_type`."""

    DEFAULT = "default"
    LINEAR = "linear"
    DYNAMIC = "dynamic"
    YARN = "yarn"
    LONGROPE = "longrope"
    LLAMA3 = "llama3"


_FULL, _SLIDING = "full_attention", "sliding_attention"
_DEFAULT_THETA = {_FULL: 1_000_000.0, _SLIDING: 10_000.0}
_OLD_THETA = {_FULL: "rope_theta", _SLIDING: "rope_local_base_freq"}
_OLD_SCALING = {_FULL: "rope_scaling", _SLIDING: "rope_local_scaling"}
_ORIGINAL = "original_max_position_embeddings"

_REQUIRED: dict[RopeType, tuple[str, ...]] = {
    RopeType.DEFAULT: (),
    RopeType.LINEAR: ("factor",),
    RopeType.DYNAMIC: ("factor",),
    RopeType.YARN: ("factor",),
    RopeType.LONGROPE: ("short_factor", "long_factor"),
    RopeType.LLAMA3: ("factor", "low_freq_factor", "high_freq_factor"),
}
_OPTIONAL: dict[RopeType, tuple[str, ...]] = {
    RopeType.YARN: (
        _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate",
    ),
    RopeType.LONGROPE: (_ORIGINAL, "attention_factor", "factor"),
    RopeType.LLAMA3: (_ORIGINAL,),
}  # fmt: skip


def rope_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    """What old and new style say together: base and scaling of both kinds of layer.

    `text` has passed check_fields. As in transformers, `rope_scaling` is laid over the
    `full_attention` of `rope_parameters`, and the bases at the top fill in for those left out.
    Raises ConfigError for a key that neither this model nor transformers would use.
    """
    _refuse_unknown(text)
    outer = {key: value for key, value in (text.get("rope_parameters") or {}).items()
             if value is not None}  # fmt: skip
    nested = {kind: dict(outer.pop(kind, None) or {}) for kind in _DEFAULT_THETA}
    truncate = outer.pop("truncate", None)
    fields: dict[str, Any] = {}
    for kind, section in nested.items():
        where = f"rope_parameters.{kind}"
        section = named(section, where)
        if kind == _FULL and text.get("rope_scaling"):
            where = "rope_scaling"
            section |= named(text["rope_scaling"], where)
        elif kind == _SLIDING and text.get("rope_local_scaling"):
            section |= named(text["rope_local_scaling"], "rope_local_scaling")
        if truncate is not None and section.get("rope_type") == RopeType.YARN:
            section["truncate"] = truncate  # where transformers looks for it
        fields[_OLD_THETA[kind]] = _theta(text, kind, section)
        plain = section.get("rope_type", RopeType.DEFAULT) == RopeType.DEFAULT
        _check_section(where, section)
        fields[_OLD_SCALING[kind]] = None if plain else section
    _refuse_outer(outer, fields)
    _refuse_original(text, fields)
    return fields


def named(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A section without nulls, its kind under `rope_type` alone. Raises ConfigError."""
    values = {key: value for key, value in section.items() if value is not None}
    old = values.pop("type", None)
    if old is not None and values.setdefault("rope_type", old) != old:
        raise ConfigError(
            f"config.json {where}: rope_type {shown(values['rope_type'])} and type {shown(old)} "
            "disagree: expected one of them"
        )
    whole = values.pop("partial_rotary_factor", 1)
    if whole != 1:
        raise ConfigError(
            f"config.json {where}.partial_rotary_factor: expected 1, as in every Gemma 3, "
            f"got {shown(whole)}"
        )
    return values


def rope_type(section: Mapping[str, Any] | None) -> RopeType:
    """The variant of a section; None is default. Raises ValueError for another name."""
    section = section or {}
    return RopeType(section.get("rope_type", section.get("type", "default")))


def check_rope(head_dim: int, sections: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Raise ConfigError for sections, by their names, that do not say what their kind needs."""
    for where, section in sections.items():
        section = named(section or {}, where)
        _check_section(where, section)
        for name in ("short_factor", "long_factor"):
            values = section.get(name)
            if values is not None and len(values) != head_dim // 2:
                raise ConfigError(
                    f"config.json {where}.{name}: expected {head_dim // 2} numbers "
                    f"(head_dim / 2), got {len(values)}"
                )


def _check_section(where: str, section: Mapping[str, Any]) -> None:
    try:
        kind = rope_type(section)
    except ValueError as error:
        raise ConfigError(
            f"config.json {where}.rope_type: expected one of {', '.join(RopeType)}, "
            f"got {shown(section['rope_type'])}"
        ) from error
    for name in _REQUIRED[kind]:
        if section.get(name) is None:
            raise ConfigError(f"config.json {where}: {kind} needs {name!r}, which is missing")
    known = ("rope_type", *_REQUIRED[kind], *_OPTIONAL.get(kind, ()))
    for name in section:
        if name not in known:
            raise ConfigError(
                f"config.json {where}.{name}: {kind} has no such key; expected "
                f"{', '.join(known)}; take it out, or give the rope_type that has it"
            )


def _theta(text: Mapping[str, Any], kind: str, section: dict[str, Any]) -> float:
    """The base of one kind of layer, taken out of its section."""
    inside, top = section.pop("rope_theta", None), text.get(_OLD_THETA[kind])
    if inside is not None and top is not None and inside != top:
        raise ConfigError(
            f"config.json {_OLD_THETA[kind]}: {top} contradicts the rope_theta of {kind}, "
            f"{inside}: expected one of them"
        )
    values = (value for value in (inside, top) if value is not None)
    return next(values, _DEFAULT_THETA[kind])


def _refuse_unknown(text: Mapping[str, Any]) -> None:
    """Refuse rotary keys at the top that nothing would read."""
    named({"partial_rotary_factor": text.get("partial_rotary_factor")}, "")
    known = (*_OLD_THETA.values(), *_OLD_SCALING.values(), "rope_parameters")
    for name, value in text.items():
        if name.startswith("rope_") and name not in known and value is not None:
            raise ConfigError(
                f"config.json {name}: Gemma 3 has no such field; expected {', '.join(known)}; "
                "take it out, or say it in rope_parameters"
            )


def _refuse_outer(outer: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuse keys of rope_parameters beside its sections, unless the sections have them too.

    transformers ignores it: Gemma 3 has one section for each kind of layer.
    """
    full = {"rope_type": "default"} | (fields["rope_scaling"] or {})
    full["rope_theta"] = fields["rope_theta"]
    for name, value in named(outer, "rope_parameters").items():
        if name not in full or full[name] != value:
            raise ConfigError(
                f"config.json rope_parameters.{name}: expected sections {_FULL} and {_SLIDING}, "
                f"got {shown(value)} beside them; move it into the section it is for"
            )


def _refuse_original(text: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuse an original length at the top that the sections which need one do not have."""
    top = text.get(_ORIGINAL)
    for kind, name in _OLD_SCALING.items():
        section = fields[name]
        if top is None or section is None or _ORIGINAL not in _OPTIONAL.get(rope_type(section), ()):
            continue
        if section.get(_ORIGINAL) != top:
            raise ConfigError(
                f"config.json {_ORIGINAL}: expected it in the rotary section of {kind}, got "
                f"{shown(top)} at the top, where transformers reads past it; move it there"
            )
