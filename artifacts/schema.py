"""The JSON Schema of the manifest, generated from the dataclasses that define it.

`python -m gemma3_export.artifacts.schema` prints what is checked in as manifest.schema.json.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
import itertools
import typing
from typing import Any

from . import layout, manifest
from .codec import field_hints, format_json

_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of manifest.json.

    It says what types allow. What it cannot say (paths, sizes, names that must exist) is in
    FORMAT.md and checked by `Bundle.open`.
    """
    definitions: dict[str, Any] = {}
    root = _record(manifest.Manifest, definitions)
    root["properties"]["format_version"]["const"] = manifest.FORMAT_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"gemma3-export bundle manifest, version {manifest.FORMAT_VERSION}",
        "$defs": definitions,
        **root,
    }


def _record(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    docs = _field_docs(kind)
    properties = {}
    for name, hint in field_hints(kind).items():
        properties[name] = _schema(hint, definitions)
        if name in docs:
            properties[name]["description"] = docs[name]
    return {
        "type": "object",
        "description": inspect.cleandoc(kind.__doc__ or ""),
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if isinstance(hint, type) and hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = _record(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [member.value for member in hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        assert arguments[-1] is Ellipsis, hint
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    assert arguments[1:] == (type(None),), hint
    return {"anyOf": [_schema(arguments[0], definitions), {"type": "null"}]}


@functools.cache
def _documented() -> dict[str, ast.ClassDef]:
    trees = [ast.parse(inspect.getsource(module)) for module in (layout, manifest)]
    nodes = [node for tree in trees for node in tree.body]
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _field_docs(kind: type) -> dict[str, str]:
    """The string under each field, inherited ones too: Python drops them, the source has them."""
    kinds = [each for each in reversed(kind.__mro__) if dataclasses.is_dataclass(each)]
    body = [node for each in kinds for node in _documented()[each.__name__].body]
    docs = {}
    for field, below in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[field.target.id] = inspect.cleandoc(str(below.value.value))
    return docs


if __name__ == "__main__":
    print(format_json(manifest_schema()), end="")
