"""An nnx module as pure functions of a dictionary of weights, named as the module's paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import jax
from flax import nnx

from ..lowering.quantized import ParameterSpec, assemble, stored_parameters
from ..lowering.recipes import UNQUANTIZED, Recipe

Array = jax.Array
Params = Mapping[str, Array]
ModuleT = TypeVar("ModuleT", bound=nnx.Module)


class PureModule(Generic[ModuleT]):
    """The structure of a module, without its numbers."""

    def __init__(
        self, build: Callable[[nnx.Rngs | None], ModuleT], order: Callable[[str], tuple[int, ...]],
        recipe: Recipe = UNQUANTIZED,
    ):  # fmt: skip
        """`build(None)` makes the abstract module, `build(rngs)` one with random weights.

        `order` of a weight's name sorts the store; `recipe` says how the weights that `bind` takes
        are stored.
        """
        self._build, self._order, self._recipe = build, order, recipe
        self._graph, state = nnx.split(build(None))
        self._paths = {_name(path): path for path, _ in nnx.to_flat_state(state)}
        self._variables = {_name(path): variable for path, variable in nnx.to_flat_state(state)}

    def parameters(self) -> list[ParameterSpec]:
        """Every stored weight, in the order of the weight store."""
        specs = self.checkpoint_parameters()
        return self._sorted(
            [part for spec in specs for part in stored_parameters(self._recipe, spec)]
        )

    def checkpoint_parameters(self) -> list[ParameterSpec]:
        """The same as the checkpoint has them, before they are quantised."""
        specs = []
        for name, variable in self._variables.items():
            value, meta = variable.get_value(), variable.get_metadata()
            specs.append(
                ParameterSpec(name, value.shape, value.dtype, meta["axes"], meta["counts"])
            )
        return self._sorted(specs)

    def _sorted(self, specs: list[ParameterSpec]) -> list[ParameterSpec]:
        return sorted(specs, key=lambda spec: (self._order(spec.name), spec.name))

    def init(self, seed: int) -> dict[str, Array]:
        """Random weights by name, with the config's initializer_range; not quantised."""
        flat = nnx.to_flat_state(nnx.state(self._build(nnx.Rngs(params=seed))))
        return {_name(path): variable[...] for path, variable in flat}

    def bind(self, params: Params) -> ModuleT:
        """The module with these weights; KeyError when one is missing, others are ignored."""
        weights = assemble(self._recipe, self.checkpoint_parameters(), params)
        flat = [
            (self._paths[name], variable.replace(weights[name]))
            for name, variable in self._variables.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(flat))


def _name(path: tuple) -> str:
    return ".".join(str(part) for part in path)
