"""Caches and steps: padding on either side, what a cache knows, and where it lies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gemma3_export.model.api import (
    Gemma3ForCausalLM,
    Gemma3Model,
    Gemma3ModelOutputWithPast,
    Gemma3TextModel,
    TransformerCache,
)
from gemma3_export.model.vision_config import Gemma3Config
from jax.sharding import NamedSharding, PartitionSpec

from ...goldens.tiny_vision import TINY_VISION
from ..small import SMALL, reference_logits, small_config, small_weights
from .models import compiled, ids, left_padded, small_model

ROWS = [[5, 9, 3, 17, 8, 40, 2, 71, 33], [6, 11, 4]]
WEIGHTS = small_weights(SMALL)


def expected(row: list[int]) -> np.ndarray:
    """Logits [V] after a row."""
    return reference_logits(SMALL, WEIGHTS, row)[-1]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("told_by", ["attention_mask", "pad_token_id", "starts"])
def test_padded_rows_go_on_as_if_they_were_alone(side: str, told_by: str):
    if (side, told_by) == ("right", "starts"):
        side = "left"  # starts say where rows begin; there is nothing to say on the right
    model, pad = small_model(), 0
    tokens, mask = left_padded(ROWS, pad)
    if side == "right":
        tokens, mask = (
            tokens.at[1].set(jnp.roll(tokens[1], 3)),
            mask.at[1].set(jnp.roll(mask[1], 3)),
        )
    told = {
        "attention_mask": {"attention_mask": mask},
        "pad_token_id": {},
        "starts": {"starts": jnp.asarray([0, 6])},
    }[told_by]
    inputs = model.prepare_inputs_for_generation(
        input_ids=tokens, max_length=20, pad_token_id=pad, **told
    )
    assert inputs["attention_mask"].shape == (2, 20)
    assert inputs["position_ids"].shape == tokens.shape
    run, rows, new = compiled(model), [list(row) for row in ROWS], [[50, 60], [51, 61], [52, 62]]
    output = run(tokens, **inputs)
    for step in new:
        last = [8, 2] if side == "right" and output.logits.shape[1] > 1 else [-1, -1]
        for row, place in zip((0, 1), last, strict=True):
            np.testing.assert_allclose(output.logits[row, place], expected(rows[row]), atol=2e-4)
            rows[row].append(step[row])
        inputs = model.update_inputs_for_generation(output, inputs)
        assert inputs["position_ids"].tolist() == [[len(row) - 1] for row in rows]
        output = run(ids(*[[token] for token in step]), **inputs)
    assert output.past_key_values.positions.tolist() == [len(row) for row in rows]


def test_a_cache_finds_leading_padding_by_itself_and_a_call_without_one_does_not():
    model = small_model()
    tokens, _ = left_padded(ROWS)
    cache = model.init_cache(2, 16)
    assert cache.pad_token_id == SMALL.pad_token_id
    output = compiled(model)(tokens, past_key_values=cache)
    np.testing.assert_allclose(output.logits[1, -1], expected(ROWS[1]), atol=2e-4)
    output = compiled(model)(
        output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values
    )
    assert output.past_key_values.positions.tolist() == [10, 4]
    other = model.init_cache(2, 16, pad_token_id=7)
    output = compiled(model)(tokens, past_key_values=other)
    assert output.past_key_values.positions.tolist() == [9, 9]  # 0 is no padding then
    output = compiled(model)(tokens)
    np.testing.assert_allclose(output.logits[1, -1], expected(tokens[1].tolist()), atol=2e-4)


def test_compute_prefill_length_counts_leading_padding_alone():
    tokens = ids([0, 0, 5, 0], [5, 0, 0, 0], [0, 0, 0, 0])
    lengths = small_model().compute_prefill_length(tokens, 0)
    assert lengths.tolist() == [2, 0, 4]


def test_a_fresh_cache_has_rings_for_sliding_layers_and_its_starts():
    cache = small_model().init_cache(batch_size=3, max_length=20, starts=2)
    assert len(cache) == SMALL.num_hidden_layers
    shape = (3, SMALL.num_key_value_heads, SMALL.sliding_window, SMALL.head_dim)
    assert cache[0].key.shape == cache[0].value.shape == shape
    assert cache[1].key.shape[2] == cache.max_length == 20
    assert cache.starts is not None
    assert cache.starts.tolist() == [2, 2, 2]
    assert not any(np.asarray(part).any() for layer in cache.layers for part in layer)


@pytest.mark.parametrize("kind", [Gemma3ForCausalLM, Gemma3Model])
def test_shardings_place_the_cache_on_a_mesh(kind: type):
    """Of both, one key head, a window of 8 and heads of the same size."""
    config = Gemma3Config.from_dict(TINY_VISION["image"])
    of_kind = config if kind is Gemma3Model else config.text_config
    model, mesh = kind(of_kind, jnp.float32), jax.make_mesh((2, 4), ("data", "model"))
    wanted = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    cache = model.init_cache(
        2, 20, starts=3, pad_token_id=7,
        shardings={"value": wanted, "positions": NamedSharding(mesh, PartitionSpec("data"))},
    )  # fmt: skip
    assert cache[0].value.sharding == wanted
    local, whole = (cache[layer].value.addressable_shards[0].data.shape for layer in (0, 2))
    assert (local, whole) == ((1, 1, 2, 16), (1, 1, 5, 16))
    assert cache.positions.sharding.spec == PartitionSpec("data")
    assert len(cache[0].key.devices()) == 1
    assert (cache.starts.tolist(), cache.pad_token_id) == ([3, 3], 7)


def test_inputs_of_a_first_call_go_with_the_cache_and_through_the_hook():
    class Counting(Gemma3ForCausalLM):
        def prepare_inputs_for_call(self, **inputs):
            return super().prepare_inputs_for_call(**inputs) | {"names": sorted(inputs)}

    model, mesh = Counting(SMALL, jnp.float32), jax.make_mesh((2, 4), ("data", "model"))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    inputs = model.prepare_inputs_for_generation(
        ids([5, 6], [0, 7]), 8, 0, shardings={"positions": rows}
    )
    assert inputs.pop("names") == ["attention_mask", "past_key_values", "position_ids"]
    for name in ("attention_mask", "position_ids"):
        assert inputs[name].sharding.is_equivalent_to(rows, 2)
    assert inputs["past_key_values"].positions.sharding.is_equivalent_to(rows, 1)
    model_kwargs, model_outputs = dict(inputs), Gemma3ModelOutputWithPast(past_key_values="new")
    after = model.update_inputs_for_generation(model_outputs, model_kwargs)
    assert after["past_key_values"] == "new"
    assert model_kwargs == inputs  # as they were


def test_a_cache_is_a_pytree_and_goes_through_a_dictionary():
    cache = small_model().init_cache(1, 6, starts=1)
    doubled = jax.tree.map(lambda leaf: leaf + leaf, cache)
    assert isinstance(doubled, TransformerCache)
    assert (doubled.max_length, doubled.starts.tolist()) == (6, [2])
    back = TransformerCache.from_dict(cache.to_dict())
    assert jax.tree.structure(back) == jax.tree.structure(cache)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), "at least 1, got 0 and 4"),
        ((1, 0), "got 1 and 0"),
        ((1, 4, None, {"keys": None}), "shardings: expected names from"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        small_model().init_cache(*arguments)


def test_position_ids_turn_the_rotary_embedding_and_nothing_else():
    model = small_model(
        sliding_window_pattern=1, max_position_embeddings=16,
        rope_scaling={"rope_type": "dynamic", "factor": 8.0},
    )  # fmt: skip
    tokens, run = ids(ROWS[0]), compiled(model)
    plain = run(tokens).logits
    shifted = run(tokens, position_ids=jnp.arange(9)[None] + 5).logits  # relative: the same
    np.testing.assert_allclose(shifted, plain, atol=2e-4)
    far = run(tokens, position_ids=jnp.arange(9)[None] + 50).logits  # beyond 16 it stretches
    assert np.abs(far - plain).max() > 1e-3
    spread = run(tokens, position_ids=2 * jnp.arange(9)[None]).logits
    assert np.abs(spread - plain).max() > 1e-3


def test_embeddings_of_the_caller_are_not_scaled_and_images_need_token_types():
    model = small_model()
    tokens, run = ids(ROWS[0]), compiled(model)
    embedded = model.model.embed(tokens)
    np.testing.assert_allclose(run(inputs_embeds=embedded).logits, run(tokens).logits, atol=1e-5)
    causal = run(tokens).logits
    seeing = run(tokens, token_type_ids=ids([0, 0, 1, 1, 1, 0, 0, 0, 0])).logits
    assert np.abs(seeing - causal)[0, 2].max() > 1e-3  # it sees ahead now
    np.testing.assert_allclose(seeing[0, :2], causal[0, :2], atol=1e-5)


def test_use_cache_says_whether_a_call_without_one_gives_one():
    tokens = ids(ROWS[1])
    kept = compiled(small_model())(tokens).past_key_values
    assert (kept.max_length, kept.positions.tolist()) == (3, [3])
    assert compiled(small_model(use_cache=False))(tokens).past_key_values is None


def test_the_config_says_what_a_call_gives_where_it_does_not():
    tokens = ids(ROWS[1])
    output = compiled(small_model(output_hidden_states=True, output_attentions=True))(tokens)
    assert len(output.hidden_states) == SMALL.num_hidden_layers + 1
    assert len(output.attentions) == SMALL.num_hidden_layers
    assert output.attentions[0].shape == (1, SMALL.num_attention_heads, 3, 3)
    model = small_model(output_hidden_states=True)
    assert compiled(model, output_hidden_states=False)(tokens).hidden_states is None


def test_with_a_cache_attentions_are_over_its_positions():
    model, tokens = small_model(), ids(ROWS[0])
    run = compiled(model, output_attentions=True)
    whole = run(tokens).attentions
    first = run(tokens[:, :6], past_key_values=model.init_cache(1, 12))
    second = run(tokens[:, 6:], past_key_values=first.past_key_values)
    for layer, both in enumerate(whole):
        got = second.attentions[layer]
        assert got.shape == (1, SMALL.num_attention_heads, 3, 12)
        np.testing.assert_allclose(got[..., :9], both[:, :, 6:], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass input_ids or inputs_embeds, and not both"),
        ({"input_ids": ids([1] * 9)}, "9 tokens: the config grants at most 8"),
        (
            {"input_ids": ids([1, 2, 3]), "attention_mask": ids([1, 1])},
            r"attention_mask: expected \[B,3\] or wider, got \[1, 2\]",
        ),
    ],
)
def test_calls_that_make_no_sense_are_refused(arguments: dict, message: str):
    model = small_model(mask_max_position_embeddings=8)
    with pytest.raises(ValueError, match=message):
        model(**arguments)


def test_a_bidirectional_model_reads_both_ways_and_keeps_no_cache():
    config = small_config(use_bidirectional_attention=True)
    model = Gemma3TextModel(config, jnp.dtype(jnp.float32), rngs=nnx.Rngs(params=3))
    tokens, mask = left_padded(ROWS)
    run = compiled(model)
    output = run(tokens, attention_mask=mask)
    assert output.past_key_values is None
    alone = run(ids(ROWS[1])).last_hidden_state
    np.testing.assert_allclose(output.last_hidden_state[1, 6:], alone[0], atol=1e-5)
    with pytest.raises(ValueError, match="takes input_ids, not inputs_embeds"):
        model(inputs_embeds=jnp.zeros((1, 2, config.hidden_size)))
    for more in ({"past_key_values": model.init_cache(2, 9)}, {"output_attentions": True}):
        with pytest.raises(ValueError, match="takes input_ids and attention_mask alone"):
            model(tokens, **more)
