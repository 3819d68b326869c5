"""Gradient checkpointing: what a layer keeps for its backward pass, and what it computes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax

from ..config import GradientCheckPointers

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def rematerialise(
    function: Callable[Arguments, Result], policy: str
) -> Callable[Arguments, Result]:
    """`function` under the policy of this name; itself where the policy is NONE.

    Source: the policies are jax.checkpoint_policies, whose names GradientCheckPointers has.
    """
    pointer = GradientCheckPointers(policy)
    if pointer is GradientCheckPointers.NONE:
        return function
    return jax.checkpoint(function, policy=getattr(jax.checkpoint_policies, pointer))
