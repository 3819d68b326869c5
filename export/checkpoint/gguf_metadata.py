"""Metadata of a GGUF file, read with types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.errors import ArtifactError


@dataclass(frozen=True)
class Metadata:
    """Metadata of one file under one prefix (`gemma3.`, `tokenizer.ggml.`), read with types."""

    path: Path
    values: Mapping[str, Any]
    prefix: str

    def names(self) -> list[str]:
        """The keys under the prefix, without it."""
        cut = len(self.prefix)
        return [key[cut:] for key in self.values if key.startswith(self.prefix)]

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands."""
        return self.values.get(self.prefix + key, default)

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        """An integer; an array (one value per layer) must repeat one value."""
        value = self.get(key, default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or value < least:
            raise self.wrong(key, value, f"one integer of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        """A finite number, or the default."""
        value = self.get(key, default)
        if value is None:
            return None
        if type(value) not in (int, float) or not np.isfinite(value):
            raise self.wrong(key, value, "a finite number")
        return float(value)

    def one_of(self, *keys: str) -> float | None:
        """The number that several keys are names of; None where none is given."""
        first, first_value = "", None
        for key in keys:
            value = self.number(key)
            if None not in (value, first_value) and value != first_value:
                raise self.wrong(key, value, f"{first_value}, as in {self.prefix}{first}")
            if first_value is None:
                first, first_value = key, value
        return first_value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """A string, or None."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, value, "text")
        return value

    def array(self, key: str, kind: type) -> Any:
        """A list of strings (`list`) or an array of numbers (`np.ndarray`)."""
        value = self.get(key)
        if not isinstance(value, kind):
            raise self.wrong(key, value, "an array")
        return value

    def wrong(self, key: str, value: object, expected: str) -> ArtifactError:
        """The error for a value that is missing or of the wrong kind."""
        got = "nothing" if value is None else " ".join(repr(value).split())[:60]
        return ArtifactError(
            f"{self.path}: metadata {self.prefix}{key}: expected {expected}, got {got}; "
            "convert the model again"
        )
