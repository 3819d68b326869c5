"""What each field of a config.json may be, checked before anything uses it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")


class ConfigError(ValueError):
    """A config.json field with a value this architecture cannot have."""


COUNTS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window",
    "sliding_window_pattern",
)  # fmt: skip
MOST = 2**31 - 1
"""No size is larger: programs count in int32. Products of sizes are for check_tensors."""
MOST_NUMBER = 1e30
MOST_LAYERS = 4096
"""Of a stack; each layer costs memory and time before any tensor is looked at."""
_NUMBERS = (
    "rms_norm_eps", "rope_theta", "query_pre_attn_scalar", "rope_local_base_freq",
    "final_logit_softcapping", "attn_logit_softcapping",
)  # fmt: skip
_FLAGS = (
    "tie_word_embeddings", "attention_bias", "use_bidirectional_attention", "scan_layers",
    "use_cache", "output_hidden_states", "output_attentions",
)  # fmt: skip
_ROPE_NUMBERS = (
    "factor", "rope_theta", "original_max_position_embeddings", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor",
)  # fmt: skip
_ROPE_LISTS = ("short_factor", "long_factor")
CACHES = ("hybrid", "static")
"""What cache_implementation may be: see past.make_cache."""
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_tanh")
"""Two names of the only one there is."""


def known_keywords(**aliases: str) -> Callable[[type[ConfigT]], type[ConfigT]]:
    """A decorator of dataclasses: `aliases` are other names of arguments, unknown ones are refused.

    Raises TypeError in one line that suggests a name, or says what reads such keys.
    """

    def decorate(cls: type[ConfigT]) -> type[ConfigT]:
        plain = cls.__init__
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]

        @functools.wraps(plain)
        def init(self: ConfigT, *args: Any, **given: Any) -> None:
            for alias, name in aliases.items():
                if alias in given and name in given:
                    raise TypeError(f"{cls.__name__}: {alias} and {name} are one: pass one")
                if alias in given:
                    given[name] = given.pop(alias)
            for name in set(given) - set(names):
                near = difflib.get_close_matches(name, [*names, *aliases], 1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                raise TypeError(
                    f"{cls.__name__}: there is no argument {name!r}{meant}; from_dict reads a "
                    f"config.json and passes over keys that are not the architecture's"
                )
            plain(self, *args, **given)

        setattr(cls, "__init__", init)  # noqa: B010
        return cls

    return decorate


def set_defaults(config: Any) -> None:
    """Give each field of a frozen dataclass that is None its default: a file may say null."""
    for field in dataclasses.fields(config):
        if getattr(config, field.name) is None and field.default is not dataclasses.MISSING:
            object.__setattr__(config, field.name, field.default)


def check_fields(text: Mapping[str, Any]) -> None:
    """Raise ConfigError for a field of the wrong type, or for a number out of its range.

    Absent and null fields take their defaults; unknown fields are not checked here.
    """
    for name in (*COUNTS, "_sliding_window_pattern"):
        _expect(text, name, is_count, f"a whole number of at least 1 and at most {MOST}")
    _expect(text, "num_hidden_layers", lambda value: value <= MOST_LAYERS, f"at most {MOST_LAYERS}")
    for name in ("num_labels", "freq_max_position_embeddings", "mask_max_position_embeddings"):
        _expect(text, name, is_count, "a whole number of at least 1")
    for name in _NUMBERS:
        _expect(text, name, _is_positive, "a positive number")
    _expect(text, "initializer_range", is_deviation, "a number of at least 0")
    _expect(text, "attention_dropout", is_dropout, "a number of at least 0 and below 1")
    _expect(text, "cache_implementation", lambda value: value in CACHES, " or ".join(CACHES))
    _expect(text, "hidden_activation", lambda value: value in ACTIVATIONS, ACTIVATIONS[0])
    for name in _FLAGS:
        _expect(text, name, lambda value: isinstance(value, bool), "true or false")
    for name in ("bos_token_id", "pad_token_id"):
        _expect(text, name, is_token_id, "a token id")
    _expect(text, "eos_token_id", _is_ids, "a token id or a list of them")
    _expect(text, "layer_types", lambda value: isinstance(value, list), "a list")
    for name in ("rope_scaling", "rope_local_scaling"):
        _check_rope(text, name)
    _expect(text, "original_max_position_embeddings", _is_positive, "a positive number")
    _expect(text, "rope_parameters", lambda value: isinstance(value, dict), "an object")
    parameters = text.get("rope_parameters") or {}
    for kind in ("full_attention", "sliding_attention"):
        _check_rope(parameters, kind, "rope_parameters.")
    _expect(parameters, "truncate", lambda value: isinstance(value, bool), "true or false",
            "rope_parameters.")  # fmt: skip


def is_count(value: object) -> bool:
    """Whether a JSON value is a whole number of at least 1."""
    return is_token_id(value) and value != 0


def is_token_id(value: object) -> bool:
    """Whether a JSON value is a whole number of at least 0 that an int32 holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _check_rope(holder: Mapping[str, Any], name: str, path: str = "") -> None:
    _expect(holder, name, lambda value: isinstance(value, dict), "an object", path)
    scaling, inside = holder.get(name) or {}, f"{path}{name}."
    for key in ("rope_type", "type"):
        _expect(scaling, key, lambda value: isinstance(value, str), "a name", inside)
    for key in _ROPE_NUMBERS:
        _expect(scaling, key, _is_positive, "a positive number", inside)
    _expect(scaling, "truncate", lambda value: isinstance(value, bool), "true or false", inside)
    for key in _ROPE_LISTS:
        _expect(scaling, key, _are_positive, "a list of positive numbers", inside)


def _expect(holder: Mapping[str, Any], name: str, fits, expected: str, path: str = "") -> None:
    value = holder.get(name)
    if value is not None and not fits(value):
        raise ConfigError(f"config.json {path}{name}: expected {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value of the file in a message: short, on one line."""
    if isinstance(value, int) and not -(10**40) < value < 10**40:
        return "a number of more than 40 digits"  # which Python may refuse to write out
    return repr(value)[:80]


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # A whole number of JSON can be beyond every float.
    return 0 < value <= MOST_NUMBER and math.isfinite(value)


def is_deviation(value: object) -> bool:
    """Whether a JSON value is a number of at least 0."""
    return _is_positive(value) or (value == 0 and not isinstance(value, bool))


def is_dropout(value: object) -> bool:
    """Whether a JSON value is a share of numbers that may be dropped."""
    return is_deviation(value) and isinstance(value, int | float) and value < 1


def _are_positive(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_positive, value))


def _is_ids(value: object) -> bool:
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(map(is_token_id, ids))
