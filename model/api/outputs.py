"""Outputs of models: pytrees with fields by name and by index, and conversion to JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .cache import TransformerCache

Array = jax.Array
OutputT = TypeVar("OutputT", bound="ModelOutput")


@dataclasses.dataclass(frozen=True, eq=False)
class ModelOutput(Mapping[str, Any]):
    """The base of outputs: a frozen dataclass whose fields may be None, and a pytree.

    It is also a mapping of the fields that are not None (`output["logits"]`, `keys()`, `len`),
    and `output[0]` is the first of them, `output[:2]` the first two, as in Hugging Face.
    """

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        """Identity: arrays are not compared. Compare `to_json()` for equal contents."""
        return self is other

    def __getitem__(self, key: str | int | slice) -> Any:
        """A field that is not None by name, or by its index among those. Raises KeyError."""
        if isinstance(key, str):
            value = getattr(self, key) if key in self._names() else None
            if value is None:
                raise KeyError(key)
            return value
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names() if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        return tuple(getattr(self, name) for name in self)

    def replace(self: OutputT, **changes: Any) -> OutputT:
        """A copy with some fields changed; raises TypeError for a name that is not a field."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, None too; arrays as they are, a cache as a dictionary."""
        past = {
            name: getattr(self, name).to_dict()
            for name in self._names()
            if isinstance(getattr(self, name), TransformerCache)
        }
        return {name: getattr(self, name) for name in self._names()} | past

    @classmethod
    def from_dict(cls: type[OutputT], data: Mapping[str, Any]) -> OutputT:
        """The inverse of `to_dict`; raises TypeError for a name that is not a field."""
        values = dict(data)
        if isinstance(values.get("past_key_values"), Mapping):
            values["past_key_values"] = TransformerCache.from_dict(values["past_key_values"])
        return cls(**values)

    def to_json(self, **options: Any) -> str:
        """`to_dict` as JSON; `options` go to json.dumps.

        An array is an object of `dtype`, `shape` and its little-endian bytes in base64 under
        `array`, so that nothing is rounded.
        """
        return json.dumps(_to_json(self.to_dict()), **options)

    @classmethod
    def from_json(cls: type[OutputT], json_str: str) -> OutputT:
        """The inverse of `to_json`."""
        return cls.from_dict(_from_json(json.loads(json_str)))

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))


def _to_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        little = array.astype(array.dtype.newbyteorder("<"))
        data = base64.b64encode(little.tobytes()).decode()
        return {"dtype": array.dtype.name, "shape": list(array.shape), "array": data}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "array"}:
            raw = np.frombuffer(base64.b64decode(value["array"]), jnp.dtype(value["dtype"]))
            return jnp.asarray(raw.reshape(value["shape"]))
        return {key: _from_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_from_json(inner) for inner in value)
    return value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gemma3ModelOutputWithPast(ModelOutput):
    """What Gemma3TextModel and Gemma3Model give."""

    last_hidden_state: Array | None = None
    """[B,T,D] float32, after the final norm."""
    image_hidden_states: Array | None = None
    """[N,M,D] float32, the soft tokens of the images of this call."""
    past_key_values: TransformerCache | None = None
    hidden_states: tuple[Array, ...] | None = None
    """L+1 times [B,T,D]: embeddings, each layer but the last, the last after the final norm."""
    attentions: tuple[Array, ...] | None = None
    """L times [B,heads,T,S] after the softmax. Without a cache S is T, in the places of the input;
    with one S is its max_length, in the order of positions."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gemma3CausalLMOutputWithPast(ModelOutput):
    """What Gemma3ForCausalLM and Gemma3ForConditionalGeneration give."""

    loss: Array | None = None
    """[] float32, the mean over labels; None without labels."""
    logits: Array | None = None
    """[B,T,V] float32."""
    last_hidden_state: Array | None = None
    past_key_values: TransformerCache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    image_hidden_states: Array | None = None
    """As in Gemma3ModelOutputWithPast."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Gemma3SequenceClassifierOutputWithPast(ModelOutput):
    """What Gemma3ForSequenceClassification gives."""

    loss: Array | None = None
    """[] float32: cross-entropy, or with one class the mean square error; None without labels."""
    logits: Array | None = None
    """[B,C] float32, at each row's rightmost token that is not padding."""
    past_key_values: TransformerCache | None = None
    hidden_states: tuple[Array, ...] | None = None
    attentions: tuple[Array, ...] | None = None
    image_hidden_states: Array | None = None
