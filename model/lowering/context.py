"""What a forward pass must know beyond numbers: the platform it is lowered for, and the mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ..sharding import ACTIVATION
from .forms import (
    ANY_RANK,
    KERNEL_LANES,
    KERNEL_OF,
    KERNEL_TARGETS,
    Form,
    kernel_products,
    scheme_of,
    widens,
)
from .fusions import AddNorm, Gate, Norm, Operand, kernel_arguments
from .quantized import Matrix, QuantizedWeight, rows_of
from .table import SHIPPED, Case, FormTable, ProductCase
from .target import Platform, Target

Array = jax.Array


_OF_MATRICES = ("vocab_in", "embed_in", "vocab_out", "heads", "kv_heads", "ffw", "embed")
"""The logical axes of the text stack's matrices."""

# A weight of more numbers is widened in parts, each in the memory of the one before: the head
# over the vocabulary, which would take more than all the rest. Joining the parts copies the
# result, which is nothing only while that is smaller than the widened weight. Small parts stay in
# the processor's cache; each is some work for the compiler.
_LARGE = 1 << 27
_PART, _MAX_PARTS = 1 << 22, 32


@dataclass
class Recorder:
    """What was chosen, and by what, while a program was traced."""

    forms: dict[str, str] = field(default_factory=dict)
    """The role of a product, or a part of the model -> the names of its forms."""
    cases: set[Case] = field(default_factory=set)
    """What was asked of the table."""

    def record(self, role: str, form: str) -> None:
        """Add a form of `role`: a program may have a product with several numbers of rows."""
        names = self.forms.setdefault(role, form)
        if form not in names:
            self.forms[role] = f"{names} {form}"


