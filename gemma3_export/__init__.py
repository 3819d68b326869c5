"""Gemma 3, exported ahead of time: bundles are written by `export` and run by `load`.

    import gemma3_export as g3

    g3.export("path/to/checkpoint", "bundle", meshes=["1x1"])
    with g3.load("bundle") as model:
        print(model.generate("The first person to walk on the Moon").text)

Importing this imports neither JAX nor model code. What the user can correct raises `UsageError`, a
ValueError of one line that speaks of arguments; a file that is missing or damaged raises
`ArtifactError`, which is one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a clone the packages lie beside this folder: so they are found from there as well, where
# Python looks into the current folder before it looks for what is installed.
if (Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(Path(__file__).parents[1]))

from .artifacts.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from .export import export
    from .export.pipeline import ExportResult
    from .runtime.api.model import Model, load
    from .runtime.requests.request import Completion
    from .runtime.requests.sampling import SamplingParameters
    from .runtime.requests.score import Score
    from .runtime.requests.session import Session, Step

    __version__: str

__all__ = [
    "ArtifactError", "Completion", "ExportResult", "Model", "SamplingParameters", "Score",
    "Session", "Step", "UsageError", "__version__", "export", "load",
]  # fmt: skip

# Where a name is from, imported when it is first asked for.
_HOMES = {
    "Completion": "runtime.requests.request",
    "ExportResult": "export.pipeline",
    "Model": "runtime.api.model",
    "SamplingParameters": "runtime.requests.sampling",
    "Score": "runtime.requests.score",
    "Session": "runtime.requests.session",
    "Step": "runtime.requests.session",
    "load": "runtime.api.model",
}


def __getattr__(name: str) -> Any:
    if name == "export":  # the package of that name, which can be called
        return importlib.import_module(".export", __name__)
    if name == "__version__":  # finding it takes as long as starting Python
        return importlib.import_module("importlib.metadata").version("gemma3-export")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
