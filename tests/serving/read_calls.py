"""Which calls of programs the graph makes for texts: `read_calls.py < asked.json`, in TensorFlow.

Asked is {"sizes", "cache", "lengths", "index"}: with "index", which soft token stands at each
place, texts have images in them. Prints [program, tokens, starts, lengths] for each call.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
from gemma3_export.artifacts.manifest import Bucket, ProgramName
from gemma3_export.export.savedmodel.calls import Calls, Shape
from gemma3_export.export.savedmodel.checks import Texts
from gemma3_export.export.savedmodel.images import Soft, read_images

NO_MANIFEST: Any = None


def main() -> None:
    print(json.dumps([made(**asked) for asked in json.load(sys.stdin)]))


def made(sizes: list[int], cache: int, lengths: list[int], index: list | None = None) -> list:
    """The calls, which do nothing but tell of themselves."""
    shape, told = Shape(len(lengths), cache), []
    names = [ProgramName.PREFILL, ProgramName.PREFILL_IMAGES]
    buckets = [Bucket(name, shape.batch, size, cache) for name in names for size in sizes]

    def method(bucket: Bucket):
        def run(given: Any) -> Any:
            (_, start, length, *_), kept = given
            told.append([str(bucket.program), bucket.tokens, *map(plain, (start, length))])
            return (start + length,), kept

        return run

    programs: Any = dict.fromkeys(buckets)
    calls = _Calls(NO_MANIFEST, programs, {b: method(b) for b in buckets})
    texts = Texts(tf.zeros([shape.batch, max(lengths)], tf.int32), tf.constant(lengths))
    if index is None:
        first, _ = calls.prefill(shape, texts, (), ())
    else:
        soft = Soft(tf.zeros([1 + max(map(max, index)), 2]), tf.constant(index))
        first, _ = read_images(calls, shape, texts, soft, ())
    assert plain(first) == lengths, "the last call of a row gives its token"
    return told


class _Calls(Calls):
    def empty_cache(self, shape: Shape) -> tuple:
        return ()


def plain(value: tf.Tensor) -> list[int]:
    return value.numpy().tolist()


if __name__ == "__main__":
    main()
