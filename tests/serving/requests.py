"""Requests of the tests, as JSON can carry them: [dtype, value] by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Inputs = dict[str, Any]
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed", "repetition_penalty")
PROMPTS = tuple(
    np.random.default_rng(3).integers(3, 250, length).tolist() for length in (5, 21, 1, 37)
)


def generate(
    prompts: Sequence[Sequence[int]],
    new_tokens: int | Sequence[int],
    width: int = 0,
    **changes: Any,
) -> Inputs:
    """A greedy `generate`; `changes` replace inputs."""
    rows = len(prompts)
    limits = [new_tokens] * rows if isinstance(new_tokens, int) else list(new_tokens)
    width = max(width, *map(len, prompts))
    inputs = {
        "tokens": ["int32", [[*p, *[0] * (width - len(p))] for p in prompts]],
        "lengths": ["int32", [len(p) for p in prompts]],
        "max_new_tokens": ["int32", limits],
        "stop_tokens": ["int32", [[-1]] * rows],
        "temperature": ["float32", [0.0] * rows],
        "top_k": ["int32", [0] * rows],
        "top_p": ["float32", [1.0] * rows],
        "min_p": ["float32", [0.0] * rows],
        "seed": ["int64", [0] * rows],
        "repetition_penalty": ["float32", [1.0] * rows],
    }
    return {**inputs, **changes}


def arrays(inputs: Inputs) -> dict[str, np.ndarray]:
    """The same as arrays."""
    return {name: np.array(value, dtype) for name, (dtype, value) in inputs.items()}


# Field that the answer names, and what is wrong with the request.
BAD: dict[str, tuple[str, Inputs]] = {
    "wrong rank": ("tokens", generate([[5, 6]], 4, tokens=["int32", [5, 6]])),
    "wrong rank of lengths": ("lengths", generate([[5, 6]], 4, lengths=["int32", [[2]]])),
    "wrong dtype": ("tokens", generate([[5, 6]], 4, tokens=["int64", [[5, 6]]])),
    "too long": ("lengths", generate([[5] * 65], 1)),
    "N too large": ("max_new_tokens", generate([[5] * 10], 55)),
    "N of nothing": ("max_new_tokens", generate([[5, 6]], 0)),
    "lengths beyond the row": ("lengths", generate([[5, 6]], 4, lengths=["int32", [3]])),
    "empty row": ("lengths", generate([[5, 6]], 4, lengths=["int32", [0]])),
    "token out of range": ("tokens", generate([[5, 256]], 4)),
    "negative token": ("tokens", generate([[5, -1]], 4)),
    "too many rows": ("tokens", generate([[5]] * 3, 4)),
    "lengths of other rows": ("lengths", generate([[5, 6]], 4, lengths=["int32", [2, 2]])),
    "too many stop tokens": ("stop_tokens", generate([[5]], 4, stop_tokens=["int32", [[7] * 9]])),
    "temperature of nothing": ("temperature", generate([[5]], 4, temperature=["float32", [-1]])),
    "top_p of nothing": ("top_p", generate([[5]], 4, top_p=["float32", [0.0]])),
    "seed beyond 32 bits": ("seed", generate([[5]], 4, seed=["int64", [1 << 32]])),
}
