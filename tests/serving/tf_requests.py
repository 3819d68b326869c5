"""Answers requests with tf.saved_model.load: a line of JSON on stdin, a line of answers on stdout.

A line is a folder and its requests. A request is a signature and its inputs, [dtype, value] each;
the request `warmup` replays the warm-up records of the folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf


def main() -> None:
    for line in sys.stdin:
        folder, requests = json.loads(line)
        model = tf.saved_model.load(folder)
        answers = [ask(model, Path(folder), *request) for request in requests]
        print(json.dumps(answers), flush=True)


def ask(model: Any, folder: Path, signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
    if signature == "warmup":
        return {"outputs": replay(model, folder)}
    values = {name: np.array(value, dtype) for name, (dtype, value) in inputs.items()}
    return answer(model, signature, values)


def answer(model: Any, signature: str, values: dict[str, Any]) -> dict[str, Any]:
    try:
        tensors = {name: tf.constant(value) for name, value in values.items()}
        outputs = model.signatures[signature](**tensors)
    except tf.errors.OpError as error:
        return {"error": error.message, "code": type(error).__name__}
    return {"outputs": {name: plain(value.numpy()) for name, value in outputs.items()}}


def plain(value: np.ndarray) -> Any:
    if value.dtype == object:
        return [item.decode() for item in value.reshape(-1)]
    return value.astype(np.float32).tolist() if value.dtype.itemsize == 2 else value.tolist()


def replay(model: Any, folder: Path) -> dict[str, int]:
    """How often each signature is warmed up; every record is parsed and run."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    counts: dict[str, int] = {}
    for record in tf.data.TFRecordDataset(str(path), buffer_size=1 << 16):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "gemma3"
        name = request.model_spec.signature_name
        model.signatures[name](
            **{k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        )
        counts[name] = counts.get(name, 0) + 1
    return counts


if __name__ == "__main__":
    main()
