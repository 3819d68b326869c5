"""Gradients through the pure model: a loss that falls, and what checkpointing computes again."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import Gemma3ForCausalLM
from gemma3_export.model.cache import init_cache
from gemma3_export.model.config import ConfigError, Gemma3TextConfig, GradientCheckPointers
from gemma3_export.model.lowering.context import LoweringContext
from gemma3_export.model.pure.causal_lm import CausalLM
from gemma3_export.model.pure.module import Params
from jax.extend.core import Jaxpr

from .small import small_config, small_weights

CONFIG = small_config(num_hidden_layers=4)
TOKENS = np.random.default_rng(9).integers(0, CONFIG.vocab_size, (2, 8)).astype(np.int32)
POLICIES = list(GradientCheckPointers)
CHECKPOINTED = [str(policy) for policy in POLICIES if policy]


def loss(
    config: Gemma3TextConfig, dtype: str, weights: Params, tokens: np.ndarray = TOKENS
) -> jax.Array:
    """Mean negative log-likelihood of each token after those before it."""
    model, context = CausalLM(config, jnp.dtype(dtype)), LoweringContext(differentiable=True)
    rows, length = tokens.shape
    start, whole = jnp.zeros(rows, jnp.int32), jnp.full(rows, length, jnp.int32)
    cache = init_cache(config, rows, length, jnp.dtype(dtype))
    hidden, _ = model.forward(weights, jnp.asarray(tokens), start, whole, cache, context)
    logprobs = jax.nn.log_softmax(model.logits(weights, hidden[:, :-1], context))
    return -jnp.take_along_axis(logprobs, jnp.asarray(tokens)[:, 1:, None], axis=-1).mean()


def under(policy: str, scan: bool = False, dtype: str = "float32"):
    config = dataclasses.replace(CONFIG, gradient_checkpointing=policy, scan_layers=scan)
    return functools.partial(loss, config, dtype)


# What is tested is the mathematics; half the time would go into machine code of no use.
quickly_compiled = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


@pytest.mark.parametrize(("dtype", "scan"), [("float32", True), ("bfloat16", False)])
def test_gradient_descent_lowers_the_loss(dtype: str, scan: bool):
    weights = CausalLM(CONFIG, jnp.dtype(dtype)).init(1)
    step = quickly_compiled(jax.value_and_grad(under("nothing_saveable", scan, dtype)))
    losses = []
    for _ in range(8):
        value, gradients = step(weights)
        losses.append(float(value))
        weights = jax.tree.map(lambda w, g: (w - 0.05 * g).astype(w.dtype), weights, gradients)
    assert {g.dtype for g in jax.tree.leaves(gradients)} == {jnp.dtype(dtype)}
    assert losses[-1] < losses[0] - 0.5


@functools.lru_cache
def gradients(policy: str, scan: bool = False) -> Params:
    return quickly_compiled(jax.grad(under(policy, scan)))(small_weights(CONFIG))


@pytest.mark.parametrize(
    ("policy", "scan"), [(policy, False) for policy in CHECKPOINTED] + [("dots_saveable", True)]
)
def test_no_policy_changes_a_gradient(policy: str, scan: bool):
    plain, got = gradients(""), gradients(policy, scan)
    assert all(abs(np.asarray(g)).max() > 1e-6 for g in plain.values())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), got, plain)


def test_a_gradient_is_the_slope_of_the_loss():
    weights = small_weights(CONFIG)
    numbers = np.random.default_rng(4)
    towards = {name: numbers.normal(size=w.shape).astype(np.float32) for name, w in weights.items()}
    slope = sum(float((gradients("")[name] * towards[name]).sum()) for name in weights)
    value, size = quickly_compiled(under("")), 1e-4

    def at(step: float) -> float:
        return float(value({name: w + step * towards[name] for name, w in weights.items()}))

    assert slope == pytest.approx((at(size) - at(-size)) / (2 * size), rel=0.03)


def equations(jaxpr: Jaxpr) -> Iterator[str]:
    """What the equations of a jaxpr and of those inside it do."""
    for equation in jaxpr.eqns:
        if equation.primitive is jax.lax.dot_general_p:
            batched = any(equation.params["dimension_numbers"][1])
            yield "product of attention" if batched else "product with weights"
        # The primitive's name is not the same in every jax.
        yield "remat" if "policy" in equation.params else equation.primitive.name
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


def traced(function) -> Counter[str]:
    return Counter(equations(jax.make_jaxpr(function)(small_weights(CONFIG)).jaxpr))


@pytest.mark.parametrize("policy", POLICIES)
def test_each_layer_is_one_rematerialised_equation_and_none_without_a_policy(policy: str):
    assert traced(under(policy))["remat"] == (CONFIG.num_hidden_layers if policy else 0)


def test_a_policy_attached_to_the_config_of_a_model_holds_from_then_on():
    model = Gemma3ForCausalLM(small_config(), jnp.dtype("f4"), rngs=nnx.Rngs(1))

    def kinds() -> Counter[str]:
        tokens = jnp.asarray(TOKENS)
        return Counter(equations(jax.make_jaxpr(lambda ids: model(ids).logits)(tokens).jaxpr))

    assert kinds()["remat"] == 0
    model.config.attach_custom_arguments(gradient_checkpointing=GradientCheckPointers.DOTS_SAVEABLE)
    assert kinds()["remat"] == model.config.num_hidden_layers


@functools.cache
def products(policy: str) -> int:
    """Matrix products of the forward and the backward pass, those computed again included."""
    return traced(jax.grad(under(policy)))["dot_general"]


def kept_bytes(policy: str) -> int:
    """Bytes the forward pass leaves to the backward pass, weights included."""
    kept = jax.eval_shape(lambda w: jax.vjp(under(policy), w)[1], small_weights(CONFIG))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(kept))


def test_the_policies_trade_memory_for_products_as_their_names_promise():
    again = {policy: products(policy) - products("") for policy in CHECKPOINTED}
    forward = traced(under(""))
    weights, attention = forward["product with weights"], forward["product of attention"]
    assert weights == 7 * CONFIG.num_hidden_layers + 1  # q, k, v, o, gate, up, down; the head
    assert attention >= 2 * CONFIG.num_hidden_layers
    assert again == {
        "everything_saveable": 0,
        "nothing_saveable": weights - 1 + attention,
        "checkpoint_dots": 0,
        "dots_saveable": 0,
        "checkpoint_dots_with_no_batch_dims": attention,
        "dots_with_no_batch_dims_saveable": attention,
    }
    kept = {policy: kept_bytes(policy) for policy in CHECKPOINTED}
    order = (
        "nothing_saveable", "dots_with_no_batch_dims_saveable", "dots_saveable",
        "everything_saveable",
    )  # fmt: skip
    assert [kept[policy] for policy in order] == sorted({kept[policy] for policy in order})


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"gradient_checkpointing: .*dots_saveable.*'most'"):
        small_config(gradient_checkpointing="most")


def test_texts_long_enough_for_attention_in_blocks_have_gradients_too():
    long = np.zeros((1, 512), np.int32)
    function = jax.grad(lambda weights: loss(CONFIG, "float32", weights, long))
    shapes = jax.eval_shape(function, small_weights(CONFIG))
    assert shapes.keys() == small_weights(CONFIG).keys()
