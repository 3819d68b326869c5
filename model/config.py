"""Gemma3TextConfig: the architecture, read from a Hugging Face config.json of any age."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from .config_fields import (
    COUNTS,
    ConfigError,
    check_fields,
    is_count,
    known_keywords,
    set_defaults,
    shown,
)
from .config_rope import RopeType, check_rope, named, rope_fields, rope_type
from .sharding import NAMED_AXES, PartitionRules, get_partition_rules


class LayerType(enum.StrEnum):
    """Hugging Face's names for the two kinds of decoder layer."""

    SLIDING = "sliding_attention"
    FULL = "full_attention"


class GradientCheckPointers(enum.StrEnum):
    """What a layer keeps for its backward pass; the rest is computed again.

    The values are names of jax.checkpoint_policies, where they are defined. Members whose name
    EasyDeL spells otherwise have that name too; its policies of named values are not among them.
    """

    EVERYTHING_SAVEABLE = "everything_saveable"
    NOTHING_SAVEABLE = "nothing_saveable"
    """Only the layer's input: least memory, one more forward pass."""
    CHECKPOINT_DOTS = "checkpoint_dots"
    """Results of products."""
    CHECKPOINT_DOTS_WITH_NO_BATCH_DIMS = "checkpoint_dots_with_no_batch_dims"
    """Results of products with weights, not those of attention."""
    DOTS_SAVEABLE = "dots_saveable"
    DOTS_WITH_NO_BATCH_DIMS_SAVEABLE = "dots_with_no_batch_dims_saveable"
    CHECKPOINT_DOTS_WITH_NO_BATCH_DMIS = "checkpoint_dots_with_no_batch_dims"
    DOTS_WITH_NO_BATCH_DIMS_AVAILABLE = "dots_with_no_batch_dims_saveable"
    """EasyDeL's spellings of two of them."""
    NONE = ""
    """No checkpointing: whatever jax keeps by itself."""


EasyDeLGradientCheckPointers = GradientCheckPointers
"""The same under EasyDeL's name."""


_SCALINGS = ("rope_scaling", "rope_local_scaling")
_PLAIN = {"rope_type": RopeType.DEFAULT}


