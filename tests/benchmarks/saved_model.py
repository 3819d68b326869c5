"""Decode speed of a SavedModel in TensorFlow against the StableHLO runtime, calls interleaved.

`saved_model.py BUNDLE` with a bundle that has a SavedModel. Both run the same lowered programs on
the same cores; what differs is the XLA that compiles them and what is around the calls.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import tensorflow as tf
from gemma3_export.artifacts.memory import peak_rss_bytes
from gemma3_export.runtime.loading.model import LoadedModel
from gemma3_export.runtime.requests.generate import generate
from gemma3_export.runtime.requests.sampling import SamplingParameters

PROMPT = [2, 818, 5279, 529, 7001]
NEW_TOKENS, REPEATS = 33, 3


def inputs(new_tokens: int) -> dict[str, tf.Tensor]:
    """A greedy request of one row."""
    values = {
        "tokens": np.array([PROMPT], np.int32), "lengths": np.array([len(PROMPT)], np.int32),
        "max_new_tokens": np.array([new_tokens], np.int32),
        "stop_tokens": np.array([[-1]], np.int32), "temperature": np.zeros(1, np.float32),
        "top_k": np.zeros(1, np.int32), "top_p": np.ones(1, np.float32),
        "min_p": np.zeros(1, np.float32), "seed": np.zeros(1, np.int64),
        "repetition_penalty": np.ones(1, np.float32),
    }  # fmt: skip
    return {name: tf.constant(value) for name, value in values.items()}


def main() -> None:
    folder = Path(sys.argv[1])
    started = time.perf_counter()
    served = tf.saved_model.load(str(folder / "saved_model" / "1")).signatures["generate"]
    loaded = time.perf_counter()
    first = served(**inputs(NEW_TOKENS))["tokens"].numpy()[0].tolist()
    answered = time.perf_counter()
    print(f"TensorFlow {tf.__version__}: load {loaded - started:.2f} s")
    print(f"first call {answered - loaded:.2f} s, peak {peak_rss_bytes() / 1e6:.0f} MB")
    model = LoadedModel.load(folder, "1x1")
    runs: dict[str, list[float]] = {"TensorFlow": [], "StableHLO runtime": []}
    local = _local(model)
    assert local == first, "the tokens differ"
    for _ in range(REPEATS):
        for name, call in (
            ("TensorFlow", lambda n: served(**inputs(n))["tokens"].numpy()),
            ("StableHLO runtime", lambda n: _local(model, n)),
        ):
            # A second call with one token takes away the prefill and all that comes once.
            runs[name].append((NEW_TOKENS - 1) / (_seconds(call, NEW_TOKENS) - _seconds(call, 1)))
    for name, rates in runs.items():
        print(f"{name}: {statistics.median(rates):.1f} tok/s "
              f"({min(rates):.1f} to {max(rates):.1f})")  # fmt: skip


def _local(model: LoadedModel, new_tokens: int = NEW_TOKENS) -> list[int]:
    return generate(
        model, [PROMPT], SamplingParameters(), max_new_tokens=new_tokens, ignore_eos=True
    )[0].tokens


def _seconds(call, new_tokens: int) -> float:
    started = time.perf_counter()
    call(new_tokens)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
