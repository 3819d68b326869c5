"""Calls of a TensorFlow Serving model by gRPC or REST: named arrays in, named arrays out."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...artifacts.errors import ArtifactError, UsageError
from ...artifacts.manifest import Signature
from ...artifacts.serving import MODEL_NAME

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_SECONDS = 600.0
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Values = Mapping[str, np.ndarray]


class Client(Protocol):
    """A served model."""

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """The outputs of one call.

        Raises:
            UsageError: the server cannot be reached, or refuses the request.
        """
        ...


@dataclass(frozen=True)
class Address:
    """Where a model is served."""

    target: str
    """`HOST:PORT` for gRPC, `http://HOST:PORT` or https for REST."""
    model: str

    @property
    def is_rest(self) -> bool:
        """Whether the server is spoken to by REST."""
        return self.target.startswith("http")


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`, then `/NAME` for another model.

    Raises:
        UsageError: it is something else.
    """
    found = re.fullmatch(r"((?:https?://)?(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5}))(?:/([\w.-]+))?/?",
                         text)  # fmt: skip
    if found is None or not 0 < int(found[2]) < 65536:
        raise UsageError(
            "--server: expected HOST:PORT for gRPC or http://HOST:PORT for REST, then /NAME if "
            f"the model is not called {MODEL_NAME}, got {text!r}"
        )
    return Address(found[1], found[3] or MODEL_NAME)


def connect(address: Address) -> Client:
    """A client of the address; the first call finds out whether a server is there."""
    return RestClient(address) if address.is_rest else GrpcClient(address)


class GrpcClient:
    """A model served by gRPC. Threads may share it."""

    def __init__(self, address: Address) -> None:
        """Raises UsageError when the libraries are not installed."""
        try:
            import grpc

            from ...artifacts import predict
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--server needs {error.name}, which is not installed: pip install "
                "'gemma3-export[server]', or use http://HOST:PORT"
            ) from error
        self._messages = predict
        self._address = address
        self._error: type[Exception] = grpc.RpcError
        self._channel = grpc.insecure_channel(address.target, options=_UNLIMITED)
        self._call = self._channel.unary_unary(_PREDICT)

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """See Client."""
        request = self._messages.encode_request(self._address.model, signature.name, inputs)
        try:
            data = self._call(request, timeout=_SECONDS)
        except self._error as error:
            code, details = error.code(), error.details()  # pyright: ignore[reportAttributeAccessIssue]
            raise _refused(self._address, code.name, details or "") from error
        try:
            outputs = self._messages.decode_response(data)
        except ValueError as error:
            raise ArtifactError(
                f"{self._address.target}: expected an answer of the protocol, got {error}; is it "
                "TensorFlow Serving?"
            ) from error
        return _checked(self._address, signature, outputs)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


class RestClient:
    """A model served by REST. Threads may share it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._url = f"{address.target}/v1/models/{address.model}:predict"

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """See Client."""
        body = {
            "signature_name": signature.name,
            "inputs": {name: value.tolist() for name, value in inputs.items()},
        }
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                found = json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            raise _refused(self._address, f"HTTP {error.code}", _error_text(error)) from error
        except (OSError, ValueError, KeyError) as error:
            raise _refused(self._address, "UNAVAILABLE", str(error)) from error
        if len(signature.outputs) == 1:  # the server leaves out the name then
            found = {signature.outputs[0].name: found}
        arrays = {
            array.name: np.asarray(
                found[array.name], object if array.dtype == "string" else array.dtype
            )
            for array in signature.outputs
            if array.name in found
        }
        return _checked(self._address, signature, arrays)


def _error_text(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text


def _refused(address: Address, code: str, details: str) -> UsageError:
    """One line of what a server said; of a failed assertion only what it says."""
    found = re.search(r"assertion failed: \[([^\]]*)\]((?:\s*\[[^\[\]{}\\]*\])*)", details)
    said = f"{found[1]}{found[2]}" if found is not None else " ".join(details.split())[:300]
    if code == "UNAVAILABLE":
        said = f"no server answers ({said}); start one, or correct HOST:PORT"
    return UsageError(f"--server {address.target}: {code}: {said}")


def _checked(
    address: Address, signature: Signature, outputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The outputs, refused when they are not those that the bundle's manifest describes."""
    for array in signature.outputs:
        value = outputs.get(array.name)
        kind = None if value is None else "string" if value.dtype == object else value.dtype.name
        if value is None or kind != array.dtype or value.ndim != len(array.shape):
            raise ArtifactError(
                f"{address.target}: expected {array.dtype} of rank {len(array.shape)} for "
                f"{array.name} of {signature.name}, got "
                f"{'nothing' if value is None else f'{kind} of rank {value.ndim}'}; is it the "
                "SavedModel of this bundle?"
            )
    return outputs
