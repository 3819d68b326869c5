"""Equal programs of the bundles are compiled once: of one checkpoint, all but prefill are equal."""

from ..runtime.conftest import compile_once

__all__ = ["compile_once"]
