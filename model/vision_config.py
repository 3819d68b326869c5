"""Gemma3Config and SiglipVisionConfig: the multimodal architecture, from config.json."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from .config import PUBLISHED_SIZES, Gemma3TextConfig
from .config_fields import (
    MOST_LAYERS,
    ConfigError,
    is_count,
    is_deviation,
    is_dropout,
    known_keywords,
    set_defaults,
    shown,
)
from .sharding import NAMED_AXES, PartitionRules, get_partition_rules


@known_keywords()
@dataclass(frozen=True)
class SiglipVisionConfig:
    """The vision tower's architecture; fields and defaults are Hugging Face's.

    `vision_use_head` says that the checkpoint has a pooling head. Gemma 3 never reads it: image
    features come from the last hidden state. `attention_dropout` is written nowhere here: a model
    that is told to drop refuses images where it is not 0. A field of None takes its default.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    vision_use_head: bool = True

    model_type: ClassVar[str] = "siglip_vision_model"

    def __post_init__(self) -> None:
        set_defaults(self)
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_channels", "image_size", "patch_size",
        ):  # fmt: skip
            _require_positive(f"vision_config.{name}", getattr(self, name))
        if self.num_hidden_layers > MOST_LAYERS:
            raise ConfigError(
                f"config.json vision_config.num_hidden_layers: expected at most {MOST_LAYERS}, "
                f"got {self.num_hidden_layers}"
            )
        eps = self.layer_norm_eps
        if not isinstance(eps, float | int) or isinstance(eps, bool) or not 0 < eps < 1:
            raise ConfigError(
                f"config.json vision_config.layer_norm_eps: expected a number between 0 and 1, "
                f"got {eps!r}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"config.json vision_config.hidden_size: expected a multiple of "
                f"num_attention_heads ({self.num_attention_heads}), got {self.hidden_size}"
            )
        if self.patch_size > self.image_size:
            raise ConfigError(
                f"config.json vision_config.patch_size: expected at most image_size "
                f"({self.image_size}), got {self.patch_size}"
            )
        if self.hidden_act not in ("gelu_pytorch_tanh", "gelu_tanh"):
            raise ConfigError(
                f"config.json vision_config.hidden_act: expected gelu_pytorch_tanh, "
                f"got {shown(self.hidden_act)}"
            )
        if not is_dropout(self.attention_dropout):
            raise ConfigError(
                f"config.json vision_config.attention_dropout: expected a number of at least 0 "
                f"and below 1, got {shown(self.attention_dropout)}"
            )
        if not isinstance(self.vision_use_head, bool):
            raise ConfigError(
                f"config.json vision_config.vision_use_head: expected true or false, "
                f"got {shown(self.vision_use_head)}"
            )

    @property
    def head_dim(self) -> int:
        """Numbers of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patches_per_side(self) -> int:
        """Whole patches along one side; pixels beyond the last one are not looked at."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of one image, each a position of the tower."""
        return self.patches_per_side**2

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> SiglipVisionConfig:
        """Read a `vision_config`; what is absent or null takes its default."""
        return cls(**_known(cls, config))

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON values; `from_dict` reads it back equal."""
        return {"model_type": self.model_type, **dataclasses.asdict(self)}


@known_keywords(
    image_token_id="image_token_index", boi_token_id="boi_token_index",
    eoi_token_id="eoi_token_index",
)  # fmt: skip
@dataclass(frozen=True)
class Gemma3Config:
    """Text stack, vision tower and how an image stands among the tokens.

    An image in a prompt is `boi_token_index`, `mm_tokens_per_image` times `image_token_index`,
    `eoi_token_index`; these may be given and read as `*_token_id` too. The two sections may be
    given as dictionaries; None is their defaults, and so it is of any field. The two in the order
    of transformers' own example, (vision_config, text_config), are put right. Raises ConfigError
    for a section of another type and for a value that cannot be.
    """

    text_config: Gemma3TextConfig = None  # pyright: ignore[reportAssignmentType]
    vision_config: SiglipVisionConfig = None  # pyright: ignore[reportAssignmentType]
    mm_tokens_per_image: int = 256
    boi_token_index: int = 255_999
    eoi_token_index: int = 256_000
    image_token_index: int = 262_144
    initializer_range: float = 0.02

    model_type: ClassVar[str] = "gemma3"
    sub_configs: ClassVar[dict[str, type]] = {
        "text_config": Gemma3TextConfig,
        "vision_config": SiglipVisionConfig,
    }

    def __post_init__(self) -> None:
        set_defaults(self)
        first, second = self.text_config, self.vision_config
        rest = second is None or _is_of(Gemma3TextConfig, second)
        if rest and _is_of(SiglipVisionConfig, first):
            object.__setattr__(self, "text_config", second)
            object.__setattr__(self, "vision_config", first)
        for name, kind in self.sub_configs.items():
            object.__setattr__(self, name, _as_section(name, kind, getattr(self, name)))
        for name in (
            "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index",
        ):  # fmt: skip
            _require_positive(name, getattr(self, name))
        if not is_deviation(self.initializer_range):
            raise ConfigError(
                f"config.json initializer_range: expected a number of at least 0, "
                f"got {shown(self.initializer_range)}"
            )
        if self.tokens_per_side**2 != self.mm_tokens_per_image:
            raise ConfigError(
                f"config.json mm_tokens_per_image: expected a square, "
                f"got {self.mm_tokens_per_image}"
            )

    @property
    def image_token_id(self) -> int:
        """image_token_index by transformers' newer name."""
        return self.image_token_index

    @property
    def boi_token_id(self) -> int:
        """boi_token_index by transformers' newer name."""
        return self.boi_token_index

    @property
    def eoi_token_id(self) -> int:
        """eoi_token_index by transformers' newer name."""
        return self.eoi_token_index

    @property
    def tokens_per_side(self) -> int:
        """Soft tokens along one side of an image."""
        return math.isqrt(self.mm_tokens_per_image)

    @property
    def patches_per_token_side(self) -> int:
        """Patches along one side of the square that is pooled into a soft token.

        Raises ConfigError where they do not divide evenly. Not checked when the config is made:
        the defaults of the two sections do not fit each other, nor do they in transformers.
        """
        patches = self.vision_config.patches_per_side
        if patches % self.tokens_per_side:
            raise ConfigError(
                f"config.json mm_tokens_per_image: expected the square of a divisor of the "
                f"{patches} patches along a side of the image, got {self.mm_tokens_per_image}"
            )
        return patches // self.tokens_per_side

    def get_text_config(self) -> Gemma3TextConfig:
        """The text stack's config, by transformers' name."""
        return self.text_config

    def get_partition_rules(self, axis_names: tuple[str, ...] = NAMED_AXES) -> PartitionRules:
        """(regular expression, PartitionSpec) pairs for every weight; see sharding.py.

        `axis_names` are the axes of the mesh. Raises ValueError for anything else
        than a list of such names.
        """
        return get_partition_rules(axis_names)

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Gemma3Config:
        """Read a multimodal config.json of any age; raises ConfigError naming the field.

        Absent or null fields take their defaults, in the nested configs too. `*_token_id` is
        accepted for `*_token_index`; `tie_word_embeddings` and the classes at the top decide, as
        in transformers.
        """
        values = _known(cls, config)
        for name in ("boi", "eoi", "image"):
            if config.get(f"{name}_token_id") is not None:
                values.setdefault(f"{name}_token_index", config[f"{name}_token_id"])
        text = {"model_type": Gemma3TextConfig.model_type} | _section(config, "text_config")
        for name in ("tie_word_embeddings", "num_labels", "id2label"):
            if config.get(name) is not None:
                text[name] = config[name]
        values["text_config"] = Gemma3TextConfig.from_dict(text)
        values["vision_config"] = SiglipVisionConfig.from_dict(_section(config, "vision_config"))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The normalised config as JSON values; `from_dict` reads it back equal."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["text_config"] = self.text_config.to_dict()
        values["vision_config"] = self.vision_config.to_dict()
        return {"model_type": self.model_type, **values}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(f"config.json {name}: expected an object, got {type(section).__name__}")
    return section


