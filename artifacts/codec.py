"""Strict JSON <-> frozen dataclasses, derived from their type hints.

Understood: dataclasses, StrEnum, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `X | None`,
bool, int, float, str and Any. Every field must be present, no other may be, and nothing is
converted: `1.0` is not an integer and `1` is not a boolean.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from .errors import ArtifactError

T = TypeVar("T")

REMEDY = "the file is damaged or from another version: copy the bundle again or re-export it"
LINE_WIDTH = 100
INT64 = range(-(2**63), 2**63)
MAX_DEPTH = 200
"""Of arrays and objects in one another."""
MAX_SHOWN = 400
"""Characters of a part of an error: what is wrong may be as long as the file."""


def refuse(where: str, path: str, expected: str, got: str, remedy: str = REMEDY) -> NoReturn:
    """Raise the ArtifactError for the value at JSON path `path` of file `where`."""
    place = f"{where}: {_cut(path)}" if path else where
    raise ArtifactError(f"{place}: expected {_cut(expected)}, got {_cut(got)}; {remedy}")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def parse_json(data: bytes, where: str) -> Any:
    """The JSON value in `data`; `where` names the file in errors.

    Raises:
        ArtifactError: not UTF-8, not JSON, a key given twice, NaN or an infinity, or nested
            deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
        )
        if b"\\ud" in data.lower():
            # Half of a surrogate pair passes the parser and fails when it is written again.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            _check_depth(value)
        return value
    except RecursionError:
        refuse(where, "", "JSON", "text that is not (values nested too deep)")
    except ValueError as error:  # what the parser and both codecs raise
        refuse(where, "", "JSON", f"text that is not ({error})")


def _check_depth(value: Any) -> None:
    inside = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [item for item in inside if isinstance(item, dict | list)]
        if not nested:
            return
        inside = [item for n in nested for item in (n.values() if isinstance(n, dict) else n)]
    raise RecursionError


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"key {json.dumps(twice)} given twice")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def format_json(value: Any) -> str:
    """`value` as deterministic text: sorted keys, two spaces a level, a newline at the end.

    A list or object that fits a line of 100 columns stays on one line, so that a shape takes
    one line and a manifest can be read and compared.
    """
    return _render(value, "") + "\n"


def _render(value: Any, indent: str) -> str:
    flat = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list)) or len(indent) + len(flat) <= LINE_WIDTH:
        return flat
    inner = indent + "  "
    if isinstance(value, dict):
        opening, closing = "{}"
        lines = [
            f"{json.dumps(name, ensure_ascii=False)}: {_render(value[name], inner)}"
            for name in sorted(value)
        ]
    else:
        opening, closing = "[]"
        lines = [_render(item, inner) for item in value]
    return f"{opening}\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}{closing}"


def encode(value: Any) -> Any:
    """The JSON value of a dataclass, enum, tuple, dict or scalar."""
    if dataclasses.is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {name: encode(item) for name, item in value.items()}
    return value


def decode(kind: type[T], value: Any, where: str) -> T:
    """`value`, as read from JSON, as a `kind`; `where` names the file in errors.

    Raises:
        ArtifactError: a field is missing, unknown or of another type; the message names its
            JSON path.
    """
    return _decoder(kind)(value, where, "")


Decoder = Callable[[Any, str, str], Any]
"""Of a JSON value, the file it is from and its path there."""


@functools.cache
def _decoder(hint: Any) -> Decoder:
    """What decodes values of a type hint: looking at the hint is most of the work."""
    if hint is Any:
        return lambda value, where, path: value
    if isinstance(hint, type) and hint in _SCALARS:
        return functools.partial(_scalar, hint)
    if dataclasses.is_dataclass(hint):
        return functools.partial(_record, typing.cast(type, hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return functools.partial(_member, {member.value: member for member in hint})
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return functools.partial(_items, _decoder(arguments[0]))
    if origin is tuple:
        return functools.partial(_fixed_items, tuple(map(_decoder, arguments)))
    if origin is dict:
        return functools.partial(_mapping, _decoder(arguments[1]))
    assert origin in (typing.Union, types.UnionType), hint
    assert arguments[1:] == (type(None),), hint
    return functools.partial(_optional, _decoder(arguments[0]))


def _member(members: dict[str, enum.Enum], value: Any, where: str, path: str) -> Any:
    if not isinstance(value, str) or value not in members:
        refuse(where, path, f"one of {', '.join(members)}", show(value))
    return members[value]


def _optional(decoder: Decoder, value: Any, where: str, path: str) -> Any:
    return None if value is None else decoder(value, where, path)


def _mapping(decoder: Decoder, value: Any, where: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        refuse(where, path, "an object", show(value))
    return {
        _scalar(str, name, where, f"{path} key"): decoder(
            item, where, f"{path}[{json.dumps(name)}]"
        )
        for name, item in value.items()
    }


def _record(kind: type, value: Any, where: str, path: str) -> Any:
    if not isinstance(value, dict):
        refuse(where, path, f"an object ({kind.__name__})", show(value))
    decoders = _field_decoders(kind)
    if value.keys() != decoders.keys():
        fields = ", ".join(decoders)
        for name in decoders:
            if name not in value:
                refuse(where, _join(path, name), f"fields {fields}", "no such field")
        for name in sorted(value.keys() - decoders.keys()):
            refuse(where, _join(path, name), f"only fields {fields}", "an unknown field")
    return kind(
        **{
            name: decoder(value[name], where, _join(path, name))
            for name, decoder in decoders.items()
        }
    )


@functools.cache
def _field_decoders(kind: type) -> dict[str, Decoder]:
    return {name: _decoder(hint) for name, hint in field_hints(kind).items()}


def _items(decoder: Decoder, value: Any, where: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        refuse(where, path, "an array", show(value))
    return tuple([decoder(item, where, f"{path}[{index}]") for index, item in enumerate(value)])


def _fixed_items(
    decoders: tuple[Decoder, ...], value: Any, where: str, path: str
) -> tuple[Any, ...]:
    if not isinstance(value, list):
        refuse(where, path, "an array", show(value))
    if len(value) != len(decoders):
        refuse(where, path, f"an array of {len(decoders)}", show(value))
    return tuple(
        decoder(item, where, f"{path}[{index}]")
        for index, (decoder, item) in enumerate(zip(decoders, value, strict=True))
    )


_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def _scalar(kind: type, value: Any, where: str, path: str) -> Any:
    if kind is float and type(value) is int and value in INT64:
        return float(value)
    if type(value) is not kind:
        refuse(where, path, _SCALARS[kind], show(value))
    if kind is float and not math.isfinite(value):
        refuse(where, path, "a finite number", str(value))
    if kind is int and value not in INT64:
        refuse(where, path, "an integer of 64 bits", show(value))
    # Names go to terminals and file systems: no escapes, no NUL, no half of a surrogate pair.
    if isinstance(value, str) and not value.isprintable():
        refuse(where, path, "printable characters", json.dumps(value)[:60])
    return value


@functools.cache
def field_hints(kind: type) -> dict[str, Any]:
    """The resolved type hint of each field of a dataclass, in order."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def show(value: Any) -> str:
    """A short name for a JSON value in an error."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, int) and value not in INT64:
        return "an integer beyond 64 bits"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
