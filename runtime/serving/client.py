"""Calls of a TensorFlow Serving model by gRPC or REST: named arrays in, named arrays out."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...artifacts.errors import ArtifactError, UsageError
from ...artifacts.manifest import Signature
from ...artifacts.serving.signatures import MODEL_NAME
from .answers import Values, check_outputs
from .security import Security

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

    scheme: str
    """grpc, grpcs, http or https."""
    host: str
    """`HOST:PORT`."""
    model: str

    @property
    def target(self) -> str:
        """The address, for messages: `HOST:PORT` for gRPC, else with its scheme."""
        return self.host if self.scheme == "grpc" else f"{self.scheme}://{self.host}"

    @property
    def is_rest(self) -> bool:
        """Whether the server is spoken to by REST."""
        return self.scheme.startswith("http")

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme in ("grpcs", "https")

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read along: TLS, or this machine."""
        return self.is_encrypted or self.is_local

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine; of names only `localhost` says so."""
        name = self.host.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
_CONTENT_TYPE = "content-type"
_ADDRESS = re.compile(
    r"(?:(grpcs?|https?)://)?((?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5}))(?:/([\w.-]+))?/?"
)


def parse_address(text: str) -> Address:
    """`HOST:PORT`, or a URL of grpc, grpcs, http or https; then `/NAME` for another model.

    Raises:
        UsageError: it is something else.
    """
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[3]) < 65536:
        raise UsageError(
            "--server: expected HOST:PORT for gRPC or http://HOST:PORT for REST (grpcs:// and "
            "https:// with TLS), then /NAME if the model is not called "
            f"{MODEL_NAME}, got {text!r}"
        )
    return Address(found[1] or "grpc", found[2], found[4] or MODEL_NAME)


def connect(address: Address, security: Security | None = None) -> Client:
    """A client of the address; the first call finds out whether a server is there.

    Raises UsageError when libraries are not installed, or a certificate cannot be read.
    """
    kind = RestClient if address.is_rest else GrpcClient
    return kind(address, security or Security())


class GrpcClient:
    """A model served by gRPC. Threads may share it."""

    def __init__(self, address: Address, security: Security) -> None:
        """Raises UsageError when the libraries are not installed; see `Security.context`."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said once, by us
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
        for name, _ in security.headers:
            if not _METADATA_NAME.fullmatch(name) or name.endswith("-bin"):
                raise UsageError(
                    "--server-header: expected a name of letters, digits and -_. for gRPC, "
                    f"without -bin at its end, got {name!r}"
                )
        self._metadata = security.headers
        if address.is_encrypted:
            security.context()  # refuses files that gRPC would only stumble over later
            own = security.certificate
            credentials = grpc.ssl_channel_credentials(
                security.roots(),
                None if own is None else (security.key or own).read_bytes(),
                None if own is None else own.read_bytes(),
            )
            self._channel = grpc.secure_channel(address.host, credentials, options=_LIMITS)
        else:
            # A proxy of the environment would read along, on the way to this machine too.
            direct = [("grpc.enable_http_proxy", 0)] if address.is_local else []
            self._channel = grpc.insecure_channel(address.host, options=[*_LIMITS, *direct])
        self._call = self._channel.unary_unary(_PREDICT)

    @property
    def target(self) -> str:
        """See Client."""
        return self._address.target

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """See Client."""
        request = self._messages.encode_request(self._address.model, signature.name, inputs)
        try:
            data = self._call(request, timeout=_SECONDS, metadata=self._metadata)
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

    def __init__(self, address: Address, security: Security) -> None:
        """Raises UsageError as `Security.context` does, and for headers that REST cannot have."""
        self._address = address
        names = [_CONTENT_TYPE, *(name for name, _ in security.headers)]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    f"--server-header: expected each name once, and no {_CONTENT_TYPE}, for REST, "
                    f"got {name!r} again"
                )
        self._headers = {**dict(security.headers), _CONTENT_TYPE: "application/json"}
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if address.is_local:  # a proxy of the environment would read along
            handlers.append(urllib.request.ProxyHandler({}))
        if address.is_encrypted:
            handlers.append(urllib.request.HTTPSHandler(context=security.context()))
        self._opener = urllib.request.build_opener(*handlers)
        self._url = f"{address.target}/v1/models/{address.model}:predict"

    def predict(self, signature: Signature, inputs: Values) -> dict[str, np.ndarray]:
        """See Client."""
        body = {
            "signature_name": signature.name,
            "inputs": {name: value.tolist() for name, value in inputs.items()},
        }
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that sends its callers elsewhere is refused: they would take their headers along."""

    def redirect_request(self, *_: Any) -> None:
        return None


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
    if "CERTIFICATE_VERIFY_FAILED" in details:
        said = (
            f"its certificate is not trusted ({said}); pass its root with --server-ca, or correct "
            "the name of the host"
        )
    elif code == "UNAVAILABLE":
        said = f"no server answers ({said}); start one, or correct HOST:PORT"
    return UsageError(f"--server {address.target}: {code}: {said}")


def _no_answer(address: Address, got: str) -> ArtifactError:
    """One line for an answer that is not of the protocol."""
    said = " ".join(got.split())[:200]
    return ArtifactError(
        f"--server {address.target}: expected an answer of the protocol, got {said}; is it "
        "TensorFlow Serving?"
    )
