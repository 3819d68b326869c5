"""One `generate` with tensorflow-serving-api's stubs: `stub_client.py HOST:PORT < inputs.json`."""

from __future__ import annotations

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main() -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "gemma3", "generate"
    for name, (dtype, value) in json.load(sys.stdin).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.array(value, dtype)))
    with grpc.insecure_channel(sys.argv[1]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=300)
    print(json.dumps({"tokens": tf.make_ndarray(response.outputs["tokens"]).tolist()}))


if __name__ == "__main__":
    main()
