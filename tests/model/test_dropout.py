"""attention_dropout: some probabilities become 0, the rest grow, in training alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import (
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextModel,
)
from gemma3_export.model.attention import Visibility, attend_within, whole_attention
from gemma3_export.model.cache import LayerCache
from gemma3_export.model.config import LayerType
from gemma3_export.model.dropout import Dropout
from gemma3_export.model.lowering.context import local_context
from gemma3_export.model.text import Gemma3DecoderLayer
from gemma3_export.model.vision_config import Gemma3Config

from ..goldens.tiny_vision import TINY_VISION, pixels
from .api.models import compiled, ids, small_model
from .small import SMALL, small_config

FLOAT = jnp.dtype(jnp.float32)
TOKENS = ids([5, 9, 3, 17, 8, 40, 2, 71, 33])
RATE = 0.25


def logits(model: Gemma3ForCausalLM, seed: int | None = None, **fixed) -> np.ndarray:
    """Of one compiled call, which draws from a stream of that seed."""

    def call(tokens: jax.Array, key: jax.Array) -> jax.Array:
        rngs = None if seed is None else nnx.Rngs(dropout=key)
        return model(tokens, rngs=rngs, **fixed).logits

    run = jax.jit(call, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(run(TOKENS, jax.random.key(seed or 0)))


def test_probabilities_are_dropped_or_divided_by_what_is_kept():
    """Values of one each tell the probabilities that went into the mix: [T, keys]."""
    T, S = 4, 6
    numbers = np.random.default_rng(2)
    query, key, old = (
        jnp.asarray(numbers.normal(size=size), jnp.float32)
        for size in ((1, T, 2, 16), (1, 1, T, 16), (1, 1, S, 16))
    )
    ones = jnp.eye(S + T, 16, dtype=jnp.float32)[None, None]
    new, held = LayerCache(key, ones[:, :, S:]), LayerCache(old, ones[:, :, :S])
    visible = Visibility.of(LayerType.FULL, S, 9, jnp.full(1, S, jnp.int32), T, None)

    def mixed(dropout: Dropout | None) -> np.ndarray:
        out = whole_attention(query, new, held, visible, 0.25, None, local_context(), dropout)
        return np.asarray(out)[0, :, :, : S + T]

    plain, share = mixed(None), []
    np.testing.assert_allclose(plain.sum(-1), 1, rtol=1e-5)
    for seed in range(12):
        out = mixed(Dropout(RATE, jax.random.key(seed)))
        kept = out > 0
        np.testing.assert_allclose(out[kept], plain[kept] / (1 - RATE), rtol=1e-5)
        share.append(kept[plain > 0].mean())
        again = mixed(Dropout(RATE, jax.random.key(seed)))
        np.testing.assert_array_equal(out, again)
    assert np.mean(share) == pytest.approx(1 - RATE, abs=0.06)
    assert len(set(share)) > 3
    seen = jnp.tril(jnp.ones((1, T, T), bool))
    within = attend_within(query, new, seen, 0.25, None, Dropout(RATE, jax.random.key(1)))
    whole = attend_within(query, new, seen, 0.25, None)
    ratio = np.asarray(within / whole)[0, :, :, S : S + T][
        np.asarray(whole)[0, :, :, S : S + T] > 0
    ]
    np.testing.assert_allclose(np.unique(ratio.round(4)), [0, round(1 / (1 - RATE), 4)])


def test_a_model_drops_after_train_and_not_after_eval():
    plain, model = small_model(), small_model(attention_dropout=RATE)
    np.testing.assert_array_equal(logits(model), logits(plain))
    model.train()
    dropped = logits(model, 1)
    assert np.abs(dropped - logits(plain)).max() > 0.01
    np.testing.assert_array_equal(logits(model, 1), dropped)
    assert np.abs(logits(model, 2) - dropped).max() > 0.01
    first = logits(model, 1, output_attentions=True)  # looking on changes nothing
    np.testing.assert_allclose(first, dropped, atol=1e-5)
    model.eval()
    np.testing.assert_array_equal(logits(model, 1), logits(plain))
    none = small_model(attention_dropout=0.0)
    none.train()
    np.testing.assert_array_equal(logits(none), logits(plain))


@pytest.mark.soak
def test_layers_drop_apart_and_scanned_and_rematerialised_ones_the_same():
    four = {"num_hidden_layers": 4, "attention_dropout": RATE}
    ways = ({}, {"scan_layers": True}, {"gradient_checkpointing": "nothing_saveable"})
    models = [small_model(**four, **way) for way in ways]
    for model in models:
        model.train()
    outputs = [logits(model, 3) for model in models]
    for other in outputs[1:]:
        np.testing.assert_allclose(other, outputs[0], atol=1e-4)
    gradients = [
        jax.jit(jax.grad(lambda x, m=m: m(inputs_embeds=x, rngs=nnx.Rngs(dropout=3)).logits.sum()))(
            models[0].model.embed(TOKENS)
        )
        for m in models
    ]
    for other in gradients[1:]:
        np.testing.assert_allclose(other, gradients[0], atol=2e-2, rtol=1e-3)


def test_many_draws_have_the_loss_of_none_in_their_middle():
    """One layer, whose attention is linear in its probabilities, before its norm."""
    config = small_config(num_hidden_layers=1, sliding_window_pattern=1, attention_dropout=0.1)
    layer = Gemma3DecoderLayer(config, 0, FLOAT, nnx.Rngs(3)).self_attn
    x = jax.random.normal(jax.random.key(1), (1, 6, config.hidden_size))
    plain = layer(x).attention_output
    layer.train()
    run = jax.jit(lambda key: layer(x, rngs=nnx.Rngs(dropout=key)).attention_output)
    draws = np.stack([run(key) for key in jax.random.split(jax.random.key(0), 400)])
    assert draws.std(0).max() > 0.02
    error = np.abs(draws.mean(0) - plain) / (draws.std(0) / np.sqrt(400) + 1e-6)
    assert error.max() < 5  # standard errors of 192 means


def test_dropping_without_random_numbers_is_refused_in_one_line():
    model = small_model(attention_dropout=0.5)
    model.train()
    layer = model.model.layers[0]
    x = jnp.zeros((1, 2, SMALL.hidden_size))
    for call in (
        lambda: model(TOKENS), lambda: model(TOKENS, rngs=nnx.Rngs(params=0)),
        lambda: layer(x), lambda: layer.self_attn(x),
    ):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"attention_dropout of 0.5 after train\(\) needs .*rngs="
        ):
            call()


def test_a_text_read_in_both_directions_drops_too():
    config = small_config(use_bidirectional_attention=True, attention_dropout=0.5)
    model = Gemma3TextModel(config, FLOAT, rngs=nnx.Rngs(params=3))
    plain = compiled(model)(TOKENS).last_hidden_state
    model.train()
    run = jax.jit(lambda key: model(TOKENS, rngs=nnx.Rngs(dropout=key)).last_hidden_state)
    one, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - plain).max() > 0.01
    assert np.abs(one - other).max() > 0.01


def test_images_and_dropout_of_the_tower_are_refused_in_training():
    given = TINY_VISION["image"]
    vision = given["vision_config"] | {"attention_dropout": 0.1}
    config = Gemma3Config.from_dict(given | {"vision_config": vision})
    model = Gemma3ForConditionalGeneration(config, FLOAT, rngs=nnx.Rngs(1))
    tokens = ids([2, 250, 252, 252, 252, 252, 251])
    assert np.isfinite(compiled(model)(tokens, pixels("image", 1)).logits).all()
    model.train()
    assert np.isfinite(compiled(model)(ids([2, 5])).logits).all()
    with pytest.raises(ValueError, match=r"vision_config.attention_dropout of 0.1: .* set it to 0"):
        model(tokens, pixels("image", 1))
