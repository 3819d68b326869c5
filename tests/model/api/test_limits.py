"""What a cache and a config grant, and what becomes of more: never a number that looks right."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from gemma3_export.model.cache import init_cache

from ..small import SMALL, reference_logits, small_weights
from .models import compiled, ids, left_padded, small_model

ROW = [5, 9, 3, 17, 8, 40, 2, 71, 33, 12, 60, 7]
WEIGHTS = small_weights(SMALL)


def rows_of(tokens: list[int], batch: int):
    return ids(*[tokens] * batch)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("traced", [False, True])
def test_a_prompt_longer_than_the_cache_is_refused_whatever_the_batch(batch: int, traced: bool):
    model = small_model()
    run = compiled(model) if traced else model
    with pytest.raises(ValueError, match=r"call of 12 tokens does not fit .* max_length 8"):
        run(rows_of(ROW, batch), past_key_values=model.init_cache(batch, 8))


@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_that_do_not_fit_after_others_are_refused_with_the_row(batch: int):
    model = small_model()
    first = compiled(model)(rows_of(ROW[:6], batch), past_key_values=model.init_cache(batch, 8))
    message = r"row 0 would have 12 tokens in a cache of max_length 8: make it with a larger"
    with pytest.raises(ValueError, match=message):
        model(rows_of(ROW[6:], batch), past_key_values=first.past_key_values)


def test_a_cache_may_be_filled_to_the_last_position():
    model = small_model()
    run, cache = compiled(model), small_model().init_cache(1, 12)
    first = run(ids(ROW[:6]), past_key_values=cache)
    second = run(ids(ROW[6:]), past_key_values=first.past_key_values)
    expected = reference_logits(SMALL, WEIGHTS, ROW)[6:]
    np.testing.assert_allclose(second.logits[0], expected, atol=2e-4)
    with pytest.raises(ValueError, match="row 0 would have 13 tokens"):
        model(ids([1]), past_key_values=second.past_key_values)


def test_compiled_calls_give_nan_for_the_row_that_overflows_and_for_no_other():
    """How many tokens a row has is not known while tracing."""
    model, (tokens, mask) = small_model(), left_padded([ROW[:6], ROW[:2]])
    run = compiled(model)
    inputs = model.prepare_inputs_for_generation(tokens, 8, 0, attention_mask=mask)
    output = run(tokens, **inputs)
    assert np.isfinite(output.logits).all()
    more = ids(ROW[6:9], ROW[2:5])
    labelled = run(more, past_key_values=output.past_key_values, labels=more)
    assert np.isnan(labelled.logits[0]).all()
    assert np.isnan(labelled.loss)
    expected = reference_logits(SMALL, WEIGHTS, ROW[:5])[2:]
    np.testing.assert_allclose(labelled.logits[1], expected, atol=2e-4)
    assert labelled.past_key_values.positions.tolist() == [9, 5]  # more than max_length tells too
    after = run(ids([1], [2]), past_key_values=labelled.past_key_values)
    assert np.isnan(after.logits[0]).all()
    with pytest.raises(ValueError, match="row 0 would have 10 tokens"):
        model(ids([1], [2]), past_key_values=labelled.past_key_values)


def test_columns_after_the_last_of_a_mask_count():
    """Rows that are all padded have room left when the columns of the mask are used up."""
    model, run = small_model(), compiled(small_model())
    tokens, mask = left_padded([ROW[:4], ROW[:4]])
    tokens, mask = (jnp.pad(x, ((0, 0), (3, 0))) for x in (tokens, mask))
    inputs = model.prepare_inputs_for_generation(tokens, 8, 0, attention_mask=mask)
    output = run(tokens, **inputs)
    for step in range(4, 8):
        inputs = model.update_inputs_for_generation(output, inputs)
        output = run(ids([ROW[step]], [ROW[step]]), **inputs)
    assert output.past_key_values.positions.tolist() == [8, 8]
    expected = reference_logits(SMALL, WEIGHTS, ROW[:8])[-1]
    np.testing.assert_allclose(output.logits[1, 0], expected, atol=2e-4)


def test_granted_frequencies_limit_the_positions_of_calls():
    """granted_freq_max_position_embedding: freq_max_position_embeddings where it is set."""
    model = small_model(freq_max_position_embeddings=6)
    assert model.config.granted_freq_max_position_embedding == 6
    run, tokens = compiled(model), ids(ROW[:5])
    np.testing.assert_array_equal(run(tokens).logits, compiled(small_model())(tokens).logits)
    positions = jnp.arange(5)[None] + 2
    message = "row 0 would have 7 positions, and freq_max_position_embeddings grants 6"
    with pytest.raises(ValueError, match=message):
        model(tokens, position_ids=positions)
    with pytest.raises(ValueError, match="would have 7 positions"):
        model(ids(ROW[:7]))
    assert np.isnan(run(tokens, position_ids=positions).logits).all()
    padded, mask = ids([0, 0, *ROW[:5]]), ids([0, 0, 1, 1, 1, 1, 1])
    assert np.isfinite(run(padded, attention_mask=mask).logits).all()  # padding has no position


def test_keys_and_values_are_two_tensors_of_each_layer():
    model = small_model()
    output = compiled(model)(ids(ROW[:4]), past_key_values=model.init_cache(1, 8))
    pairs = list(output.past_key_values)
    assert len(pairs) == len(output.past_key_values) == SMALL.num_hidden_layers
    for number, pair in enumerate(pairs):
        key, value = output.past_key_values[number]
        assert key is pair.key
        assert value is pair.value
        slots = (SMALL.sliding_window, 8)[number]
        assert key.shape == value.shape == (1, 2, slots, SMALL.head_dim)
        assert np.abs(np.asarray(key[:, :, :4])).min() > 0
        assert not np.asarray(value[:, :, 4:]).any()


def test_an_int8_cache_says_that_it_is_more_than_two_tensors():
    """Modules make none; a cache put together of the export's layers may be one."""
    cache = small_model().init_cache(1, 8)
    int8 = dataclasses.replace(cache, layers=init_cache(SMALL, 1, 8, jnp.dtype("int8")))
    with pytest.raises(ValueError, match="an int8 cache has scales beside keys and values"):
        int8[0]


def test_cache_metadata_are_the_sizes_of_the_cache():
    model = small_model()
    metadata = model.create_cache_metadata(3, 20)
    assert (metadata.batch_size, metadata.max_length, metadata.pad_token_id) == (3, 20, 0)
    assert metadata.slots == (5, 20)
    cache = type(model.init_cache(1, 1)).init_cache(metadata, starts=2)
    assert [key.shape for key, _ in cache] == [(3, 2, 5, 8), (3, 2, 20, 8)]
    assert {part.dtype for pair in cache for part in pair} == {metadata.dtype} == {jnp.dtype("f4")}
    assert cache.starts.tolist() == [2, 2, 2]
