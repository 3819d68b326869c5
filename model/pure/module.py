"""An nnx module as pure functions of a dictionary of weights, named as the module's paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import jax
from flax import nnx

from ..lowering.quantized import UNQUANTIZED, ParameterSpec, Recipe, assemble

Array = jax.Array
Params = Mapping[str, Array]
ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class PureModule(Generic[ModuleT]):
    """The structure of a module, without its numbers."""

    def __init__(self, build: Callable[[nnx.Rngs | None], ModuleT], recipe: Recipe = UNQUANTIZED):
        """`build(None)` makes the abstract module, `build(rngs)` one with random weights.

        `recipe` says how the weights that `bind` is given are stored.
        """
        self._build, self._recipe = build, recipe
        self._graph, state = nnx.split(build(None))
        self._paths = {_name(path): path for path, _ in nnx.to_flat_state(state)}
        self._variables = {_name(path): variable for path, variable in nnx.to_flat_state(state)}

    def parameters(self) -> list[ParameterSpec]:
        """Every stored weight, in no particular order."""
        return [stored for spec in self.unquantized() for stored in self._recipe.stored(spec)]

    def unquantized(self) -> list[ParameterSpec]:
        """Every weight as the checkpoint has it, in no particular order."""
        specs = []
        for name, variable in self._variables.items():
            value, meta = variable.get_value(), variable.get_metadata()
            specs.append(
                ParameterSpec(name, value.shape, value.dtype, meta["axes"], meta["counts"])
            )
        return specs

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights by name, not quantised whatever the recipe."""
        flat = nnx.to_flat_state(nnx.state(self._build(nnx.Rngs(params=seed))))
        return {_name(path): variable[...] for path, variable in flat}

    def bind(self, params: Params) -> ModuleT:
        """The module with these weights; KeyError when one is missing, others are ignored."""
        weights = assemble(self._recipe, self.unquantized(), params)
        flat = [
            (self._paths[name], variable.replace(weights[name]))
            for name, variable in self._variables.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(flat))


def _name(path: tuple) -> str:
    return ".".join(str(part) for part in path)