def _is_of(kind: type, section: object) -> bool:
    """Whether a section is of `kind`, or a dictionary that says so."""
    if isinstance(section, dict):
        return section.get("model_type") == getattr(kind, "model_type")  # noqa: B009
    return isinstance(section, kind)


def _as_section(name: str, kind: Any, section: object) -> Any:
    """A section of a Gemma3Config as its own class; ConfigError for any other value."""
    if section is None or isinstance(section, dict):
        says = (section or {}).get("model_type", kind.model_type)
        if says != kind.model_type:
            raise ConfigError(
                f"config.json {name}: expected model_type {kind.model_type}, got {shown(says)}"
            )
        return kind.from_dict(section or {})
    if not isinstance(section, kind):
        raise ConfigError(
            f"config.json {name}: expected a {kind.__name__}, a dictionary or None, "
            f"got {type(section).__name__}"
        )
    return section


def _known(cls: type, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `cls` that `config` gives a value."""
    names = {f.name for f in dataclasses.fields(cls)}
    return {name: value for name, value in config.items() if name in names and value is not None}


def _require_positive(name: str, value: object) -> None:
    if not is_count(value):
        raise ConfigError(f"config.json {name}: expected a positive integer, got {shown(value)}")


_PUBLISHED_VISION = SiglipVisionConfig(
    hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
    image_size=896, patch_size=14, vision_use_head=False,
)  # fmt: skip

PUBLISHED_MULTIMODAL: dict[str, Gemma3Config] = {
    size: Gemma3Config(PUBLISHED_SIZES[size], _PUBLISHED_VISION) for size in ("4b", "12b", "27b")
}
"""The published sizes that see images."""
