"""What a server answered, held against what was asked: a wrong answer is never believed.

A served model may be another than the bundle's, of another version, or no model at all. Every
answer is checked before it is used, so that none can end a loop early, keep one going for ever, or
be read beyond its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from ...artifacts.errors import ArtifactError
from ...artifacts.manifest import Signature
from ...artifacts.serving.signatures import ANY

Values = Mapping[str, np.ndarray]
_REASONS = (b"stop", b"length")


def check_outputs(source: str, signature: Signature, outputs: Values) -> dict[str, np.ndarray]:
    """The outputs of a signature; `source` names the server.

    Raises:
        ArtifactError: one is missing, or of another dtype or shape than the manifest says.
    """
    found = {}
    for array in signature.outputs:
        value = outputs.get(array.name)
        expected = f"{array.dtype} of shape ({_sizes(array.shape)})"
        if value is None:
            _refuse(source, signature.name, array.name, expected, "nothing")
        kind = "string" if value.dtype == object else value.dtype.name
        same = len(value.shape) == len(array.shape) and all(
            size in (ANY, got) for size, got in zip(array.shape, value.shape, strict=True)
        )
        if kind != array.dtype or not same:
            got = f"{kind} of shape ({_sizes(value.shape)})"
            _refuse(source, signature.name, array.name, expected, got)
        found[array.name] = value
    return found


class Answer:
    """The outputs of one call, which `check_outputs` has let through, and where they are from."""

    def __init__(self, source: str, signature: str, outputs: Values) -> None:
        self._source = source
        self._signature = signature
        self._outputs = outputs

    def rows(self, name: str, rows: int, width: int | None = None) -> np.ndarray:
        """Output `name`, refused unless it has a row for each of the request.

        With `width`, each row must be that long.
        """
        value = self._outputs[name]
        if value.shape[0] != rows:
            self._refuse(name, f"{rows} rows", str(value.shape[0]))
        if width is not None and value.shape[1] != width:
            self._refuse(name, f"rows of {width}", str(value.shape[1]))
        return value

    def number(self, name: str, least: int, most: int) -> int:
        """The only value of output `name`, refused outside `least` to `most`."""
        value = int(self.rows(name, 1)[0])
        if not least <= value <= most:
            self._refuse(name, f"{least} to {most}", str(value))
        return value

    def new_tokens(
        self, limits: Sequence[int], stop_tokens: Sequence[int], vocab_size: int
    ) -> list[list[int]]:
        """The new tokens of each row, for calls that make tokens.

        A row has at least one, at most its limit, and fewer only where a stop token ended it.
        """
        tokens = self.rows("tokens", len(limits))
        counts = self.rows("counts", len(limits))
        reasons = self.rows("finish_reasons", len(limits))
        found = []
        for row, limit in enumerate(limits):
            count, width = int(counts[row]), tokens.shape[1]
            if not 1 <= count <= min(limit, width):
                expected = f"1 to {min(limit, width)} for row {row + 1}"
                self._refuse("counts", expected, str(count))
            made = tokens[row, :count].tolist()
            strange = [token for token in made if not 0 <= token < vocab_size]
            if strange:
                self._refuse("tokens", f"ids from 0 to {vocab_size - 1}", str(strange[0]))
            if count < limit and made[-1] not in stop_tokens:
                expected = f"{limit} for row {row + 1}, which no stop token ends"
                self._refuse("counts", expected, str(count))
            if reasons[row] not in (*_REASONS, *map(bytes.decode, _REASONS)):
                self._refuse("finish_reasons", "stop or length", repr(reasons[row])[:40])
            found.append(made)
        return found

    def _refuse(self, name: str, expected: str, got: str) -> NoReturn:
        _refuse(self._source, self._signature, name, expected, got)


def _sizes(shape: Sequence[int]) -> str:
    return ",".join("any" if size == ANY else str(size) for size in shape)


def _refuse(source: str, signature: str, name: str, expected: str, got: str) -> NoReturn:
    raise ArtifactError(
        f"--server {source}: {signature}: {name}: expected {expected}, got {got}; is it the "
        "SavedModel of this bundle?"
    )
