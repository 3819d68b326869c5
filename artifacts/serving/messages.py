"""TensorFlow Serving's messages, as much of them as a client and warm-up requests need.

Built here from field numbers, so that neither needs TensorFlow; protobuf alone is imported. The
numbers are those of tensorflow/core/framework/{tensor,tensor_shape}.proto and of
tensorflow_serving/apis/{model,predict,prediction_log}.proto, which never change.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

Values = Mapping[str, np.ndarray]

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "gemma3_serving"


class _TensorType(NamedTuple):
    number: int
    """In tensorflow/core/framework/types.proto."""
    field: str
    """Where values stand that are not in tensor_content."""


_TYPES = {
    "float32": _TensorType(1, "float_val"),
    "int32": _TensorType(3, "int_val"),
    "uint8": _TensorType(4, "int_val"),
    "int8": _TensorType(6, "int_val"),
    "string": _TensorType(7, "string_val"),
    "int64": _TensorType(9, "int64_val"),
    "bfloat16": _TensorType(14, "half_val"),
    "float16": _TensorType(19, "half_val"),
    "uint32": _TensorType(22, "uint32_val"),
}
_NAMES = {kind.number: name for name, kind in _TYPES.items()}
_MOST_VALUES = 2**26  # of a tensor in an answer: a few bytes can promise any number of values

# Message: field, number, type, repeated. A type that is no scalar is another message.
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "Dim": (("size", 1, "int64", False),),
    "Shape": (("dim", 2, "Dim", True),),
    "Tensor": (
        ("dtype", 1, "int32", False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, "bytes", False),
        ("float_val", 5, "float", True),
        ("int_val", 7, "int32", True),
        ("string_val", 8, "bytes", True),
        ("int64_val", 10, "int64", True),
        ("half_val", 13, "int32", True),
        ("uint32_val", 16, "uint32", True),
    ),
    "Entry": (("key", 1, "string", False), ("value", 2, "Tensor", False)),
    "Spec": (("name", 1, "string", False), ("signature_name", 3, "string", False)),
    # A map is the repetition of its entries.
    "Request": (("model_spec", 1, "Spec", False), ("inputs", 2, "Entry", True)),
    "Response": (("outputs", 1, "Entry", True), ("model_spec", 2, "Spec", False)),
    "PredictLog": (("request", 1, "Request", False),),
    "PredictionLog": (("predict_log", 6, "PredictLog", False),),
}


@functools.cache
def _classes() -> dict[str, Any]:
    """The message classes by name, in a pool of their own: TensorFlow may be in the process."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            entry = described.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                entry.type, entry.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                entry.type = getattr(_FIELD, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def encode_request(model: str, signature: str, inputs: Values) -> bytes:
    """A PredictRequest."""
    return _request(model, signature, ((n, _tensor(v)) for n, v in inputs.items()))


def decode_request(data: bytes) -> tuple[str, str, dict[str, np.ndarray]]:
    """Model, signature and inputs of a PredictRequest.

    Raises ValueError for bytes that are no such message and tensors that make no sense.
    """
    request = _parse("Request", data)
    spec = request.model_spec
    return spec.name, spec.signature_name, {e.key: _array(e.value) for e in request.inputs}


def encode_response(model: str, signature: str, outputs: Values) -> bytes:
    """A PredictResponse."""
    classes = _classes()
    response = classes["Response"]()
    response.model_spec.name, response.model_spec.signature_name = model, signature
    for name, value in sorted(outputs.items()):
        response.outputs.append(classes["Entry"](key=name, value=_tensor(value)))
    return response.SerializeToString(deterministic=True)


def decode_response(data: bytes) -> dict[str, np.ndarray]:
    """The outputs of a PredictResponse; strings are arrays of bytes objects.

    Raises ValueError for bytes that are no such message and tensors that make no sense.
    """
    response = _parse("Response", data)
    return {entry.key: _array(entry.value) for entry in response.outputs}


def _parse(name: str, data: bytes) -> Any:
    try:
        return _classes()[name].FromString(data)
    except message.DecodeError as error:
        raise ValueError(f"bytes that are no {name} ({error})") from error


class Fill(NamedTuple):
    """A tensor that is zero all over, or one: it takes a few bytes whatever its size."""

    shape: tuple[int, ...]
    dtype: str
    value: int = 0


def warmup_record(model: str, signature: str, inputs: Mapping[str, np.ndarray | Fill]) -> bytes:
    """A PredictionLog, as tf_serving_warmup_requests holds them."""
    tensors = (
        (name, _fill(value) if isinstance(value, Fill) else _tensor(value))
        for name, value in inputs.items()
    )
    log = _classes()["PredictionLog"]()
    log.predict_log.request.MergeFromString(_request(model, signature, tensors))
    return log.SerializeToString(deterministic=True)


def _request(model: str, signature: str, tensors: Iterable[tuple[str, Any]]) -> bytes:
    classes = _classes()
    request = classes["Request"]()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        request.inputs.append(classes["Entry"](key=name, value=tensor))
    return request.SerializeToString(deterministic=True)


def _tensor(value: np.ndarray) -> Any:
    tensor = _classes()["Tensor"]()
    dtype = "string" if value.dtype.kind in "OSU" else value.dtype.name
    tensor.dtype = _TYPES[dtype].number
    tensor.tensor_shape.SetInParent()
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    if dtype == "string":
        tensor.string_val.extend(value.reshape(-1).tolist())
    else:
        tensor.tensor_content = np.ascontiguousarray(value).tobytes()
    return tensor


def _fill(value: Fill) -> Any:
    """One value stands for all."""
    tensor = _classes()["Tensor"]()
    kind = _TYPES[value.dtype]
    tensor.dtype = kind.number
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, kind.field).append(value.value)
    return tensor


def _array(tensor: Any) -> np.ndarray:
    """The values, given whole or as a list whose last one stands for all that follow."""
    name = _NAMES.get(tensor.dtype)
    if name is None or name in ("bfloat16", "float16"):
        raise ValueError(f"tensor of type {tensor.dtype}, which no signature's client needs")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise ValueError(f"tensor of shape {shape}")
    dtype = np.dtype(object) if name == "string" else np.dtype(name)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values, count = list(getattr(tensor, _TYPES[name].field)), math.prod(shape)
    if len(values) > count or count > _MOST_VALUES:
        raise ValueError(f"tensor of shape {shape} with {len(values)} values")
    filled = np.empty(count, dtype)
    try:
        filled[: len(values)] = values
        filled[len(values) :] = values[-1] if values else b"" if name == "string" else 0
    except OverflowError as error:
        raise ValueError(f"tensor of {name} with other values ({error})") from error
    return filled.reshape(shape)