@known_keywords()
@dataclass(frozen=True)
class Gemma3TextConfig:
    """The text stack's architecture; fields and defaults are Hugging Face's Gemma3TextConfig.

    `rope_scaling` applies to full-attention layers only, as in Hugging Face, `rope_local_scaling`
    to sliding ones. `layer_types` is derived from `sliding_window_pattern` when not given. A field
    of None takes its default, but for num_key_value_heads, which then is num_attention_heads: each
    query head its own key.
    Raises ConfigError, in one line naming the field, for a value that cannot be; what is checked
    is what `from_dict` checks of a file.
    """

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 1
    bos_token_id: int = 2
    tie_word_embeddings: bool = True
    rope_theta: float = 1_000_000.0
    attention_bias: bool = False
    attention_dropout: float = 0.0
    query_pre_attn_scalar: float = 256
    sliding_window: int = 4096
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    cache_implementation: str = "hybrid"
    """`hybrid`: rings on sliding layers; `static`: init_cache gives every layer all positions."""
    rope_scaling: dict[str, Any] | None = None
    rope_local_base_freq: float = 10_000.0
    sliding_window_pattern: int = 6
    gradient_checkpointing: str = GradientCheckPointers.NONE
    bits: int | None = None
    """4 or 8: the modules keep their matrices quantised to so many bits; see load_weights."""
    scan_layers: bool = False
    layer_types: tuple[LayerType, ...] = ()
    use_bidirectional_attention: bool = False
    num_labels: int = 2
    """Classes of Gemma3ForSequenceClassification."""
    output_hidden_states: bool = False
    output_attentions: bool = False
    """What a call of a module gives where its arguments do not say."""
    freq_max_position_embeddings: int | None = None
    mask_max_position_embeddings: int | None = None
    """Limits of their own for rotary tables and for calls; see the properties granted_*."""
    rope_local_scaling: dict[str, Any] | None = None
    """What `rope_parameters.sliding_attention` says besides its base; None is plain."""

    model_type = "gemma3_text"

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        set_defaults(self)
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        check_fields(self._as_in_a_file())
        kinds = _layer_types({"layer_types": self.layer_types} if self.layer_types else {})
        object.__setattr__(self, "layer_types", kinds or self._layer_types_from_pattern())
        for name in _SCALINGS:
            if isinstance(scaling := getattr(self, name), dict):
                scaling = named(scaling, name)
                object.__setattr__(self, name, None if scaling == _PLAIN else scaling)
        _check(self)

    def _as_in_a_file(self) -> dict[str, Any]:
        """The fields as JSON has them: lists for tuples."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}

    def _layer_types_from_pattern(self) -> tuple[LayerType, ...]:
        """Layer i is global iff (i + 1) is a multiple of the pattern; the last need not be."""
        pattern = self.sliding_window_pattern
        return tuple(
            LayerType.FULL if (i + 1) % pattern == 0 else LayerType.SLIDING
            for i in range(self.num_hidden_layers)
        )

    @property
    def rope_type(self) -> RopeType:
        """The variant on full-attention layers."""
        return rope_type(self.rope_scaling)

    @property
    def granted_freq_max_position_embedding(self) -> int:
        """Positions that tables of rotary angles cover."""
        return self.freq_max_position_embeddings or self.max_position_embeddings

    @property
    def granted_mask_max_position_embedding(self) -> int:
        """The most tokens one call of a module may have: its mask is square."""
        return self.mask_max_position_embeddings or self.max_position_embeddings

    def get_text_config(self) -> Gemma3TextConfig:
        """Itself, so that both kinds of config have this method, as in transformers."""
        return self

    def get_partition_rules(self, axis_names: tuple[str, ...] = NAMED_AXES) -> PartitionRules:
        """(regular expression, PartitionSpec) pairs for every weight; see sharding.py.

        `axis_names` are the axes of the mesh. Raises ValueError for what is no list of such names.
        """
        return get_partition_rules(axis_names)

    def attach_custom_arguments(
        self, gradient_checkpointing: str = GradientCheckPointers.NONE, bits: int | None = None
    ) -> Gemma3TextConfig:
        """Set these two fields in place, as EasyDeL does; returns the config.

        They say how a module runs, not what it is: nothing else can be changed in place. Modules
        that share the config run by the new gradient_checkpointing from then on; one whose weights
        are not in these `bits` refuses to run until they are (load_weights, quantize_weights).
        Raises ConfigError, with nothing changed, for a value that a config cannot have.
        """
        new = dataclasses.replace(self, gradient_checkpointing=gradient_checkpointing, bits=bits)
        object.__setattr__(self, "gradient_checkpointing", new.gradient_checkpointing)
        object.__setattr__(self, "bits", new.bits)
        return self

    @staticmethod
    def get_weight_decay_exclusions() -> tuple[str, ...]:
        """Names of weights that training should not decay: none."""
        return ()

    @staticmethod
    def rng_keys() -> tuple[str, ...]:
        """Names of the random streams that training may use."""
        return ("params", "dropout", "fcm")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every end-of-sequence id, whether the config gives one or a list."""
        eos = self.eos_token_id
        return eos if isinstance(eos, tuple) else (eos,)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Gemma3TextConfig:
        """Read the content of a config.json: old or new style, text-only or multimodal.

        Fields that are absent or null take Hugging Face's defaults (the 4B hub config leaves
        heads, head_dim and vocab_size out). Raises ConfigError naming the field.
        """
        text = dict(config.get("text_config") or config)
        check_fields(text)
        known = {field.name for field in dataclasses.fields(cls)}
        optional = {*_SCALINGS, "final_logit_softcapping", "attn_logit_softcapping"}
        values: dict[str, Any] = {}
        for name, value in text.items():
            if name in known and (value is not None or name in optional):
                values[name] = value
        pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern")
        if pattern is not None:
            values["sliding_window_pattern"] = pattern
        values.update(rope_fields(text))
        if isinstance(text.get("id2label"), dict) and text["id2label"]:
            values["num_labels"] = len(text["id2label"])
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        values["layer_types"] = _layer_types(text)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The normalised config as JSON values; `from_dict` reads it back equal."""
        values = dataclasses.asdict(self)
        values["layer_types"] = [str(kind) for kind in self.layer_types]
        if isinstance(self.eos_token_id, tuple):
            values["eos_token_id"] = list(self.eos_token_id)
        if self.rope_local_scaling is None:
            del values["rope_local_scaling"]  # which no Gemma 3 as published has
        return {"model_type": self.model_type, **values}


def _layer_types(text: dict[str, Any]) -> tuple[LayerType, ...]:
    names = text.get("layer_types") or ()
    try:
        return tuple(LayerType(name) for name in names)
    except ValueError as error:
        raise ConfigError(f"config.json layer_types: {error}") from error


def _check(config: Gemma3TextConfig) -> None:
    for name in COUNTS:
        value = getattr(config, name)
        if not is_count(value):
            raise ConfigError(
                f"config.json {name}: expected a positive integer, got {shown(value)}"
            )
    if config.num_attention_heads % config.num_key_value_heads:
        raise ConfigError(
            f"config.json num_attention_heads: expected a multiple of num_key_value_heads "
            f"({config.num_key_value_heads}), got {config.num_attention_heads}"
        )
    if config.head_dim % 2:
        raise ConfigError(f"config.json head_dim: expected an even number, got {config.head_dim}")
    if len(config.layer_types) != config.num_hidden_layers:
        raise ConfigError(
            f"config.json layer_types: expected {config.num_hidden_layers} entries "
            f"(num_hidden_layers), got {len(config.layer_types)}"
        )
    if config.gradient_checkpointing not in tuple(GradientCheckPointers):
        raise ConfigError(
            f"config.json gradient_checkpointing: expected one of "
            f"{', '.join(filter(None, GradientCheckPointers))} or an empty string, "
            f"got {shown(config.gradient_checkpointing)}"
        )
    if config.bits not in (None, 4, 8):
        raise ConfigError(f"config.json bits: expected 4, 8 or null, got {shown(config.bits)}")
    check_rope(config.head_dim, {name: getattr(config, name) for name in _SCALINGS})


def _published(
    hidden: int, ffw: int, layers: int, heads: int, kv_heads: int, *, head_dim: int = 256,
    scalar: int = 256, window: int = 1024, factor: float | None = 8.0, vocab: int = 262208,
    positions: int = 131072,
) -> Gemma3TextConfig:  # fmt: skip
    return Gemma3TextConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=ffw, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        query_pre_attn_scalar=scalar, sliding_window=window, max_position_embeddings=positions,
        rope_scaling=None if factor is None else {"rope_type": "linear", "factor": factor},
        eos_token_id=(1, 106),
    )  # fmt: skip


_SMALL = {"window": 512, "factor": None, "vocab": 262144, "positions": 32768}

PUBLISHED_SIZES: dict[str, Gemma3TextConfig] = {
    "270m": _published(640, 2048, 18, 4, 1, **_SMALL),
    "1b": _published(1152, 6912, 26, 4, 1, **_SMALL),
    "4b": _published(2560, 10240, 34, 8, 4),
    "12b": _published(3840, 15360, 48, 16, 8),
    "27b": _published(5376, 21504, 62, 32, 16, head_dim=128, scalar=168),
}
"""The text stacks of the five published sizes."""

PUBLISHED_PARAMETERS: dict[str, int] = {
    "270m": 268_098_176,
    "1b": 999_885_952,
    "4b": 4_300_079_472,
    "12b": 12_187_325_040,
    "27b": 27_432_406_640,
}
"""Parameters of the published checkpoints; 4B and up include vision tower and projector."""
