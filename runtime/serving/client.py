"""Calls of a TensorFlow Serving model by gRPC or REST: named arrays in, named arrays out."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...artifacts.errors import ArtifactError, UsageError
from ...artifacts.manifest import Signature
from ...artifacts.serving.signatures import MODEL_NAME
from .answers import Values, check_outputs

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_SECONDS = 600.0
_MOST_ANSWER_BYTES = 2**28  # a thousand times what any call here is answered with
_LIMITS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", _MOST_ANSWER_BYTES),
]


class Client(Protocol):
    """A served model."""

    @property
    def target(self) -> str:
        """The address, for messages."""
        ...

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """The outputs of one call.

        Raises:
            UsageError: the server cannot be reached, or refuses the request.
            ArtifactError: its answer is not what the signature promises.
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

            from ...artifacts.serving import messages as predict
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--server needs {error.name}, which is not installed: pip install "
                "'gemma3-export[server]', or use http://HOST:PORT"
            ) from error
        self._messages = predict
        self._address = address
        self._error: type[Exception] = grpc.RpcError
        self._channel = grpc.insecure_channel(address.target, options=_LIMITS)
        self._call = self._channel.unary_unary(_PREDICT)

    @property
    def target(self) -> str:
        """See Client."""
        return self._address.target

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
            raise _no_answer(self._address, str(error)) from error
        return check_outputs(self._address.target, signature, outputs)

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
                data = answer.read(_MOST_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise _refused(self._address, f"HTTP {error.code}", _error_text(error)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise _refused(self._address, "UNAVAILABLE", reason) from error
        if len(data) > _MOST_ANSWER_BYTES:
            raise _no_answer(self._address, f"more than {_MOST_ANSWER_BYTES} bytes")
        outputs = _decode_json(self._address, signature, data)
        return check_outputs(self._address.target, signature, outputs)

    @property
    def target(self) -> str:
        """See Client."""
        return self._address.target


def _decode_json(address: Address, signature: Signature, data: bytes) -> dict[str, np.ndarray]:
    """The outputs in a JSON answer, those of them that can be arrays of their dtypes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _no_answer(address, f"no JSON ({error})") from error
    if not isinstance(value, dict) or "outputs" not in value:
        raise _no_answer(address, "JSON without outputs")
    found = value["outputs"]
    if len(signature.outputs) == 1:  # the server leaves out the name then
        found = {signature.outputs[0].name: found}
    if not isinstance(found, dict):
        raise _no_answer(address, f"outputs without names for {signature.name}")
    arrays = {}
    for array in signature.outputs:
        if array.name not in found:
            continue
        dtype = np.dtype(object if array.dtype == "string" else array.dtype)
        try:
            plain = np.asarray(found[array.name], None if dtype.kind in "iu" else dtype)
            if dtype.kind in "iu" and plain.dtype.kind not in "iu":
                raise ValueError("no whole numbers")  # else 2.7 would be the token 2
            arrays[array.name] = _cast(plain, dtype)
        except (ValueError, TypeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise _no_answer(
                address, f"{array.name} that is no {array.dtype} ({reason})"
            ) from error
    return arrays


def _cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in another dtype; ValueError where an integer does not fit."""
    if dtype.kind in "iu" and values.size:
        limits = np.iinfo(dtype)
        if values.min() < limits.min or values.max() > limits.max:
            raise ValueError("too large")
    return values.astype(dtype)


def _error_text(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read(_MOST_ANSWER_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as broken:
        return str(broken) or type(broken).__name__
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _refused(address: Address, code: str, details: str) -> UsageError:
    """One line of what a server said; of a failed assertion only what it says."""
    found = re.search(r"assertion failed: \[([^\]]*)\]((?:\s*\[[^\[\]{}\\]*\])*)", details)
    said = f"{found[1]}{found[2]}" if found is not None else " ".join(details.split())[:300]
    if code == "UNAVAILABLE":
        said = f"no server answers ({said}); start one, or correct HOST:PORT"
    return UsageError(f"--server {address.target}: {code}: {said}")


def _no_answer(address: Address, got: str) -> ArtifactError:
    """One line for an answer that is not of the protocol."""
    said = " ".join(got.split())[:200]
    return ArtifactError(
        f"--server {address.target}: expected an answer of the protocol, got {said}; is it "
        "TensorFlow Serving?"
    )
