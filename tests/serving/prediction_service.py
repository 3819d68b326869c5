"""A PredictionService of the tests: TensorFlow Serving's protocol over the C loader.

It stands in for tensorflow_model_server, of which no package registry has a binary, so that the
SavedModel is called through the real messages, with real concurrency, by a server that runs no
TensorFlow of Python's. It is not the real server: that one has its own words for some refusals,
batches requests, and runs warm-up requests by itself.

`prediction_service.py LIBRARY FOLDER` prints the ports it listens on, gRPC and REST.
"""

from __future__ import annotations

import ctypes
import http.server
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from gemma3_export.artifacts.serving.messages import decode_request, encode_response

MODEL = "gemma3"
TYPES = {1: "float32", 3: "int32", 7: "string", 9: "int64", 14: "bfloat16", 22: "uint32"}
NUMBERS = {name: number for number, name in TYPES.items()}
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Port(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char_p), ("node", ctypes.c_char_p), ("index", ctypes.c_int),
        ("dtype", ctypes.c_int),
    )  # fmt: skip


class Input(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_int),
        ("dims", ctypes.POINTER(ctypes.c_int64)), ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
    )  # fmt: skip


class RefusedError(Exception):
    """A call that TensorFlow did not do."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Model:
    """The loaded SavedModel; threads share it."""

    def __init__(self, library: str, folder: str) -> None:
        self.tf = ctypes.CDLL(library)
        self.tf.tf_model_open.restype = ctypes.c_void_p
        self.tf.tf_model_ports.restype = ctypes.POINTER(Port)
        for name in ("TF_TensorData", "TF_StringGetDataPointer"):
            getattr(self.tf, name).restype = ctypes.c_void_p
        for name in ("TF_TensorByteSize", "TF_StringGetSize"):
            getattr(self.tf, name).restype = ctypes.c_size_t
        self.tf.TF_Dim.restype = ctypes.c_int64
        error = ctypes.create_string_buffer(4096)
        handle = self.tf.tf_model_open(folder.encode(), error, len(error))
        if not handle:
            raise SystemExit(error.value.decode())
        self.handle = ctypes.c_void_p(handle)

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        held = [np.ascontiguousarray(value) for value in inputs.values()]
        given = (Input * max(len(held), 1))()
        for slot, name, value in zip(given, inputs, held, strict=False):
            slot.key, slot.rank = name.encode(), value.ndim
            slot.dtype = NUMBERS.get(value.dtype.name, 0)
            slot.dims = (ctypes.c_int64 * max(value.ndim, 1))(*value.shape)
            slot.data, slot.bytes = value.ctypes.data, value.nbytes
        count, error = ctypes.c_int(), ctypes.create_string_buffer(8192)
        ports = self.tf.tf_model_ports(self.handle, signature.encode(), 1, ctypes.byref(count))
        results = (ctypes.c_void_p * max(count.value, 1))()
        code = self.tf.tf_model_run(
            self.handle, signature.encode(), given, len(held), results, error, len(error)
        )
        if code:
            raise RefusedError(code, error.value.decode(errors="replace"))
        return {
            ports[i].key.decode(): self._array(ctypes.c_void_p(results[i]))
            for i in range(count.value)
        }

    def _array(self, tensor: ctypes.c_void_p) -> np.ndarray:
        name = TYPES[self.tf.TF_TensorType(tensor)]
        shape = [self.tf.TF_Dim(tensor, i) for i in range(self.tf.TF_NumDims(tensor))]
        data, size = self.tf.TF_TensorData(tensor), self.tf.TF_TensorByteSize(tensor)
        if name == "string":
            width = size // max(int(np.prod(shape)), 1)
            flat = np.empty(int(np.prod(shape)), object)
            for i in range(flat.size):
                item = ctypes.c_void_p(data + i * width)
                at = self.tf.TF_StringGetDataPointer(item)
                flat[i] = ctypes.string_at(at, self.tf.TF_StringGetSize(item))
        else:
            flat = np.frombuffer(ctypes.string_at(data, size), name)
        self.tf.TF_DeleteTensor(tensor)
        return flat.reshape(shape)


class PredictionService(grpc.GenericRpcHandler):
    """tensorflow.serving.PredictionService/Predict."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def service(self, details: grpc.HandlerCallDetails):
        if details.method != "/tensorflow.serving.PredictionService/Predict":
            return None
        return grpc.unary_unary_rpc_method_handler(self.predict)

    def predict(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        name, signature, inputs = decode_request(data)
        if name != MODEL:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {name}")
        signature = signature or "serving_default"
        try:
            return encode_response(name, signature, self.model.run(signature, inputs))
        except RefusedError as refused:
            context.abort(CODES[refused.code], refused.text)


class Rest(http.server.BaseHTTPRequestHandler):
    """POST /v1/models/gemma3:predict, with tensors by name under `inputs`."""

    model: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        signature = body.get("signature_name", "serving_default")
        try:
            outputs = self.model.run(signature, self._inputs(signature, body["inputs"]))
            status, answer = 200, {"outputs": _json(outputs)}
        except RefusedError as refused:
            status, answer = 400, {"error": refused.text}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def _inputs(self, signature: str, values: dict) -> dict[str, np.ndarray]:
        count = ctypes.c_int()
        tf = self.model.tf
        ports = tf.tf_model_ports(self.model.handle, signature.encode(), 0, ctypes.byref(count))
        types = {ports[i].key.decode(): TYPES[ports[i].dtype] for i in range(count.value)}
        # What the signature does not have the loader refuses.
        return {name: np.array(value, types.get(name)) for name, value in values.items()}

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests read what is refused from the answers."""


def _json(outputs: dict[str, np.ndarray]):
    plain = {
        name: [item.decode() for item in value] if value.dtype == object else value.tolist()
        for name, value in outputs.items()
    }
    # As the real server does: no name where there is nothing to tell apart.
    return next(iter(plain.values())) if len(plain) == 1 else plain


def main() -> None:
    model = Model(sys.argv[1], sys.argv[2])
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((PredictionService(model),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    Rest.model = model
    rest = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    assert "tensorflow" not in sys.modules
    print(port, rest.server_address[1], flush=True)
    sys.stdin.read()  # until the tests close it
    server.stop(None)


if __name__ == "__main__":
    main()