@dataclass(frozen=True)
class LoweringContext(Target):
    """Passed down the modules; never changes what is computed, only how it is written."""

    recorder: Recorder = field(default_factory=Recorder, compare=False)
    differentiable: bool = False
    """Whether gradients will be taken: loops whose length the program learns at run time, which
    JAX cannot take back, are then left out."""

    table: FormTable = SHIPPED
    """Which form each product and attention gets. Of measured ones only for one device."""

    def product(
        self, x: Operand, weight: Matrix, role: str, epilogue: AddNorm | None = None
    ) -> Array:
        """x [...,I] times weight [O,I] transposed -> [...,O] float32, in the best form.

        `role` names the weight's part in the model where the choice is recorded; `epilogue` is
        done to the product.
        """
        return self.products(x, [weight], [role], epilogue)[0]

    def products(
        self, x: Operand, weights: Sequence[Matrix], roles: Sequence[str],
        epilogue: AddNorm | None = None,
    ) -> list[Array]:  # fmt: skip
        """`product` of x with each weight, in one call where a C++ kernel takes them all."""
        values = x.x if isinstance(x, Norm | Gate) else x
        rows = values.size // values.shape[-1]
        pairs = list(zip(weights, roles, strict=True))
        forms = [self._choose(rows, weight, role) for weight, role in pairs]
        if forms[0].__name__ in KERNEL_TARGETS and len(set(forms)) == 1:
            inner = epilogue if weights[0].shape[0] % KERNEL_LANES == 0 else None
            results = kernel_products(forms[0], *kernel_arguments(x, inner, rows), weights)
            results = [y.reshape(*values.shape[:-1], y.shape[-1]) for y in results]
            return results if epilogue is None or inner else [epilogue.apply(y) for y in results]
        operand = x.lower(self) if isinstance(x, Norm | Gate) else x
        results = [
            self._multiply(
                form, operand if form in ANY_RANK else operand.reshape(rows, -1), weight,
                x, epilogue,
            )
            for form, weight in zip(forms, weights, strict=True)
        ]  # fmt: skip
        results = [y.reshape(*values.shape[:-1], y.shape[-1]) for y in results]
        return results if epilogue is None else [epilogue.apply(y) for y in results]

    def _choose(self, rows: int, weight: Matrix, role: str) -> Form:
        """The form for a weight, recorded under its role."""
        (outputs, inputs), scheme = weight.shape, scheme_of(weight)
        kernels = (
            self.kernels
            and scheme in KERNEL_OF
            and weight.dtype != jnp.float32
            and inputs % KERNEL_LANES == 0
        )
        case = ProductCase(self.platform, scheme, str(weight.dtype), outputs, inputs, rows, kernels)
        self.recorder.cases.add(case)
        form = self.table.product(case)
        self.recorder.record(role, form.__name__)
        return form

    def _multiply(
        self, form: Form, operand: Array, weight: Matrix, x: Operand, epilogue: AddNorm | None
    ) -> Array:
        """`operand`, which is `x` written out, times a weight in this form."""
        if self.platform != Platform.CPU or not widens(form, weight):
            return form(operand, weight)
        (outputs, inputs), rows = weight.shape, operand.size // operand.shape[-1]
        if not self.one_device or outputs * inputs <= _LARGE or 2 * rows > inputs:
            return form(operand, self._delay_widening(weight, x, epilogue))
        parts: list[Array] = []
        size = max(_PART // inputs, -(-outputs // _MAX_PARTS))
        for first in range(0, outputs, size):
            part = rows_of(weight, first, size)
            parts.append(form(operand, _delay(part, parts[-1] if parts else operand)))
        return jnp.concatenate(parts, axis=-1)

    def _delay_widening(self, weight: Matrix, x: Operand, epilogue: AddNorm | None) -> Matrix:
        """`weight` unchanged, but not known before what it multiplies is.

        XLA:CPU starts whatever it can as early as it can: left to itself it widens the weights of
        all layers before it uses the first, in 2 bytes a parameter of memory. It orders by data
        alone; an optimization barrier is gone before it does.

        On a mesh the operand may be split in every dimension. There the weight waits for what the
        layer adds to, of which each device reads its own part: nothing is sent around.
        """
        if self.one_device:
            return _delay(weight, x.x if isinstance(x, Norm | Gate) else x)
        activation = x.x if isinstance(x, Norm) else None if epilogue is None else epilogue.residual
        return weight if activation is None else self._delay_shards(weight, activation)

    def _delay_shards(self, weight: Matrix, activation: Array) -> Matrix:
        """`_delay` of each device's part of [B,T,D], which is split in B and T alone.

        Only over mesh axes that no weight is split over: elsewhere the weight would be gathered.
        """
        assert self.sharder is not None
        spec = self.sharder.spec(ACTIVATION, ("batch", "tokens", "norm"), activation.shape)
        entries = [(e,) if isinstance(e, str) else e or () for e in spec]
        axes = {axis for entry in entries for axis in entry}
        if not axes:
            return _delay(weight, activation)
        if any(axes & {*self.sharder.rules[axis]} for axis in _OF_MATRICES):
            return weight
        return jax.shard_map(
            _delay, mesh=self.sharder.abstract_mesh, in_specs=(PartitionSpec(), spec),
            out_specs=PartitionSpec(), axis_names=axes, check_vma=False,
        )(weight, activation)  # fmt: skip

    def compute_once(self, cos: Array, sin: Array, positions: Array) -> tuple[Array, Array]:
        """Rope tables [...,H/2] of int32 positions, not computed again by each of their readers.

        XLA:CPU pulls even sines into what reads them: 72 times in the 270M, a twelfth of a prefill.
        It does not look through a concatenation that is read from a place unknown to it. On a mesh
        that place would have to be sent around.
        """
        if self.platform != Platform.CPU or not self.one_device:
            return cos, sin
        table, size = jnp.concatenate([cos, sin], axis=-1), cos.shape[-1]
        zero = (positions.reshape(-1)[0] == jnp.iinfo(jnp.int32).min).astype(jnp.int32)
        return (
            jax.lax.dynamic_slice_in_dim(table, zero, size, axis=-1),
            jax.lax.dynamic_slice_in_dim(table, zero + size, size, axis=-1),
        )

    def delay(self, start: Array, until: Array) -> Array:
        """`start` [B] unchanged, but not known before `until` [B,...] is computed.

        A cache may be overwritten in place only once it has been read. XLA:CPU orders the two
        by data alone; left to itself it copies the whole cache in every layer of every step.
        """
        if self.platform != Platform.CPU:
            return start
        first = until.reshape(until.shape[0], -1)[:, 0]
        return start + jnp.minimum(jnp.abs(first), 0.0).astype(jnp.int32)


def _delay(weight: Matrix, until: Array) -> Matrix:
    """`weight` unchanged, but not known before a number of `until` is."""
    nothing = jnp.minimum(jnp.abs(until.reshape(-1)[0]), 0.0)

    def delay(part: Array) -> Array:
        return part + nothing.astype(part.dtype)

    if isinstance(weight, QuantizedWeight):  # the scales are used once the product is there
        return dataclasses.replace(weight, numbers=delay(weight.numbers))
    return delay(weight)


def local_context() -> LoweringContext:
    """For calls outside an export: written for the platform that JAX runs on."""
    names = {"gpu": Platform.CUDA, "cuda": Platform.CUDA, "tpu": Platform.TPU}
    platform = names.get(jax.default_backend(), Platform.CPU)
    return LoweringContext(platform, differentiable=True)


def softcap(x: Array, cap: float | None) -> Array:
    """cap * tanh(x / cap), or x itself when there is no cap."""
    return x if cap is None else jnp.tanh(x / cap) * cap
